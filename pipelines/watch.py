"""Whether a source has changed and come to rest; looks at names, sizes and times only, and reads no file."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import sources
from pipelines.errors import BadSource, EmptyFolder
from pipelines.reading import is_url
from pipelines.remote import walk_url
from pipelines.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipelines.walk import Found

BEAT_SECONDS = 2.0
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a source.

    Attributes:
        digest: equal while nothing has changed.
        files: how many, hidden ones and litter aside.
        newest_ns: when the newest of them changed; 0: the source doesn't tell.
    """

    digest: str
    files: int
    newest_ns: int


def look(source: str) -> Listing | None:
    """What lies in a source; None: nothing yet, or there is no such folder yet.

    Raises:
        BadSource: it is a file, or a URL that can't be listed.
        OSError: it can't be listed.
    """
    if source in sources.KNOWN and not Path(source).is_dir():
        return Listing(source, 1, 0)
    if is_url(source) and not source.startswith("file://"):
        with contextlib.suppress(EmptyFolder):
            return _listing(walk_url(source))
        return None
    folder = Path(source.removeprefix("file://"))
    if folder.exists() and not folder.is_dir():
        raise BadSource(f"{source!r} is a file. Expected a folder with one subfolder of images per label.")
    try:
        return _listing(walk(str(folder)))
    except FileNotFoundError:
        return None


def _listing(found: Iterable[Found]) -> Listing | None:
    hashed = hashlib.blake2b(digest_size=16)
    files = newest_ns = 0
    for file in found:
        if file.ignored is None:
            files += 1
            newest_ns = max(newest_ns, file.mtime_ns)
            hashed.update(f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode())
    return Listing(hashed.hexdigest(), files, newest_ns) if files else None


def patiently(
    look: Callable[[], Listing | None], *, meanwhile: Callable[[], object], every_seconds: float = BEAT_SECONDS
) -> Listing | None:
    """A look that may take many minutes, as of a bucket of millions: `meanwhile` is called all along, for an hour.

    Raises:
        Whatever the look raises.
    """
    seen: Future[Listing | None] = Future()

    def work() -> None:
        try:
            seen.set_result(look())
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            seen.set_exception(error)

    threading.Thread(target=work, name="look", daemon=True).start()  # a daemon: a hung disk holds up no stop
    for _ in range(round(LONGEST_SECONDS / every_seconds)):
        try:
            return seen.result(every_seconds)
        except TimeoutError:
            if seen.done():
                break  # the look's own
            meanwhile()
    return seen.result()


class Watcher:
    """Says when a source is worth a run: it differs from what the last one took, and has been quiet for long enough.

    Mutable state: the last look, since when it has looked the same, and what the last run took.

    Args:
        settle_seconds: how long nothing may have changed.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._seen: str | None = None
        self._since = 0.0
        self._taken: str | None = None

    def ready(self, listing: Listing | None, now: float) -> bool:
        """Whether a run should begin.

        Args:
            listing: the source as it is now.
            now: seconds on any clock that only goes forward.
        """
        digest = None if listing is None else listing.digest
        if digest != self._seen:
            self._seen, self._since = digest, now
        return digest is not None and digest != self._taken and now - self._since >= self._settle_seconds

    def take(self) -> None:
        """A run takes what was seen last."""
        self._taken = self._seen

    def forget(self) -> None:
        """What the last run took is as new as before: it came to nothing."""
        self._taken = None
