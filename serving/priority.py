"""Threads that compute step back for the thread that answers: it needs little, and everybody waits for it.

A model call keeps all cores busy for as long as it takes. Without this, the transport's thread is one of several that
want a core, and under ten times too many calls the refusals come later: after 0.9 s where it is 0.14 s with it, in one
comparison of short floods (`benchmarks/serving/overload.py`). Nothing is lost by it: what the transport leaves, the
models have. Knows no models.
"""

from __future__ import annotations

import os
import sys
import threading

_NICENESS = 10  # of 19: one tenth of the share of a thread at 0 where both want the same core


def step_back() -> None:
    """Lower the calling thread's priority, and that of the threads that it starts, for good.

    Where threads have no priorities of their own (everywhere but on Linux) nothing happens.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    if niceness < _NICENESS:  # a process that is nice already stays as it is
        os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)
