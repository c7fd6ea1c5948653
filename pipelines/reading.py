"""The bytes of a source's files, one after another; why there are none, where there are none.

Runs in worker processes, so nothing heavy is imported unless the source needs it. Knows no images.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from serving import urls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_FILE_BYTES = 512 * 1024 * 1024
PAUSES_SECONDS = (0.05, 0.2, 0.5)  # before a file is tried again whose trouble may pass
LOST = "could not be read"  # how the trouble begins of a file that is there, but whose bytes don't come
_PATIENT_FILES = 3
_MAY_PASS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN, errno.ECONNRESET),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
_PATIENT = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def is_url(root: str) -> bool:
    """Whether a source's root is a URL for fsspec, and no local folder."""
    return urls.is_url(root)


def is_lost(trouble: str | None) -> bool:
    """Whether a file was not read for a trouble that isn't its own."""
    return trouble is not None and trouble.startswith(LOST)


def without_userinfo(url: str) -> str:
    """A URL, chained ones included, without the secrets that it may hold."""
    return urls.without_secrets(url)


class Read(NamedTuple):
    """A file that was read, or why it couldn't be (a named tuple, because there are millions).

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

    @property
    def lost(self) -> bool:
        """Whether the trouble isn't the file's own: its disk's, or its connection's."""
        return is_lost(self.trouble)


def read_all(
    root: str,
    names: Sequence[str],
    stamps: Sequence[tuple[int, int]],
    *,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Read]:
    """The bytes of each file, in order, below a local folder or a URL.

    Troubles that may pass are given some time to do so, unless several files in a row have them.
    """
    if is_url(root):
        yield from _read_remote(root, names, stamps, sleep=sleep)
        return
    lost = 0
    for name, stamp in zip(names, stamps, strict=True):
        read = _read_local(f"{root}/{name}", stamp)
        if read.data is not None:
            lost = 0
            yield read
            continue
        for pause in PAUSES_SECONDS if lost < _PATIENT_FILES else ():
            if not read.lost:
                break
            sleep(pause)
            read = _read_local(f"{root}/{name}", stamp)
        lost = lost + 1 if read.lost else 0
        yield read


def _read_remote(
    root: str, names: Sequence[str], stamps: Sequence[tuple[int, int]], *, sleep: Callable[[float], object]
) -> Iterator[Read]:
    from pipelines.remote import contents, may_pass  # noqa: PLC0415 - workers on local folders start without fsspec

    wanted = [(name, size) for name, (size, _) in zip(names, stamps, strict=True) if size <= MAX_FILE_BYTES]
    arriving = contents(
        root, [name for name, _ in wanted], [size for _, size in wanted], pauses=PAUSES_SECONDS, sleep=sleep
    )
    for size, mtime_ns in stamps:
        if size > MAX_FILE_BYTES:
            yield Read(size, mtime_ns, None, _too_large(size))
            continue
        got = next(arriving)
        if isinstance(got, Exception):
            reason = LOST if may_pass(got) else "can't be read"
            yield Read(size, mtime_ns, None, f"{reason}: {got or type(got).__name__}")
        else:
            yield Read(size, mtime_ns, got)


def _too_large(size: int) -> str:
    return f"has {size} bytes; at most {MAX_FILE_BYTES} are read"


def _trouble(error: OSError) -> str:
    reason = LOST if error.errno in _MAY_PASS else "can't be read"
    return f"{reason}: {error.strerror}"


def _read_local(path: str, stamp: tuple[int, int]) -> Read:
    """A file's bytes; never waits for a pipe that took the file's place.

    Its time of change is that of the listing: a file that changed since then is read anew by the next ingest.
    """
    size, mtime_ns = stamp
    if size > MAX_FILE_BYTES:
        return Read(size, mtime_ns, None, _too_large(size))
    try:
        descriptor = os.open(path, _PATIENT)
    except OSError as error:
        return Read(size, mtime_ns, None, _trouble(error))
    try:
        data = os.read(descriptor, size + 1)
        while data and len(data) != size and (more := os.read(descriptor, size + 1)):
            data += more
            if len(data) > MAX_FILE_BYTES:
                return Read(len(data), mtime_ns, None, f"has more than the {MAX_FILE_BYTES} bytes that are read")
    except OSError as error:
        return Read(size, mtime_ns, None, _trouble(error))
    finally:
        os.close(descriptor)
    return Read(len(data), mtime_ns, data)
