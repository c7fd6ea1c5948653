"""What a method, a call and an outcome are, for services and transports alike; knows no transport."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from serving.promise import Promise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    import grpc
    from google.protobuf.message import Message

    from serving.tracing import Trace

    Make = Callable[[Any], Any]

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(slots=True)
class Call:
    """One request on its way: what the caller said of it, and what the service found out.

    Mutable: a service fills in `request_id`, `model`, `version`, `images` and, of these, `unreadable`, for the log and
    the metrics; `trace` notes the call's moments, where calls are traced.
    """

    method: str
    deadline: float | None = None
    """In time.monotonic() seconds."""
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    request_id: str = ""
    model: str = ""
    version: int = 0
    images: int = 0
    unreadable: int = 0
    trace: Trace | None = None

    def watched(self, make: Make) -> Make:
        """What makes the answer of the model's outputs, noting when it is asked to if the call is traced."""
        return make if self.trace is None else self.trace.around(make)


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
        read: makes a request of bytes, or raises protobuf's DecodeError; None: as `request` does.
    """

    service: str
    name: str
    request: type[Message]
    start: Callable[[Any, Call], Future[Any]]
    refuse: Callable[[Any, Status], Any] | None = None
    read: Callable[[bytes], Any] | None = None

    @property
    def path(self) -> str:
        """Where the method is on the wire."""
        return f"/{self.service}/{self.name}"


class Answer(Promise[Made]):
    """A future made from an earlier one; cancelling it cancels that one.

    Mutable: `_source`, what is being waited for now. It is set before the cancellation is looked at, and
    cancelling looks at it afterwards, so that one of the two always sees the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._source: Future[Any] | None = None

    def cancel(self) -> bool:
        """Cancel this future and what it waits for."""
        cancelled = super().cancel()
        source, self._source = self._source, None
        if cancelled and source is not None:
            source.cancel()
        return cancelled

    def wait_for(self, source: Future[Any]) -> None:
        """Cancel `source` whenever this is cancelled."""
        self._source = source
        if self.cancelled():
            source.cancel()

    def follow(self, source: Future[Given], make: Callable[[Given], Made]) -> None:
        """Become make(the source's result), in the thread that finishes the source."""
        self.wait_for(source)
        source.add_done_callback(lambda done: self._finish(done, make))

    def continue_with(self, source: Future[Given], step: Callable[[Given], None]) -> None:
        """Do `step` with the source's result, in the thread that finishes it; it makes this follow another.

        A step is done only where somebody still waits for this.
        """
        self.wait_for(source)

        def go_on(done: Future[Given]) -> None:
            self._source = None  # which knows this: a circle would wait for the garbage collector with all its rows
            if self.cancelled():
                return
            try:
                step(_result(done))
            except Exception as error:  # noqa: BLE001 whoever waits gets it
                self.fail(error)

        source.add_done_callback(go_on)

    def succeed(self, message: Made) -> None:
        """Become `message`, unless cancelled."""
        if self.set_running_or_notify_cancel():
            self.set_result(message)

    def fail(self, error: BaseException) -> None:
        """Become `error`, unless cancelled."""
        if self.set_running_or_notify_cancel():
            self.set_exception(error)

    def _finish(self, done: Future[Given], make: Callable[[Given], Made]) -> None:
        self._source = None  # as above
        if not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(make(_result(done)))
        except Exception as error:  # noqa: BLE001 whoever waits gets it
            self.set_exception(error)


def _result(done: Future[Given]) -> Given:
    if done.cancelled():  # not by the caller, or nobody would ask: asyncio must not take it for a hang-up
        raise RuntimeError("the work behind this answer was cancelled by the server")
    return done.result()


@dataclass(slots=True)  # one per call, as above
class Encoded:
    """A message that is bytes already; a service may answer with it wherever a transport expects a message."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 protobuf's name
        """The bytes."""
        return self.data


def answered(message: Made) -> Future[Made]:
    """A future that is already there."""
    future: Promise[Made] = Promise()
    future.set_result(message)
    return future
