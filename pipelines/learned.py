"""Which images a published model learned from: those it must not be judged on. Knows datasets and no models.

Learned from is what was in its training part, and in its validation part, which chose its best epoch.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pipelines import manifest
from pipelines.dataset import SCHEMA_VERSION, SNAPSHOT
from pipelines.errors import BadSource
from pipelines.ledger import SNAPSHOTS, Dataset, Ledger
from pipelines.workspace import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from serving.bundle import Bundle

LEARNED = ("train", "validation")
_SNAPSHOT_ID = re.compile(r"[0-9a-f]{8,64}")
_RULES = ("split", "seed", "group_by", "group_near_duplicates")


def contents_of(bundle: Bundle, *, datasets: Path) -> frozenset[str] | None:
    """Content hashes of the images that a bundle was trained or validated on, or None where nobody knows any more.

    Its snapshot says exactly, in whatever dataset it lies. Where it is gone the ledger of its dataset serves: it has
    every image that the dataset ever had, and no image changes its part, so it leaves out too many rather than too
    few. That doesn't hold for a source that says the parts itself, nor for a dataset made anew by other rules.

    Either must have the content hashes of this calotype: those of another snapshot schema are equal to none of its own,
    so that they would tell of no image that it was learned from.
    """
    said = bundle.dataset
    snapshot, name = str(said.get("snapshot", "")), str(said.get("name", ""))
    if _SNAPSHOT_ID.fullmatch(snapshot):
        for path in sorted(datasets.glob(f"*/{SNAPSHOTS}/{snapshot}/{manifest.MANIFEST}")):
            return of_manifest(path) if _schema_version(path.parent) == SCHEMA_VERSION else None
    if said.get("schema_version") != SCHEMA_VERSION or not NAME.fullmatch(name):
        return None
    return _by_ledger(datasets / name, source=said.get("source"), rules=bundle.recipe.get("data") or {})


def of_manifest(path: Path) -> frozenset[str]:
    """Content hashes in the training and validation parts of a snapshot's manifest."""
    rows = manifest.read(path, ["content_hash", "split"]).to_pydict()
    return frozenset(
        content for content, part in zip(rows["content_hash"], rows["split"], strict=True) if part in LEARNED
    )


def _schema_version(snapshot: Path) -> int | None:
    """Of a snapshot's folder; None where it doesn't say."""
    try:
        version: int = json.loads((snapshot / SNAPSHOT).read_bytes())["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version


def _by_ledger(folder: Path, *, source: Any, rules: Mapping[str, Any]) -> frozenset[str] | None:
    try:
        dataset = Dataset.read(folder)
        if dataset is None or dataset.source != source or not _same_rules(dataset.recipe, rules):
            return None
        paths = manifest.read(dataset.snapshot_path(folder) / manifest.MANIFEST, ["path"])["path"].to_pylist()
        if manifest.is_presplit(paths):
            return None
        parts = Ledger.read(folder / dataset.ledger).parts
    except (BadSource, OSError, ValueError, KeyError):
        return None
    return frozenset(content for content, part in parts.items() if part in LEARNED)


def _same_rules(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return all(name in theirs and ours.get(name) == theirs[name] for name in _RULES)
