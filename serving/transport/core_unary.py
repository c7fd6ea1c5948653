"""One unary call on the completion queue: a message in, an answer or a status out; knows no method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from serving.calls import Status
from serving.interceptors import OK, hung_up
from serving.transport import completion

if TYPE_CHECKING:
    from concurrent.futures import Future

    from serving.calls import Call, Method
    from serving.interceptors import Desk

_NO_MESSAGE = Status(StatusCode.INVALID_ARGUMENT, "The call ended before it had brought its one request message.")


class UnaryCall:
    """Reads the request, starts the method, and answers in the thread that finishes it.

    Mutable: `_future`, set in the polling thread before anybody may cancel it.

    Args:
        wire: the call of the C core.
        method: asked for.
        desk: where the call is signed out.
        call: what the service gets to see.
    """

    __slots__ = ("_call", "_desk", "_future", "_method", "_wire")

    def __init__(self, wire: Any, method: Method, desk: Desk, call: Call) -> None:
        self._wire = wire
        self._method = method
        self._desk = desk
        self._call = call
        self._future: Future[Any]

    def begin(self) -> None:
        """Ask for the message."""
        completion.receive(self._wire, self._received)

    def _received(self, event: Any) -> None:
        data = completion.message_of(event)
        if data is None:  # the caller hung up, its message was too large, or it sent none
            completion.end(self._wire, _NO_MESSAGE, completion.nothing)
            return
        try:
            future = self._method.start(self._desk.read(self._method, data, self._call), self._call)
        except Exception as error:  # noqa: BLE001 the one table knows what each means
            self._end(self._desk.explain(error, self._call))
            return
        if not future.done():
            self._future = future
            completion.receive_end(self._wire, self._over)
        future.add_done_callback(self._done)

    def _over(self, event: Any) -> None:
        if completion.was_cancelled(event):
            self._future.cancel()

    def _done(self, future: Future[Any]) -> None:
        call, desk = self._call, self._desk
        if future.cancelled():  # nobody is there to be answered
            desk.finished(call, hung_up(call))
            return
        try:
            message = future.result().SerializeToString()
        except Exception as error:  # noqa: BLE001 as above
            self._end(desk.explain(error, call))
            return
        desk.finished(call, OK)
        completion.answer(self._wire, message, completion.nothing)

    def _end(self, status: Status) -> None:
        self._desk.finished(self._call, status)
        completion.end(self._wire, status, completion.nothing)
