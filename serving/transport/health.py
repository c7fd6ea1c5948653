"""What serves, by name, as grpc.health.v1 tells it: the one account behind Check and Watch of every transport."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grpc_health.v1 import health_pb2

from serving.calls import Method, answered
from serving.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from serving.calls import Call

NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
WATCH: Final = f"/{NAME}/Watch"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@dataclass(slots=True, eq=False)
class _Watch:
    """Somebody who wants to know; `last` is what was told, and mutable."""

    name: str
    tell: Callable[[int | None], None]
    last: int | None = None


class TooManyWatches(Exception):
    """As many are open as may be."""


class Health:
    """Statuses by name; every method may be called from any thread.

    Mutable, under `_lock`: `_known` (name -> status), `_services`, `_watches`, `_draining`.

    Args:
        max_watches: open at once; they are counted by themselves, so that no stream of requests shuts a probe out.
    """

    def __init__(self, max_watches: int) -> None:
        self._max_watches = max_watches
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._services: tuple[str, ...] = ()
        self._watches: set[_Watch] = set()
        self._draining = False

    def add_services(self, names: Iterable[str]) -> None:
        """Know these services; each serves when the server, "", does, which it doesn't yet."""
        with self._lock:
            self._services = tuple(names)
            self._known |= dict.fromkeys(self._services, NOT_SERVING)

    def set(self, name: str, *, serving: bool) -> None:
        """Say whether `name`, a model or "", serves; while draining nothing does."""
        with self._lock:
            status = SERVING if serving and not self._draining else NOT_SERVING
            self._known |= dict.fromkeys((name,) if name else ("", *self._services), status)
            self._tell()

    def drain(self) -> None:
        """Say NOT_SERVING to everybody for good, and end the watches, so that no watcher holds the server up."""
        with self._lock:
            self._draining = True
            self._known = dict.fromkeys(self._known, NOT_SERVING)
            self._tell()

    def watch(self, name: str, tell: Callable[[int | None], None]) -> Callable[[], None]:
        """Tell the status of `name`, now and whenever it changes.

        Args:
            name: of a service or model.
            tell: takes a status, or None when there will be no more; must return at once and call nothing here.

        Returns:
            What ends the watch; may be called twice.

        Raises:
            TooManyWatches: with a sentence.
        """
        watch = _Watch(name, tell)
        with self._lock:
            if len(self._watches) >= self._max_watches:
                raise TooManyWatches(f"--max-streams = {self._max_watches} watches are open: try again later.")
            self._watches.add(watch)
            self._tell()

        def leave() -> None:
            with self._lock:
                self._watches.discard(watch)

        return leave

    def methods(self) -> tuple[Method, ...]:
        """Check, as a transport serves it."""
        return (Method(service=NAME, name="Check", request=health_pb2.HealthCheckRequest, start=self._check),)

    def _check(self, request: Any, _call: Call) -> Future[Any]:
        with self._lock:
            status = self._known.get(request.service)
        if status is None:
            raise ModelNotFound(f"No service or model is called {request.service!r} here.")
        return answered(health_pb2.HealthCheckResponse(status=status))

    def _tell(self) -> None:
        for watch in self._watches:
            status = self._known.get(watch.name, UNKNOWN)
            if status != watch.last:
                watch.last = status
                watch.tell(status)
            if self._draining:
                watch.tell(None)
        if self._draining:
            self._watches.clear()


def watched(data: bytes) -> str:
    """The name that the request of a Watch asks for; raises protobuf's DecodeError."""
    return str(health_pb2.HealthCheckRequest.FromString(data).service)


def told(status: int) -> bytes:
    """The message of a Watch."""
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
