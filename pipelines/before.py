"""What the last ingest of a dataset knew of the source's files, for the next one to take over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipelines import manifest
from pipelines.dataset import Snapshot
from pipelines.identity import CONTENT_BYTES
from pipelines.journal import Canvas
from pipelines.outcomes import FILE_HASH_BYTES, Outcomes, from_hexadecimal, numbered

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from pipelines.config import DataRecipe
    from pipelines.ledger import Dataset
    from pipelines.listing import Listing
    from pipelines.walk import Found

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Before:
    """What the last ingest knew: size, time and hash of files by path, and the current snapshot's rows."""

    dataset: Dataset | None = None
    files: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)
    rows: pa.Table = None
    snapshot: Snapshot | None = None

    @classmethod
    def read(cls, folder: Path, dataset: Dataset | None) -> Self:
        """What the manifest of the current snapshot says; nothing, if there is none."""
        if dataset is None:
            return cls()
        path = dataset.snapshot_path(folder)
        rows = manifest.read(path / manifest.MANIFEST)
        states = zip(*(rows[name].to_pylist() for name in ("size", "mtime_ns", "file_hash")), strict=True)
        files = dict(zip(rows["path"].to_pylist(), states, strict=True))
        return cls(dataset, files=files, rows=rows, snapshot=Snapshot.open(path))

    def has(self, found: Found, outcomes: Outcomes | None = None, index: int = 0) -> bool:
        """Whether a file is as it was; with its outcome its bytes are compared too."""
        size, mtime_ns, file_hash = self.files.get(found.path, (None, None, None))
        same_bytes = outcomes is None or outcomes.file_hash(index) == file_hash
        return size == found.size and mtime_ns == found.mtime_ns and same_bytes

    @property
    def snapshot_id(self) -> str:
        """Of the current snapshot; empty: there is none."""
        return self.dataset.snapshot if self.dataset else ""

    def removed(self, listing: Listing) -> int:
        """How many of its files are gone."""
        return len(self.files.keys() - {found.path for found in listing.found}) if self.files else 0

    def same(self, listing: Listing, *, recipe: DataRecipe, task: str) -> bool:
        """Whether the source, and what is wanted of it, is what the current snapshot was made from."""
        if self.dataset is None or self.dataset.task != task:
            return False
        if self.dataset.recipe != recipe.model_dump(mode="json") or len(listing.found) != len(self.files):
            return False
        unread = self._unread()
        return all(
            self.has(found) and (found.path not in unread or found.trouble == unread[found.path])
            for found in listing.found
        )

    def _unread(self) -> dict[str, str | None]:
        """Reasons by path of the files that could not be read: they are tried anew, unless their name is the reason."""
        told = zip(self.files.items(), *(self.rows[name].to_pylist() for name in ("status", "reason")), strict=True)
        return {path: why for (path, state), status, why in told if status == "quarantined" and state[2] is None}

    def known(self, canvas: Canvas | None) -> tuple[dict[str, int], Outcomes]:
        """Outcomes, and their places by path, of files whose pixels the snapshot has or that can't be decoded."""
        if self.dataset is None or self.snapshot is None or canvas is None or not self._stored_alike(canvas):
            return {}, Outcomes.empty(0)
        told: Columns = manifest.columns(self.rows, self.rows.column_names)
        known = Outcomes.empty(self.rows.num_rows)
        for name in ("size", "mtime_ns"):
            known.rows[name] = told[name]
        for name in ("width", "height"):
            known.rows[name] = [value or 0 for value in told[name]]
        for name, size_bytes in (("content_hash", CONTENT_BYTES), ("file_hash", FILE_HASH_BYTES)):
            known.rows[name] = from_hexadecimal(told[name], size_bytes)
        for name in ("format", "mode"):
            known.rows[name] = numbered(told[name], known.words)
        known.rows["read"] = [value is not None for value in told["file_hash"]]
        known.rows["decoded"] = [value is not None for value in told["content_hash"]]
        self._fill_places(told, known)
        known.reasons = {
            index: reason
            for index, (reason, content) in enumerate(zip(told["reason"], told["content_hash"], strict=True))
            if reason is not None and content is None
        }
        stored = (~known.rows["decoded"] | (known.rows["shard"] >= 0)).tolist()
        return {
            path: index
            for index, (path, has) in enumerate(zip(self.rows["path"].to_pylist(), stored, strict=True))
            if has
        }, known

    def _fill_places(self, told: Columns, known: Outcomes) -> None:
        """Where the pixels of each content lie, also for the copies of it."""
        assert self.snapshot is not None  # noqa: S101 - asked only where there is one
        places = self.snapshot.places()
        row_of = {
            content: row for content, row in zip(told["content_hash"], told["row"], strict=True) if row is not None
        }
        rows = np.array([row_of.get(content, -1) for content in told["content_hash"]], dtype=np.int64)
        at = np.flatnonzero(rows >= 0)
        first = len(known.words)
        known.words.extend(shard.file for shard in self.snapshot.shards)
        known.rows["shard"][at] = first + places[rows[at], 0]
        known.rows["offset"][at] = places[rows[at], 1]

    def _stored_alike(self, canvas: Canvas) -> bool:
        dataset = self.dataset
        assert dataset is not None  # noqa: S101 - asked only where there is one
        stored = Canvas(**dataset.image, max_pixels=dataset.recipe["max_image_pixels"])
        return stored.key() == canvas.key()
