"""The first stage of an ingest: a source is listed, and what is new in it decoded; nothing is judged yet.

Between this stage and the next (`ingest.py`) lies one table on disk. Knows no split and no flows.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines import decode, ledger, manifest, sources
from pipelines.ahead import Ahead
from pipelines.before import Before
from pipelines.collector import collector_paused
from pipelines.errors import BadRecipe, BadSource, EmptyFolder
from pipelines.journal import Canvas
from pipelines.ledger import Dataset, dataset_held
from pipelines.listing import Listing, empty_labels, list_source
from pipelines.outcomes import Outcomes
from pipelines.pool import Staff
from pipelines.reading import is_url, without_userinfo
from pipelines.walk import walk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pipelines.config import DataRecipe
    from pipelines.walk import Found

Progress = Callable[[str, int, int | None], None]
Columns = dict[str, list[Any]]

STAGED = "staged.parquet"
TOKEN = b"token"
KNOWN_SETS = "sources"
LOOKED_AHEAD_FILES = 20_000  # a tenth of a second, and enough to know that all processors will be needed
STAGED_SCHEMA = pa.schema(
    [
        *(field for field in manifest.SCHEMA if field.name not in {"split", "row"}),
        ("part", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
    ]
)


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
        empty_labels: for classify, labels whose folders hold no file that could be an image.
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
    empty_labels: tuple[str, ...] = ()


def silent(_stage: str, _done: int, _total: int | None) -> None:
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
    staff: Staff | None = None,
) -> Staged:
    """List the source and decode what is new in it; arguments and errors as in `ingest`.

    `staff` is the caller's processes, which may be there already; None: as many as `workers` says.
    """
    started = time.perf_counter()
    where = sources.find(source, cache=dataset_dir.parents[1] / KNOWN_SETS)
    if not is_url(where.root) and dataset_dir.resolve().is_relative_to(where.root):
        raise BadSource(
            f"The workspace ({dataset_dir}) lies inside the source {where.root}, which is never written to. "
            "Choose another --workspace."
        )
    settled(recipe, Dataset.read(dataset_dir), where, seed=seed)  # refused before anything is listed
    with collector_paused(), Staff(workers) if staff is None else nullcontext(staff) as hands:
        made = ledger.missing(dataset_dir)
        with dataset_held(dataset_dir, made=made):
            dataset = Dataset.read(dataset_dir)
            order = _Order(
                where=where,
                dataset_dir=dataset_dir,
                dataset=dataset,
                recipe=settled(recipe, dataset, where, seed=seed),
                task=task,
                verify=verify,
                run=run,
                staff=hands,
                progress=progress,
            )
            staged = _scan(order)
    return replace(staged, seconds=time.perf_counter() - started, made=made)


def look_ahead(source: str, dataset_dir: Path, staff: Staff) -> None:
    """Start the processes that a first ingest of a folder will want, while there is something else to wait for."""
    if is_url(source) or dataset_dir.exists() or not os.path.isdir(source):  # noqa: PTH112 - may be no path at all
        return
    with suppress(OSError):
        first = list(islice(walk(source), LOOKED_AHEAD_FILES))
        staff.expect(len(first), sum(found.size for found in first))


@dataclass(frozen=True, slots=True)
class _Order:
    """What an ingest was asked for, as `ingest` has it, and the dataset as it is, whose lock is held."""

    where: sources.Source
    dataset_dir: Path
    dataset: Dataset | None
    recipe: DataRecipe
    task: str
    verify: bool
    run: decode.Run | None
    staff: Staff
    progress: Progress

    @property
    def journal(self) -> Path:
        """Where chunks are published."""
        return self.dataset_dir / ledger.JOURNAL

    def canvas(self) -> Canvas | None:
        """How pixels are stored; None: the size is still to be chosen."""
        return decode.first_canvas(self.recipe, self.dataset.image if self.dataset else None)


def _scan(order: _Order) -> Staged:
    where, task = order.where, order.task
    with ExitStack() as stack:
        ahead = _ahead(order)
        if ahead is not None:
            stack.enter_context(ahead)
        listing = list_source(
            where.root,
            task=task,
            see=partial(_see, ahead=ahead, progress=order.progress),
            barred=[str(order.dataset_dir), *map(str, order.dataset_dir.parents[:2])],
        )
        order.progress("list", len(listing.found), len(listing.found))
        staged = _stage(listing, order, ahead=ahead)
    return replace(staged, empty_labels=empty_labels(where.root, listing) if task == "classify" else ())


def _ahead(order: _Order) -> Ahead | None:
    """What decodes while the source is listed, where every file will be read, by processes of this machine."""
    if order.verify:
        shutil.rmtree(order.journal, ignore_errors=True)
    nothing_kept = decode.sweep(order.journal)
    if not nothing_kept or not (order.verify or order.dataset is None):
        return None
    if order.run is not None or is_url(order.where.root):
        return None
    return Ahead(
        order.where.root,
        order.recipe,
        task=order.task,
        canvas=order.canvas(),
        journal=order.journal,
        staff=order.staff,
    )


def _see(found: Sequence[Found], size_bytes: int, *, ahead: Ahead | None, progress: Progress) -> None:
    progress("list", len(found), None)
    if ahead is not None:
        ahead.see(found, size_bytes)


def settled(recipe: DataRecipe, dataset: Dataset | None, where: sources.Source, *, seed: int) -> DataRecipe:
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


def _stage(listing: Listing, order: _Order, *, ahead: Ahead | None) -> Staged:
    recipe, canvas, where = order.recipe, order.canvas(), order.where
    before = Before.read(order.dataset_dir, order.dataset)
    staged = Staged(
        dataset_dir=order.dataset_dir,
        source=where.identity,
        task=order.task,
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
    if before.same(listing, recipe=recipe, task=order.task) and not order.verify:
        return replace(staged, nothing_new=True, token=before.snapshot_id)
    candidates = listing.candidates
    outcomes = Outcomes.empty(len(listing.found))
    todo = candidates if order.verify else _take_over(before, listing, outcomes, canvas=canvas)
    decoded, canvas = _decode(listing, todo, order, ahead=ahead)
    outcomes.place(todo, decoded)
    del decoded
    tried = outcomes.chosen(candidates)
    decode.check_lost(tried, root=where.root)
    if not tried.rows["decoded"].any():
        raise EmptyFolder(_nothing_readable(where.root, listing.found[candidates[0]].path, tried))
    del tried
    new = len(listing.found)
    if before.files:
        new = sum(not before.has(found, outcomes, index) for index, found in enumerate(listing.found))
    table = _staged_table(listing, outcomes).replace_schema_metadata({TOKEN: staged.token})
    manifest.write(table, order.journal / STAGED, lasting=False)
    return replace(staged, canvas=canvas, new=new, unchanged=len(listing.found) - new)


def _take_over(before: Before, listing: Listing, outcomes: Outcomes, *, canvas: Canvas | None) -> npt.NDArray[np.int64]:
    """Fill in what the current snapshot knows of files as they are now; the places of those that must be read."""
    candidates = listing.candidates
    place, known = before.known(canvas)
    if not place:
        return candidates
    some = [listing.found[index] for index in candidates.tolist()]
    at = np.array([place.get(found.path, -1) for found in some], dtype=np.int64)
    good = known.still_true(at, decode.stamps_of(some))
    outcomes.place(candidates[good], known.chosen(at[good]))
    return candidates[~good]


def _decode(
    listing: Listing, places: npt.NDArray[np.int64], order: _Order, *, ahead: Ahead | None
) -> tuple[Outcomes, Canvas]:
    """Outcomes in order; where the size is to be chosen it is guessed from a sample, and decoding shows if rightly."""
    root, told = order.where.root, order.canvas()
    todo = [listing.found[index] for index in places.tolist()]
    canvas = told or decode.guess_canvas(todo, root=root, recipe=order.recipe)
    begun = np.searchsorted(places, ahead.begun(listing, canvas)) if ahead else None
    while True:
        outcomes = decode.decode_all(
            todo,
            root=root,
            canvas=canvas,
            journal=order.journal,
            run=order.run,
            staff=order.staff,
            progress=order.progress,
            begun=begun,
        )
        size = decode.size_in(outcomes)
        if told is not None or size is None or size == (canvas.height, canvas.width):
            return outcomes, canvas
        canvas, begun = replace(canvas, height=size[0], width=size[1]), None


def _nothing_readable(root: str, first: str, outcomes: Outcomes) -> str:
    return (
        f"The source {without_userinfo(root)} holds no image that can be read. Received: {len(outcomes.rows)} files; "
        f"of the first, {first!r}, the reason is: {outcomes.reasons.get(0)}"
    )


def _staged_table(listing: Listing, outcomes: Outcomes) -> pa.Table:
    """One row per file found: a manifest's columns without split and row, with part, shard and offset."""
    rows = outcomes.rows
    reasons: list[str | None] = [found.ignored or found.trouble for found in listing.found]
    for index, reason in outcomes.reasons.items():
        reasons[index] = reasons[index] or reason
    tried = np.zeros(len(rows), dtype=np.bool_)
    tried[listing.candidates] = True
    stamps = decode.stamps_of(listing.found)
    told: Columns = {
        "path": [found.path for found in listing.found],
        "label": listing.labels,
        "part": listing.parts,
        "status": ["ignored" if found.ignored else None for found in listing.found],
        "reason": reasons,
    }
    decoded, whole = rows["decoded"], manifest.whole
    arrays = {
        "size": whole(np.where(tried, rows["size"], stamps[:, 0])),
        "mtime_ns": whole(np.where(tried, rows["mtime_ns"], stamps[:, 1])),
        "width": whole(rows["width"], there=decoded, kind=pa.int32()),
        "height": whole(rows["height"], there=decoded, kind=pa.int32()),
        "offset": whole(rows["offset"], there=decoded),
        "content_hash": manifest.hexadecimal(rows["content_hash"], there=decoded),
        "file_hash": manifest.hexadecimal(rows["file_hash"], there=rows["read"]),
        **{name: manifest.chosen(outcomes.words, rows[name]) for name in ("format", "mode", "shard")},
    }
    columns = [arrays[one.name] if one.name in arrays else manifest.strings(told[one.name]) for one in STAGED_SCHEMA]
    return pa.Table.from_arrays(columns, schema=STAGED_SCHEMA)
