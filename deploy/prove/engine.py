"""The container engine of this machine, Docker or Podman, as commands; knows nothing of what runs in the containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND_SECONDS = 120.0


class NoEngine(Exception):
    """This machine can't run containers."""


class CommandFailed(Exception):
    """The engine refused; its words are in the message."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine with its compose.

    Args:
        name: docker or podman.
        compose: the command that starts its compose.
    """

    name: str
    compose: tuple[str, ...]

    def do(self, *words: str, seconds: float = COMMAND_SECONDS, stdin: str | None = None) -> str:
        """Run one command of the engine and return what it printed.

        Raises:
            CommandFailed: its exit status wasn't 0, or it took longer than `seconds`.
        """
        return run([self.name, *words], seconds=seconds, stdin=stdin)

    def inspect(self, thing: str, *, kind: str = "container") -> Any:
        """What the engine knows of a container or an image."""
        return json.loads(self.do(kind, "inspect", thing))[0]


def find() -> Engine:
    """The engine that works here; Docker goes first.

    Raises:
        NoEngine: neither works, with the reason of each.
    """
    reasons = []
    for engine in (Engine("docker", ("docker", "compose")), Engine("podman", ("podman-compose",))):
        try:
            run([engine.name, "info"], seconds=60)
            run([*engine.compose, "version"], seconds=60)
        except (CommandFailed, FileNotFoundError) as error:
            reasons.append(f"{engine.name}: {str(error).strip().splitlines()[-1]}")
        else:
            return engine
    raise NoEngine("Docker with compose, or Podman with podman-compose, must work here. " + " · ".join(reasons))


def run(
    command: Sequence[str],
    *,
    seconds: float,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its stdout.

    Raises:
        CommandFailed: its exit status wasn't 0, or it took longer than `seconds`.
        FileNotFoundError: there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"there is no command {command[0]!r}")
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"`{' '.join(command)}` took more than {seconds:.0f} s") from error
    if done.returncode:
        told = (done.stderr or done.stdout).strip()[-3000:]
        raise CommandFailed(f"`{' '.join(command)}` ended with {done.returncode}: {told}")
    return done.stdout
