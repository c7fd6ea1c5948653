"""One unary call on the completion queue: a message in, an answer or a status out; knows no method."""

from __future__ import annotations

import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode

from serving import logs
from serving.calls import Status
from serving.interceptors import OK, hung_up
from serving.transport import completion

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from serving.calls import Call, Method
    from serving.interceptors import Desk

_log = logs.logger("transport")

# A caller who hangs up before has its rows computed for nothing, as it would if they had left the queue.
_PATIENCE_SECONDS: Final = 0.05

_NO_MESSAGE = Status(StatusCode.INVALID_ARGUMENT, "The call ended before it had brought its one request message.")
# It may also be one that can't be decompressed: the core tells nobody but the caller.
_NOT_TAKEN = Status(
    StatusCode.RESOURCE_EXHAUSTED, "The message was too far over --max-message-bytes for gRPC to take it."
)


class UnaryCall:
    """Reads the request, starts the method, and answers in the thread that finishes it.

    Mutable: `_future`, the work while it is not done; `_wire`, which is let go with the answer: without it nothing is
    sent.

    Args:
        unheard: where the call waits until somebody listens for its end.
        wire: the call of the C core.
        method: asked for.
        desk: where the call is signed out.
        call: what the service gets to see.
        left: told once when nothing more will be asked of the core for this call.
    """

    __slots__ = ("__weakref__", "_call", "_desk", "_future", "_left", "_method", "_unheard", "_wire")

    def __init__(
        self,
        unheard: Unheard,
        wire: Any,
        method: Method,
        desk: Desk,
        call: Call,
        left: Callable[[UnaryCall], None],
    ) -> None:
        self._unheard = unheard
        self._left = left
        self._wire: Any = wire
        self._method = method
        self._desk = desk
        self._call = call
        self._future: Future[Any] | None = None

    def received(self, event: Any) -> None:
        """The message is there, or the caller is gone."""
        data = completion.message_of(event)
        if data is None:  # the core refused it, the caller hung up, or sent none
            completion.receive_end(self._wire, partial(self._brought_nothing, refused=not event.success))
            self._send_end(_NO_MESSAGE)
            return
        try:
            future = self._method.start(self._desk.read(self._method, data, self._call), self._call)
        except Exception as error:  # noqa: BLE001 the one table knows what each means
            self._end(self._desk.explain(error, self._call))
            return
        if not future.done():
            self._future = future
            self._unheard.add(self, self._call.started)
        future.add_done_callback(self._done)

    def _brought_nothing(self, event: Any, *, refused: bool) -> None:
        """Sign out by what the caller got; it may not have waited for what was sent."""
        call = self._call
        gone = hung_up(call) if completion.was_cancelled(event) else _NO_MESSAGE
        status = _NOT_TAKEN if refused else gone
        self._desk.finished(call, status)

    def listen(self) -> None:
        """Hear from now on, unless it is answered, when the caller hangs up; or that it did already."""
        wire = self._wire
        if wire is not None and self._future is not None:
            completion.receive_end(wire, self._over)

    def _over(self, event: Any) -> None:
        future = self._future
        if future is not None and completion.was_cancelled(event):
            future.cancel()
            self._wire = None  # what can't be cancelled answers nobody
            self._left(self)

    def _done(self, future: Future[Any]) -> None:
        self._future = None
        call, desk = self._call, self._desk
        if future.cancelled():  # nobody is there to be answered
            self._wire = None
            self._left(self)
            desk.finished(call, hung_up(call))
            return
        try:
            message = desk.write(future.result())
        except Exception as error:  # noqa: BLE001 as above
            self._end(desk.explain(error, call))
            return
        wire, self._wire = self._wire, None
        if wire is None:
            desk.finished(call, hung_up(call))
            return
        desk.finished(call, OK)
        completion.answer(wire, message, completion.nothing)
        self._left(self)

    def _end(self, status: Status) -> None:
        self._desk.finished(self._call, status)
        self._send_end(status)

    def _send_end(self, status: Status) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            completion.end(wire, status, completion.nothing)
            self._left(self)


class Unheard:
    """Unary calls in work for whose end nobody listens yet: most are answered before it is worth asking the core.

    Mutable, the polling thread's alone: `_calls`, in the order in which they came, with the time to listen. Who waits
    here after its answer would keep memory, the core's too, from being used for the next call; hence weak.

    Args:
        patience_seconds: how long a caller who hung up may go unheard.
    """

    __slots__ = ("_calls", "_patience_seconds")

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._calls: deque[tuple[float, weakref.ref[UnaryCall]]] = deque()

    def add(self, call: UnaryCall, started: float) -> None:
        """Listen for the end of this call, which began at that time, soon."""
        self._calls.append((started + self._patience_seconds, weakref.ref(call)))

    def look(self) -> float | None:
        """Listen for those that have waited long enough; returns the seconds until the next is due, None: none is."""
        while self._calls:
            seconds = self._calls[0][0] - time.monotonic()
            if seconds > 0.0:
                return seconds
            call = self._calls.popleft()[1]()
            if call is None:  # answered, and gone
                continue
            try:
                call.listen()
            except Exception:  # noqa: BLE001 the others must be heard
                _log.exception("transport_event_failed")
        return None
