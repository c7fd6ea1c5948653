"""What lies in a local folder, one entry per file found; reads no file and follows each folder once.

Names that are not UTF-8 are told in a form that is: see `printable`. Nothing here knows labels or images.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LITTER_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "folder.jpg.ini"})
LITTER_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})

_NAME = attrgetter("name")
_READS_AS_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")
_KIND = stat.S_IFMT(0o177777)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Found(NamedTuple):
    """One file, or one thing that stands where a file could (a named tuple, because there are millions).

    Attributes:
        name: as the system knows it, relative to the root, with `/`; may hold surrogates.
        path: `name` in the form that manifests hold, always valid UTF-8.
        size: bytes.
        mtime_ns: of its last change.
        ignored: why it is no candidate, or None.
        trouble: why it can't be read, or None.
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    ignored: str | None = None
    trouble: str | None = None


def printable(name: str) -> str:
    r"""A name with each byte that is not UTF-8 written `\xNN`.

    A backslash that would read as such an escape is written `\x5c`, so that no two names become one.
    """
    if name.isascii() and "\\" not in name:
        return name
    return _READS_AS_ESCAPE.sub(r"\\x5c", name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_hidden_folder(name: str) -> bool:
    """Whether a folder of this name is nobody's: hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in LITTER_FOLDERS


def why_ignored(name: str) -> str | None:
    """Why a file of this base name is no candidate for an image, or None."""
    if name.startswith("."):
        return "a hidden file"
    return "left there by an operating system" if name.lower() in LITTER_FILES else None


def walk(root: str, *, barred: Iterable[str] = ()) -> Iterator[Found]:
    """Every file below `root`, outside hidden folders.

    Links to files are followed; links to folders too, after all real folders, and only into folders that
    were not read yet: no loop, and no file read twice through a link to its folder. A link to a folder that holds
    `root`, or to one in `barred`, is not followed.

    Raises:
        OSError: `root` itself can't be listed.
    """
    seen: set[tuple[int, int]] = set()
    real: deque[str] = deque([""])
    linked: deque[str] = deque()
    os.scandir(root).close()
    closed = _identities([*_above(root), *barred])
    while real or linked:
        by_link = not real
        folder = real.popleft() if real else linked.popleft()
        try:
            identity = _identity(os.path.join(root, folder))  # noqa: PTH118 - names may hold surrogates and are many
        except OSError as error:  # removed since its parent was listed
            if not folder:
                raise
            yield _unlisted(folder, error)
            continue
        if by_link and identity in closed:
            yield _entry(folder, ignored="a link to a folder that holds the source, or to the workspace")
            continue
        if identity in seen:
            if by_link:
                yield _entry(folder, ignored="a link to a folder that is read already (or a loop of links)")
            continue
        seen.add(identity)
        yield from _listing(root, folder, real=real, linked=linked)


def _above(root: str) -> Iterator[str]:
    """The folders that hold a folder."""
    path = os.path.realpath(root)
    while (above := os.path.dirname(path)) != path:  # noqa: PTH120 - as above
        yield above
        path = above


def _identities(folders: Iterable[str]) -> set[tuple[int, int]]:
    found = set()
    for folder in folders:
        with suppress(OSError):
            found.add(_identity(folder))
    return found


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _listing(root: str, folder: str, *, real: deque[str], linked: deque[str]) -> Iterator[Found]:
    """The files of one folder in order of their names; folders in it are queued."""
    try:
        with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118
            ordered = sorted(entries, key=_NAME)
    except OSError as error:
        yield _unlisted(folder, error)
        return
    prefix = f"{folder}/" if folder else ""
    plain = _is_plain(prefix) and _are_plain([entry.name for entry in ordered])
    for entry in ordered:
        try:
            status = entry.stat()
        except OSError as error:
            yield _unreachable(entry, prefix + entry.name, error)
            continue
        mode = status.st_mode
        if plain and mode & _KIND == stat.S_IFREG:
            name = prefix + entry.name
            yield Found(name, name, status.st_size, status.st_mtime_ns)
            continue
        base, kind = entry.name, stat.S_IFMT(mode)
        name = prefix + base
        if kind == stat.S_IFDIR:
            if not is_hidden_folder(base):
                (linked if entry.is_symlink() else real).append(name)
            continue
        ignored = why_ignored(base) or (f"{_KINDS[kind]}, not a file" if kind in _KINDS else None)
        trouble = None if ignored else unusable_name(name)
        yield Found(name, printable(name), status.st_size, status.st_mtime_ns, ignored, trouble)


def _unlisted(folder: str, error: OSError) -> Found:
    return _entry(folder, trouble=f"the folder can't be listed: {error.strerror}")


def _is_plain(name: str) -> bool:
    """Whether `printable` and `unusable_name` have nothing to say to a name."""
    return name.isascii() and name.isprintable() and "\\" not in name


def _are_plain(names: Sequence[str]) -> bool:
    """Whether that holds for all names of a folder, and none is hidden or litter: asked once, not once a file."""
    if not _is_plain("".join(names)):
        return False
    return LITTER_FILES.isdisjoint(map(str.lower, names)) and not any(name[0] == "." for name in names)


def _unreachable(entry: os.DirEntry[str], name: str, error: OSError) -> Found:
    if why_ignored(entry.name):
        return _entry(name, ignored=why_ignored(entry.name))
    if isinstance(error, FileNotFoundError):
        return _entry(name, trouble="a broken link" if entry.is_symlink() else "gone while the folder was read")
    loop = entry.is_symlink() and not isinstance(error, PermissionError)
    return _entry(name, trouble="a loop of links" if loop else f"can't be read: {error.strerror}")


def unusable_name(name: str) -> str | None:
    """Why a path can't be named in manifests, labels and predictions, or None."""
    if name.isascii() and name.isprintable():
        return None
    if "\n" in name or "\r" in name:
        return "a line break in its name: rename it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    return None


def _entry(name: str, *, ignored: str | None = None, trouble: str | None = None) -> Found:
    return Found(name, printable(name), 0, 0, ignored, trouble)
