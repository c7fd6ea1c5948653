"""One health Watch on the completion queue; whoever reads slowly hears the newest status only."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from grpc import StatusCode

from serving.calls import Status
from serving.interceptors import OK
from serving.transport import completion, health

if TYPE_CHECKING:
    from serving.transport.health import Health

_BAD = Status(StatusCode.INVALID_ARGUMENT, "The bytes received are no message.")


class WatchCall:
    """Tells its caller a status, now and at each change.

    Mutable, under `_lock`: `_next` (to be told), `_told`, `_last` (no more will come), `_sending`, `_first` (nothing
    was sent yet), `_over`. `_leave` is set in the polling thread.

    Args:
        wire: the call of the C core.
        known: what serves.
    """

    def __init__(self, wire: Any, known: Health) -> None:
        self._wire = wire
        self._known = known
        self._lock = threading.Lock()
        self._next: int | None = None
        self._told: int | None = None
        self._last = False
        self._sending = False
        self._first = True
        self._over = False

    def begin(self) -> None:
        """Ask for the request."""
        completion.receive(self._wire, self._received)

    def _received(self, event: Any) -> None:
        data = completion.message_of(event)
        try:
            name = None if data is None else health.watched(data)
        except DecodeError:
            name = None
        if name is None:
            completion.end(self._wire, _BAD, completion.nothing)
            return
        try:
            self._leave = self._known.watch(name, self._tell)
        except health.TooManyWatches as error:
            full = Status(StatusCode.RESOURCE_EXHAUSTED, str(error))
            completion.end(self._wire, full, completion.nothing)
            return
        completion.receive_end(self._wire, self._ended)

    def _tell(self, status: int | None) -> None:
        with self._lock:
            if status is None:
                self._last = True
            else:
                self._next = status
            self._move()

    def _move(self) -> None:
        if self._sending or self._over:
            return
        if self._next is not None and self._next != self._told:
            self._sending = True
            self._told = self._next
            completion.send(self._wire, health.told(self._told), self._sent, first=self._first)
            self._first = False
        elif self._last:
            self._over = True
            completion.end(self._wire, OK, completion.nothing, first=self._first)

    def _sent(self, _event: Any) -> None:
        with self._lock:
            self._sending = False
            self._move()

    def _ended(self, _event: Any) -> None:
        self._leave()
        with self._lock:
            self._over = True
