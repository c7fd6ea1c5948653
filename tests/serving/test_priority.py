"""Who computes steps back; who answers doesn't."""

import os
import sys
import threading

import numpy as np
import pytest

from serving.batcher import Batcher
from serving.priority import step_back
from serving.row_queue import BatchLimits

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own elsewhere")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def within(*works):
    """What some functions give, one after the other, in a thread of their own."""
    seen: list = []
    thread = threading.Thread(target=lambda: seen.extend(work() for work in works))
    thread.start()
    thread.join()
    return seen


@linux
def test_a_thread_steps_back_and_what_it_starts_with_it_but_nobody_else():
    before = niceness()
    first, _, own, (started,), _, again = within(
        niceness, step_back, niceness, lambda: within(niceness), step_back, niceness
    )
    assert first == before
    assert own == started == again > before
    assert niceness() == before


@linux
def test_a_model_is_called_by_a_thread_that_stepped_back():
    seen = []

    def run(feeds, _outputs):
        seen.append(niceness())
        return feeds

    limits = BatchLimits(max_batch_rows=4, max_wait_ms=0, max_queue_rows=4, max_queue_bytes=1000)
    batcher = Batcher(run, limits=limits)
    batcher.start()
    batcher.submit({"image": np.zeros((1, 1))}).result(timeout=10)
    batcher.close()
    assert batcher.join(10)
    assert seen[0] > niceness()
