"""A snapshot: the frozen, content-named input of a run; written once, read through memory maps.

Its folder holds `manifest.parquet` (one row per file found), `snapshot.json` (what it is), `rows.npz` (where
each row's pixels lie, and its label), and `pixels/`: files of raw uint8 rows, hard-linked between the snapshots
of a dataset that share them. Knows no source and no training library.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow.compute as pc

from pipelines import manifest
from pipelines.errors import BadSource, PipelineError
from pipelines.files import sync
from pipelines.manifest import PARTS
from serving.images import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from pipelines.manifest import PartName
    from pipelines.rows import Contents

SCHEMA_VERSION = 2  # of 1 the content hashes were SHA-256
SNAPSHOT = "snapshot.json"
ROWS = "rows.npz"
PIXELS = "pixels"
_COPY_ROWS_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of pixels: rows of `height * width * channels` bytes."""

    file: str
    rows: int
    channels: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Which pixels are a snapshot's rows: parts one after another, each in order of the content hashes.

    Attributes:
        dataset: name.
        source: identity of where the files came from.
        labels: class names; a label's place is its class.
        image: of every row.
        contents: bytes [rows], content hash of each.
        classes: int32 [rows].
        parts: rows of each part.
        shards: files of pixels.
        places: int64 [rows, 2]: the shard of each row, and the row in that shard.
    """

    dataset: str
    source: str
    labels: tuple[str, ...]
    image: ImageSpec
    contents: Contents
    classes: npt.NDArray[np.int32]
    parts: Mapping[PartName, int]
    shards: tuple[Shard, ...]
    places: npt.NDArray[np.int64]

    def id(self) -> str:
        """16 hexadecimal digits, equal for equal contents, labels, parts and image size, wherever they lie."""
        head = [SCHEMA_VERSION, asdict(self.image), list(self.labels), [self.parts[part] for part in PARTS]]
        digest = hashlib.sha256(json.dumps(head).encode())
        digest.update(manifest.joined(self.contents))
        digest.update(self.classes.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that lies on disk.

    Attributes:
        path: its folder.
        id: its content's name.
        dataset: the name of the dataset that it is a state of.
        source: where its files came from.
        labels: class names; a label's place is its class.
        image: size, channels and way of resizing of every row.
        counts: images by part, and files by what became of them.
    """

    path: Path
    id: str
    dataset: str
    source: str
    labels: tuple[str, ...]
    image: ImageSpec
    counts: dict[str, int]
    _parts: dict[str, int]
    _shards: tuple[Shard, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        """The snapshot in a folder.

        Raises:
            BadSource: there is none, it is not whole, or its schema is another calotype's.
        """
        try:
            said = json.loads((path / SNAPSHOT).read_bytes())
            if said["schema_version"] != SCHEMA_VERSION:
                raise BadSource(
                    f"The snapshot {path} has schema version {said['schema_version']}; this calotype reads "
                    f"{SCHEMA_VERSION}. Use the calotype that wrote it, or ingest into another --dataset."
                )
            snapshot = cls(
                path=path,
                id=said["id"],
                dataset=said["dataset"],
                source=said["source"],
                labels=tuple(said["labels"]),
                image=ImageSpec(**said["image"]),
                counts=manifest.counts(manifest.read(path / manifest.MANIFEST, ["split", "status"])),
                _parts=said["parts"],
                _shards=tuple(Shard(**shard) for shard in said["shards"]),
            )
            snapshot._check_shards()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadSource(f"{path} is no whole snapshot ({error}). Ingest its source again.") from error
        return snapshot

    def part(self, name: PartName) -> Part:
        """The rows of one part."""
        return self.all_parts()[PARTS.index(name)]

    def all_parts(self) -> tuple[Part, ...]:
        """All parts, in order."""
        with np.load(self.path / ROWS) as rows:
            classes, places = rows["classes"], rows["places"]
        stops = np.cumsum([self._parts[name] for name in PARTS]).tolist()
        starts = [0, *stops[:-1]]
        return tuple(
            Part(self, name=name, first_row=start, labels=classes[start:stop], places=places[start:stop])
            for name, start, stop in zip(PARTS, starts, stops, strict=True)
        )

    def places(self) -> npt.NDArray[np.int64]:
        """Of every row, the shard and the row in that shard: int64 [rows, 2]."""
        with np.load(self.path / ROWS) as rows:
            return cast("npt.NDArray[np.int64]", rows["places"])

    def row_bytes(self, shard: Shard) -> int:
        """Bytes of one row of a shard."""
        return self.image.height * self.image.width * shard.channels

    def shard_path(self, shard: Shard) -> Path:
        """Where a shard lies."""
        return self.path / PIXELS / shard.file

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files of pixels."""
        return self._shards

    def _check_shards(self) -> None:
        for shard in self._shards:
            size, expected = self.shard_path(shard).stat().st_size, shard.rows * self.row_bytes(shard)
            if size != expected:
                raise ValueError(f"{shard.file} has {size} bytes instead of {expected}")


class Part:
    """One part of a snapshot: rows of pixels and their labels, read through memory maps.

    Mutable: the maps, each opened when it is first needed. Pickles as a reference to the folder.

    Attributes:
        name: train, validation or test.
        rows: how many images.
        labels: int32 [rows], index into the snapshot's labels.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        name: PartName,
        first_row: int,
        labels: npt.NDArray[np.int32],
        places: npt.NDArray[np.int64],
    ) -> None:
        self.snapshot = snapshot
        self.name = name
        self.rows = len(labels)
        self.labels = labels
        self._first_row = first_row
        self._places = places
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.snapshot.path, self.name)

    @property
    def paths(self) -> Sequence[str]:
        """Of each row, relative to the source."""
        return self.column("path")

    @property
    def content_hashes(self) -> Sequence[str]:
        """Of each row."""
        return self.column("content_hash")

    def column(self, name: str) -> list[Any]:
        """A column of the manifest, for each row."""
        table = manifest.read(self.snapshot.path / manifest.MANIFEST, [name, "row"])
        last_row = self._first_row + self.rows
        inside = pc.and_(pc.greater_equal(table["row"], self._first_row), pc.less(table["row"], last_row))
        return cast("list[Any]", table.filter(inside).sort_by("row")[name].to_pylist())

    def gather(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The pixels of some rows.

        Args:
            index: int64 [n], from 0 to `rows`.

        Returns:
            uint8 [n, height, width, channels], a copy.
        """
        image = self.snapshot.image
        out = np.empty((len(index), *image.shape), dtype=np.uint8)
        if not len(index):
            return out
        places = self._places[index]
        order = np.argsort(places[:, 0], kind="stable")
        shards, starts = np.unique(places[order, 0], return_index=True)
        for shard, run in zip(shards.tolist(), np.split(order, starts[1:]), strict=True):
            out[run] = self._map(shard)[places[run, 1]]  # gray rows of a colour set are repeated here
        return out

    def batches(self, size: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
        """All rows in order: uint8 [n, height, width, channels] and int32 [n], `size` at a time."""
        for start in range(0, self.rows, size):
            index = np.arange(start, min(start + size, self.rows), dtype=np.int64)
            yield self.gather(index), self.labels[index]

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The whole part, uint8 [rows, height, width, channels]: a copy in memory; `gather` reads less."""
        return self.gather(np.arange(self.rows, dtype=np.int64))

    @property
    def pixel_bytes(self) -> int:
        """What `pixels` takes."""
        return self.rows * int(np.prod(self.snapshot.image.shape))

    def _map(self, number: int) -> npt.NDArray[np.uint8]:
        if number not in self._maps:
            shard, image = self.snapshot.shards[number], self.snapshot.image
            shape = (shard.rows, image.height, image.width, shard.channels)
            self._maps[number] = np.memmap(self.snapshot.shard_path(shard), dtype=np.uint8, mode="r", shape=shape)
        return self._maps[number]


def _reopen(path: Path, name: PartName) -> Part:
    return Snapshot.open(path).part(name)


def seal(arrangement: Arrangement, rows: pa.Table, *, snapshots: Path, shelves: Sequence[Path]) -> Path:
    """Put a snapshot into `snapshots`, in one step; one that is there already gets the new manifest only.

    Args:
        arrangement: its rows.
        rows: its manifest.
        snapshots: the folder of a dataset's snapshots.
        shelves: folders that may hold its shards; the files are linked, where that is possible.

    Returns:
        Its folder, named by its id.

    Raises:
        PipelineError: a shard lies in none of the shelves.
        OSError: it can't be written; nothing is left.
    """
    name = arrangement.id()
    target = snapshots / name
    if _is_whole(target):
        manifest.write(rows, target / manifest.MANIFEST)
        sync(snapshots)
        return target
    temporary = snapshots / f".{name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        (temporary / PIXELS).mkdir(parents=True)
        for shard in arrangement.shards:
            _link(shard.file, shelves=shelves, target=temporary / PIXELS / shard.file)
        np.savez(temporary / ROWS, classes=arrangement.classes, places=arrangement.places)
        manifest.write(rows, temporary / manifest.MANIFEST)
        (temporary / SNAPSHOT).write_text(json.dumps(_said(arrangement, name), indent=1), encoding="utf-8")
        for path in (*(temporary / PIXELS).iterdir(), temporary / ROWS, temporary / SNAPSHOT):
            sync(path)
        for place in (temporary / PIXELS, temporary):
            sync(place)
        temporary.rename(target)
        sync(snapshots)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _is_whole(path: Path) -> bool:
    try:
        Snapshot.open(path)
    except BadSource:
        return False
    return True


def _said(arrangement: Arrangement, name: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "id": name,
        "dataset": arrangement.dataset,
        "source": arrangement.source,
        "labels": list(arrangement.labels),
        "image": asdict(arrangement.image),
        "parts": dict(arrangement.parts),
        "shards": [asdict(shard) for shard in arrangement.shards],
    }


def _link(name: str, *, shelves: Sequence[Path], target: Path) -> None:
    """Make a shard appear at `target`: a hard link, or a copy where the file system has none."""
    source = find_shard(name, shelves=shelves)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def find_shard(name: str, *, shelves: Sequence[Path]) -> Path:
    """Where the shard of this name lies.

    Raises:
        PipelineError: in none of the shelves.
    """
    for shelf in shelves:
        if (shelf / name).exists():
            return shelf / name
    raise PipelineError(f"The pixels {name} are gone from {shelves[0]}. Ingest again.")
