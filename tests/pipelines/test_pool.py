"""Chunks through processes, and through whatever else is given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pipelines.config import DataRecipe
from pipelines.ingest import ingest
from pipelines.journal import decode_chunk
from pipelines.pool import run_chunks, worker_count
from serving.session import available_cpus
from tests.pipelines.fatal_decoder import fatal
from tests.pipelines.image_folders import labelled, picture, put

RECIPE = DataRecipe()


@pytest.mark.slow
def test_a_file_that_kills_the_decoder(tmp_path):
    """A file on which the decoder crashes is found and quarantined, its neighbours are used, the next run is calm."""
    source = labelled(tmp_path / "photos", {"a": 70, "b": 70})
    put(source / "a" / "fatal.png", picture(999))
    home = tmp_path / "w" / "datasets" / "photos"
    result = ingest(str(source), home, RECIPE, run=partial(run_chunks, workers=2, work=fatal))
    assert result.quarantined == [{"path": "a/fatal.png", "reason": "the decoder crashed on it"}]
    assert result.images["files"] == 141
    assert ingest(str(source), home, RECIPE).new == 0


@pytest.mark.slow
def test_workers_die_with_their_parent(tmp_path):
    """No kill -9 of an ingest leaves its workers behind."""
    command = [sys.executable, "-m", "tests.pipelines.lingering_work", str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    workers = [Path(f"/proc/{int(parent.stdout.readline())}") for _ in range(2)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 10
    while any(worker.exists() for worker in workers) and time.monotonic() < limit:
        time.sleep(0.02)
    left = [worker for worker in workers if worker.exists()]
    for worker in left:
        os.kill(int(worker.name), signal.SIGKILL)
    assert not left


def test_another_runner(tmp_path):
    """Chunks may be decoded by anything that calls the same function: the snapshot is the same."""
    source = labelled(tmp_path / "photos", {"a": 100, "b": 100})

    def by_threads(chunks):
        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(decode_chunk, chunks))[::-1]

    one = ingest(str(source), tmp_path / "w" / "datasets" / "one", RECIPE, run=by_threads)
    two = ingest(str(source), tmp_path / "w" / "datasets" / "two", RECIPE)
    assert one.snapshot == two.snapshot


def test_processes_must_be_worth_it():
    """Few or small files are decoded in this process, many or large ones by no more processes than processors."""
    processors = len(os.sched_getaffinity(0))
    assert worker_count(files=1_000, size_bytes=1_000_000) == 0
    assert worker_count(files=1_000, size_bytes=4_000_000_000) == processors
    assert worker_count(files=1_000_000, size_bytes=400_000_000) == processors


def test_there_are_no_more_processes_than_cpus_to_use():
    """In a container with a quota, those of the machine are not its own; little work needs none."""
    assert worker_count(files=10**6, size_bytes=10**9, cpus=lambda: 2) == 2
    assert worker_count(files=10**6, size_bytes=10**9) == available_cpus()
    assert worker_count(files=10, size_bytes=10**4, cpus=lambda: 2) == 0
