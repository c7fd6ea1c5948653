"""How a run ends, as its record and its page tell."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines import ending, report
from pipelines.errors import ParityFailed, PipelineError, Refused
from pipelines.runs import RunKey, RunRecord, find_run, finished_run, start_run
from pipelines.workspace import Workspace
from tests.pipelines.exported_runs import exporter

KEY = RunKey(snapshot="abc", model="digits", recipe="def")
ASKED = RunRecord(run="", state="started", key=KEY, dataset="d", snapshot_path="/s", recipe={})


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def exported_run(tmp_path):
    return exporter(tmp_path)


def _end(workspace, error):
    with start_run(workspace, ASKED) as run, ending.written_down(run):
        raise error
    return run


def test_a_run_that_parity_refused_is_tried_again(workspace):
    """It exported nothing, so it is no finished run: the same command works in the same folder once more."""
    run = _end(workspace, ParityFailed("apart"))
    assert (run.record.state, run.record.reason) == ("failed", "apart")
    assert run.record.was_turned_down
    assert finished_run(workspace, KEY) is None
    with start_run(workspace, ASKED) as again:
        assert again.folder == run.folder


def test_a_run_that_the_gate_refused_is_finished(workspace):
    """The same command has nothing to do; the version of a withdrawn one is no longer the run's."""
    run = _end(workspace, Refused("worse"))
    found = finished_run(workspace, KEY)
    assert (found.state, found.reason, found.version) == ("refused", "worse", None)
    with start_run(workspace, ASKED) as again:
        assert again.folder != run.folder
        again.update(state="published", version=3)
        ending.refuse(again, "worse than version 2")
    assert find_run(workspace, again.record.run).version is None


def test_another_failure_is_written_down_and_goes_on(workspace):
    """The record has its sentence, the caller the exception."""
    with pytest.raises(PipelineError, match="no memory"):
        _end(workspace, PipelineError("no memory"))
    assert finished_run(workspace, KEY) is None


def test_a_page_that_was_never_made_is_made_when_there_is_nothing_new(workspace, exported_run):
    """Killed between publishing and its page, a run gets its page with the next command, and once."""
    folder, record = exported_run(source="/pictures")
    record = dataclasses.replace(record, state="published", version=1, report=None)
    (folder / "run.json").write_text(record.to_json(root=workspace.root))
    ended = ending.with_page(workspace, find_run(workspace, "r1"), tell=pytest.fail)
    assert ended.report == str(folder / report.PAGE)
    assert ended == find_run(workspace, "r1")
    assert "published as version 1" in (folder / report.PAGE).read_text()
    made = (folder / report.PAGE).stat().st_mtime_ns
    assert ending.with_page(workspace, ended, tell=pytest.fail) == ended
    assert (folder / report.PAGE).stat().st_mtime_ns == made


def test_a_page_that_cannot_be_made_is_told(workspace, exported_run):
    """Its snapshot is gone: a sentence, and the run stays what it is."""
    folder, record = exported_run()
    record = dataclasses.replace(record, state="published", version=1, snapshot_path=str(workspace.root / "gone"))
    (folder / "run.json").write_text(record.to_json(root=workspace.root))
    told = []
    with_none = find_run(workspace, "r1")
    assert ending.with_page(workspace, with_none, tell=told.append) == with_none
    assert "could not be made" in told[0]
