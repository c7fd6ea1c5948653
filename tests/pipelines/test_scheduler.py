"""The scheduler's decisions, on a Prefect server, a clock and processes that are none."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.errors import BadSource
from pipelines.meter import Meter
from pipelines.scheduler import Scheduler
from pipelines.timetable import Due, Result, Timetable, Unreachable
from pipelines.watch import Listing, Watcher

START = datetime(2026, 1, 1, tzinfo=UTC)
PUBLISHED = Result(end="published", values={"version": 1, "run": "r", "metrics": {}})


@dataclass
class FakeBoard:
    """A server that keeps what it is told, and is away as long as `away` says."""

    scheduled: list[Due] = field(default_factory=list)
    first: bool = True
    away: int = 0
    left: list[Due] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    cancelled_ids: set[str] = field(default_factory=set)
    plans: bool = True

    def _answer(self):
        if self.away:
            self.away -= 1
            raise Unreachable("ConnectError")

    def post(self):
        self._answer()
        return self.first

    def due(self, now):
        self._answer()
        return sorted(self.scheduled, key=lambda due: due.at)

    def add(self, now):
        self._answer()
        due = Due(f"added-{len(self.log)}", now)
        self.scheduled.append(due)
        self.log.append(("add", due.id))
        return due

    def begin(self, due):
        self._answer()
        self._remove(due)
        return due.id not in self.cancelled_ids

    def cancelled(self, due):
        self._answer()
        return due.id in self.cancelled_ids

    def end(self, due, result):
        self._answer()
        self._remove(due)
        self.log.append((result.end, due.id))

    def planned(self):
        self._answer()
        return self.plans

    def put_back(self, due, why):
        self._answer()
        self.scheduled.append(due)
        self.log.append(("put back", due.id))

    def crashed(self, due, why):
        self._answer()
        self.log.append(("crashed", due.id))

    def left_behind(self):
        self._answer()
        return self.left

    def _remove(self, due):
        self.scheduled = [known for known in self.scheduled if known.id != due.id]


class FakeFiring:
    def __init__(self, steps):
        self.steps = steps
        self.ended = False

    def result(self, patience_seconds):
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step

    def end(self):
        self.ended = True


class World:
    """A scheduler with everything around it."""

    def __init__(self, *results, every=60.0, board=None, listing=True):
        self.board = board or FakeBoard()
        self.results = list(results)
        self.firings = []
        self.said = []
        self.ends = []
        self.now = 0.0
        self.listing = Listing("one", 1, 0) if listing is True else listing
        self.meter = Meter("m")
        self.upkeeps = 0
        timetable = Timetable(model="m", source="inbox", workspace=Path("ws"), every_seconds=every)
        self.scheduler = Scheduler(
            timetable,
            board=self.board,
            start=self.start,
            look=lambda: self.listing,
            watcher=Watcher(10.0),
            poll_seconds=1.0,
            tell=self.said.append,
            concluded=lambda due, result: self.ends.append((due.id, result.end)),
            upkeep=self.upkeep,
            meter=self.meter,
            pause=self.pause,
            clock=lambda: self.now,
        )

    def start(self, flow_run):
        steps = self.results.pop(0)
        self.firings.append((flow_run, FakeFiring(steps if isinstance(steps, list) else [steps])))
        return self.firings[-1][1]

    def upkeep(self):
        self.upkeeps += 1

    def pause(self, seconds):
        self.now += seconds

    def due(self, *names):
        self.board.scheduled += [Due(name, START + timedelta(seconds=at)) for at, name in enumerate(names)]


def test_one_firing_stands_for_all_that_were_missed():
    """After a sleep of the machine twenty are due: the newest is done, the others are marked as missed, in one line."""
    world = World(PUBLISHED)
    world.due(*[f"f{number:02}" for number in range(20)])
    world.scheduler.round()
    assert [run for run, _ in world.firings] == ["f19"]
    assert world.ends == [("f19", "published")]
    assert [end for end, _ in world.board.log].count("skipped") == 19
    assert [line for line in world.said if "19 missed" in line]
    assert not world.board.scheduled


def test_hundreds_of_missed_firings_are_worked_off_in_batches():
    """A server shows two hundred at a time; the newest of all is done, not the newest of the first two hundred."""
    world = World(PUBLISHED)
    world.due(*[f"f{number:03}" for number in range(450)])
    full = world.board.due
    world.board.due = lambda now: full(now)[:200]
    world.scheduler.round()
    assert [run for run, _ in world.firings] == ["f449"]
    assert not world.board.scheduled


def test_what_comes_due_during_a_run_is_refused_with_a_line():
    """Firings never overlap: the later one is skipped, and its end says which one is under way."""
    world = World([None, None, PUBLISHED])
    world.due("a")
    begin = world.board.begin
    world.board.begin = lambda due: (begin(due), world.due("b"))[0]
    world.scheduler.round()
    assert world.ends == [("b", "skipped"), ("a", "published")]


def test_a_server_that_is_away_is_waited_for_and_nothing_is_lost():
    """A run ends while the server is away: its end is told, once, when the server is back, and both are in the log."""
    world = World([PUBLISHED])
    world.due("a")
    firing = world.start
    world.scheduler._start = lambda run: (setattr(world.board, "away", 3), firing(run))[1]
    world.scheduler.round()
    assert world.ends == [("a", "published")]
    assert ("published", "a") not in world.board.log
    for _ in range(4):
        world.scheduler.round()
    assert world.board.log.count(("published", "a")) == 1
    assert sum("doesn't answer" in line for line in world.said) == 1
    assert sum("answers again" in line for line in world.said) == 1


def test_what_may_pass_by_itself_is_tried_again_and_ends_once():
    """A killed training is gone on with, as a new run in Prefect; the firing's end is told once."""
    world = World(Result(end="failed", reason="killed", passing=True), PUBLISHED)
    world.due("a")
    world.scheduler.round()
    assert [end for _, end in world.ends] == ["published"]
    assert ("crashed", "a") in world.board.log
    assert len(world.firings) == 2
    assert world.firings[1][0] != "a"


def test_what_fails_again_and_again_ends_as_failed_with_its_reason():
    """Three tries and no more; the meter counts one failure."""
    world = World(*[Result(end="failed", reason="disk full", passing=True)] * 3)
    world.due("a")
    world.scheduler.round()
    assert [end for _, end in world.ends] == ["failed"]
    assert len(world.firings) == 3
    assert _count(world, "failed") == 1


def test_what_the_user_has_to_mend_is_not_tried_again():
    """A source with one label fails at once, and the next firing tries anew."""
    world = World(Result(end="failed", reason="a single label"))
    world.due("a")
    world.scheduler.round()
    assert [end for _, end in world.ends] == ["failed"]
    assert len(world.firings) == 1


def test_trouble_of_prefects_server_costs_no_try():
    """However often the server dies under a run, the run is gone on with."""
    trouble = Result(end="failed", reason="ConnectError", passing=True, prefect=True)
    world = World(*[trouble] * 7, PUBLISHED)
    world.due("a")
    world.scheduler.round()
    assert [end for _, end in world.ends] == ["published"]


def test_an_empty_source_is_waited_for_and_said_once():
    """Nothing in the inbox: no process is started, each firing is marked as skipped, one line says it."""
    world = World(listing=None)
    for name in ("a", "b", "c"):
        world.due(name)
        world.scheduler.round()
    assert world.firings == []
    assert [end for end, _ in world.board.log] == ["skipped"] * 3
    assert sum("nothing in inbox" in line for line in world.said) == 1


def test_new_data_fires_once_when_it_has_come_to_rest():
    """A file that still grows is not taken; what rested is taken once; what is copied during the run fires again."""
    world = World(PUBLISHED, PUBLISHED, every=None)

    def rounds(count):
        for _ in range(count):
            world.now += 4.0
            world.scheduler.round()

    for size in range(5):
        world.listing = Listing(f"growing {size}", 1, 0)
        rounds(2)
    assert world.firings == []
    rounds(3)
    assert len(world.firings) == 1
    rounds(20)
    assert len(world.firings) == 1
    world.listing = Listing("more", 2, 0)
    rounds(5)
    assert len(world.firings) == 2


def test_new_data_that_came_to_nothing_is_tried_again_later():
    """A full disk: not again at every look, and not never."""
    failed = Result(end="failed", reason="disk full", passing=True)
    world = World(*[failed] * 3, PUBLISHED, every=None)
    for _ in range(10):
        world.now += 11.0
        world.scheduler.round()
    assert [end for _, end in world.ends] == ["failed"]
    world.now += 600.0
    world.scheduler.round()
    world.now += 11.0
    world.scheduler.round()
    assert [end for _, end in world.ends] == ["failed", "published"]


def test_new_data_that_met_another_run_is_taken_soon():
    """Somebody runs the model by hand: the firing is skipped with a line, and comes again within a minute."""
    world = World(Result(end="skipped", reason="another run", passing=True), PUBLISHED, every=None)
    for _ in range(8):
        world.now += 11.0
        world.scheduler.round()
    assert [end for _, end in world.ends] == ["skipped", "published"]


@pytest.mark.parametrize(("plans", "lines"), [(False, 1), (True, 0)])
def test_a_server_that_makes_no_runs_is_told_of(plans, lines):
    """Its scheduler service is dead: without a word nobody would ever know why nothing fires."""
    world = World(board=FakeBoard(first=False, plans=plans))
    world.scheduler.begin(interrupted=[])
    for _ in range(200):
        world.now += 2.0
        world.scheduler.round()
    assert sum("made no runs" in line for line in world.said) == lines


def test_stopping_ends_the_process_and_leaves_the_firing_due():
    """SIGTERM in mid-run: the child is ended and the firing put back, so that the next start goes on with it."""
    world = World([None, SystemExit(0)])
    world.due("a")
    with pytest.raises(SystemExit):
        world.scheduler.round()
    assert world.firings[0][1].ended
    assert [due.id for due in world.board.scheduled] == ["a"]
    assert world.ends == []


def test_a_start_goes_on_with_what_a_killed_process_left():
    """Prefect still calls it running: it is marked as crashed, and a firing is due at once."""
    world = World(board=FakeBoard(first=False, left=[Due("old", START)]))
    world.scheduler.begin(interrupted=["run-7"])
    assert ("crashed", "old") in world.board.log
    assert len(world.board.scheduled) == 1
    assert "run-7" in world.said[0]


def test_a_firing_that_was_put_back_goes_on_with_the_run_and_is_missed_by_nobody():
    """Stopped in mid-run and started again: the firing that is due already goes on with it; no second one is added."""
    world = World(PUBLISHED, board=FakeBoard(first=False))
    world.due("a")
    world.scheduler.begin(interrupted=["run-7"])
    world.scheduler.round()
    assert world.ends == [("a", "published")]
    assert not [line for line in world.said if "missed" in line]


@pytest.mark.parametrize(("first", "expected"), [(True, 1), (False, 0)])
def test_an_interval_begins_at_once_and_goes_on_as_it_was(first, expected):
    """A new schedule fires when it is put up; one that is there already waits for its time."""
    world = World(board=FakeBoard(first=first))
    world.scheduler.begin(interrupted=[])
    assert len(world.board.scheduled) == expected


def test_a_start_waits_for_a_server_that_comes_late():
    """Containers start in any order."""
    world = World(board=FakeBoard(away=5))
    world.scheduler.begin(interrupted=[])
    assert len(world.board.scheduled) == 1
    assert world.now > 0


def test_cancelling_in_prefect_ends_the_process():
    """Who presses Cancel on Prefect's page stops the training."""
    world = World([None, None])
    world.due("a")
    firing = world.start
    world.scheduler._start = lambda run: (world.board.cancelled_ids.add("a"), firing(run))[1]
    world.scheduler.round()
    assert world.firings[0][1].ended
    assert world.ends == [("a", "skipped")]


def test_a_beginning_whose_answer_was_lost_is_asked_for_again():
    """The server wrote it down and died before it answered: it shows the firing as due no more, and yet it runs."""
    world = World(PUBLISHED)
    world.due("a")
    begin = world.board.begin

    def lost(due):
        world.board.begin = begin
        begin(due)
        raise Unreachable("ReadTimeout")

    world.board.begin = lost
    world.scheduler.round()
    world.scheduler.round()
    assert world.ends == [("a", "published")]


def test_a_source_that_hiccups_is_looked_at_again():
    """A bucket that is away when the clock strikes: two more looks, and the firing goes on, or has failed once."""
    for troubles, end in ((2, "published"), (3, "failed")):
        world = World(PUBLISHED)
        looks = [BadSource("nobody answers")] * troubles

        def look(world=world, looks=looks):
            if looks:
                raise looks.pop()
            return world.listing

        world.scheduler._look = look
        world.due("a")
        world.scheduler.round()
        assert world.ends == [("a", end)]


def test_a_process_that_cannot_be_started_is_tried_again():
    """No memory for a process is no end of the scheduler."""
    world = World(PUBLISHED)
    world.due("a")
    start, troubles = world.start, [OSError(12, "Cannot allocate memory")]

    def refuse(flow_run):
        if troubles:
            raise troubles.pop()
        return start(flow_run)

    world.scheduler._start = refuse
    world.scheduler.round()
    assert [end for _, end in world.ends] == ["published"]


def test_what_is_concluded_and_not_told_yet_does_not_fire():
    """A server that can't write for a while shows skipped firings as due: none of them is begun, or counted twice."""
    world = World(PUBLISHED)
    end, world.board.end = world.board.end, lambda due, result: (_ for _ in ()).throw(Unreachable("it answered 503"))
    world.due("a", "b")
    world.scheduler.round()
    world.scheduler.round()
    assert world.ends == [("b", "published")]
    assert _count(world, "skipped") == 1
    world.board.end = end
    world.scheduler.round()
    assert ("skipped", "a") in world.board.log


def test_a_firing_that_was_cancelled_before_it_began_is_not_begun():
    """The server says so when it is told of the beginning."""
    world = World()
    world.due("a")
    world.board.cancelled_ids.add("a")
    world.scheduler.round()
    assert world.firings == []


def _count(world, outcome):
    return world.meter.registry.get_sample_value("calotype_pipeline_firings_total", {"model": "m", "outcome": outcome})
