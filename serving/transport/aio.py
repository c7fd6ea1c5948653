"""The portable form of the face: `grpc.aio`, one event loop in a thread of its own; knows no model."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError

from serving import logs
from serving.calls import Method, Status
from serving.errors import BadSetting, CalotypeError
from serving.transport import health
from serving.transport.aio_unary import UnaryCall, call_of
from serving.transport.builtin import table
from serving.transport.face import cannot_listen, channel_options, listen_address
from serving.transport.gathering import Gathering
from serving.transport.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from serving.interceptors import Desk
    from serving.transport.face import Options


log = logs.logger("transport")

_LOOK_SECONDS: Final = 0.2


class AioTransport:
    """gRPC by `grpc.aio`.

    Mutable: what `start` makes, `_loop`, `_thread`, `_port`, `_keeping`; on the loop: `_server`, `_streams`.

    Args:
        methods: what to serve.
        desk: where calls are signed out.
        options: how to listen.
    """

    def __init__(self, methods: Iterable[Method], desk: Desk, options: Options) -> None:
        self._options = options
        self._desk = desk
        self._health = health.Health(options.max_streams)
        self._table = table(methods, desk, self._health)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="grpc-aio", daemon=True)
        self._gathering = Gathering(self._loop)
        self._streams: set[Stream] = set()
        self._server: grpc.aio.Server | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port bound; known after `start`."""
        return self._port

    def start(self) -> None:
        """Bind and answer calls.

        Raises:
            BadSetting: the address cannot be bound.
        """
        self._thread.start()
        try:
            self._on_loop(self._start())
        except BaseException:
            self._end_loop()
            raise

    def set_health(self, name: str, *, serving: bool) -> None:
        """Say whether a service or model serves; any thread may."""
        self._health.set(name, serving=serving)

    def drain_and_stop(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, let accepted calls finish, stop; may be called twice."""
        if self._thread.is_alive():
            self._on_loop(self._stop(grace_seconds))
            self._end_loop()
        elif not self._loop.is_closed():
            self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_tell)
        self._loop.run_forever()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_loop(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        self._server = await self._listen(self._options)
        self._keeping = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        """Put another server into the place of one that broke.

        A path that is not UTF-8 is enough for that (grpcio 1.85.1): grpc.aio's server takes no more calls then, and
        says so to nobody but who waits for its end.
        """
        while self._server is not None:
            try:
                await self._server.wait_for_termination(_LOOK_SECONDS)
            except Exception as error:  # noqa: BLE001 whatever it was, callers wait
                logs.event(log, "transport_restarted", level=logging.WARNING, error=error)
                await self._server.stop(0)
                self._server = await self._listen_again()

    async def _listen_again(self) -> grpc.aio.Server:
        while True:
            try:
                return await self._listen(replace(self._options, port=self._port))
            except BadSetting as error:
                logs.event(log, "transport_waits", level=logging.WARNING, error=error)
                await asyncio.sleep(_LOOK_SECONDS)

    async def _listen(self, options: Options) -> grpc.aio.Server:
        server = grpc.aio.server(options=channel_options(options))
        server.add_generic_rpc_handlers((self._handlers(),))
        address = listen_address(options)
        try:
            if options.credentials is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, options.credentials)
        except RuntimeError as error:
            raise cannot_listen(address) from error
        await server.start()
        return server

    async def _stop(self, grace_seconds: float) -> None:
        self._health.drain()
        for stream in tuple(self._streams):
            stream.drain()
        if self._keeping is not None:
            self._keeping.cancel()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_seconds)

    def _handlers(self) -> grpc.GenericRpcHandler:
        handlers: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(self._unary(method, desk))
            if method.refuse is None
            else grpc.stream_stream_rpc_method_handler(self._stream(method, desk))
            for path, (method, desk) in self._table.items()
        }
        handlers[health.WATCH] = grpc.unary_stream_rpc_method_handler(self._watch)
        return _Handlers(handlers, self._desk)

    async def _watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            name = health.watched(data)
        except DecodeError:
            await abort(context, Status(grpc.StatusCode.INVALID_ARGUMENT, "The bytes received are no message."))
            raise AssertionError from None
        statuses: asyncio.Queue[int | None] = asyncio.Queue()

        def tell(status: int | None) -> None:
            self._loop.call_soon_threadsafe(statuses.put_nowait, status)

        try:
            leave = self._health.watch(name, tell)
        except health.TooManyWatches as error:
            await abort(context, Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
            raise AssertionError from None
        try:
            while (status := await statuses.get()) is not None:
                yield health.told(status)
        finally:
            leave()

    def _unary(self, method: Method, desk: Desk) -> Callable[[bytes, Any], Coroutine[Any, Any, bytes]]:
        create_future, gathering = self._loop.create_future, self._gathering

        async def handle(data: bytes, context: Any) -> bytes:
            answer = create_future()
            call = UnaryCall(method, desk, call_of(method, context), data, answer=answer, tell=gathering.tell)
            gathering.add(call)
            try:
                outcome: bytes | Status = await answer
            except asyncio.CancelledError:
                call.hang_up()
                raise
            if not isinstance(outcome, Status):
                return outcome
            await abort(context, outcome)
            raise AssertionError

        return handle

    async def _admit(self, method: Method, desk: Desk, context: Any) -> None:
        call = call_of(method, context)
        try:
            desk.admit(call)
        except CalotypeError as error:
            status = desk.explain(error, call)
            desk.finished(call, status)
            await abort(context, status)

    def _stream(self, method: Method, desk: Desk) -> Callable[[Any, Any], Coroutine[Any, Any, None]]:
        async def handle(_requests: Any, context: Any) -> None:
            await self._admit(method, desk, context)
            if len(self._streams) >= self._options.max_streams:
                message = f"--max-streams = {self._options.max_streams} streams are open: try again later."
                status = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
                desk.finished(call_of(method, context), status)
                await abort(context, status)
            stream = Stream(
                method,
                desk,
                context,
                make_call=lambda: call_of(method, context),
                options=self._options,
            )
            self._streams.add(stream)
            try:
                await stream.run()
            finally:
                self._streams.discard(stream)

        return handle


async def abort(context: Any, status: Status) -> None:
    """End a call by a status; never returns."""
    await context.abort(status.code, status.message, status.trailers)


def _tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong where nobody waits for it, as a line of the log."""
    logs.event(log, "loop_failed", level=logging.WARNING, error=context.get("exception") or context.get("message"))


class _Handlers(grpc.GenericRpcHandler):
    """Handlers by path; a call of another path is signed out at the desk."""

    def __init__(self, handlers: dict[str, Any], desk: Desk) -> None:
        self._handlers = handlers
        self._desk = desk

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None: unknown method, which grpc.aio tells the caller of."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is None:
            self._desk.unknown(handler_call_details.method)
        return handler
