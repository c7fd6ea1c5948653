"""The files that a snapshot was made from, read once more: so that each model sees them through its own eyes.

The source is only read. A file that is gone, or shows another picture than the snapshot has, is no original any more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipelines import sources
from pipelines.errors import BadSource
from pipelines.identity import content_hash
from pipelines.reading import read_all
from serving import images
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from pipelines.dataset import Part

KNOWN = "known:"
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def pictures(
    part: Part, rows: Sequence[int], *, cache: Path, max_pixels: int
) -> Iterator[npt.NDArray[np.uint8] | None]:
    """What the original files of some rows show, in order; None for one that can't be had any more.

    Args:
        part: of a snapshot.
        rows: which of its rows.
        cache: where known sets are written out.
        max_pixels: larger images can't be had.

    Yields:
        uint8 [height, width, 1 or 3], as decoded, before anything is resized.

    Raises:
        BadSource: a known set that can't be had, or a URL of an unknown kind.
    """
    paths, contents, sizes = part.column("path"), part.column("content_hash"), part.column("size")
    names = [system_name(paths[row]) for row in rows]
    stamps = [(sizes[row] or 0, 0) for row in rows]
    root = root_of(part.snapshot.source, cache=cache)
    for row, read in zip(rows, read_all(root, names, stamps), strict=True):
        yield _picture(read.data, contents[row], max_pixels=max_pixels)


def root_of(identity: str, *, cache: Path) -> str:
    """Where the files of a dataset's source lie: a local folder, or a URL.

    Args:
        identity: what the dataset remembers of its source.
        cache: where known sets are written out; one that isn't there any more is written again.

    Raises:
        BadSource: a known set that can't be had.
    """
    if not identity.startswith(KNOWN):
        return identity
    name = identity.removeprefix(KNOWN)
    if name not in sources.KNOWN:
        raise BadSource(f"There is no known set {name!r} any more; there are {', '.join(sorted(sources.KNOWN))}.")
    sources.KNOWN[name](cache / name)
    return str((cache / name).resolve())


def system_name(path: str) -> str:
    r"""A manifest's path as the system knows it: `walk.printable` undone, each `\xNN` a byte again."""
    if "\\" not in path:
        return path
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), path.encode()).decode("utf-8", "surrogateescape")


def _picture(data: bytes | None, content: str, *, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    try:
        pixels = images.decode(data or b"", max_pixels=max_pixels).pixels
    except BadInput:
        return None
    return pixels if content_hash(pixels) == content else None
