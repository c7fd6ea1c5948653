"""The steady client of the proof: its container, its calls, and what came of them in each part of the proof."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engine import CommandFailed

if TYPE_CHECKING:
    from types import TracebackType

    from engine import Engine

PROGRAM = Path(__file__).with_name("steady.py")
NAME = "calotype-proof-client"
CLIENTS = ("once", "patient")
CALM_CALLS = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the proof.

    Args:
        name: for the table.
        begin: seconds since 1970.
        end: the same.
    """

    name: str
    begin: float
    end: float


class Load:
    """Calls the published port from its own container from `start` to `stop`.

    Mutable state: the calls heard of so far, oldest first, appended by a thread.

    Args:
        engine: runs the container.
        address: host:port of the server.
        model: name.
        images: folder of PNG files.
    """

    def __init__(self, engine: Engine, *, address: str, model: str, images: Path) -> None:
        self._engine = engine
        self._arguments = (address, model)
        self._images = images
        self._process: subprocess.Popen[str] | None = None
        self._calls: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        # The address is the host's own, as for any client on this machine.
        command = [
            "run",
            "--rm",
            "--interactive",
            "--network=host",
            f"--name={NAME}",
            f"--volume={self._images}:/images:ro",
        ]
        program = PROGRAM.read_text(encoding="utf-8")
        self._process = subprocess.Popen(
            [self._engine.name, *command, "calotype-serving", "python3", "-c", program, *self._arguments, "/images"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(CommandFailed):
            self._engine.do("rm", "--force", NAME)
        if self._process is not None:
            self._process.wait(timeout=30)

    def calls(self, client: str, part: Part) -> list[dict[str, Any]]:
        """The calls of one client that ended in one part."""
        return [
            call for call in list(self._calls) if call["client"] == client and part.begin <= call["time"] < part.end
        ]

    def failures(self, client: str, part: Part) -> list[str]:
        """The errors among them."""
        return [call["error"] for call in self.calls(client, part) if "error" in call]

    def versions(self) -> list[int]:
        """The versions that answered the patient client, in the order of the calls."""
        return [call["version"] for call in list(self._calls) if call["client"] == "patient" and "version" in call]

    def calm(self) -> bool:
        """Whether each client's last calls were all answered."""
        latest = [[call for call in list(self._calls) if call["client"] == name][-CALM_CALLS:] for name in CLIENTS]
        return all(len(calls) == CALM_CALLS and not any("error" in call for call in calls) for calls in latest)

    def row(self, part: Part) -> tuple[str, ...]:
        """A part in figures, for the table under `HEADS`."""
        once, patient = self.calls("once", part), self.calls("patient", part)
        slowest = max((call.get("seconds", 0.0) for call in patient), default=0.0)
        versions = sorted({call["version"] for call in (*once, *patient) if "version" in call})
        return (
            part.name,
            f"{part.end - part.begin:.0f}",
            str(len(once) + len(patient)),
            str(len(self.failures("once", part))),
            str(len(self.failures("patient", part))),
            f"{slowest:.2f}",
            ", ".join(map(str, versions)),
        )

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._calls.append(json.loads(line))


HEADS = ("while", "seconds", "calls", "failed at once", "failed after retries", "slowest, s", "versions")


class Parts:
    """Names the stretches of time between calls of `mark`.

    Mutable state: the parts so far.
    """

    def __init__(self) -> None:
        self.all: list[Part] = []
        self._begin = time.time()

    def skip(self) -> None:
        """What was until now belongs to no part."""
        self._begin = time.time()

    def mark(self, name: str) -> Part:
        """End a part, and begin the next."""
        now = time.time()
        part = Part(name, self._begin, now)
        self.all.append(part)
        self._begin = now
        return part
