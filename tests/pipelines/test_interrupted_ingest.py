"""Killed, or on a full disk: the last snapshot stays, and the next ingest ends where an undisturbed one does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.config import DataRecipe
from pipelines.dataset import Snapshot
from pipelines.errors import PipelineError
from pipelines.ingest import ingest
from pipelines.ledger import Dataset, current
from pipelines.scan import scan_and_decode
from tests.pipelines.image_folders import labelled, state

ROOT = Path(__file__).parents[2]
RECIPE = DataRecipe()
LOOKED_AT = None if os.environ.get("CI") else 8  # moments of each ingest; None: all


def spread(moments: int) -> list[int]:
    """Moments from 1 to the last one, evenly."""
    chosen = min(moments, LOOKED_AT or moments)
    return sorted({1 + round(place * (moments - 1) / max(1, chosen - 1)) for place in range(chosen)})


def in_a_process(source: Path, home: Path, *, moment: int, workers: int = 1) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.pipelines.killed_ingest", source, home, str(moment), str(workers)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """Whenever the first or second ingest is killed, readers see a whole snapshot, and the next run makes it good."""
    calm = tmp_path / "calm" / "photos"
    source = labelled(tmp_path / "photos", {"a": 100, "b": 100})
    first = ingest(str(source), calm, RECIPE)
    moments = int(in_a_process(source, tmp_path / "counted" / "photos", moment=0).stdout)
    assert moments > 10
    homes = {moment: tmp_path / f"killed-{moment}" / "photos" for moment in spread(moments)}
    for moment, home in homes.items():
        assert in_a_process(source, home, moment=moment).returncode == -signal.SIGKILL
        assert Dataset.read(home) is None or Snapshot.open(current(home)).id == first.snapshot
        again = ingest(str(source), home, RECIPE)
        assert (again.snapshot, again.images) == (first.snapshot, first.images)
    labelled(source, {"a": 30, "c": 9}, first_seed=900)
    second = ingest(str(source), calm, RECIPE)
    for moment, home in homes.items():
        in_a_process(source, home, moment=moment)
        assert Snapshot.open(current(home)).id in (first.snapshot, second.snapshot)
        again = ingest(str(source), home, RECIPE)
        assert (again.snapshot, again.images) == (second.snapshot, second.images)
        left = {path.name for path in home.iterdir()}
        assert left == {".lock", "dataset.json", "snapshots", Dataset.read(home).ledger}
        assert not [path for path in (home / "snapshots").iterdir() if path.name.startswith(".")]


def test_decoded_chunks_are_not_decoded_again(tmp_path):
    """What a killed ingest had decoded, the next one takes over without reading it."""
    source = labelled(tmp_path / "photos", {"a": 100, "b": 100})
    home = tmp_path / "datasets" / "photos"

    class Killed(BaseException):
        pass

    def kill(stage: str, done: int, _total: int) -> None:
        if stage == "decode" and done:
            raise Killed

    with pytest.raises(Killed):
        scan_and_decode(str(source), home, RECIPE, progress=kill)
    seen = []
    whole = ingest(str(source), home, RECIPE, progress=lambda stage, done, _total: seen.append((stage, done)))
    first_step = next(done for stage, done in seen if stage == "decode")
    assert first_step > 64
    assert whole.snapshot == ingest(str(source), home.with_name("calm"), RECIPE).snapshot


@contextmanager
def no_file_larger_than(size_bytes: int):
    """A disk that is full, as the system tells a process: no file may grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [0, 100, 1_000, 5_000, 8_000, 12_000])
def test_a_full_disk(tmp_path, size_bytes):
    """A full disk, wherever it strikes, is one sentence; the old snapshot stays, and the next run ends well."""
    source = labelled(tmp_path / "photos", {"a": 50, "b": 50}, height=16, width=16)
    home = tmp_path / "datasets" / "photos"
    first = ingest(str(source), home, RECIPE)
    before = state(home / "snapshots")
    labelled(source, {"a": 100}, first_seed=900, height=16, width=16)
    with no_file_larger_than(size_bytes), pytest.raises(PipelineError, match="is full"):
        ingest(str(source), home, RECIPE)
    assert Snapshot.open(current(home)).id == first.snapshot
    assert state(home / "snapshots") == before
    again = ingest(str(source), home, RECIPE)
    assert again.images["files"] == 200
    assert again.snapshot == ingest(str(source), home, RECIPE, verify=True).snapshot


def test_a_full_disk_in_a_worker(tmp_path):
    """A worker process that can't write says the same."""
    source = labelled(tmp_path / "photos", {"a": 100, "b": 100}, height=16, width=16)
    with no_file_larger_than(100), pytest.raises(PipelineError, match="is full"):
        ingest(str(source), tmp_path / "datasets" / "photos", RECIPE, workers=2)
