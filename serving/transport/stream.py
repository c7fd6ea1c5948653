"""One stream of requests on `grpc.aio`: many in work at once, each answered by a message of its own."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from serving.errors import Draining
from serving.interceptors import OK, hung_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.calls import Call, Method
    from serving.interceptors import Desk
    from serving.transport.face import Options


class Stream:
    """Reads, starts and answers; whoever reads its answers slowly is not read from meanwhile.

    Mutable, on the event loop only: `_pending` (started, not done), `_outbox` (done, not written),
    `_window` (room for more of either), `_held` (the bytes of both), `_light` (they are few), `_reading`.

    Args:
        method: of the service; its `refuse` is set.
        desk: where requests are signed out.
        context: of grpc.aio.
        make_call: a new call for each request.
        options: how much of the stream may be in the server.
    """

    def __init__(
        self, method: Method, desk: Desk, context: Any, *, make_call: Callable[[], Call], options: Options
    ) -> None:
        self._method = method
        self._desk = desk
        self._context = context
        self._make_call = make_call
        self._window = asyncio.Semaphore(options.max_stream_requests)
        self._most = options.max_stream_bytes
        self._held = 0
        self._light = asyncio.Event()
        self._light.set()
        self._pending: set[asyncio.Future[Any]] = set()
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the stream until the caller has sent all and has all answers, or goes away."""
        self._reading = asyncio.ensure_future(self._read())
        self._reading.add_done_callback(self._read_all)
        try:
            while (message := await self._outbox.get()) is not None:
                await self._context.write(message)
                self._hold(-len(message))
                self._window.release()
        finally:
            self._reading.cancel()
            for future in tuple(self._pending):
                future.cancel()
        if self._reading.cancelled():  # by `drain`, before the caller had sent all
            sentence = str(Draining("The server is stopping: send the requests not answered to another."))
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, sentence)

    def drain(self) -> None:
        """Read no more; what was read is still answered."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        while True:
            await self._window.acquire()
            await self._light.wait()
            data = await self._context.read()
            if data is grpc.aio.EOF:
                return
            self._hold(len(data))
            self._accept(data)

    def _hold(self, more_bytes: int) -> None:
        self._held += more_bytes
        (self._light.set if self._held < self._most else self._light.clear)()

    def _put(self, message: bytes) -> None:
        self._hold(len(message))
        self._outbox.put_nowait(message)

    def _read_all(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled():
            reading.exception()  # the caller went away: `run` is being cancelled, and this is no news
        self._end_if_done()

    def _accept(self, data: bytes) -> None:
        call = self._make_call()
        request = self._method.request()
        try:
            request = self._desk.read(self._method, data, call)
            future = asyncio.wrap_future(self._method.start(request, call))
        except Exception as error:  # noqa: BLE001 the one table knows what each means
            self._hold(-len(data))
            self._refuse(request, call, error)
            return
        self._pending.add(future)
        future.add_done_callback(partial(self._done, request, call, len(data)))

    def _done(self, request: Any, call: Call, size_bytes: int, future: asyncio.Future[Any]) -> None:
        self._pending.discard(future)
        self._hold(-size_bytes)
        if future.cancelled():
            self._desk.finished(call, hung_up(call))
        else:
            try:
                message = self._desk.write(future.result())
            except Exception as error:  # noqa: BLE001 as above
                self._refuse(request, call, error)
            else:
                self._put(message)
                self._desk.finished(call, OK)
        self._end_if_done()

    def _refuse(self, request: Any, call: Call, error: BaseException) -> None:
        status = self._desk.explain(error, call)
        assert self._method.refuse is not None  # noqa: S101 a stream's method has it
        self._put(self._method.refuse(request, status).SerializeToString())
        self._desk.finished(call, status)

    def _end_if_done(self) -> None:
        if self._reading is not None and self._reading.done() and not self._pending:
            self._outbox.put_nowait(None)
