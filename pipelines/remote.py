"""Sources behind a URL: what lies there, and the bytes of it. Knows no images; `serving.buckets` opens URLs."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

from pipelines.errors import BadSource, EmptyFolder
from pipelines.walk import Found, is_hidden_folder, printable, unusable_name, why_ignored
from serving import buckets
from serving.errors import Unreachable
from serving.urls import scrubbed, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BATCH_FILES = 64
BATCH_BYTES = 32 * 1024 * 1024
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_NO_FOLDERS = {"": "an empty folder name (//)", ".": "a folder named .", "..": "a folder named .."}  # clients drop them
_SECOND_NS = 1_000_000_000
_TAGS = ("ETag", "etag", "content_md5", "md5Hash")
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")


def walk_url(url: str) -> Iterator[Found]:
    """Every file below a URL, outside hidden folders.

    Raises:
        BadSource: its kind is unknown or not installed, or it can't be reached.
        EmptyFolder: there is nothing.
    """
    system, root = _system(url)
    try:
        entries = system.find(root, detail=True)
    except Exception as error:  # what remote file systems raise has no common root
        raise BadSource(f"The source {without_secrets(url)} can't be listed: {buckets.why(error, url)}") from error
    if not entries:
        raise EmptyFolder(
            f"There is nothing at {without_secrets(url)}. Expected a folder with one subfolder of images per label."
        )
    for full, entry in entries.items():
        found = _found(full.removeprefix(root).removeprefix("/"), entry)
        if found is not None:
            yield found


def contents(
    url: str, names: Sequence[str], sizes: Sequence[int], *, pauses: Sequence[float], sleep: Callable[[float], object]
) -> Iterator[bytes | Exception]:
    """The bytes of files below a URL in order, or why they can't be read; many are fetched at once.

    What fails, as connections do, is tried again after each of the pauses; while nothing at all arrives, without.

    Args:
        url: of the folder.
        names: of the files, relative to it.
        sizes: of each file in bytes, as listed.
        pauses: seconds.
        sleep: how to wait so long.
    """
    system, root = _system(url)
    patient = True
    for batch in _batches(names, sizes):
        full = [f"{root}/{name}" if root else name for name in batch]
        fetched = _fetch(system, full)
        for pause in pauses if patient else ():
            failed = [path for path in full if may_pass(fetched[path])]
            if not failed:
                break
            sleep(pause)
            fetched |= _fetch(system, failed)
        patient = not all(may_pass(fetched[path]) for path in full)
        yield from (_told(fetched[path], url) for path in full)


def _told(got: bytes | Exception, url: str) -> bytes | Exception:
    """What was got; of an error only what may be told, as it ends up in manifests."""
    if isinstance(got, bytes):
        return got
    said = scrubbed(str(got), url)
    if said == str(got):
        return got
    return OSError(said) if may_pass(got) else PermissionError(said)


def may_pass(got: bytes | Exception) -> bool:
    """Whether a file wasn't read for a reason that isn't its own, such as a connection that broke."""
    return isinstance(got, Exception) and not isinstance(got, _FINAL)


def _fetch(system: Any, full: Sequence[str]) -> dict[str, bytes | Exception]:
    try:
        fetched = system.cat(list(full), on_error="return")
    except Exception as error:  # noqa: BLE001 - what remote file systems raise has no common root
        return dict.fromkeys(full, error)
    gone = FileNotFoundError(2, "gone while the source was read")
    return {path: fetched.get(path, fetched.get(f"/{path}", gone)) for path in full}


def _system(url: str) -> tuple[Any, str]:
    try:
        return buckets.open_url(url)
    except Unreachable as error:
        raise BadSource(f"The source {without_secrets(url)} can't be opened: {error}") from error


def _found(name: str, entry: dict[str, Any]) -> Found | None:
    *folders, base = name.split("/")
    if not base or entry.get("type") == "directory":
        return None
    odd = next((folder for folder in folders if folder in _NO_FOLDERS), None)
    if any(is_hidden_folder(folder) for folder in folders if folder not in _NO_FOLDERS):
        return None
    trouble = None if odd is None else f"{_NO_FOLDERS[odd]} in its key: rename it"
    # At the top such a folder would be taken for a label, or the source for one that has other folders than its parts.
    ignored = why_ignored(base) or (trouble if folders and folders[0] in _NO_FOLDERS else None)
    return Found(
        name=name,
        path=printable(name),
        size=int(entry.get("size") or 0),
        mtime_ns=_time_ns(entry),
        ignored=ignored,
        trouble=None if ignored else trouble or unusable_name(name),
    )


def _time_ns(entry: dict[str, Any]) -> int:
    """When a file changed, as far as its file system tells.

    Object stores tell whole seconds, or nothing, and a tag of the content (S3's ETag): there the digits below a
    second come from the tag, so that what was replaced by as many bytes within a second has another time too.
    """
    told = next((entry[name] for name in _TIMES if entry.get(name) is not None), 0)
    if isinstance(told, dt.datetime):
        told = told.timestamp()
    try:
        time_ns = int(float(told) * 1_000_000) * 1_000
    except (TypeError, ValueError):
        time_ns = 0
    tag = next((str(entry[name]) for name in _TAGS if entry.get(name)), None)
    if tag is None or time_ns % _SECOND_NS:
        return time_ns
    return time_ns + int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8]) % _SECOND_NS


def _batches(names: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    batch: list[str] = []
    batch_bytes = 0
    for name, size in zip(names, sizes, strict=True):
        if batch and (len(batch) == BATCH_FILES or batch_bytes + size > BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(name)
        batch_bytes += size
    if batch:
        yield batch
