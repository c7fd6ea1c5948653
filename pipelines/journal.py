"""Chunks of decoded files on disk: what a killed ingest leaves to the next one, and a snapshot's pixels later on.

A chunk is up to two files of raw pixels (gray and colour images apart) and a file of outcomes (`numpy.savez`). It is
written under hidden names, then published: its pixels are brought to the disk, and all is renamed, outcomes last, whose
presence means that the chunk is whole. Writing is work for a processor and publishing is waiting for a disk, so they
may be done in two places. Runs in worker processes, so it imports nothing heavy; it decodes through `serving.images`,
as the server does.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import numpy as np

from pipelines.files import begin_writing, sync
from pipelines.identity import content_digest
from pipelines.outcomes import ROW, Outcomes, Recorder
from pipelines.reading import Read, read_all
from serving import images
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

OUTCOMES = ".outcomes.npz"
SUFFIX = {1: ".gray.u8", 3: ".colour.u8"}

_BUFFER_BYTES = 1 << 20
_BEGIN_BYTES = 8 << 20  # so much is on its way to the disk while more is decoded


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
        first: the place of its first file among those of all chunks.
    """

    root: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    canvas: Canvas
    journal: Path
    first: int = 0


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a chunk's file of outcomes says.

    Attributes:
        canvas: the key of the canvas that its pixels fit.
        outcomes: of its files.
        rows: in each of its files of pixels.
        first: as in `Chunk`.
        path: of the file of outcomes.
    """

    canvas: str
    outcomes: Outcomes
    rows: dict[str, int]
    first: int
    path: Path

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The chunk published at `path`, or None if its pixels aren't all there."""
        try:
            with np.load(path) as stored:
                said = json.loads(stored["said"].tobytes())
                packed = stored["outcomes"]
            reasons = {int(index): reason for index, reason in said["reasons"].items()}
            outcomes = Outcomes(packed, words=said["words"], reasons=reasons)
            shelf = cls(said["canvas"], outcomes, rows=said["rows"], first=said["first"], path=path)
            height, width, *_ = json.loads(shelf.canvas)
            for name, rows in shelf.rows.items():
                row_bytes = height * width * channels_of(name)
                if (path.parent / name).stat().st_size != rows * row_bytes:
                    return None
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
            return None
        return shelf if packed.dtype == ROW else None

    def paths(self) -> list[str]:
        """Of its files, as manifests name them."""
        with np.load(self.path) as stored:
            paths: list[str] = json.loads(stored["paths"].tobytes())
        return paths


def channels_of(shard: str) -> int:
    """1 or 3, from the name of a file of pixels."""
    return 1 if shard.endswith(SUFFIX[1]) else 3


def decode_chunk(chunk: Chunk) -> Path:
    """Decode the files of a chunk and publish what came of them; may run anywhere, and more than once.

    Returns:
        The chunk's file of outcomes, for `Shelf.read`.

    Raises:
        OSError: the journal can't be written.
    """
    return publish(write_chunk(chunk))


def write_chunk(chunk: Chunk) -> Path:
    """Decode the files of a chunk and write what came of them, for `publish`; the rest as in `decode_chunk`."""
    stem = uuid.uuid4().hex
    recorder = Recorder()
    with _Writers(chunk.journal, stem) as writers:
        for read in read_all(chunk.root, chunk.names, chunk.stamps):
            _decode_one(read, canvas=chunk.canvas, writers=writers, recorder=recorder)
        return _write_outcomes(chunk, stem, recorder.told(), rows=writers.finish())


def give_up(chunk: Chunk, reason: str) -> Path:
    """As `write_chunk`, of files that can be read, but not decoded for this reason."""
    recorder = Recorder()
    for read in read_all(chunk.root, chunk.names, chunk.stamps):
        file_hash = hashlib.sha256(read.data or b"").digest()
        recorder.undecodable(read.size, read.mtime_ns, reason=reason, file_hash=file_hash)
    return _write_outcomes(chunk, uuid.uuid4().hex, recorder.told(), rows={})


def publish(written: Path) -> Path:
    """Make a chunk that `write_chunk` wrote one that lasts; where it lies then.

    Raises:
        OSError: it can't be brought to the disk.
    """
    stem = written.name.removesuffix(OUTCOMES)
    pixels = [path for suffix in SUFFIX.values() if (path := written.with_name(stem + suffix)).exists()]
    try:
        for path in pixels:
            sync(path)  # else a power cut could leave a whole file of zeros
    except OSError:
        for path in (*pixels, written):
            path.unlink()
        raise
    for path in (*pixels, written):  # outcomes aren't synced: those that a power cut spoiled can't be read
        path.rename(_shown(path))
    return _shown(written)


def _shown(path: Path) -> Path:
    return path.with_name(path.name.removeprefix("."))


def published(journal: Path) -> Iterator[tuple[Path, Shelf]]:
    """The whole chunks that lie in a journal."""
    for path in sorted(journal.glob(f"*{OUTCOMES}")):
        shelf = Shelf.read(path)
        if shelf is not None:
            yield path, shelf


def chunked(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in runs of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Writers:
    """The files of pixels of one chunk while it is written; a context manager that removes them after an error.

    Mutable: the open files, their rows, and how far the disk was told to begin with each.
    """

    def __init__(self, journal: Path, stem: str) -> None:
        self._journal = journal
        self._names = {channels: f"{stem}{suffix}" for channels, suffix in SUFFIX.items()}
        self._open: dict[str, IO[bytes]] = {}
        self._rows: dict[str, int] = {}
        self._begun: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for name, file in self._open.items():
            if kind is not None:
                (self._journal / f".{name}").unlink(missing_ok=True)
            with suppress(OSError):  # it is flushed, or given up
                file.close()

    def append(self, pixels: npt.NDArray[np.uint8]) -> tuple[str, int]:
        """Write a row of pixels; which file it is in, and where."""
        name = self._names[pixels.shape[2]]
        if name not in self._open:
            self._open[name] = (self._journal / f".{name}").open("wb", buffering=_BUFFER_BYTES)
            self._rows[name] = self._begun[name] = 0
        row, row_bytes = self._rows[name], pixels.nbytes
        self._open[name].write(np.ascontiguousarray(pixels).data)
        self._rows[name] = row + 1
        if (row + 1) * row_bytes - self._begun[name] > _BEGIN_BYTES:
            self._begin_writing(name, (row + 1) * row_bytes)
        return name, row

    def finish(self) -> dict[str, int]:
        """Write what is held back; the rows of each file."""
        for file in self._open.values():
            file.flush()
        return dict(self._rows)

    def _begin_writing(self, name: str, stop: int) -> None:
        """Let the disk begin with what is written, so that there is little to wait for in the end."""
        begin_writing(self._open[name].fileno(), self._begun[name], stop)
        self._begun[name] = stop


def _decode_one(read: Read, *, canvas: Canvas, writers: _Writers, recorder: Recorder) -> None:
    """Record one file's outcome, and write its pixels if it has any."""
    data, size, mtime_ns = read.data, read.size, read.mtime_ns
    if data is None:
        recorder.undecodable(size, mtime_ns, reason=read.trouble or "", file_hash=None)
        return
    file_hash = hashlib.sha256(data).digest()
    try:
        decoded = images.decode(data, max_pixels=canvas.max_pixels)
        pixels = decoded.pixels
        gray = images.is_gray(pixels)
        if gray:
            pixels = pixels[..., :1]
        content = content_digest(pixels, gray=gray)
        fitted = images.fit(pixels, canvas.spec(gray=gray))
    except BadInput as error:
        recorder.undecodable(size, mtime_ns, reason=str(error), file_hash=file_hash)
        return
    except MemoryError:
        recorder.undecodable(size, mtime_ns, reason="needs more memory than there is", file_hash=file_hash)
        return
    seen = decoded.format, decoded.mode, decoded.width, decoded.height
    place = writers.append(fitted)
    recorder.decoded(size, mtime_ns, content=content, file_hash=file_hash, seen=seen, place=place)


def _write_outcomes(chunk: Chunk, stem: str, outcomes: Outcomes, *, rows: dict[str, int]) -> Path:
    path = chunk.journal / f".{stem}{OUTCOMES}"
    said = {
        "canvas": chunk.canvas.key(),
        "words": outcomes.words,
        "reasons": outcomes.reasons,
        "rows": rows,
        "first": chunk.first,
    }
    try:
        with path.open("wb") as file:
            np.savez(file, outcomes=outcomes.rows, said=_text(said), paths=_text(chunk.paths))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def _text(value: object) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
