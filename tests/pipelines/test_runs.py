"""Run folders."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipelines.errors import UsageError
from pipelines.runs import RunKey, RunRecord, find_run, finished_run, reopen_run, start_run
from pipelines.workspace import Workspace, check_name, default_dataset_name

KEY = RunKey(snapshot="abc", model="digits", recipe="def")
ASKED = RunRecord(run="", state="started", key=KEY, dataset="d", snapshot_path="/s", recipe={"epochs": 3})


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_a_run_that_died_is_taken_up_again(workspace):
    """The same work after a crash goes on in the same folder; other work gets one of its own."""
    with start_run(workspace, ASKED) as died:
        pass
    other = RunRecord(**{**_fields(ASKED), "key": RunKey(snapshot="xyz", model="digits", recipe="def")})
    with start_run(workspace, other) as different:
        assert different.folder != died.folder
    with start_run(workspace, ASKED) as again:
        assert again.folder == died.folder
        assert again.record.run == died.record.run == again.folder.name


def test_two_processes_never_work_in_one_run(workspace):
    """While somebody holds a run, the same work starts in another folder."""
    with start_run(workspace, ASKED) as first, start_run(workspace, ASKED) as second:
        assert first.folder != second.folder
        with pytest.raises(UsageError, match="Another process"), reopen_run(workspace, first.record.run):
            pass


@pytest.mark.parametrize("state", ["published", "refused"])
def test_only_an_ended_run_counts_as_finished(workspace, state):
    """Published and refused runs are finished; what was only begun is not."""
    with start_run(workspace, ASKED) as run:
        assert finished_run(workspace, KEY) is None
        run.update(state=state, metrics={"accuracy": 0.5})
    found = finished_run(workspace, KEY)
    assert found is not None
    assert found.metrics == {"accuracy": 0.5}
    assert found == find_run(workspace, run.record.run)
    with start_run(workspace, ASKED) as fresh:
        assert fresh.folder != run.folder


def test_a_folder_without_a_record_harms_nobody(workspace):
    """Litter in runs/ and records that can't be read are passed over."""
    (workspace.runs / "litter").mkdir(parents=True)
    (workspace.runs / "broken").mkdir()
    (workspace.runs / "broken" / "run.json").write_text("{")
    assert finished_run(workspace, KEY) is None
    with pytest.raises(UsageError, match="There is no run 'broken'"):
        find_run(workspace, "broken")


def test_a_record_of_a_newer_calotype_can_be_read(workspace):
    """Fields that this version doesn't know are left out."""
    with start_run(workspace, ASKED) as run:
        text = run.record.to_json(root=workspace.root).replace('"run":', '"invented": 1, "run":', 1)
    assert RunRecord.from_json(text, root=workspace.root) == run.record


@pytest.mark.parametrize("by_an_older_calotype", [False, True])
def test_a_workspace_may_be_moved(tmp_path, by_an_older_calotype):
    """A record names what is in its workspace by where it lies now; so does an old one, which holds whole paths."""
    before, after = Workspace(tmp_path / "before"), Workspace(tmp_path / "after")
    snapshot = before.datasets / "d" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    with start_run(before, dataclasses.replace(ASKED, snapshot_path=str(snapshot))) as run:
        report = run.folder / "report.html"
        report.touch()
        run.update(report=str(report))
    path = run.folder / "run.json"
    assert str(tmp_path) not in path.read_text()
    assert find_run(before, run.record.run) == run.record
    if by_an_older_calotype:
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"snapshot_path": str(snapshot), "report": str(report)})
        )
    before.root.rename(after.root)
    found = find_run(after, run.record.run)
    assert found.snapshot_path == str(after.datasets / "d" / "snapshots" / "abc")
    assert found.report == str(after.runs / run.record.run / "report.html")
    with start_run(after, ASKED) as again:
        assert again.record.snapshot_path == found.snapshot_path


def test_what_lies_elsewhere_stays_where_it_is(workspace):
    """A path outside the workspace, and one of which nothing is here, is kept as it was."""
    with start_run(workspace, dataclasses.replace(ASKED, snapshot_path="/else/datasets/d/snapshots/abc")) as run:
        pass
    assert find_run(workspace, run.record.run).snapshot_path == "/else/datasets/d/snapshots/abc"


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a b", "a/b", "x" * 129, "-x"])
def test_names_stay_in_their_folder(name):
    """No name leads out of the workspace or confuses a shell."""
    with pytest.raises(UsageError, match="can't be used"):
        check_name(name, what="model name")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/my digits/", "my-digits"),
        ("s3://bucket/cats", "cats"),
        ("sftp://me:password@host", "host"),
        ("zip://::https://me:password@host/cats.zip?token=abc", "cats.zip"),
        ("https://host/cats?version=2", "cats"),
        ("mnist", "mnist"),
        ("/data/.hidden", "hidden"),
        ("/", "dataset"),
    ],
)
def test_a_dataset_is_named_after_its_source(source, name):
    """The last component, with what a name may not hold replaced."""
    assert default_dataset_name(source) == name
    assert check_name(default_dataset_name(source), what="dataset") == name


def _fields(record):
    return {name: getattr(record, name) for name in record.__slots__}
