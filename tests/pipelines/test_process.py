"""The process that TensorFlow lives in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.errors import BadRecipe, PipelineError
from pipelines.process import HeavyProcess
from tests.pipelines import heavy_work


def test_it_runs_elsewhere_and_relays_news_in_order():
    """A function runs in another process, and what it reports arrives before its result does."""
    news = []
    with HeavyProcess(preload=heavy_work.nothing) as process:
        there = process.call(heavy_work.count_to, 3, progress=news.append)
        assert process.call(heavy_work.here) == there
    assert there != os.getpid()
    assert news == [{"at": 1}, {"at": 2}, {"at": 3}]


def test_an_error_arrives_as_it_was_raised():
    """A sentence for the user survives the way between the processes."""
    with HeavyProcess(preload=heavy_work.nothing) as process, pytest.raises(BadRecipe, match="no such thing"):
        process.call(heavy_work.refuse, "no such thing")


def test_an_error_of_a_library_arrives_in_words():
    """The caller need not load TensorFlow to read it; memory that ran out comes with the cure."""
    with HeavyProcess(preload=heavy_work.nothing) as process:
        with pytest.raises(PipelineError, match=r"^Memory ran out: OOM .+shape\[64,28\]\. Give a smaller --batch-size"):
            process.call(heavy_work.exhaust)
        with pytest.raises(PipelineError, match=r"^The training process failed: Foreign: Shapes differ$") as caught:
            process.call(heavy_work.fail_foreign, progress=print)
    assert type(caught.value) is PipelineError


def test_a_killed_process_is_told_in_a_sentence():
    """When the process dies, the caller learns it at once and in words."""
    with (
        HeavyProcess(preload=heavy_work.nothing) as process,
        pytest.raises(PipelineError, match="ended without a word"),
    ):
        process.call(heavy_work.die)


def test_whoever_hears_enough_stops_it():
    """A progress callback that raises, as for a trial that is not worth going on with, ends the process at once."""
    heard = []

    def enough(news):
        heard.append(news["pid"])
        raise StopIteration

    with pytest.raises(StopIteration), HeavyProcess(preload=heavy_work.nothing) as process:
        process.call(heavy_work.report_and_wait, progress=enough)
    assert not Path(f"/proc/{heard[0]}").exists()


@pytest.mark.slow
def test_it_dies_with_its_parent():
    """No kill -9 of the parent leaves the process behind."""
    parent = subprocess.Popen([sys.executable, "-m", "tests.pipelines.heavy_work"], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()
