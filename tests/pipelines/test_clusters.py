"""Ingest on a cluster: other machines decode, and the snapshot is the same."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def cluster(tmp_path):
    """The address of a real Dask cluster on this machine: a scheduler and two workers, processes of their own."""
    where = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(where)]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "--nthreads",
        "1",
        "--nworkers",
        "1",
        "--no-dashboard",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    processes = [subprocess.Popen([*scheduler, "--no-dashboard", *common], **quiet)]
    processes += [subprocess.Popen([*worker, *common, "--local-directory", str(tmp_path)], **quiet) for _ in range(2)]
    try:
        yield _address(where, processes)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def _address(where, processes):
    """What the scheduler writes down when it listens; the file is there a moment before its content."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert all(process.poll() is None for process in processes), "the cluster did not start"
        with contextlib.suppress(OSError, ValueError):
            return json.loads(where.read_text())["address"]
        time.sleep(0.05)
    raise AssertionError("the cluster did not start within two minutes")


def test_a_cluster_makes_the_snapshot_that_this_machine_makes(calotype, cluster, digits_folder, tmp_path):
    """Through Prefect's Dask task runner, on two workers, the snapshot has the id of the local one."""
    ids = {}
    for runner, more in {"local": (), "dask": ("--runner-address", cluster)}.items():
        done = calotype(
            "ingest", digits_folder, "--workspace", tmp_path / runner, "--runner", runner, *more, "--json",
            XDG_STATE_HOME=str(tmp_path / "state"),
        )  # fmt: skip
        assert done.status == 0, done.err
        result = json.loads(done.out)
        assert result["new"] == 600
        ids[runner] = result["snapshot"]
    assert ids["dask"] == ids["local"]


def test_an_address_without_a_cluster_is_refused(calotype, digits_folder):
    """`--runner-address` alone means nothing, and says so."""
    done = calotype("ingest", digits_folder, "--runner-address", "tcp://127.0.0.1:1")
    assert done.status == 2
    assert "--runner" in done.err
