"""One stream of requests on the completion queue: many in work at once, each answered by a message of its own."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from serving.calls import Status
from serving.errors import CalotypeError, Draining
from serving.interceptors import OK, hung_up
from serving.transport import completion

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from serving.calls import Call, Method
    from serving.interceptors import Desk
    from serving.transport.face import Options

_DRAINED = Status(
    StatusCode.UNAVAILABLE, str(Draining("The server is stopping: send the requests not answered to another."))
)


class StreamCall:
    """Reads, starts and answers; whoever reads its answers slowly is not read from meanwhile.

    Mutable, under `_lock`: `_pending` (started, not done), `_outbox` (done, not written), `_room` (for more of either,
    less the one being read), `_held` (the bytes of both), `_sending` (the bytes on their way; 0: none are), `_reading`
    (a read is on its way), `_read_all`, `_drained`, `_first` (nothing was sent yet), `_over` (a status was sent, or the
    caller is gone).

    Args:
        wire: the call of the C core.
        method: of the service; its `refuse` is set.
        desk: where requests are signed out.
        make_call: a new call for each request.
        options: how much of the stream may be in the server.
        left: told once when the stream is over.
    """

    def __init__(
        self,
        wire: Any,
        method: Method,
        desk: Desk,
        *,
        make_call: Callable[[], Call],
        options: Options,
        left: Callable[[StreamCall], None],
    ) -> None:
        self._wire = wire
        self._method = method
        self._desk = desk
        self._make_call = make_call
        self._left = left
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._outbox: deque[bytes] = deque()
        self._room = options.max_stream_requests
        self._most = options.max_stream_bytes
        self._held = 0
        self._sending = 0
        self._reading = False
        self._read_all = False
        self._drained = False
        self._first = True
        self._over = False

    def begin(self) -> None:
        """Ask for the first message, and for news of the caller; but turn away who may not call."""
        completion.receive_end(self._wire, self._ended)
        call = self._make_call()
        try:
            self._desk.admit(call)
        except CalotypeError as error:
            status = self._desk.explain(error, call)
            self._desk.finished(call, status)
            with self._lock:
                self._over = True
            self._left(self)
            completion.end(self._wire, status, completion.nothing)
            return
        with self._lock:
            self._move()

    def drain(self) -> None:
        """Read no more; what was read is still answered."""
        with self._lock:
            self._drained = True
            self._move()

    def _move(self) -> None:
        """Start what is due: a read, a write, or the end. Under the lock, after every change."""
        if self._over:
            return
        if not self._reading and not self._read_all and not self._drained and self._room and self._held < self._most:
            self._reading = True
            self._room -= 1
            completion.receive(self._wire, self._received)
        if self._sending:
            return
        if self._outbox:
            message = self._outbox.popleft()
            self._sending = len(message) or 1
            completion.send(self._wire, message, self._sent, first=self._first)
            self._first = False
        elif (self._read_all or self._drained) and not self._pending:
            self._over = True
            status = OK if self._read_all else _DRAINED
            completion.end(self._wire, status, completion.nothing, first=self._first)

    def _received(self, event: Any) -> None:
        data = completion.message_of(event)
        with self._lock:
            self._reading = False
            if data is None:
                self._read_all = True
            if data is None or self._drained or self._over:
                self._move()
                return
            self._held += len(data)
        self._accept(data)
        with self._lock:
            self._move()

    def _accept(self, data: bytes) -> None:
        call = self._make_call()
        request = self._method.request()
        try:
            request = self._desk.read(self._method, data, call)
            future = self._method.start(request, call)
        except Exception as error:  # noqa: BLE001 the one table knows what each means
            self._write(self._refusal(request, call, error), len(data))
            return
        with self._lock:
            self._pending.add(future)
            gone = self._over
        future.add_done_callback(partial(self._done, request, call, len(data)))
        if gone:
            future.cancel()

    def _done(self, request: Any, call: Call, size_bytes: int, future: Future[Any]) -> None:
        message = None
        if future.cancelled():
            self._desk.finished(call, hung_up(call))
        else:
            try:
                message = self._desk.write(future.result())
                self._desk.finished(call, OK)
            except Exception as error:  # noqa: BLE001 as above
                message = self._refusal(request, call, error)
        self._write(message, size_bytes, future)

    def _refusal(self, request: Any, call: Call, error: BaseException) -> bytes:
        status = self._desk.explain(error, call)
        self._desk.finished(call, status)
        assert self._method.refuse is not None  # noqa: S101 a stream's method has it
        return bytes(self._method.refuse(request, status).SerializeToString())

    def _write(self, message: bytes | None, size_bytes: int, future: Future[Any] | None = None) -> None:
        with self._lock:
            self._held -= size_bytes
            if future is not None:
                self._pending.discard(future)
            if message is not None and not self._over:
                self._outbox.append(message)
                self._held += len(message) or 1
            self._move()

    def _sent(self, _event: Any) -> None:
        with self._lock:
            self._held -= self._sending
            self._sending = 0
            self._room += 1
            self._move()

    def _ended(self, event: Any) -> None:
        """The call is over: the caller has its status, or went away."""
        with self._lock:
            self._over = True
            self._outbox.clear()
            pending = list(self._pending) if completion.was_cancelled(event) else []
        for future in pending:
            future.cancel()
        self._left(self)
