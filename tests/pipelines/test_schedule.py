"""`calotype schedule` as a user runs it: a process that is killed, waits, goes on, and publishes each version once."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime

import pytest

from pipelines import firing
from pipelines.commands.schedule import _concluded, _farewell
from pipelines.outcome import Outcome
from pipelines.runs import RunKey, RunRecord, find_run, start_run
from pipelines.timetable import Due, Result, Timetable
from pipelines.webhook import Webhook
from pipelines.workspace import Workspace
from tests.chaos.actors import Receiver, Schedule, add_digits, kill, until

ON_NEW_DATA = ("--on-new-data", "--settle-seconds", "0.5", "--poll-seconds", "0.2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "one of --cron EXPR, --every SECONDS and --on-new-data"),
        (("--cron", "0 3 * * *", "--on-new-data"), "one of --cron EXPR"),
        (("--every", "0"), "--every"),
        (("--cron", "0 3 * * * *"), "--cron takes five fields, minute, hour, day, month and weekday, for example"),
        (("--cron", "@daily"), "Received: '@daily', which has 1"),
        (("--cron", "0 3 * * *", "--timezone", "Mars/Base"), "--timezone takes a name such as Europe/Berlin. Received"),
        (("--cron", "0 3 * * *", "--timezone", "Europe"), "--timezone takes a name"),
        (("--every", "9", "--timezone", "UTC"), "--timezone means something with --cron only"),
        (("--every", "9", "--settle-seconds", "3"), "--settle-seconds means something with --on-new-data only"),
        (("--cron", "0 3 * * *", "--poll-seconds", "3"), "--poll-seconds means something with --on-new-data only"),
        (("--on-new-data", "--webhook", "ftp://host/s3cr3t"), "--webhook takes a URL"),
        (("--every", "9", "--architecture", "nonsense"), "nonsense"),
    ],
)
def test_what_makes_no_schedule_is_refused_before_anything_starts(calotype, tmp_path, arguments, said):
    """Exit 2 and a sentence that names the option; no workspace is made, and no secret repeated."""
    done = calotype("schedule", "inbox", "--name", "m", *arguments)
    assert done.status == 2
    assert said in done.err
    assert "s3cr3t" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_warning_of_the_gate_is_in_the_line_and_in_the_json(tmp_path, capsys):
    """Published, and it may have learned nothing: who reads only the log or only the webhook hears of it."""
    timetable = Timetable(model="m", source="inbox", workspace=tmp_path, every_seconds=60.0)
    values = {"version": 1, "run": "r", "metrics": {"accuracy": 0.1}, "warning": "It may have learned nothing."}
    with Webhook(None, told=print, counted=print) as hook:
        _concluded(timetable, hook, True, Due("id", datetime.now(UTC)), Result(end="published", values=values))
    told = capsys.readouterr()
    assert "Warning: It may have learned nothing." in told.err
    assert json.loads(told.out)["warning"] == "It may have learned nothing."


def test_who_stops_a_schedule_is_told_what_goes_on(tmp_path, capsys, monkeypatch):
    """One line: that it stopped, and the run it stopped in, if it did."""
    place = Workspace(tmp_path)
    for runs, line in (([], "m: stopped\n"), (["r-7"], "m: stopped; run r-7 goes on with the next start\n")):
        monkeypatch.setattr("pipelines.runs.interrupted_runs", lambda _place, _model, runs=runs: runs)
        with pytest.raises(SystemExit), _farewell(place, "m"):
            raise SystemExit(0)
        assert capsys.readouterr().err.endswith(line)


def test_a_full_disk_after_a_run_ends_no_schedule(tmp_path, monkeypatch, capsys):
    """What an earlier run left can't be written down just now: that is a line, and the schedule goes on."""

    def full(workspace, model, *, told):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.leftovers.close_leftovers", full)
    timetable = Timetable(model="m", source="inbox", workspace=tmp_path, every_seconds=60.0)
    with Webhook(None, told=print, counted=print) as hook:
        result = Result(end="nothing new", reason="nothing new since run r")
        _concluded(timetable, hook, False, Due("id", datetime.now(UTC)), result)
    assert "left as they are: [Errno 28] No space left on device" in capsys.readouterr().err


def test_what_nobody_was_told_is_told_by_the_next_try(tmp_path, monkeypatch, capsys):
    """A firing killed between publishing and telling is tried again, finds nothing to do, and tells what it did."""
    place = Workspace(tmp_path)
    key = RunKey(snapshot="s", model="m", recipe="r")
    asked = RunRecord(
        run="", state="started", key=key, dataset="d", snapshot_path="s", recipe={}, metrics={"accuracy": 0.9}
    )
    with start_run(place, asked) as run:
        run.update(state="published", version=3, untold=True)
    name = run.record.run

    def again(_flow_run):
        return Outcome(record=find_run(place, name), ingested=None, seconds={"ingest": 1.0})

    monkeypatch.setattr("pipelines.flows_schedule.perform", again)
    timetable = Timetable(model="m", source="inbox", workspace=tmp_path, every_seconds=60.0)
    ends = []
    with Webhook(None, told=print, counted=print) as hook:
        for _ in range(2):
            result = Result(**firing.perform("id"))
            ends.append((result.end, result.values["version"]))
            _concluded(timetable, hook, False, Due("id", datetime.now(UTC)), result)
    assert ends == [("published", 3), ("nothing new", None)]


@pytest.mark.slow
def test_a_schedule_survives_kills_and_publishes_each_version_once(tmp_path):
    """An absent inbox is waited for; the private server's and the scheduler's kill -9 lose no run and double none.

    The run that was under way is gone on with by the next start; a second scheduler of the model is refused; the
    webhook hears of every end; SIGTERM ends with status 0, and leaves the schedule able to go on.
    """
    with Receiver() as receiver, Schedule(tmp_path, *ON_NEW_DATA, "--webhook", f"{receiver.url}/s3cr3t") as schedule:
        until(lambda: "nothing in" in schedule.log(), what="the line that it waits")
        second = Schedule(tmp_path, *ON_NEW_DATA)
        second.err = tmp_path / "second.log"
        second.start()
        add_digits(tmp_path / "inbox", 0, 60)
        first = schedule.ended(1, "published", "refused", "failed")[0]
        assert (first["event"], first["version"]) == ("published", 1), schedule.log()

        kill(schedule.child("pipelines.prefect_server"))
        until(lambda: "starting it again" in schedule.log(), what="the private server's new start")
        add_digits(tmp_path / "inbox", 60, 100)
        run = until(lambda: [one["run"] for one in schedule.runs() if one["state"] == "started"], what="a run")[0]
        schedule.kill()
        schedule.start()
        last = schedule.ended(2, "published", "refused", "failed")[1]
        assert last["run"] == run
        assert f"run {run} was interrupted" in schedule.log()
        assert second.process.wait(60) == 1
        assert "keeps the schedule of digits" in second.err.read_text()
        assert schedule.log().count("nothing in") == 1
        assert schedule.stop() == 0

    assert {one["state"] for one in schedule.runs()} <= {"published", "refused"}
    assert len(schedule.runs()) == 2
    published = [event["version"] for event in schedule.events("published")]
    assert published == sorted(int(path.parent.name) for path in schedule.models.glob("*/checksums"))
    assert [message["event"] for _, message in receiver.got] == [event["event"] for event in schedule.events()]
    assert "s3cr3t" not in schedule.log()
    assert "Traceback" not in schedule.log()


@pytest.mark.slow
def test_ctrl_c_ends_a_schedule_with_130(tmp_path):
    """Also while Prefect's server is not there yet, which is waited for."""
    schedule = Schedule(tmp_path, "--every", "60", PREFECT_API_URL="http://127.0.0.1:9/api")
    with schedule:
        until(lambda: "doesn't answer" in schedule.log(), what="the line that it waits")
        schedule.process.send_signal(signal.SIGINT)
        assert schedule.process.wait(30) == 130
    assert not schedule.events()
    assert json.loads((tmp_path / "ws" / ".locks" / "digits.schedule").read_text())["process"] == schedule.process.pid
