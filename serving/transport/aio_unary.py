"""One unary call on `grpc.aio`: answered on the loop, by whichever thread finishes it; knows no method."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from serving.calls import Call, Status
from serving.interceptors import OK, hung_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Future

    from serving.calls import Method
    from serving.interceptors import Desk


class UnaryCall:
    """Starts the method, and signs out where its future ends.

    Mutable: `_future`, the work while it is not done; `_gone`, set by the loop when the caller hung up; `outcome`. The
    future is set before `_gone` is looked at, and hanging up looks for it afterwards: one of the two sees the other.

    Args:
        method: asked for.
        desk: where the call is signed out.
        call: what the service gets to see.
        data: the request.
        answer: a future of the loop; becomes the message, or the status that the call ends by.
        tell: has the loop answer by `outcome`; any thread may ask.
    """

    __slots__ = ("_call", "_data", "_desk", "_future", "_gone", "_method", "_tell", "answer", "outcome")

    def __init__(
        self,
        method: Method,
        desk: Desk,
        call: Call,
        data: bytes,
        *,
        answer: asyncio.Future[bytes | Status],
        tell: Callable[[UnaryCall], None],
    ) -> None:
        self._method = method
        self._desk = desk
        self._call = call
        self._data = data
        self._tell = tell
        self._future: Future[Any] | None = None
        self._gone = False
        self.answer = answer
        self.outcome: bytes | Status = OK

    def start(self) -> None:
        """Start the method; once, on the loop."""
        call, data, self._data = self._call, self._data, b""
        if self._gone:
            self._end(hung_up(call))
            return
        try:
            future = self._method.start(self._desk.read(self._method, data, call), call)
        except Exception as error:  # noqa: BLE001 the one table knows what each means
            self._end(self._desk.explain(error, call))
            return
        self._future = future
        future.add_done_callback(self._done)
        self._let_go()

    def hang_up(self) -> None:
        """Nobody waits any more; the loop says so."""
        self._gone = True
        self._let_go()

    def deliver(self) -> None:
        """Give the outcome to whoever waits for it, on the loop."""
        if not self.answer.done():
            self.answer.set_result(self.outcome)

    def _let_go(self) -> None:
        future = self._future
        if self._gone and future is not None:
            future.cancel()

    def _done(self, future: Future[Any]) -> None:
        self._future = None
        call, desk = self._call, self._desk
        if future.cancelled():
            self._end(hung_up(call))
            return
        try:
            message = desk.write(future.result())
        except Exception as error:  # noqa: BLE001 as above
            self._end(desk.explain(error, call))
            return
        desk.finished(call, OK)
        self._become(message)

    def _end(self, status: Status) -> None:
        self._desk.finished(self._call, status)
        self._become(status)

    def _become(self, outcome: bytes | Status) -> None:
        self.outcome = outcome
        if not self._gone:
            self._tell(self)


def call_of(method: Method, context: Any) -> Call:
    """The call that a context tells of."""
    started = time.monotonic()
    remaining = context.time_remaining()
    deadline = None if remaining is None else started + remaining
    return Call(method.name, deadline, dict(context.invocation_metadata() or ()), started)
