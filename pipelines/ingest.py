"""A source becomes a snapshot: list, decode what is new, judge, split, seal.

Two stages, each a plain function that may be run again: `scan.scan_and_decode`, and `split_and_seal` here.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines import checks, decode, ledger, manifest
from pipelines.collector import collector_paused
from pipelines.contact import SHEET, draw_sheet
from pipelines.dataset import PIXELS, Arrangement, Shard, Snapshot, find_shard, seal
from pipelines.errors import BadSource, PipelineError
from pipelines.journal import channels_of
from pipelines.ledger import Dataset, Ledger, dataset_held
from pipelines.manifest import PARTS, STATUSES
from pipelines.parting import look, part
from pipelines.rows import Rows, in_order
from pipelines.scan import STAGED, TOKEN, Progress, Staged, scan_and_decode, silent
from serving.images import ImageSpec

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.config import DataRecipe
    from pipelines.parting import Parting
    from pipelines.rows import Numbers

LISTED_PROBLEMS = 1000
STAGED_WORDS = ("label", "part", "status", "format", "mode", "shard")
COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What an ingest came to.

    Attributes:
        dataset: its name.
        snapshot: id of the current snapshot.
        path: the snapshot's folder.
        labels: class names in order.
        image: height, width, channels and resize of every image in the snapshot.
        colour: `images` of the snapshot that have colour, and the path of the `first`, None where there is none.
        images: files by what became of them: parts, quarantined, duplicates, conflicts, ignored, files.
        quarantined: path and reason of the first thousand.
        conflicts: content hash and paths of the first thousand.
        leaks: the same, of contents that a pre-split source has in several parts; of groups, an image of each part.
        near_duplicates: pairs across parts: `count` and the first thousand `pairs`; None: not asked for.
        overruled: images that a pre-split source now gives another part than they have; they stay.
        warnings: sentences for a person.
        per_label: files of each label by what became of them.
        reasons: quarantined files by reason; a number that differs between files of one reason is written `…`.
        ignored: ignored files by reason.
        contact_sheet: a picture with samples of each label.
        new: files read by this ingest.
        unchanged: files known from the last one.
        removed: files of the last one that are gone.
        seconds: by stage.
    """

    dataset: str
    snapshot: str
    path: Path
    labels: tuple[str, ...]
    image: dict[str, Any]
    colour: dict[str, Any]
    images: dict[str, int]
    quarantined: list[dict[str, str]]
    conflicts: list[dict[str, Any]]
    leaks: list[dict[str, Any]]
    near_duplicates: dict[str, Any] | None
    overruled: int
    warnings: list[str]
    per_label: dict[str, dict[str, int]]
    reasons: dict[str, int]
    ignored: dict[str, int]
    contact_sheet: Path
    new: int
    unchanged: int
    removed: int
    seconds: dict[str, float]


def ingest(  # noqa: PLR0913 - what an ingest is asked for
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
) -> IngestResult:
    """Bring a dataset up to date with its source.

    Args:
        source: a local folder, or the name of a known set.
        dataset_dir: the dataset's folder; made when absent. Its name is the dataset's.
        recipe: of the data.
        task: classify or reconstruct.
        seed: of a new dataset's split, where the recipe has none.
        progress: called with a stage's name, and how much of how much is done.
        verify: read every file, also those whose size and time didn't change.
        run: what takes `journal.decode_chunk` to every chunk, for example a cluster whose machines see both
            folders; None: processes of this machine.
        workers: how many of those; None: as many as are worth it.

    Raises:
        UsageError: the source, or the recipe for this dataset, can't be; nothing was left behind.
        PipelineError: another ingest holds the dataset, or the disk is full; the old snapshot is still there.
    """
    staged = scan_and_decode(
        source, dataset_dir, recipe, task=task, seed=seed, progress=progress, verify=verify, run=run, workers=workers
    )
    return split_and_seal(staged, progress=progress)


def split_and_seal(staged: Staged, *, progress: Progress = silent) -> IngestResult:
    """Judge what was staged, split it, and make it the dataset's current snapshot.

    Raises:
        BadSource: there is one label only, for classify.
        PipelineError: another ingest holds the dataset or came between, or the disk is full.
    """
    started = time.perf_counter()
    folder = staged.dataset_dir
    with collector_paused(), dataset_held(folder, made=staged.made):
        dataset = Dataset.read(folder)
        if not staged.nothing_new:
            dataset = _sealed(staged, dataset, progress=progress)
        elif dataset is None or dataset.snapshot != staged.token:
            raise _came_between(folder)
        snapshot = Snapshot.open(dataset.snapshot_path(folder))
        if not staged.nothing_new:
            draw_sheet(snapshot)
            dataset.write(folder)
        ledger.sweep(folder, dataset)
    taken = {"ingest": staged.seconds, "split": time.perf_counter() - started}
    return _result(staged, dataset, snapshot, seconds=taken)


def _sealed(staged: Staged, dataset: Dataset | None, *, progress: Progress) -> Dataset:
    """Put the snapshot and the ledger in place; the state that makes them count, still to be written."""
    folder = staged.dataset_dir
    table = _read_staged(staged)
    rows = Rows.of(table)
    verdict = checks.judge(rows, conflicts=staged.recipe.conflicts)
    shelves = [folder / ledger.JOURNAL, *([dataset.snapshot_path(folder) / PIXELS] if dataset else [])]
    parting = part(
        rows,
        verdict,
        recipe=staged.recipe,
        presplit=staged.presplit,
        book=Ledger.read(folder / dataset.ledger) if dataset else Ledger.empty(),
        looks=_looks(rows, verdict, staged=staged, shelves=shelves),
        listed=LISTED_PROBLEMS,
    )
    used = verdict.used
    labels = sorted(rows.label.among(used))
    _check_labels(labels, staged)
    progress("split", len(used), len(used))
    image = _image(rows, used, staged)
    order = in_order(rows.content[used])
    order = order[np.argsort(parting.parts[order], kind="stable")]
    at, parts = used[order], parting.parts[order]
    arrangement = _arrange(rows, at, parts=parts, labels=labels, image=image, staged=staged, shelves=shelves)
    path = seal(
        arrangement,
        _manifest(table, verdict, at, parts=parts),
        snapshots=folder / ledger.SNAPSHOTS,
        shelves=shelves,
    )
    del table
    state = Dataset(
        name=folder.name,
        source=staged.source,
        task=staged.task,
        recipe=staged.recipe.model_dump(mode="json"),
        image=asdict(image),
        snapshot=path.name,
        ledger=parting.ledger.write(folder),
        warnings=_warnings(rows, verdict, parting, image=image, staged=staged),
        conflicts=[asdict(conflict) for conflict in verdict.conflicts[:LISTED_PROBLEMS]],
        leaks=[asdict(leak) for leak in [*verdict.leaks, *verdict.group_leaks][:LISTED_PROBLEMS]],
        near_duplicates=parting.near_duplicates,
        overruled=parting.overruled,
    )
    progress("seal", len(used), len(used))
    return state


def _read_staged(staged: Staged) -> pa.Table:
    try:
        rows = manifest.read_coded(staged.dataset_dir / ledger.JOURNAL / STAGED, STAGED_WORDS)
    except FileNotFoundError as error:
        raise _came_between(staged.dataset_dir) from error
    if (rows.schema.metadata or {}).get(TOKEN) != staged.token.encode():
        raise _came_between(staged.dataset_dir)
    return rows


def _came_between(folder: Path) -> PipelineError:
    return PipelineError(
        f"Another ingest of the dataset {folder.name!r} came between the stages of this one. Run it again."
    )


def _looks(rows: Rows, verdict: checks.Verdict, *, staged: Staged, shelves: list[Path]) -> dict[str, int] | None:
    if not (staged.recipe.near_duplicates or staged.recipe.group_near_duplicates):
        return None
    return look(rows, verdict, height=staged.canvas.height, width=staged.canvas.width, shelves=shelves)


def _check_labels(labels: list[str], staged: Staged) -> None:
    if staged.task == "classify" and len(labels) < 2:  # noqa: PLR2004 - one label is nothing to tell apart
        found = f"one label only: {labels[0]!r}" if labels else "none that can be used"
        raise BadSource(
            f"To classify, {staged.source} must hold usable images of at least two labels, in a folder each. "
            f"Received: {found}. (--task reconstruct needs no labels.)"
        )


def _image(rows: Rows, used: Numbers, staged: Staged) -> ImageSpec:
    """Of the snapshot's rows: gray where every image is, unless the recipe says otherwise."""
    gray = all(channels_of(shard) == 1 for shard in rows.shard.among(used))
    canvas = staged.canvas
    return ImageSpec(canvas.height, canvas.width, canvas.channels or (1 if gray else 3), canvas.resize)


def _arrange(
    rows: Rows,
    at: Numbers,
    *,
    parts: Numbers,
    labels: list[str],
    image: ImageSpec,
    staged: Staged,
    shelves: list[Path],
) -> Arrangement:
    """The snapshot's rows: those at `at`, in order, each with its part."""
    files = sorted(rows.shard.among(at))
    row_counts = _rows_in_shards(files, image=image, shelves=shelves)
    return Arrangement(
        dataset=staged.dataset_dir.name,
        source=staged.source,
        labels=tuple(labels),
        image=image,
        contents=rows.content[at],
        classes=rows.label.renumbered(labels)[at].astype(np.int32),
        parts=dict(zip(PARTS, np.bincount(parts, minlength=len(PARTS)).tolist(), strict=True)),
        shards=tuple(Shard(name, rows=row_counts[name], channels=channels_of(name)) for name in files),
        places=np.stack([rows.shard.renumbered(files)[at], rows.offset[at]], axis=1),
    )


def _rows_in_shards(files: list[str], *, image: ImageSpec, shelves: list[Path]) -> dict[str, int]:
    sizes = {name: find_shard(name, shelves=shelves).stat().st_size for name in files}
    side = image.height * image.width
    return {name: size // (side * channels_of(name)) for name, size in sizes.items()}


def _manifest(table: pa.Table, verdict: checks.Verdict, at: Numbers, *, parts: Numbers) -> pa.Table:
    """The staged rows as the contract has them; `at` are the snapshot's, in order, each with its part."""
    row = np.full(table.num_rows, -1, dtype=np.int64)
    row[at] = np.arange(len(at))
    part = np.full(table.num_rows, -1, dtype=np.int64)
    part[at] = parts
    told = {
        "status": manifest.chosen(STATUSES, verdict.status),
        "reason": _reasons(table["reason"], verdict.reason),
        "split": manifest.chosen(PARTS, part),
        "row": manifest.whole(row, there=row >= 0),
    }
    columns = [told[one.name] if one.name in told else table[one.name].cast(one.type) for one in manifest.SCHEMA]
    return pa.Table.from_arrays(columns, schema=manifest.SCHEMA)


def _reasons(staged: pa.ChunkedArray, more: dict[int, str]) -> pa.ChunkedArray | pa.Array:
    if not more:
        return staged
    return manifest.strings([more.get(row, reason) for row, reason in enumerate(staged.to_pylist())])


def _warnings(rows: Rows, verdict: checks.Verdict, parting: Parting, *, image: ImageSpec, staged: Staged) -> list[str]:
    gray = image.channels == 1 and staged.recipe.channels is None
    lost_colour = gray and not COLOUR_MODES.isdisjoint(rows.mode.among(verdict.used))
    return checks.warnings(
        rows,
        verdict,
        parts=parting.parts,
        task=staged.task,
        lost_colour=lost_colour,
        overruled=parting.overruled,
    )


def _result(staged: Staged, dataset: Dataset, snapshot: Snapshot, *, seconds: dict[str, float]) -> IngestResult:
    path = snapshot.path
    rows = manifest.read(path / manifest.MANIFEST, ["path", "label", "split", "status", "reason", "row"])
    problems = manifest.quarantined(rows)
    return IngestResult(
        dataset=dataset.name,
        snapshot=snapshot.id,
        path=path,
        labels=snapshot.labels,
        image=asdict(snapshot.image),
        colour=_colour(snapshot, rows),
        images=snapshot.counts,
        quarantined=problems[:LISTED_PROBLEMS],
        conflicts=dataset.conflicts,
        leaks=dataset.leaks,
        near_duplicates=dataset.near_duplicates,
        overruled=dataset.overruled,
        warnings=[*dataset.warnings, *checks.empty_labels(staged.empty_labels)],
        per_label=manifest.per_label(rows),
        reasons=manifest.reasons(problems),
        ignored=manifest.why_ignored(rows),
        contact_sheet=path / SHEET,
        new=staged.new,
        unchanged=staged.unchanged,
        removed=staged.removed,
        seconds=seconds,
    )


def _colour(snapshot: Snapshot, rows: pa.Table) -> dict[str, Any]:
    """How many of a snapshot's images have colour, and the first file that is one of them."""
    is_colour = np.array([shard.channels > 1 for shard in snapshot.shards], dtype=np.bool_)[snapshot.places()[:, 0]]
    row = manifest.numbers(rows["row"].combine_chunks(), nothing=-1)
    files = np.flatnonzero(row >= 0)
    coloured = files[is_colour[row[files]]]
    return {
        "images": len(coloured),
        "first": rows["path"][int(coloured[0])].as_py() if len(coloured) else None,
    }
