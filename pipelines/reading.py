"""The bytes of a source's files, one after another; why there are none, where there are none.

Runs in worker processes, so nothing heavy is imported unless the source needs it. Knows no images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_FILE_BYTES = 512 * 1024 * 1024
_PATIENT = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def is_url(root: str) -> bool:
    """Whether a source's root is a URL for fsspec, and no local folder."""
    return "://" in root


@dataclass(frozen=True, slots=True)
class Read:
    """A file that was read, or why it couldn't be.

    Attributes:
        size: bytes.
        mtime_ns: of its last change.
        data: all of it, or None.
        trouble: why there is no data.
    """

    size: int
    mtime_ns: int
    data: bytes | None
    trouble: str | None = None


def read_all(root: str, names: Sequence[str], stamps: Sequence[tuple[int, int]]) -> Iterator[Read]:
    """The bytes of each file, in order, below a local folder or a URL."""
    if not is_url(root):
        for name, stamp in zip(names, stamps, strict=True):
            yield _read_local(f"{root}/{name}", stamp)
        return
    from pipelines.remote import contents  # noqa: PLC0415 - workers on local folders start without fsspec

    sizes = [size if size <= MAX_FILE_BYTES else 0 for size, _ in stamps]
    for (size, mtime_ns), got in zip(stamps, contents(root, names, sizes), strict=True):
        if isinstance(got, Exception):
            yield Read(size, mtime_ns, None, f"can't be read: {got or type(got).__name__}")
        else:
            yield Read(size, mtime_ns, got)


def _read_local(path: str, stamp: tuple[int, int]) -> Read:
    """A file's bytes; never waits for a pipe that took the file's place.

    Its time of change is that of the listing: a file that changed since then is read anew by the next ingest.
    """
    size, mtime_ns = stamp
    if size > MAX_FILE_BYTES:
        return Read(size, mtime_ns, None, f"has {size} bytes; at most {MAX_FILE_BYTES} are read")
    try:
        descriptor = os.open(path, _PATIENT)
    except OSError as error:
        return Read(size, mtime_ns, None, f"can't be read: {error.strerror}")
    try:
        data = os.read(descriptor, size + 1)
        while data and len(data) != size and (more := os.read(descriptor, size + 1)):
            data += more
            if len(data) > MAX_FILE_BYTES:
                return Read(len(data), mtime_ns, None, f"has more than the {MAX_FILE_BYTES} bytes that are read")
    except OSError as error:
        return Read(size, mtime_ns, None, f"can't be read: {error.strerror}")
    finally:
        os.close(descriptor)
    return Read(len(data), mtime_ns, data)
