"""The first stage of an ingest: a source is listed, and what is new in it decoded; nothing is judged yet.

Between this stage and the next (`ingest.py`) lies one table on disk. Knows no split and no flows.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from pipelines import decode, ledger, manifest, pool, sources
from pipelines.dataset import Snapshot
from pipelines.errors import BadRecipe, BadSource, EmptyFolder
from pipelines.journal import COLUMNS, Canvas
from pipelines.ledger import Dataset, dataset_held
from pipelines.reading import is_url, without_userinfo
from pipelines.remote import walk_url
from pipelines.walk import Found, walk

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.config import DataRecipe
    from pipelines.manifest import PartName

Progress = Callable[[str, int, int], None]
Columns = dict[str, list[Any]]

STAGED = "staged.parquet"
TOKEN = b"token"
KNOWN_SETS = "sources"
STAGED_SCHEMA = pa.schema(
    [
        *(field for field in manifest.SCHEMA if field.name not in {"split", "row"}),
        ("part", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
    ]
)
OUTSIDE_LABELS = "lies outside any label's folder"


@dataclass(frozen=True, slots=True)
class Staged:
    """A source that was listed and decoded, and waits to be judged and split.

    Attributes:
        dataset_dir: the dataset's folder.
        source: identity of the source.
        task: classify or reconstruct.
        recipe: of the data.
        canvas: how the pixels are stored.
        presplit: whether the source says each image's part.
        new: files that were read.
        unchanged: files known from the last ingest.
        removed: files of the last ingest that are gone.
        seconds: that this stage took.
        nothing_new: the source is as the current snapshot has it; there is nothing to seal.
        token: also in the table on disk: shows that the table is this stage's, and not another ingest's. With
            nothing new: the id of the current snapshot.
        made: folders above the dataset's that this ingest made.
    """

    dataset_dir: Path
    source: str
    task: str
    recipe: DataRecipe
    canvas: Canvas
    presplit: bool
    new: int
    unchanged: int
    removed: int
    seconds: float
    nothing_new: bool
    token: str
    made: tuple[Path, ...] = ()


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody sees."""


def scan_and_decode(  # noqa: PLR0913 - what an ingest is asked for
    source: str,
    dataset_dir: Path,
    recipe: DataRecipe,
    *,
    task: str = "classify",
    seed: int = 0,
    progress: Progress = silent,
    verify: bool = False,
    run: decode.Run | None = None,
    workers: int | None = None,
) -> Staged:
    """List the source and decode what is new in it; arguments and errors as in `ingest`."""
    started = time.perf_counter()
    if run is None and workers is not None:
        run = partial(pool.run_chunks, workers=workers)
    where = sources.find(source, cache=dataset_dir.parents[1] / KNOWN_SETS)
    if not is_url(where.root) and dataset_dir.resolve().is_relative_to(where.root):
        raise BadSource(
            f"The workspace ({dataset_dir}) lies inside the source {where.root}, which is never written to. "
            "Choose another --workspace."
        )
    _settled(recipe, Dataset.read(dataset_dir), where, seed=seed)  # refused before anything is listed
    listing = list_source(where.root, task=task)
    progress("list", len(listing.found), len(listing.found))
    made = ledger.missing(dataset_dir)
    with dataset_held(dataset_dir, made=made):
        recipe = _settled(recipe, Dataset.read(dataset_dir), where, seed=seed)
        staged = _stage(listing, where, dataset_dir, recipe, task=task, progress=progress, verify=verify, run=run)
    return replace(staged, seconds=time.perf_counter() - started, made=made)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source and what their paths say: all columns have one entry per file, by path."""

    found: list[Found]
    labels: list[str | None]
    parts: list[PartName | None]
    presplit: bool

    @property
    def candidates(self) -> list[Found]:
        """Files that are worth reading."""
        return [found for found in self.found if found.ignored is None and found.trouble is None]


def list_source(root: str, *, task: str) -> Listing:
    """Every file of a source, in order of the paths.

    Raises:
        BadSource: it can't be listed.
        EmptyFolder: it holds no file that could be an image, or for classify none in a label's folder.
    """
    try:
        found = sorted(walk_url(root) if is_url(root) else walk(root), key=lambda found: found.path)
    except OSError as error:
        raise BadSource(f"The folder {root} can't be listed: {error.strerror}.") from error
    presplit = manifest.is_presplit(found.path for found in found if found.ignored is None)
    said = [manifest.label_and_part(found.path, presplit=presplit) for found in found]
    labels = [label for label, _ in said]
    if task == "classify":
        found = [
            one._replace(ignored=OUTSIDE_LABELS) if label is None and not (one.ignored or one.trouble) else one
            for one, label in zip(found, labels, strict=True)
        ]
    else:
        labels = [label or "" for label in labels]
    listing = Listing(found=found, labels=labels, parts=[part for _, part in said], presplit=presplit)
    if not listing.candidates:
        raise EmptyFolder(
            f"The source {without_userinfo(root)} holds no image. Expected one subfolder of images per label. "
            f"Received: {len(found)} files, none of which could be one."
        )
    return listing


def _settled(recipe: DataRecipe, dataset: Dataset | None, where: sources.Source, *, seed: int) -> DataRecipe:
    """The recipe with the seed of the split filled in: a dataset keeps its source and the rules of its split."""
    if recipe.seed is None:
        recipe = recipe.model_copy(update={"seed": seed if dataset is None else dataset.recipe["seed"]})
    if dataset is not None:
        _check_same(dataset, where, recipe)
    return recipe


def _check_same(dataset: Dataset, where: sources.Source, recipe: DataRecipe) -> None:
    made_from = without_userinfo(dataset.source)
    if made_from != where.identity:
        raise BadSource(
            f"The dataset {dataset.name!r} was made from {made_from}. Received: {where.identity}. "
            "Use another --dataset for another source."
        )
    now = recipe.model_dump(mode="json")
    for key in ("split", "seed", "group_by", "group_near_duplicates"):
        if now[key] != dataset.recipe[key]:
            raise BadRecipe(
                f"The dataset {dataset.name!r} was split with {key}={dataset.recipe[key]!r}, and images never "
                f"change parts. Received: {key}={now[key]!r}. Use another --dataset for another split."
            )


def _stage(
    listing: Listing,
    where: sources.Source,
    dataset_dir: Path,
    recipe: DataRecipe,
    *,
    task: str,
    progress: Progress,
    verify: bool,
    run: decode.Run | None,
) -> Staged:
    dataset = Dataset.read(dataset_dir)
    canvas = decode.first_canvas(recipe, dataset.image if dataset else None)
    before = _Before.read(dataset_dir, dataset)
    staged = Staged(
        dataset_dir=dataset_dir,
        source=where.identity,
        task=task,
        recipe=recipe,
        canvas=canvas or Canvas(1, 1, None, recipe.resize, recipe.max_image_pixels),
        presplit=listing.presplit,
        new=0,
        unchanged=len(listing.found),
        removed=before.removed(listing),
        seconds=0.0,
        nothing_new=False,
        token=uuid.uuid4().hex,
    )
    if before.same(listing, recipe=recipe, task=task) and not verify:
        return replace(staged, nothing_new=True, token=before.snapshot_id)
    known = before.known(canvas) if not verify else {}
    candidates = listing.candidates
    todo = [found for found in candidates if not known or not decode.still_true(known.get(found.path), found)]
    journal = dataset_dir / ledger.JOURNAL
    if verify:
        shutil.rmtree(journal, ignore_errors=True)
    decode.sweep(journal)
    outcomes, canvas = _decode(todo, staged, where, canvas, run=run, progress=progress)
    for path, outcome in known.items():
        outcomes.setdefault(path, outcome)
    decode.check_lost([outcomes[found.path] for found in candidates], root=where.root)
    if not any(decode.field_of(outcomes[found.path], "content_hash") for found in candidates):
        raise EmptyFolder(_nothing_readable(where.root, candidates, outcomes))
    table = _staged_table(listing, outcomes).replace_schema_metadata({TOKEN: staged.token})
    manifest.write(table, journal / STAGED)
    new = len(listing.found)
    if before.files:
        new = sum(1 for found in listing.found if not before.has(found, outcomes.get(found.path)))
    return replace(staged, canvas=canvas, new=new, unchanged=len(listing.found) - new)


def _decode(
    todo: list[Found],
    staged: Staged,
    where: sources.Source,
    canvas: Canvas | None,
    *,
    run: decode.Run | None,
    progress: Progress,
) -> tuple[dict[str, decode.Outcome], Canvas]:
    """Outcomes by path; where the size is to be chosen it is guessed from a sample, and decoding shows if rightly."""
    recipe, journal = staged.recipe, staged.dataset_dir / ledger.JOURNAL
    chosen = canvas
    if chosen is None:
        height, width = decode.guess_size(todo, root=where.root, max_pixels=recipe.max_image_pixels)
        chosen = Canvas(height, width, recipe.channels, recipe.resize, recipe.max_image_pixels)
    while True:
        outcomes = decode.decode_all(todo, root=where.root, canvas=chosen, journal=journal, run=run, progress=progress)
        size = decode.size_in(outcomes.values())
        if canvas is not None or size is None or size == (chosen.height, chosen.width):
            return outcomes, chosen
        chosen = replace(chosen, height=size[0], width=size[1])


def _nothing_readable(root: str, candidates: list[Found], outcomes: dict[str, decode.Outcome]) -> str:
    first = candidates[0].path
    reason = decode.field_of(outcomes[first], "reason")
    return (
        f"The source {without_userinfo(root)} holds no image that can be read. Received: {len(candidates)} files; "
        f"of the first, {first!r}, the reason is: {reason}"
    )


def _staged_table(listing: Listing, outcomes: dict[str, decode.Outcome]) -> pa.Table:
    """One row per file found: a manifest's columns without split and row, with part, shard and offset."""
    nothing = (None,) * len(COLUMNS)
    rows = [outcomes.get(found.path, nothing) for found in listing.found]
    columns = {name: [row[index] for row in rows] for index, name in enumerate(COLUMNS)}
    columns |= {
        "path": [found.path for found in listing.found],
        "label": listing.labels,
        "part": listing.parts,
        "status": ["ignored" if found.ignored else None for found in listing.found],
        "reason": [
            found.ignored or found.trouble or row[COLUMNS.index("reason")]
            for found, row in zip(listing.found, rows, strict=True)
        ],
        "size": [found.size if row is nothing else row[1] for found, row in zip(listing.found, rows, strict=True)],
        "mtime_ns": [
            found.mtime_ns if row is nothing else row[2] for found, row in zip(listing.found, rows, strict=True)
        ],
    }
    return manifest.table(columns, STAGED_SCHEMA)


@dataclass(frozen=True, slots=True)
class _Before:
    """What the last ingest knew: size, time and hash of files by path, and the current snapshot's rows."""

    dataset: Dataset | None = None
    files: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)
    rows: pa.Table = None
    snapshot: Snapshot | None = None

    @classmethod
    def read(cls, folder: Path, dataset: Dataset | None) -> Self:
        if dataset is None:
            return cls()
        path = dataset.snapshot_path(folder)
        rows = manifest.read(path / manifest.MANIFEST)
        states = zip(*(rows[name].to_pylist() for name in ("size", "mtime_ns", "file_hash")), strict=True)
        files = dict(zip(rows["path"].to_pylist(), states, strict=True))
        return cls(dataset, files=files, rows=rows, snapshot=Snapshot.open(path))

    def has(self, found: Found, outcome: decode.Outcome | None = None) -> bool:
        """Whether a file is as it was; with an outcome its bytes are compared too."""
        size, mtime_ns, file_hash = self.files.get(found.path, (None, None, None))
        same_bytes = outcome is None or decode.field_of(outcome, "file_hash") == file_hash
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
        hashes = (state[2] for state in self.files.values())
        unread = any(
            status == "quarantined" and file_hash is None
            for status, file_hash in zip(self.rows["status"].to_pylist(), hashes, strict=True)
        )
        return not unread and all(map(self.has, listing.found))

    def known(self, canvas: Canvas | None) -> dict[str, decode.Outcome]:
        """Outcomes by path, of files whose pixels the current snapshot has, and of those that can't be decoded."""
        if self.dataset is None or self.snapshot is None or canvas is None or not self._stored_alike(canvas):
            return {}
        rows: Columns = manifest.columns(self.rows, self.rows.column_names)
        places = self.snapshot.places()
        shards = [shard.file for shard in self.snapshot.shards]
        by_content = {
            content: places[row]
            for content, row in zip(rows["content_hash"], rows["row"], strict=True)
            if row is not None
        }
        columns = {name: rows[name] for name in COLUMNS if name not in ("shard", "offset")}
        places_of = [by_content.get(content) for content in rows["content_hash"]]
        columns["shard"] = [None if place is None else shards[place[0]] for place in places_of]
        columns["offset"] = [None if place is None else int(place[1]) for place in places_of]
        columns["reason"] = [
            None if content else reason
            for content, reason in zip(columns["content_hash"], columns["reason"], strict=True)
        ]
        return {
            path: outcome
            for path, outcome in decode.outcomes_of(columns).items()
            if decode.field_of(outcome, "shard") or decode.field_of(outcome, "content_hash") is None
        }

    def _stored_alike(self, canvas: Canvas) -> bool:
        dataset = self.dataset
        assert dataset is not None  # noqa: S101 - asked only where there is one
        stored = Canvas(**dataset.image, max_pixels=dataset.recipe["max_image_pixels"])
        return stored.key() == canvas.key()
