"""What is different in a server that is one worker of several: what is common to all it asks of the process above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.registry import Registry
from serving.telemetry import Statistics, Telemetry

if TYPE_CHECKING:
    from serving.lines import Line, Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A worker's place among the others.

    Args:
        up: to the process above.
        port: that all listen on.
        workers: how many there are, and share the CPUs.
        unloaded: names of the models that somebody unloaded before this worker came.
    """

    up: Lines
    port: int
    workers: int
    unloaded: frozenset[str] = frozenset()


class SharedTelemetry(Telemetry):
    """Counts here, and answers for all workers."""

    def __init__(self, up: Line) -> None:
        super().__init__()
        self._up = up

    def statistics(self, *, model: str, version: int) -> Statistics:
        """One version's account, of all workers together; asks another process."""
        told: Statistics = self._up.ask("statistics", model, version)
        return told


class SharedRegistry(Registry):
    """Loads and unloads everywhere when asked to by a caller; `load_here` and `unload_here` only in this worker."""

    def __init__(self, shared: Shared, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._shared = shared

    def join(self) -> None:
        """Be among those that orders reach; what was ordered while this worker started is begun, see `wait_ready`."""
        unloaded: frozenset[str] = self._shared.up.questions.ask("join")
        if unloaded != self._shared.unloaded:
            self.look_again(unloaded)

    def load(self, name: str) -> None:
        """As `Registry.load`, in every worker."""
        self._shared.up.orders.ask("load", name)

    def unload(self, name: str) -> None:
        """As `Registry.unload`, in every worker."""
        self._shared.up.orders.ask("unload", name)

    def load_here(self, name: str) -> None:
        """As `Registry.load`."""
        super().load(name)

    def unload_here(self, name: str) -> None:
        """As `Registry.unload`."""
        super().unload(name)
