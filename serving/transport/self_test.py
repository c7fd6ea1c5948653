"""Proof that a form of the transport works with the installed grpcio: real calls by the public client, at start.

A few milliseconds. What is asked is what a private module could get wrong: messages both ways, metadata, deadlines,
status with details and trailers, streams, a hang-up, an unknown method, and an end.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2

from serving.calls import Call, Method, Status, answered
from serving.errors import Overloaded
from serving.interceptors import PUSHBACK
from serving.transport.builtin import Uncounted
from serving.transport.face import Options

if TYPE_CHECKING:
    from serving.transport.face import Form, Transport

_SERVICE: Final = "calotype.SelfTest"
_RETRY_MS: Final = 7
_REQUEST: Final = health_pb2.HealthCheckRequest


class SelfTestFailed(Exception):
    """The transport answered something else than it was asked for."""


class _Service:
    """Three methods; mutable: `held`, the future of the one that never answers."""

    def __init__(self) -> None:
        self.held: Future[Any] = Future()
        self.holding = threading.Event()

    def echo(self, request: Any, call: Call) -> Future[Any]:
        told = str(call.metadata.get("x"))
        return answered(_REQUEST(service=f"{request.service} {told} {call.deadline is not None}"))

    def refuse(self, _request: Any, _call: Call) -> Future[Any]:
        raise Overloaded("no", retry_after_ms=_RETRY_MS)

    def hold(self, _request: Any, _call: Call) -> Future[Any]:
        self.holding.set()
        return self.held

    def methods(self) -> tuple[Method, ...]:
        return (
            Method(service=_SERVICE, name="Echo", request=_REQUEST, start=self.echo),
            Method(service=_SERVICE, name="Refuse", request=_REQUEST, start=self.refuse),
            Method(service=_SERVICE, name="Hold", request=_REQUEST, start=self.hold),
            Method(service=_SERVICE, name="Stream", request=_REQUEST, start=self.echo, refuse=_refused),
        )


def _refused(_request: Any, status: Status) -> Any:
    return _REQUEST(service=status.message)


def run(form: Form, *, patience_seconds: float = 5.0) -> None:
    """Start the form on a free port of this machine, call it, and stop it.

    Args:
        form: to be proven.
        patience_seconds: for each call.

    Raises:
        Exception: whatever went wrong; it is not fit for use then.
    """
    service = _Service()
    transport = form(service.methods(), Uncounted(), Options(port=0))
    transport.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{transport.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            caller = _Caller(channel, patience_seconds)
            caller.unary()
            caller.statuses()
            caller.stream()
            caller.hang_up(service)
    finally:
        _stop(transport, patience_seconds)


class _Caller:
    """A client and what it expects."""

    def __init__(self, channel: grpc.Channel, patience_seconds: float) -> None:
        self._channel = channel
        self._timeout = patience_seconds

    def unary(self) -> None:
        long = "a" * 100_000
        answer = self._method("Echo")(_REQUEST(service=long), metadata=(("x", "y"),), timeout=self._timeout)
        _expect("a unary answer", answer.service, f"{long} y True")

    def statuses(self) -> None:
        for name, code, details, trailer in (
            ("Refuse", grpc.StatusCode.UNAVAILABLE, "no", str(_RETRY_MS)),
            ("Nobody", grpc.StatusCode.UNIMPLEMENTED, "Method not found!", None),
        ):
            try:
                self._method(name)(_REQUEST(), timeout=self._timeout)
            except grpc.RpcError as error:
                call: Any = error
                trailers = dict(call.trailing_metadata() or ())
                _expect("a status", (call.code(), call.details(), trailers.get(PUSHBACK)), (code, details, trailer))
            else:
                _expect("a status", "an answer", code)

    def stream(self) -> None:
        call: Any = self._channel.stream_stream(f"/{_SERVICE}/Stream", _REQUEST.SerializeToString, _REQUEST.FromString)
        answers = call(iter([_REQUEST(service="a"), _REQUEST(service="b")]), timeout=self._timeout)
        _expect("a stream", [answer.service for answer in answers], ["a None True", "b None True"])

    def hang_up(self, service: _Service) -> None:
        call = self._method("Hold").future(_REQUEST(), timeout=self._timeout)
        gone = threading.Event()
        service.held.add_done_callback(lambda _: gone.set())
        service.holding.wait(self._timeout)
        call.cancel()
        gone.wait(self._timeout)
        _expect("a hang-up", service.held.cancelled(), True)

    def _method(self, name: str) -> Any:
        return self._channel.unary_unary(f"/{_SERVICE}/{name}", _REQUEST.SerializeToString, _REQUEST.FromString)


def _stop(transport: Transport, patience_seconds: float) -> None:
    """Stop it; a form that can't even do that is left behind in a thread that holds nothing up."""
    stopping = threading.Thread(target=transport.drain_and_stop, args=(0.0,), daemon=True)
    stopping.start()
    stopping.join(patience_seconds)
    _expect("an end", stopping.is_alive(), False)


def _expect(what: str, received: object, expected: object) -> None:
    if received != expected:
        raise SelfTestFailed(f"{what} should be {str(expected)[:99]!r}. Received: {str(received)[:99]!r}")
