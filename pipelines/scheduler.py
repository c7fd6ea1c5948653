"""The loop of a schedule: takes what is due, one firing at a time, until it is told to stop.

It decides; what it decides on comes from its `Board` (Prefect's server), from looks at the source, and from the process
of the firing. Every firing ends in `concluded`, once. Knows no Prefect, no signals and no command line.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipelines.errors import BadSource
from pipelines.timetable import Result, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines.meter import Meter
    from pipelines.timetable import Due, Timetable
    from pipelines.watch import Listing, Watcher

T = TypeVar("T")

ROUND_SECONDS = 2.0
AGAIN_SECONDS = (5.0, 30.0)
SOON_SECONDS = 30.0
LATER_SECONDS = 600.0
PLANNED_SECONDS = 150.0
LOOK_SHARE = 0.1
MOST_AT_ONCE = 200


class Board(Protocol):
    """The schedule on Prefect's server; every method may raise `Unreachable`."""

    def post(self) -> bool:
        """Put the schedule up; whether it is the first."""

    def due(self, now: datetime) -> list[Due]:
        """What nobody began, oldest first."""

    def add(self, now: datetime) -> Due:
        """A firing that no schedule made."""

    def begin(self, due: Due) -> bool:
        """Tell that it is being worked on; False: it was cancelled meanwhile."""

    def cancelled(self, due: Due) -> bool:
        """Whether somebody asked for its end."""

    def end(self, due: Due, result: Result) -> None:
        """Write down how it ended."""

    def planned(self) -> bool:
        """Whether runs of the schedule lie ahead, or it is paused."""

    def put_back(self, due: Due, why: str) -> None:
        """Make it due again."""

    def crashed(self, due: Due, why: str) -> None:
        """Write down that a try came to no end."""

    def left_behind(self) -> list[Due]:
        """What an earlier process was working on when it died."""


class Firing(Protocol):
    """The process of a firing."""

    def result(self, patience_seconds: float) -> Result | None:
        """How it ended; None: still at work after so long."""

    def end(self) -> None:
        """End it, within seconds."""


class Scheduler:
    """Keeps one model's schedule.

    Mutable state: what is owed to a server that was away, whether it is away, when the source is looked at next, and
    what was said already.

    Args:
        timetable: when it fires.
        board: the schedule on Prefect's server.
        start: starts a firing's process.
        look: what lies in the source.
        watcher: says when a source has changed and come to rest.
        poll_seconds: between two looks at the source.
        tell: a line for the log.
        concluded: called with each firing's end.
        upkeep: called every round: sees to it that a server of our own lives.
        meter: the figures.
        pause: waits so many seconds.
        clock: seconds that only go forward.
    """

    def __init__(  # noqa: PLR0913 - the world around it, each part by name
        self,
        timetable: Timetable,
        *,
        board: Board,
        start: Callable[[str], Firing],
        look: Callable[[], Listing | None],
        watcher: Watcher,
        poll_seconds: float,
        tell: Callable[[str], object],
        concluded: Callable[[Due, Result], object],
        upkeep: Callable[[], object],
        meter: Meter,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timetable = timetable
        self._board = board
        self._start = start
        self._look = look
        self._watcher = watcher
        self._poll_seconds = poll_seconds
        self._tell = tell
        self._concluded = concluded
        self._upkeep = upkeep
        self._meter = meter
        self._pause = pause
        self._clock = clock
        self._owed: list[tuple[Due, Result]] = []
        self._away_since: float | None = None
        self._next_look = 0.0
        self._waits_for: str | None = None
        self._planned_by: float | None = None

    def begin(self, *, interrupted: Sequence[str]) -> None:
        """Put the schedule up, and make up for what an earlier process left undone.

        Args:
            interrupted: ids of runs that it died in.
        """
        first = self._insist(self._board.post)
        self._planned_by = None if self._timetable.on_new_data else self._clock() + PLANNED_SECONDS
        for due in self._insist(self._board.left_behind):
            self._insist(partial(self._board.crashed, due, "the process that kept the schedule died"))
            interrupted = [*interrupted, *([] if interrupted else [f"of {_hour(due.at)}"])]
        if interrupted:
            self._tell(f"run {interrupted[-1]} was interrupted; going on with it")
        at_once = interrupted or (first and self._timetable.every_seconds is not None)
        if not at_once or self._timetable.on_new_data:
            return
        if not self._insist(lambda: self._board.due(datetime.now(UTC))):  # one that was put back goes on with it
            self._insist(lambda: self._board.add(datetime.now(UTC)))

    def round(self) -> None:
        """Look once, and do what is due; returns when that is done."""
        self._keep_going()
        self._pay()
        self._see_plans()
        due = self._due()
        while len(due) >= MOST_AT_ONCE:
            self._skip_missed(due[:-1])
            due = self._due()
        if self._timetable.on_new_data and not due and self._changed():
            added = self._ask(lambda: self._board.add(datetime.now(UTC)))
            due = [added] if added is not None else []
        if due:
            self._skip_missed(due[:-1])
            self._fire(due[-1])

    def run(self) -> None:
        """Go round for ever; ends by an exception only."""
        while True:
            self.round()
            self._pause(ROUND_SECONDS)

    # ---- one firing -----------------------------------------------------------------------------

    def _fire(self, due: Due) -> None:
        missing = self._missing_at_last(due)
        if missing is not None:
            self._leave(due, missing)
            return
        # Insists: a server that was told and died before its answer shows it as begun, and as due never again.
        if not self._insist(lambda: self._board.begin(due)):
            return  # cancelled meanwhile
        self._watcher.take()
        self._meter.began()
        try:
            due, result = self._try(due)
        finally:
            self._meter.stopped()
        if result.passing:
            self._watcher.forget()
            self._next_look = self._clock() + (LATER_SECONDS if result.end == "failed" else SOON_SECONDS)
        self._conclude(due, result)

    def _try(self, due: Due) -> tuple[Due, Result]:
        """A firing's last try, and how it ended; what may pass by itself is tried again."""
        pauses = list(AGAIN_SECONDS)
        while True:
            result = self._attempt(due)
            if not (result.end == "failed" and result.passing) or not (result.prefect or pauses):
                return due, result
            seconds = ROUND_SECONDS if result.prefect else pauses.pop(0)
            why = (result.reason or "").rstrip(".")
            self._tell(f"the firing of {_hour(due.at)} came to no end: {why}. Going on in {seconds:g} s.")
            self._rest(due, seconds)
            due = self._again(due, why)

    def _attempt(self, due: Due) -> Result:
        try:
            firing = self._start(due.id)
        except OSError as error:  # no memory or no process is left
            return Result(end="failed", reason=f"its process can't be started: {error}", passing=True)
        try:
            while (result := firing.result(ROUND_SECONDS)) is None:
                self._keep_going()
                self._skip_late(due)
                if self._ask(lambda: self._board.cancelled(due)):
                    firing.end()
                    return Result(end="skipped", reason="it was cancelled in Prefect while it was under way")
        except BaseException:
            firing.end()
            self._ask(lambda: self._board.put_back(due, "stopped; goes on when the schedule does"))
            raise
        return result

    def _again(self, due: Due, why: str) -> Due:
        """A new firing in place of one whose try came to no end."""
        self._insist(lambda: self._board.crashed(due, why))
        new = self._insist(lambda: self._board.add(due.at))
        self._insist(lambda: self._board.begin(new))
        return new

    def _rest(self, due: Due, seconds: float) -> None:
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            self._keep_going()
            self._skip_late(due)
            self._pause(min(left, ROUND_SECONDS))

    def _conclude(self, due: Due, result: Result) -> None:
        self._owed.append((due, result))
        self._pay()
        self._meter.ended(result)
        self._concluded(due, result)

    # ---- what is not done -----------------------------------------------------------------------

    def _skip_missed(self, missed: Sequence[Due]) -> None:
        """One firing stands for all that came due while nobody was there."""
        if not missed:
            return
        words = f"{len(missed)} missed firing{'s' if len(missed) > 1 else ''}, from {_hour(missed[0].at)} on"
        self._tell(f"skipped {words}: one firing stands for all of them")
        for due in missed:
            self._owed.append((due, Result(end="skipped", reason="missed: a later firing stands for it")))
            self._meter.ended(self._owed[-1][1])
        self._pay()

    def _leave(self, due: Due, why: Result) -> None:
        """Conclude a firing that nothing was started for; that the source is still empty is said once."""
        if why.end == "failed":
            self._conclude(due, why)
            return
        self._wait_for(why.reason or "")
        self._owed.append((due, why))
        self._pay()
        self._meter.ended(why)

    def _skip_late(self, current: Due) -> None:
        for due in self._due():
            if due.id != current.id:
                reason = f"the firing of {_hour(current.at)} is still under way"
                self._conclude(due, Result(end="skipped", reason=reason))

    def _missing_at_last(self, due: Due) -> Result | None:
        """The same as `_missing`; what may pass by itself is looked at again."""
        for seconds in AGAIN_SECONDS:
            missing = self._missing()
            if missing is None or not missing.passing:
                return missing
            self._tell(
                f"the source can't be read: {(missing.reason or '').rstrip('.')}. Looking again in {seconds:g} s."
            )
            self._rest(due, seconds)
        return self._missing()

    def _missing(self) -> Result | None:
        """Why the source is no reason to start, if it isn't one."""
        try:
            listing = self._look()
        except (BadSource, OSError) as error:
            return Result(end="failed", reason=str(error), passing=True)
        if listing is not None:
            self._meter.source(listing.files, listing.newest_ns)
            self._waits_for = None
            return None
        return Result(end="skipped", reason=f"there is nothing in {self._timetable.source} yet")

    def _changed(self) -> bool:
        """Whether the source has changed and come to rest."""
        now = self._clock()
        if now < self._next_look:
            return False
        try:
            listing = self._look()
        except (BadSource, OSError) as error:
            self._wait_for(str(error))
            self._next_look = now + self._poll_seconds
            return False
        self._next_look = now + max(self._poll_seconds, (self._clock() - now) / LOOK_SHARE)
        if listing is None:
            self._wait_for(f"there is nothing in {self._timetable.source} yet")
        else:
            self._meter.source(listing.files, listing.newest_ns)
            self._waits_for = None
        return self._watcher.ready(listing, now)

    def _wait_for(self, what: str) -> None:
        if what != self._waits_for:
            self._waits_for = what
            self._tell(f"waiting: {what}")

    # ---- Prefect's server -----------------------------------------------------------------------

    def _keep_going(self) -> None:
        self._meter.beat()
        self._upkeep()

    def _due(self) -> list[Due]:
        """What is due and not concluded already; nothing, while the server is away."""
        owed = {due.id for due, _ in self._owed}
        due = self._ask(lambda: self._board.due(datetime.now(UTC))) or []
        return [one for one in due if one.id not in owed]

    def _ask(self, question: Callable[[], T]) -> T | None:
        """The answer, or None while the server is away; says so once, and once that it is back."""
        try:
            answer = question()
        except Unreachable as error:
            if self._away_since is None:
                self._away_since = self._clock()
                self._meter.prefect(up=False)
                self._tell(f"Prefect's server doesn't answer ({error}); waiting for it")
            return None
        if self._away_since is not None:
            self._tell(f"Prefect's server answers again after {self._clock() - self._away_since:.0f} s")
            self._away_since = None
        self._meter.prefect(up=True)
        return answer

    def _insist(self, question: Callable[[], T]) -> T:
        """The answer, however long the server is away."""
        done: list[T] = []
        while True:
            self._ask(lambda: done.append(question()))
            if done:
                return done[0]
            self._keep_going()
            self._pause(ROUND_SECONDS)

    def _see_plans(self) -> None:
        """Say so, once, when the server makes no runs out of the schedule: then it would never fire."""
        if self._planned_by is None or self._clock() < self._planned_by:
            return
        planned = self._ask(self._board.planned)
        if planned is False:
            self._tell(
                "Prefect's server has made no runs out of the schedule, so it will not fire: its scheduler service is "
                "not running, or fails (its log says why; SQLAlchemy 2.1 with Prefect 3.8 does that)"
            )
        self._planned_by = None if planned is not None else self._planned_by

    def _pay(self) -> None:
        """Tell the server how firings ended, as far as it is there."""
        while self._owed:
            due, result = self._owed[0]
            if not self._ask(partial(self._enter, due, result)):
                return
            self._owed.pop(0)

    def _enter(self, due: Due, result: Result) -> bool:
        self._board.end(due, result)
        return True


def _hour(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
