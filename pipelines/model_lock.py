"""Whose turn it is with a model: one process at a time runs it, or keeps its schedule, whoever started it.

A lock is a file that the system lets go of when its holder dies, a kill -9 included; what is written in it is for
people. It holds on one machine, and between containers that share the workspace on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import TextIOWrapper
    from pathlib import Path

    from pipelines.workspace import Workspace

FOLDER = ".locks"
LOOK_SECONDS = 0.2


@contextlib.contextmanager
def run_turn(
    workspace: Workspace, model: str, *, patience_seconds: float, told: Callable[[str], object]
) -> Iterator[None]:
    """Run MODEL in this workspace, alone, as long as the block lasts.

    Args:
        workspace: where its runs lie.
        model: its name.
        patience_seconds: how long to wait for another run of it to end.
        told: called once, with a sentence, before there is any waiting.

    Raises:
        Busy: another run of the model is still under way.
    """
    path = workspace.root / FOLDER / f"{model}.run"
    with _held(path, f"Another run of {model} is under way", patience_seconds=patience_seconds, told=told):
        yield


@contextlib.contextmanager
def schedule_turn(workspace: Workspace, model: str, *, patience_seconds: float) -> Iterator[None]:
    """Keep MODEL's schedule in this workspace, alone, as long as the block lasts; arguments as in `run_turn`.

    Raises:
        Busy: another process keeps it.
    """
    path = workspace.root / FOLDER / f"{model}.schedule"
    what = f"Another process keeps the schedule of {model} in {workspace.root}"
    with _held(path, what, patience_seconds=patience_seconds, told=lambda _sentence: None):
        yield


@contextlib.contextmanager
def _held(path: Path, what: str, *, patience_seconds: float, told: Callable[[str], object]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _take(file):
            if patience_seconds > LOOK_SECONDS:
                told(f"{what} ({_holder(file)}): waiting for it to end.")
            _wait(file, what, until=time.monotonic() + patience_seconds)
        _sign(file)
        yield


def _wait(file: TextIOWrapper, what: str, *, until: float) -> None:
    while not _take(file):
        if time.monotonic() > until:
            raise Busy(f"{what} ({_holder(file)}), and two at once would compete for its next version.")
        time.sleep(LOOK_SECONDS)


def _take(file: TextIOWrapper) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: TextIOWrapper) -> None:
    file.seek(0)
    file.truncate()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
    file.flush()


def _holder(file: TextIOWrapper) -> str:
    """Who holds it, in words; who died in between has signed nothing."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        file.seek(0)
        found = json.loads(file.read())
        return f"process {found['process']} on {found['host']} since {found['since']}"
    return "process unknown"
