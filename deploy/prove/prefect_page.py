"""What Prefect's server remembers, asked over its published port."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Prefect:
    """The API of one server.

    Args:
        port: on this machine.
    """

    port: int

    def ready(self) -> bool:
        """Whether it answers, and its database answers it."""
        try:
            self._ask("ready")
        except OSError:
            return False
        return True

    def runs(self, *, also_to_come: bool = False) -> dict[str, str]:
        """All flow runs, those still to come only where asked for: id -> name of the state."""
        return {
            run["id"]: run["state_name"] for run in self._runs() if also_to_come or run["state_type"] != "SCHEDULED"
        }

    def scheduled(self) -> bool:
        """Whether somebody put a schedule up; False when nobody answers."""
        try:
            return bool(self._ask("deployments/filter", {}))
        except OSError:
            return False

    def under_way(self) -> bool:
        """Whether a run is being worked on; False when nobody answers."""
        try:
            return any(run["state_type"] == "RUNNING" for run in self._runs())
        except OSError:
            return False

    def _runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("flow_runs/filter", {"limit": 200, "sort": "EXPECTED_START_TIME_ASC"})
        return found

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}", data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)
