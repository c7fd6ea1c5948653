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
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self

from serving import images
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

MAX_FILE_BYTES = 512 * 1024 * 1024
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
        channels = 1 if gray or self.channels == 1 else 3
        return images.ImageSpec(self.height, self.width, channels, self.resize)

    def stored_alike(self, other: Canvas) -> bool:
        """Whether pixels stored for the other can be used for this one."""
        return self.key() == other.key()

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
        stamps: size and mtime_ns of each, as listed; a local file's are taken anew when it is read.
        canvas: how to store their pixels.
        journal: the folder to publish in.
    """

    root: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    canvas: Canvas
    journal: Path


@dataclass(slots=True)
class Shelf:
    """What a chunk's JSON says: columns with one entry per file, and rows per file of pixels."""

    canvas: str
    columns: Columns = field(default_factory=lambda: {name: [] for name in COLUMNS})
    rows: dict[str, int] = field(default_factory=dict)

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
    shelf = Shelf(canvas=chunk.canvas.key())
    writers = _Writers(chunk.journal, stem)
    try:
        for path, read in zip(chunk.paths, read_all(chunk.root, chunk.names, chunk.stamps), strict=True):
            _append(shelf.columns, _decode_one(path, read, canvas=chunk.canvas, writers=writers))
        shelf.rows = writers.publish()
        return _publish_json(chunk.journal / f"{stem}.json", asdict(shelf))
    finally:
        writers.discard()


def is_url(root: str) -> bool:
    """Whether a source's root is a URL for fsspec, and no local folder."""
    return "://" in root


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
        self._stem = stem
        self._open: dict[str, IO[bytes]] = {}
        self._rows: dict[str, int] = {}

    def append(self, pixels: npt.NDArray[np.uint8]) -> tuple[str, int]:
        name = f"{self._stem}{SUFFIX[pixels.shape[2]]}"
        if name not in self._open:
            self._open[name] = (self._journal / f".{name}").open("wb", buffering=1 << 20)
            self._rows[name] = 0
        self._open[name].write(pixels.tobytes())
        self._rows[name] += 1
        return name, self._rows[name] - 1

    def publish(self) -> dict[str, int]:
        for name, file in self._open.items():
            file.close()
            (self._journal / f".{name}").rename(self._journal / name)
        self._open = {}
        return dict(self._rows)

    def discard(self) -> None:
        for name, file in self._open.items():
            (self._journal / f".{name}").unlink(missing_ok=True)
            file.close()
        self._open = {}


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


def _decode_one(path: str, read: Read, *, canvas: Canvas, writers: _Writers) -> dict[str, Any]:
    """The columns of one file; an unreadable one has a reason and no content hash."""
    entry: dict[str, Any] = dict.fromkeys(COLUMNS)
    entry.update(path=path, size=read.size, mtime_ns=read.mtime_ns)
    if read.data is None:
        return entry | {"reason": read.trouble}
    entry["file_hash"] = hashlib.sha256(read.data).hexdigest()
    try:
        decoded = images.decode(read.data, max_pixels=canvas.max_pixels)
        pixels = decoded.pixels
        entry["content_hash"] = images.content_hash(pixels)
        if gray := images.is_gray(pixels):
            pixels = pixels[..., :1]
        fitted = images.fit(pixels, canvas.spec(gray=gray))
    except BadInput as error:
        return entry | {"reason": str(error), "content_hash": None}
    except MemoryError:
        return entry | {"reason": "needs more memory than there is", "content_hash": None}
    entry.update(format=decoded.format, mode=decoded.mode, width=decoded.width, height=decoded.height)
    entry["shard"], entry["offset"] = writers.append(fitted)
    return entry


def _read_local(path: str, stamp: tuple[int, int]) -> Read:
    """A file's bytes, size and time of change; never waits for a pipe that took the file's place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Read(*stamp, None, f"can't be read: {error.strerror}")
    try:
        status = os.fstat(descriptor)
        size, mtime_ns = status.st_size, status.st_mtime_ns
        if size > MAX_FILE_BYTES:
            return Read(size, mtime_ns, None, f"has {size} bytes; at most {MAX_FILE_BYTES} are read")
        data = os.read(descriptor, size + 1)
        while len(data) < size and (more := os.read(descriptor, size - len(data) + 1)):
            data += more
    except OSError as error:
        return Read(*stamp, None, f"can't be read: {error.strerror}")
    finally:
        os.close(descriptor)
    return Read(size, mtime_ns, data)


def _append(columns: Columns, entry: dict[str, Any]) -> None:
    for name, column in columns.items():
        column.append(entry[name])


def _publish_json(path: Path, values: dict[str, Any]) -> Path:
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(json.dumps(values), encoding="utf-8")
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path
