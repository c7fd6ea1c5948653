"""grpc.health.v1 on asyncio: Check, and a Watch that ends when the server drains, so that no watcher holds it up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc ships no types
    """What serves, by name. Everything here runs on the event loop.

    Mutable: `_known` (name -> status), `_changed` (replaced at each change), `_draining`.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._draining = False

    def set(self, name: str, *, serving: bool) -> None:
        """Say whether `name` serves; while draining nothing does."""
        self._known[name] = SERVING if serving and not self._draining else NOT_SERVING
        self._tell()

    def drain(self) -> None:
        """Say NOT_SERVING to everybody for good, and end the watches."""
        self._draining = True
        self._known = dict.fromkeys(self._known, NOT_SERVING)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 gRPC's name
        """The status of one name."""
        status = self._known.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"No service or model is called {request.service!r} here.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802 gRPC's name
        """The status of one name, now and whenever it changes."""
        last: int | None = None
        while True:
            changed = self._changed
            status = self._known.get(request.service, UNKNOWN)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            if self._draining:
                return
            if changed is self._changed:
                await changed.wait()
