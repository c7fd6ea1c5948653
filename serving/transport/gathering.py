"""Calls that come together are worked on together, and answered together; knows no gRPC and no model.

`grpc.aio` brings one call every few turns of its loop. Each worked on as it comes would be a model call of its own, and
a thread woken for it and another for its answer. So a call waits a few turns for the next; those gathered go to one
thread, which lends itself (`serving.lending`) as the polling thread of the fast form does; and what that thread
has done reaches the loop by one call.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

import os
from serving import logs
from serving.lending import Lender

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterable


_log = logs.logger("transport")

# A batch of more costs no less per row, and its callers all wait for the last (docs/performance.md).
_MOST_CALLS: Final = int(os.environ.get("GM", 16))

# A waiting call of another caller takes about eight turns until it is here.
_PATIENT_TURNS: Final = int(os.environ.get("GK", 12))
_HURRIED_TURNS: Final = int(os.environ.get("GK1", 1))

_LATELY: Final = 8
_HERE = int(os.environ.get("GH", 1))


class Work(Protocol):
    """One call."""

    def start(self) -> None:
        """Begin; raises nothing, and may leave work to a lent thread."""
        ...

    def deliver(self) -> None:
        """Answer, on the loop."""
        ...


class Gathering:
    """What a loop's turns bring, in rounds.

    Whoever calls alone, one call after the other, isn't kept waiting for company: patience is for those who had it in
    one of the last few rounds, and for one round in a few, to find out.

    Mutable, the loop's thread's: `_calls`, those of the round that is being gathered; `_seen`, how many there were a
    turn ago; `_quiet`, the turns since without another; `_expected`; `_lately`, the sizes of the last rounds; `_rounds`.
    Any thread's: `_done`, what is to be delivered.

    Args:
        loop: whose turns are counted.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: list[Work] = []
        self._seen = 0
        self._quiet = 0
        self._expected = 1
        self._lately = deque((1,), _LATELY)
        self._rounds = 0
        self._done: deque[Work] = deque()
        self._inbox: SimpleQueue[list[Work] | None] = SimpleQueue()
        self._lender = Lender()
        self._thread = threading.Thread(target=self._run, name="grpc-aio-work", daemon=True)
        self._own: set[int | None] = set()

    def start(self) -> None:
        """Start the thread that works; from the loop's."""
        self._thread.start()
        self._own = {self._thread.ident, threading.get_ident()}

    def stop(self) -> None:
        """Finish what was gathered, and end the thread; from another than the loop's, while that still runs."""
        if self._thread.ident is not None:
            self._inbox.put(None)
            self._thread.join()

    def add(self, call: Work) -> None:
        """Start a call soon; on the loop."""
        calls = self._calls
        calls.append(call)
        if len(calls) == 1:
            self._rounds += 1
            self._seen, self._quiet = 1, 0
            self._expected = max(self._lately) if self._rounds % _LATELY else _MOST_CALLS
            self._loop.call_soon(self._turn)

    def tell(self, call: Work) -> None:
        """Deliver a call soon; any thread may ask."""
        self._done.append(call)
        if threading.get_ident() not in self._own:  # which deliver at the end of a round
            self._wake()

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        done = self._done
        while done:
            done.popleft().deliver()

    def _turn(self) -> None:
        count = len(self._calls)
        if count > self._seen:
            self._seen, self._quiet = count, 0
        else:
            self._quiet += 1
        patience = _PATIENT_TURNS if count < self._expected else _HURRIED_TURNS
        if self._quiet < patience and count < _MOST_CALLS:
            self._loop.call_soon(self._turn)
            return
        self._lately.append(count)
        calls, self._calls = self._calls, []
        if count <= _HERE:
            self._work(calls)
            self._deliver()
        else:
            self._inbox.put(calls)

    def _run(self) -> None:
        while (calls := self._inbox.get()) is not None:
            self._work(calls)
            del calls
            if self._done:
                self._wake()

    def _work(self, calls: Iterable[Work]) -> None:
        lender = Lender()
        with lender.lent():
            for call in calls:
                call.start()
        while lender.due:
            try:
                lender.work()
            except Exception:
                _log.exception("transport_event_failed")
