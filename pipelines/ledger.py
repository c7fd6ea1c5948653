"""What a dataset remembers between ingests: its source, its choices, and the part of every image it ever had.

`dataset.json` names the current snapshot and the current ledger; replacing it is the one step that makes an
ingest count. One ingest at a time holds the dataset's lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from pipelines import manifest
from pipelines.config import DataRecipe
from pipelines.errors import BadRecipe, BadSource, PipelineError
from pipelines.files import sync, write_atomically
from pipelines.manifest import PARTS
from pipelines.rows import Words, found_in, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipelines.manifest import PartName
    from pipelines.rows import Contents, Numbers

SCHEMA_VERSION = 2  # of 1 the content hashes were SHA-256: none would be found again
DATASET = "dataset.json"
SNAPSHOTS = "snapshots"
JOURNAL = ".journal"
LOCK = ".lock"
_HASHED_ROWS = 8192  # at once
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SCHEMA = pa.schema([(name, pa.string()) for name in ("content_hash", "split", "groups", "likeness")])


@dataclass(frozen=True, slots=True)
class Dataset:
    """The state of a dataset, as `dataset.json` holds it.

    Attributes:
        name: of the dataset.
        source: identity of its source.
        task: that its files were sorted for: it decides what files outside label folders are.
        recipe: the data recipe of the last ingest, as plain values.
        image: height, width, channels and resize of its rows.
        snapshot: id of the current snapshot.
        ledger: file name of the current ledger.
        warnings: of the last ingest.
        conflicts: of the last ingest: content hash and paths.
        leaks: contents, then groups, that a pre-split source has in several parts.
        near_duplicates: pairs across parts: how many, and the first of them.
        overruled: images that a pre-split source now gives another part than they have.
        schema_version: of this file.
    """

    name: str
    source: str
    task: str
    recipe: dict[str, Any]
    image: dict[str, Any]
    snapshot: str
    ledger: str
    warnings: list[str]
    conflicts: list[dict[str, Any]]
    leaks: list[dict[str, Any]]
    near_duplicates: dict[str, Any] | None
    overruled: int = 0
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The dataset in a folder, or None if there is none yet.

        Raises:
            BadSource: its file is damaged, or its schema is another calotype's.
        """
        path = folder / DATASET
        try:
            said = json.loads(path.read_bytes())
            if said["schema_version"] != SCHEMA_VERSION:
                raise BadSource(
                    f"{path} has schema version {said['schema_version']}; this calotype reads {SCHEMA_VERSION}. "
                    "Use the calotype that wrote it, or another --dataset."
                )
            return cls(**said)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadSource(
                f"{path} can't be read ({error}). Take it from a backup, or use another --dataset."
            ) from error

    def write(self, folder: Path) -> None:
        """Make this the state of the dataset, in one step that survives a power cut; what it names is there by then."""
        for place in (folder, *folder.parents[:2]):
            sync(place)
        write_atomically(folder / DATASET, json.dumps(asdict(self), indent=1).encode())

    def snapshot_path(self, folder: Path) -> Path:
        """The current snapshot's folder."""
        return folder / SNAPSHOTS / self.snapshot


def current(folder: Path) -> Path:
    """The folder of a dataset's current snapshot.

    Raises:
        BadSource: `folder` holds no dataset.
    """
    dataset = Dataset.read(folder)
    if dataset is None:
        raise BadSource(f"There is no dataset in {folder}. Make one with: calotype ingest SOURCE")
    return dataset.snapshot_path(folder)


def data_recipe(folder: Path) -> DataRecipe:
    """How a dataset's current snapshot was made.

    Raises:
        BadSource: `folder` holds no dataset.
    """
    current(folder)
    dataset = Dataset.read(folder)
    return DataRecipe.model_validate(dataset.recipe if dataset else {})


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """The part of every image that a dataset ever had, those that are gone included.

    Attributes:
        contents: bytes [n], content hashes in order.
        assigned: int64 [n], the place in PARTS of each one's part.
        groups: what `group_by` matched in the paths of each content; only of images that are in a group.
        likeness: perceptual hashes, where near-duplicates are kept together.
    """

    contents: Contents
    assigned: Numbers
    groups: Mapping[str, tuple[str, ...]]
    likeness: Mapping[str, int]

    @classmethod
    def of(
        cls,
        parts: Mapping[str, PartName],
        *,
        groups: Mapping[str, tuple[str, ...]] | None = None,
        likeness: Mapping[str, int] | None = None,
    ) -> Self:
        """From the parts by content hash."""
        contents = sorted(parts)
        assigned = np.array([PARTS.index(parts[content]) for content in contents], dtype=np.int64)
        return cls(np.array(contents, dtype=np.bytes_), assigned, groups or {}, likeness or {})

    @classmethod
    def empty(cls) -> Self:
        """Of a dataset that is new."""
        return cls.of({})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The ledger at `path`."""
        rows = manifest.read(path)
        contents = manifest.fixed_bytes(rows["content_hash"].combine_chunks())

        def by_content(name: str) -> dict[str, Any]:
            if rows[name].null_count == len(contents):
                return {}
            told = zip(rows["content_hash"].to_pylist(), rows[name].to_pylist(), strict=True)
            return {content: value for content, value in told if value is not None}

        return cls(
            contents=contents,
            assigned=Words.of(rows["split"]).renumbered(PARTS),
            groups={content: tuple(json.loads(names)) for content, names in by_content("groups").items()},
            likeness={content: int(value, 16) for content, value in by_content("likeness").items()},
        )

    @property
    def parts(self) -> dict[str, PartName]:
        """The parts by content hash; made anew at each call."""
        told = zip(self.contents.tolist(), self.assigned.tolist(), strict=True)
        return {content.decode(): PARTS[part] for content, part in told}

    def parts_of(self, contents: Contents) -> Numbers:
        """The place in PARTS of the part of each of some contents: int64 [n]; -1: it knows none."""
        return np.append(self.assigned, -1)[found_in(self.contents, contents)]

    def extended(self, contents: Contents, parts: Numbers) -> Self:
        """With the parts of contents that it doesn't know yet; groups and looks of others are dropped."""
        new = self.parts_of(contents) < 0
        every = np.concatenate([self.contents, contents[new]])
        assigned, order = np.concatenate([self.assigned, parts[new]]), in_order(every)
        return replace(self, contents=every[order], assigned=assigned[order], **self._told_of(every))

    def restricted(self, contents: Contents) -> Self:
        """What it knows of some contents only."""
        if not (self.groups or self.likeness or len(self.contents)):
            return self
        held = found_in(contents[in_order(contents)], self.contents) >= 0
        told = self._told_of(contents)
        return replace(self, contents=self.contents[held], assigned=self.assigned[held], **told)

    def _told_of(self, contents: Contents) -> dict[str, dict[str, Any]]:
        """Groups and looks of some contents only."""
        told: dict[str, Mapping[str, Any]] = {"groups": self.groups, "likeness": self.likeness}
        some = {content.decode() for content in contents.tolist()} if self.groups or self.likeness else set()
        return {name: {key: value for key, value in values.items() if key in some} for name, values in told.items()}

    def write(self, folder: Path) -> str:
        """Write it below `folder` under a name made from its content, which is returned."""
        groups = {content: json.dumps(names) for content, names in self.groups.items()}
        likeness = {content: f"{value:016x}" for content, value in self.likeness.items()}
        told = {"groups": self._rows(groups), "likeness": self._rows(likeness)}
        splits = np.array(PARTS, dtype=np.bytes_)[self.assigned]
        digest = hashlib.sha256()
        columns: dict[str, Contents | list[str | None]] = {"content_hash": self.contents, "split": splits, **told}
        for name, values in columns.items():
            digest.update(f"{name}:".encode())
            for start in range(0, len(values), _HASHED_ROWS):
                digest.update(_dumped(values[start : start + _HASHED_ROWS]))
        file = f"ledger-{digest.hexdigest()[:16]}.parquet"
        if not (folder / file).exists():
            nothing = pa.nulls(len(self.contents), pa.string())
            arrays = [manifest.text(self.contents), manifest.chosen(PARTS, self.assigned)]
            arrays += [manifest.strings(values) if values else nothing for values in told.values()]
            manifest.write(pa.Table.from_arrays(arrays, schema=SCHEMA), folder / file)
        return file

    def _rows(self, told: Mapping[str, str]) -> list[str | None]:
        """What is told by content, of every row; an empty list, if nothing is told of any."""
        return [told.get(content.decode()) for content in self.contents.tolist()] if told else []


def _dumped(values: Contents | list[str | None]) -> bytes:
    """As `json.dumps` writes them; hashes and names of parts hold nothing that JSON would escape."""
    if isinstance(values, list):
        return json.dumps(values).encode()
    return b'["' + b'", "'.join(values.tolist()) + b'"]'


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a dataset for one ingest; its folder is made if there is none.

    Raises:
        PipelineError: another process holds it.
    """
    descriptor = _lock(folder)
    while not _is_there(descriptor, folder):  # who held it removed the folder
        os.close(descriptor)
        descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    descriptor = None
    while descriptor is None:
        descriptor = _open_lock(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise PipelineError(
            f"Another ingest of the dataset {folder.name!r} is under way. Wait for it, or use another --dataset."
        ) from error
    return descriptor


def _open_lock(folder: Path) -> int | None:
    """The lock's file, or None if a refused ingest removed the folder at this very moment."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    except FileExistsError:
        if folder.exists() and not folder.is_dir():
            raise
        return None


def _is_there(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


@contextmanager
def dataset_held(folder: Path, *, made: Sequence[Path]) -> Iterator[None]:
    """Hold a dataset's lock; tell a full disk in a sentence; leave no folder behind a source that can't be.

    Args:
        folder: the dataset's.
        made: folders above it that were not there when this ingest began.

    Raises:
        PipelineError: another ingest holds it, or the disk is full.
    """
    try:
        with locked(folder):
            try:
                yield
            except (BadSource, BadRecipe):
                forget_if_new(folder, made)  # still held: nobody's folder but this ingest's goes
                raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise PipelineError(
            f"The disk that holds {folder} is full. The last snapshot is as it was; make room and run again: "
            "what was decoded is kept and used."
        ) from error


def missing(folder: Path) -> tuple[Path, ...]:
    """The folders above a dataset's that there are not yet, the lowest first."""
    return tuple(parent for parent in folder.parents[:2] if not parent.exists())


def forget_if_new(folder: Path, made: Iterable[Path] = ()) -> None:
    """Remove a dataset's folder if no ingest into it ever ended, and the folders above it in `made` that are empty.

    For whoever holds the dataset.
    """
    if (folder / DATASET).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        for parent in made:
            parent.rmdir()


def sweep(folder: Path, dataset: Dataset) -> None:
    """Remove what a finished ingest no longer needs, and what killed ones left half written."""
    shutil.rmtree(folder / JOURNAL, ignore_errors=True)
    for path in folder.glob("ledger-*.parquet"):
        if path.name != dataset.ledger:
            path.unlink(missing_ok=True)
    for pattern in (f".{DATASET}.*", ".ledger-*", f"{SNAPSHOTS}/{dataset.snapshot}/.*.*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    for path in folder.glob(f"{SNAPSHOTS}/.*"):
        shutil.rmtree(path, ignore_errors=True)
