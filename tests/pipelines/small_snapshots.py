"""Snapshots made from arrays, sealed by the house's own code, for tests of what reads them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from pipelines.dataset import Arrangement, Shard, Snapshot, seal
from pipelines.manifest import SCHEMA
from serving.images import ImageSpec

if TYPE_CHECKING:
    from pathlib import Path


def make_snapshot(
    folder: Path,
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    parts: tuple[int, int, int],
    names: tuple[str, ...] | None = None,
) -> Snapshot:
    """Rows in the given order: uint8 [rows, h, w, c], int [rows]; the first `parts[0]` are the train part."""
    rows, height, width, channels = pixels.shape
    names = names or tuple(str(at) for at in range(int(labels.max()) + 1))
    shelf = folder / "shelf"
    shelf.mkdir(parents=True)
    (shelf / "all.u8").write_bytes(np.ascontiguousarray(pixels).tobytes())
    contents = [hashlib.sha256(row.tobytes()).hexdigest() for row in pixels]
    splits = np.repeat(["train", "validation", "test"], parts).tolist()
    columns = {
        "path": [f"{names[label]}/{at:05d}.png" for at, label in enumerate(labels)],
        "label": [names[label] for label in labels],
        "split": splits,
        "status": ["used"] * rows,
        "content_hash": contents,
        "row": list(range(rows)),
    }
    table = pa.table({name: columns.get(name, [None] * rows) for name in SCHEMA.names}, schema=SCHEMA)
    arrangement = Arrangement(
        dataset="small",
        source="made by a test",
        labels=names,
        image=ImageSpec(height, width, channels),
        contents=np.array(contents, dtype=np.bytes_),
        classes=labels.astype(np.int32),
        parts=dict(zip(("train", "validation", "test"), parts, strict=True)),
        shards=(Shard("all.u8", rows, channels),),
        places=np.stack([np.zeros(rows, np.int64), np.arange(rows)], axis=1),
    )
    (folder / "snapshots").mkdir()
    return Snapshot.open(seal(arrangement, table, snapshots=folder / "snapshots", shelves=[shelf]))


def digits(rows: int, *, side: int = 28, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Real digits of scikit-learn's 8x8 set, enlarged to `side`: uint8 [rows, side, side, 1] and labels."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.images))[:rows]
    small = np.round(data.images[order] * (255 / 16)).astype(np.uint8)
    at = np.arange(side) * small.shape[1] // side
    return small[:, at][:, :, at][..., np.newaxis], data.target[order].astype(np.int32)
