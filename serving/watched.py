"""What some files say, read again when they change; what they said before goes on while they can't be read.

Knows not what they say. Nobody watches: whoever asks looks, so there is no thread to start or stop.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from serving import logs
from serving.errors import CalotypeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

log = logs.logger("watched")


class Watched(Generic[T]):
    """A value made from files.

    Args:
        paths: the files.
        read: makes the value of them; raises CalotypeError. Called here too, so that a server doesn't start without.
        pause_seconds: between two looks at the files.
        clock: of the pauses.
    """

    # Mutable, under `_lock`: `_value`, `_stamp` (of the files when they were last read, well or not), `_next_look`.

    def __init__(
        self,
        paths: tuple[Path, ...],
        read: Callable[[], T],
        *,
        pause_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._read = read
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = read()
        self._next_look = clock() + pause_seconds

    def get(self) -> T:
        """The value, of the files as they are now or were a pause ago."""
        if self._clock() >= self._next_look:
            with self._lock:
                self._refresh()
        return self._value

    def _refresh(self) -> None:
        self._next_look = self._clock() + self._pause_seconds
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        names = ", ".join(map(str, self._paths))
        try:
            self._value = self._read()
        except CalotypeError as error:
            logs.event(log, "reload_failed", level=logging.ERROR, files=names, error=error, kept="what was read before")
        else:
            logs.event(log, "reloaded", files=names)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
