"""Calls that come together are worked on together, and answered together; knows no gRPC and no model.

`grpc.aio` brings one call every few turns of its loop. Each worked on as it comes would be a model call of its own, a
thread woken for it and the loop woken for its answer. So a call waits a little for the next, and the loop's thread
lends itself (`serving.lending`) to those gathered, as the polling thread of the fast form does.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from serving import logs
from serving.lending import Lender

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from collections.abc import Callable

_log = logs.logger("transport")

# A batch of more costs no less per row, and its callers all wait for the last (docs/performance.md).
_MOST_CALLS: Final = 16

# Since the last call that came, while more are expected.
_PATIENCE_SECONDS: Final = 0.0015

# Company in one of these is hoped for in the next: who calls alone again is delayed so often.
_ROUNDS_REMEMBERED: Final = 2

# One round in so many finds out whether there is company, by so many turns without another call: one that waits in the
# core takes about eight to be here.
_ROUNDS_TO_FIND_OUT: Final = 8
_TURNS_TO_FIND_OUT: Final = 12


class Work(Protocol):
    """One call."""

    def start(self) -> None:
        """Begin, on the loop; raises nothing, and may leave work to the thread that is lent."""
        ...

    def deliver(self) -> None:
        """Answer, on the loop."""
        ...


class Gathering:
    """The calls of a loop, in rounds.

    Whoever calls alone isn't kept waiting for company: only where one of the last two rounds was of several calls is
    there patience until this one is as large. One round in a few takes some turns more to find out.

    Mutable, the loop's thread's: `_calls`, those of the round under way; `_seen`, how many there were a turn ago;
    `_quiet`, the turns since; `_came`, when the last one did; `_timer`, while the round waits for more; `_hoped`, how
    many are waited for; `_lately`, the sizes of the last rounds; `_rounds`, their number; `_working`, when what is done
    is delivered anyway. Any thread's: `_done`, what is to be delivered; `_woken`, the loop is going to.

    Args:
        loop: whose calls they are.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._lender = Lender()
        self._calls: list[Work] = []
        self._seen = self._quiet = self._rounds = 0
        self._hoped = 1
        self._came = 0.0
        self._timer: TimerHandle | None = None
        self._lately = deque((1,), _ROUNDS_REMEMBERED)
        self._working = self._woken = False
        self._done: deque[Work] = deque()

    def add(self, call: Work) -> None:
        """Start a call soon; on the loop."""
        self._calls.append(call)
        self._came = self._loop.time()
        count = len(self._calls)
        if count == 1:
            self._seen, self._quiet = 1, 0
            self._rounds += 1
            self._hoped = max(self._lately)
            self._loop.call_soon(self._turn)
        elif count >= self._hoped and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._turn)

    def tell(self, call: Work) -> None:
        """Have the loop deliver a call; any thread may ask.

        The call is there before the two are looked at, and they are cleared before it is looked for.
        """
        self._done.append(call)
        if not self._working and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            self._done.popleft().deliver()

    def _turn(self) -> None:
        """Wait for more, or work."""
        self._timer = None
        count = len(self._calls)
        self._quiet = 0 if count > self._seen else self._quiet + 1
        self._seen = count
        if count < self._hoped:
            seconds = self._came + _PATIENCE_SECONDS - self._loop.time()
            if seconds > 0.0:
                self._timer = self._loop.call_later(seconds, self._turn)
                return
        elif count < _MOST_CALLS and self._quiet < (1 if self._rounds % _ROUNDS_TO_FIND_OUT else _TURNS_TO_FIND_OUT):
            self._loop.call_soon(self._turn)
            return
        self._work()

    def _work(self) -> None:
        calls, self._calls = self._calls, []
        self._lately.append(len(calls))
        self._working = True
        with self._lender.lent():
            for call in calls:
                self._do(call.start)
        while self._lender.due:
            self._do(self._lender.work)
        self._working = False
        self._deliver()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 the others have to be worked on
            _log.exception("transport_event_failed")
