"""What a method, a call and an outcome are, for services and transports alike; knows no transport."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import grpc
    from google.protobuf.message import Message

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(slots=True)
class Call:
    """One request on its way: what the caller said of it, and what the service found out.

    Mutable: a service fills in `request_id`, `model`, `version` and `images` for the log and the metrics.
    """

    method: str
    deadline: float | None = None
    """In time.monotonic() seconds."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    request_id: str = ""
    model: str = ""
    version: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """How a call, or a part of one, ended.

    Args:
        code: the gRPC status.
        message: one sentence for the caller.
        trailers: metadata that goes with the status.
    """

    code: grpc.StatusCode
    message: str = ""
    trailers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a service, as a transport needs it.

    Args:
        service: full name of the service.
        name: name of the method.
        request: class of its request message.
        start: takes a request and its call, never blocks, and answers by a future. Cancelling the future
            says that the caller hung up. It may also raise, which means the same as a failed future.
        refuse: for streams of requests: the message that answers a request which failed. None: unary.
    """

    service: str
    name: str
    request: type[Message]
    start: Callable[[Any, Call], Future[Any]]
    refuse: Callable[[Any, Status], Any] | None = None

    @property
    def path(self) -> str:
        """Where the method is on the wire."""
        return f"/{self.service}/{self.name}"


class Chained(Future[Made]):
    """A future made from an earlier one; cancelling it cancels that one."""

    def __init__(self, source: Future[Any]) -> None:
        super().__init__()
        self._source = source

    def cancel(self) -> bool:
        """Cancel this future and what it waits for."""
        cancelled = super().cancel()
        self._source.cancel()
        return cancelled

    @classmethod
    def after(cls, source: Future[Given], make: Callable[[Given], Made]) -> Self:
        """A future for make(the source's result); `make` runs in the thread that finishes the source."""
        chained = cls(source)

        def finish(done: Future[Given]) -> None:
            if not chained.set_running_or_notify_cancel():
                return
            if done.cancelled():
                chained.set_exception(RuntimeError("the work behind this answer was cancelled by the server"))
                return
            try:
                chained.set_result(make(done.result()))
            except Exception as error:  # noqa: BLE001 whoever waits gets it
                chained.set_exception(error)

        source.add_done_callback(finish)
        return chained


def answered(message: Made) -> Future[Made]:
    """A future that is already there."""
    future: Future[Made] = Future()
    future.set_result(message)
    return future
