"""What every transport serves of its own accord beside the methods it was given: health and reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.interceptors import Desk
from serving.telemetry import Telemetry
from serving.transport import health, reflection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving.authorization import Tokens
    from serving.calls import Call, Method, Status
    from serving.transport.health import Health

Table = dict[str, tuple["Method", Desk]]
"""Path on the wire -> method, and the desk where its calls are signed out."""


class Uncounted(Desk):
    """A desk that explains, but neither counts nor logs: probes that come every second would drown the calls."""

    def __init__(self, tokens: Tokens | None = None) -> None:
        super().__init__(Telemetry(), tokens=tokens)

    def finished(self, call: Call, status: Status) -> None:
        """Forget it."""


def table(methods: Iterable[Method], desk: Desk, known: Health) -> Table:
    """Everything that a transport serves but the health Watch; tells `known` of the services."""
    methods = tuple(methods)
    services = dict.fromkeys(method.service for method in methods)
    known.add_services(services)
    found: Table = {method.path: (method, desk) for method in methods}
    found |= {method.path: (method, Uncounted()) for method in known.methods()}
    told = Uncounted(desk.tokens)
    return found | {method.path: (method, told) for method in reflection.methods((*services, health.NAME))}
