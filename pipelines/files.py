"""Files that others see whole or not at all, a crash and a power cut included."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what file systems say that keep no folder's changes back
_BEGIN = 2  # SYNC_FILE_RANGE_WRITE
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at `path` in one step: a reader sees the old bytes or the new ones."""
    with replacing(path) as beside:
        beside.write_bytes(data)


@contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Where to write what shall become the file at `path`, in one step and for good, when the block ends well.

    What isn't `lasting` may be gone after a power cut; a crash of the process alone changes nothing.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        if lasting:
            sync(beside)
        beside.replace(path)
        if lasting:
            sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def begin_writing(descriptor: int, start: int, stop: int) -> None:
    """Let the disk begin with some bytes of a file, where the system can be asked to; promises nothing.

    Unlike an early `fsync` it waits for nothing, and takes no error away from the `sync` that counts.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(stop - start), _BEGIN)
