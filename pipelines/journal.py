"""Chunks of decoded files on disk: what a killed ingest leaves to the next one, and a snapshot's pixels later on.

A chunk is up to two files of raw pixels (gray and colour images apart) and a JSON file of columns, published
last and by rename: its presence means that the chunk is whole. Runs in worker processes, so it imports nothing
heavy; it decodes through `serving.images`, as the server does.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, Self

from pipelines.reading import Read, read_all
from serving import images
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

SUFFIX = {1: ".gray.u8", 3: ".colour.u8"}

COLUMNS = (
    "path",
    "size",
    "mtime_ns",
    "reason",
    "format",
    "mode",
    "width",
    "height",
    "content_hash",
    "file_hash",
    "shard",
    "offset",
)

Columns = dict[str, list[Any]]
Entry = tuple[Any, ...]

_BUFFER_BYTES = 1 << 20


_spec = lru_cache(maxsize=8)(images.ImageSpec)  # checked once, not once a file


@dataclass(frozen=True, slots=True)
class Canvas:
    """How pixels are stored while the number of channels may still be open.

    Attributes:
        height: pixels.
        width: pixels.
        channels: 1: everything becomes gray; 3 or None: gray images are stored as gray, others as colour.
        resize: how an image of another size is made to fit.
        max_pixels: larger images are refused.
    """

    height: int
    width: int
    channels: int | None
    resize: images.Resize
    max_pixels: int

    def spec(self, *, gray: bool) -> images.ImageSpec:
        """What an image is fitted to."""
        return _spec(self.height, self.width, 1 if gray or self.channels == 1 else 3, self.resize)

    def key(self) -> str:
        """Equal for canvases whose stored pixels are equal."""
        gray_only = self.channels == 1
        return json.dumps([self.height, self.width, gray_only, self.resize, self.max_pixels])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one task: files of one source to decode.

    Attributes:
        root: the source's folder, or its URL.
        names: of the files, as the system knows them, relative to `root`.
        paths: the same files as manifests name them.
        stamps: size and mtime_ns of each, as listed.
        canvas: how to store their pixels.
        journal: the folder to publish in.
    """

    root: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    canvas: Canvas
    journal: Path


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a chunk's JSON says: columns with one entry per file, and the rows in each file of pixels."""

    canvas: str
    columns: Columns
    rows: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The chunk published at `path`, or None if its pixels aren't all there."""
        try:
            shelf = cls(**json.loads(path.read_bytes()))
            height, width, *_ = json.loads(shelf.canvas)
            for name, rows in shelf.rows.items():
                row_bytes = height * width * channels_of(name)
                if (path.parent / name).stat().st_size != rows * row_bytes:
                    return None
        except (OSError, ValueError, TypeError):
            return None
        return shelf


def channels_of(shard: str) -> int:
    """1 or 3, from the name of a file of pixels."""
    return 1 if shard.endswith(SUFFIX[1]) else 3


def decode_chunk(chunk: Chunk) -> Path:
    """Decode the files of a chunk and publish what came of them; may run anywhere, and more than once.

    Returns:
        The chunk's JSON file, for `Shelf.read`.

    Raises:
        OSError: the journal can't be written.
    """
    stem = uuid.uuid4().hex
    entries: list[Entry] = []
    writers = _Writers(chunk.journal, stem)
    try:
        for path, read in zip(chunk.paths, read_all(chunk.root, chunk.names, chunk.stamps), strict=True):
            entries.append(_decode_one(path, read, canvas=chunk.canvas, writers=writers))
        return _publish(chunk, stem, entries, rows=writers.publish())
    finally:
        writers.discard()


def give_up(chunk: Chunk, reason: str) -> Path:
    """Publish a chunk as one whose files, though they can be read, can't be decoded for this reason."""
    entries: list[Entry] = [
        (path, read.size, read.mtime_ns, reason, *_undecodable(hashlib.sha256(read.data or b"").hexdigest()))
        for path, read in zip(chunk.paths, read_all(chunk.root, chunk.names, chunk.stamps), strict=True)
    ]
    return _publish(chunk, uuid.uuid4().hex, entries, rows={})


def published(journal: Path) -> Iterator[tuple[Path, Shelf]]:
    """The whole chunks that lie in a journal."""
    for path in sorted(journal.glob("*.json")):
        shelf = Shelf.read(path)
        if shelf is not None:
            yield path, shelf


def chunked(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in runs of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Writers:
    """The files of pixels of one chunk while it is written. Mutable: the open files and their rows."""

    def __init__(self, journal: Path, stem: str) -> None:
        self._journal = journal
        self._names = {channels: f"{stem}{suffix}" for channels, suffix in SUFFIX.items()}
        self._open: dict[str, IO[bytes]] = {}
        self._rows: dict[str, int] = {}

    def append(self, pixels: npt.NDArray[np.uint8]) -> tuple[str, int]:
        """Write a row of pixels; which file it is in, and where."""
        name = self._names[pixels.shape[2]]
        if name not in self._open:
            self._open[name] = (self._journal / f".{name}").open("wb", buffering=_BUFFER_BYTES)
            self._rows[name] = 0
        self._open[name].write(pixels.tobytes())
        row = self._rows[name]
        self._rows[name] = row + 1
        return name, row

    def publish(self) -> dict[str, int]:
        for name, file in self._open.items():
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave a whole file of zeros
            file.close()
            (self._journal / f".{name}").rename(self._journal / name)
        self._open = {}
        return dict(self._rows)

    def discard(self) -> None:
        for name, file in self._open.items():
            (self._journal / f".{name}").unlink(missing_ok=True)
            file.close()
        self._open = {}


def _decode_one(path: str, read: Read, *, canvas: Canvas, writers: _Writers) -> Entry:
    """One file's entry in the columns; an unreadable one has a reason and no content hash."""
    if read.data is None:
        return path, read.size, read.mtime_ns, read.trouble, *_UNREAD
    file_hash = hashlib.sha256(read.data).hexdigest()
    try:
        decoded = images.decode(read.data, max_pixels=canvas.max_pixels)
        pixels = decoded.pixels
        content = images.content_hash(pixels)
        if gray := images.is_gray(pixels):
            pixels = pixels[..., :1]
        fitted = images.fit(pixels, canvas.spec(gray=gray))
    except BadInput as error:
        return path, read.size, read.mtime_ns, str(error), *_undecodable(file_hash)
    except MemoryError:
        return path, read.size, read.mtime_ns, "needs more memory than there is", *_undecodable(file_hash)
    place = writers.append(fitted)
    seen = decoded.format, decoded.mode, decoded.width, decoded.height
    return path, read.size, read.mtime_ns, None, *seen, content, file_hash, *place


_UNREAD = (None,) * (len(COLUMNS) - COLUMNS.index("format"))


def _undecodable(file_hash: str) -> tuple[Any, ...]:
    return tuple(file_hash if name == "file_hash" else None for name in COLUMNS[COLUMNS.index("format") :])


def _publish(chunk: Chunk, stem: str, entries: Sequence[Entry], *, rows: dict[str, int]) -> Path:
    columns = dict(zip(COLUMNS, zip(*entries, strict=True), strict=True))
    path = chunk.journal / f"{stem}.json"
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(  # not synced: one that a power cut spoiled is no JSON, and the chunk is done again
            json.dumps({"canvas": chunk.canvas.key(), "columns": columns, "rows": rows}), encoding="utf-8"
        )
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path
