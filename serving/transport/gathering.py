"""Calls that come together are worked on together, and answered together; knows no gRPC and no model.

`grpc.aio` brings one call every few turns of its loop. Each worked on as it comes would be a model call of its own, a
thread woken for it and the loop woken for its answer. So a call waits a few turns for the next; those gathered go to
one thread, which lends itself (`serving.lending`) as the polling thread of the fast form does, and what that thread has
done wakes the loop once.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from serving import logs
from serving.lending import Lender

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_log = logs.logger("transport")

# A batch of more costs no less per row, and its callers all wait for the last (docs/performance.md).
_MOST_CALLS: Final = 16

# Without another call: one that waits in the core takes about eight turns to be here.
_PATIENT_TURNS: Final = 12

_ROUNDS_REMEMBERED: Final = 8


class Work(Protocol):
    """One call."""

    def start(self) -> None:
        """Begin, in any thread; raises nothing, and may leave work to a thread that is lent."""
        ...

    def deliver(self) -> None:
        """Answer, on the loop."""
        ...


class Gathering:
    """The calls of a loop, in rounds.

    Whoever calls alone isn't kept waiting for company: only while one of the last few rounds was of several calls is
    there patience until this one is as large; and in one round of a few, to find out.

    Mutable, the loop's thread's: `_calls`, those of the round under way; `_seen`, how many there were a turn ago;
    `_quiet`, the turns since; `_hoped`, how many are waited for; `_lately`, the sizes of the last rounds; `_rounds`,
    their number; `_ours`, while the loop works itself. Any thread's: `_done`, what is to be delivered.

    Args:
        loop: whose turns are counted.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: list[Work] = []
        self._seen = self._quiet = self._rounds = 0
        self._hoped = 1
        self._lately = deque((1,), _ROUNDS_REMEMBERED)
        self._ours = False
        self._done: deque[Work] = deque()
        self._inbox: SimpleQueue[list[Work] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="grpc-aio-work", daemon=True)

    def start(self) -> None:
        """Start the thread that works."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was handed over, and end the thread, while the loop still runs; not from the loop's thread."""
        if self._thread.ident is not None:
            self._inbox.put(None)
            self._thread.join()

    def add(self, call: Work) -> None:
        """Start a call within a few turns; on the loop."""
        self._calls.append(call)
        if len(self._calls) == 1:
            self._seen, self._quiet = 1, 0
            self._rounds += 1
            self._hoped = max(self._lately) if self._rounds % _ROUNDS_REMEMBERED else _MOST_CALLS
            self._loop.call_soon(self._turn)

    def tell(self, call: Work) -> None:
        """Have the loop deliver a call; any thread may ask."""
        self._done.append(call)
        if threading.current_thread() is not self._thread and not self._ours:
            self._wake()

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._done:
            self._done.popleft().deliver()

    def _turn(self) -> None:
        count = len(self._calls)
        self._quiet = 0 if count > self._seen else self._quiet + 1
        self._seen = count
        if count < _MOST_CALLS and self._quiet < (_PATIENT_TURNS if count < self._hoped else 1):
            self._loop.call_soon(self._turn)
            return
        self._lately.append(count)
        calls, self._calls = self._calls, []
        if count > 1:
            self._inbox.put(calls)
        else:  # a hop to another thread costs more than what it would save
            self._ours = True
            self._work(calls)
            self._ours = False
            self._deliver()

    def _run(self) -> None:
        while (calls := self._inbox.get()) is not None:
            self._work(calls)
            del calls  # or they would be kept, with all their rows, until others come
            if self._done:
                self._wake()

    def _work(self, calls: list[Work]) -> None:
        lender = Lender()
        with lender.lent():
            for call in calls:
                call.start()
        while lender.due:
            try:
                lender.work()
            except Exception:  # noqa: BLE001 the others have to be worked on
                _log.exception("transport_event_failed")
