"""The C core of grpcio by its completion queue: the server's only file that imports the private `grpc._cython.cygrpc`.

What is taken from it, and what happens when a release changes it: docs/decisions/0003-completion-queue.md. A
batch is a few operations on one call; its tag is a function that gets the event when the batch is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it is compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc

    from serving.calls import Status

    Tag = Callable[[Any], None]

_NO_FLAGS: Final = 0
_OK: Final = 0
_LONG_AGO: Final = 0.0
# Operations of which the core takes nothing but what is written here: one of each does for all calls.
_NO_METADATA: Final = cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS)
_ENDED_WELL: Final = cygrpc.SendStatusFromServerOperation(None, _OK, b"", _NO_FLAGS)

_END_OF_TIME: Final = time.time() + 10.0 * 365 * 86_400


class Port:
    """A listening server of the C core with the queue where its events appear.

    Mutable: the two objects of the core themselves, and `over`, when no event will ever come again; `poll` belongs to
    one thread, all else to any.

    Args:
        options: of the channel, as public grpcio takes them.
    """

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        self.over = False
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)

    def bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """The port bound; 0 where the address cannot be."""
        try:
            if credentials is None:
                return int(self._server.add_http2_port(address.encode()))
            own = credentials._credentials  # type: ignore[attr-defined]  # noqa: SLF001 that is how grpcio hands it over
            return int(self._server.add_http2_port(address.encode(), own))
        except RuntimeError:
            return 0

    def start(self) -> None:
        """Take connections."""
        self._server.start()

    def ask_for_call(self, tag: Tag) -> None:
        """Have the next new call brought to `tag`, whose event then has success, or not when the port closed."""
        self._server.request_call(self._queue, self._queue, tag)

    def poll(self, seconds: float | None) -> Any:
        """The next event; None: none came in so many seconds (None: for ever), or the queue is empty and `over`."""
        event = self._queue.poll(None if seconds is None else time.time() + seconds)
        if event.tag is not None:
            return event
        self.over = event.completion_type == cygrpc.CompletionType.queue_shutdown
        return None

    def poll_now(self) -> Any:
        """The event that is already there; None: none is."""
        event = self._queue.poll(_LONG_AGO)
        return None if event.tag is None else event

    def shutdown(self, tag: Tag) -> None:
        """Take no new calls; `tag` hears when the last one is done."""
        self._server.shutdown(self._queue, tag)

    def cancel_all_calls(self) -> None:
        """Hang up on everybody; only after `shutdown`."""
        self._server.cancel_all_calls()

    def close(self) -> None:
        """Let go of the server; after `shutdown`'s tag was heard, or if it never started. Ends `poll`."""
        self._server.destroy()
        self._queue.shutdown()


def path_of(event: Any) -> bytes:
    """What a new call asks for."""
    path: bytes = event.call_details.method
    return path


def deadline_of(event: Any, now: float) -> float | None:
    """The deadline of a new call in time.monotonic() seconds, which are `now`; None: it has none."""
    deadline: float = event.call_details.deadline
    if not deadline < _END_OF_TIME:
        return None
    return now + deadline - time.time()


def metadata_of(event: Any) -> dict[str, str | bytes]:
    """What a new call brought along."""
    return dict(event.invocation_metadata)


def receive(call: Any, tag: Tag) -> None:
    """Read the next message; `message_of` the event is it."""
    call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), tag)


def message_of(event: Any) -> bytes | None:
    """The message read; None: the caller has sent all, or hung up."""
    message: bytes | None = event.batch_operations[0].message()
    return message


def receive_end(call: Any, tag: Tag) -> None:
    """Hear when the call is over; `was_cancelled` tells how."""
    call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), tag)


def was_cancelled(event: Any) -> bool:
    """Whether the caller hung up, or its deadline passed, before it had its status."""
    return bool(event.batch_operations[0].cancelled())


def answer(call: Any, message: bytes, tag: Tag) -> None:
    """The one message of a unary call, and its end."""
    call.start_server_batch((_NO_METADATA, cygrpc.SendMessageOperation(message, _NO_FLAGS), _ENDED_WELL), tag)


def send(call: Any, message: bytes, tag: Tag, *, first: bool) -> None:
    """One message of a stream; only one may be on its way."""
    operation = cygrpc.SendMessageOperation(message, _NO_FLAGS)
    if first:
        call.start_server_batch((_NO_METADATA, operation), tag)
    else:
        call.start_server_batch((operation,), tag)


def end(call: Any, status: Status, tag: Tag, *, first: bool = True) -> None:
    """End a call by a status; `first`: nothing was sent before."""
    code, details = status.code.value[0], status.message.encode()
    operation = cygrpc.SendStatusFromServerOperation(status.trailers or None, code, details, _NO_FLAGS)
    if first:
        call.start_server_batch((_NO_METADATA, operation), tag)
    else:
        call.start_server_batch((operation,), tag)


def nothing(_event: Any) -> None:
    """The tag of a batch after which nothing is to be done."""
