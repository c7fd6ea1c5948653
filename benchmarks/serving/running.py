"""A server in an environment of its own, started, looked at from outside and ended with all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_END_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes together: resident, and with shared pages counted once (proportional), in megabytes."""

    resident_mb: float
    proportional_mb: float


@contextlib.contextmanager
def running(program: Sequence[str], log: Path) -> Iterator[int]:
    """Its process id; at the end it, and every process that it started, is gone."""
    with log.open("wb") as words:
        process = subprocess.Popen(program, stdout=words, stderr=words, start_new_session=True)
    try:
        yield process.pid
    finally:
        mine = family(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        _end(mine)
        process.wait()


def memory(pid: int) -> Memory:
    """Of a process and all its descendants."""
    resident = proportional = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines():
                words = line.split()
                resident += int(words[1]) if words[0] == "Rss:" else 0
                proportional += int(words[1]) if words[0] == "Pss:" else 0
    return Memory(resident / 1024, proportional / 1024)


def family(pid: int) -> dict[int, str]:
    """A process and all its descendants: when each was started, by its id."""
    children: dict[int, list[int]] = {}
    started: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                children.setdefault(int(words[1]), []).append(int(folder.name))
                started[int(folder.name)] = words[19]
    found, ahead = {}, [pid]
    while ahead:
        each = ahead.pop()
        if each in started:
            found[each] = started[each]
        ahead += children.get(each, [])
    return found


def _end(processes: dict[int, str]) -> None:
    """Kill those that are still the same processes."""
    time.sleep(0.2)
    for pid, started in processes.items():
        if family(pid).get(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
