"""What every transport serves of its own accord beside the methods it was given: health and reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.interceptors import Desk
from serving.telemetry import Telemetry
from serving.transport import health, reflection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving.calls import Call, Method, Status
    from serving.transport.health import Health

Table = dict[str, tuple["Method", Desk]]
"""Path on the wire -> method, and the desk where its calls are signed out."""


class Uncounted(Desk):
    """A desk that explains, but neither counts nor logs: probes that come every second would drown the calls."""

    def __init__(self) -> None:
        super().__init__(Telemetry())

    def finished(self, call: Call, status: Status) -> None:
        """Forget it."""


def table(methods: Iterable[Method], desk: Desk, known: Health) -> Table:
    """Everything that a transport serves but the health Watch, and says in `known` that the services serve."""
    methods = tuple(methods)
    services = dict.fromkeys(method.service for method in methods)
    for service in services:
        known.set(service, serving=True)
    uncounted = Uncounted()
    own = (*known.methods(), *reflection.methods((*services, health.NAME)))
    return {method.path: (method, desk) for method in methods} | {method.path: (method, uncounted) for method in own}
