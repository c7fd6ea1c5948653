"""Every file of a source decoded once: what is known is taken over, the rest goes through worker processes.

Turns a listing into rows with pixels in the journal. It judges nothing: see `checks.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import pool
from pipelines.errors import PipelineError
from pipelines.journal import COLUMNS, Canvas, Chunk, Shelf, chunked, published
from pipelines.reading import is_lost, read_all, without_userinfo
from serving import images
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipelines.config import DataRecipe
    from pipelines.walk import Found

Outcome = tuple[Any, ...]
Run = Callable[[Sequence[Chunk]], Iterable[Path]]

CHUNK_FILES = 4096
CHUNK_BYTES = 256 * 1024 * 1024
SMALLEST_CHUNK_FILES = 64
SAMPLE_FILES = 101
LARGEST_CHOSEN_SIDE = 224
MOST_LOST = 0.01  # of the files, and one file in any case
MOST_LOST_IN_A_ROW = 50

_AT = {name: index for index, name in enumerate(COLUMNS)}


def field_of(outcome: Outcome, name: str) -> Any:
    """One column of an outcome."""
    return outcome[_AT[name]]


def is_final(outcome: Outcome) -> bool:
    """Whether the same bytes would give this outcome again; what couldn't be read is tried anew each time."""
    return outcome[_AT["file_hash"]] is not None


def outcomes_of(columns: dict[str, list[Any]]) -> dict[str, Outcome]:
    """Outcomes by path, from columns; equal words become one object."""
    words: dict[Any, Any] = {}
    shared = columns | {
        name: [words.setdefault(word, word) for word in columns[name]] for name in ("format", "mode", "shard")
    }
    return {row[0]: row for row in zip(*(shared[name] for name in COLUMNS), strict=True)}


def still_true(outcome: Outcome | None, found: Found) -> bool:
    """Whether what is known of a file holds for the file as it is now."""
    return (
        outcome is not None
        and is_final(outcome)
        and outcome[_AT["size"]] == found.size
        and outcome[_AT["mtime_ns"]] == found.mtime_ns
    )


def decode_all(
    todo: Sequence[Found],
    *,
    root: str,
    canvas: Canvas,
    journal: Path,
    run: Run | None,
    progress: Callable[[str, int, int], None],
) -> dict[str, Outcome]:
    """Decode files, those aside whose outcome is in the journal already; outcomes by path.

    Args:
        todo: the files.
        root: of the source.
        canvas: how to store their pixels.
        journal: where outcomes are published.
        run: what takes `decode_chunk` to every chunk; None: as many processes here as are worth it.
        progress: told after each chunk.

    Raises:
        OSError: the journal can't be written.
    """
    outcomes = _from_journal(journal, canvas)
    missing = [found for found in todo if not still_true(outcomes.get(found.path), found)]
    size_bytes = sum(found.size for found in missing)
    count = pool.worker_count(files=len(missing), size_bytes=size_bytes)
    run = run or partial(pool.run_chunks, workers=count)
    parts = max(4 * max(1, count), math.ceil(size_bytes / CHUNK_BYTES))
    per_chunk = max(SMALLEST_CHUNK_FILES, min(CHUNK_FILES, math.ceil(len(missing) / parts)))
    chunks = [
        Chunk(
            root=root,
            names=tuple(found.name for found in part),
            paths=tuple(found.path for found in part),
            stamps=tuple((found.size, found.mtime_ns) for found in part),
            canvas=canvas,
            journal=journal,
        )
        for part in chunked(missing, per_chunk)
    ]
    done = len(todo) - len(missing)
    for path in run(chunks):
        shelf = Shelf.read(path)
        if shelf is None:
            raise OSError(f"{path} vanished or was cut short while it was written")
        outcomes.update(outcomes_of(shelf.columns))
        done += len(shelf.columns["path"])
        progress("decode", done, len(todo))
    return {found.path: outcomes[found.path] for found in todo}


def check_lost(outcomes: Sequence[Outcome], *, root: str) -> None:
    """A source that is there and can't be read is not one whose images are bad.

    Raises:
        PipelineError: more files than may be set aside for it could not be read, though they are there.
    """
    reasons = [field_of(outcome, "reason") for outcome in outcomes]
    lost = [reason for reason in reasons if is_lost(reason)]
    in_a_row = max((len(list(run)) for are, run in groupby(map(is_lost, reasons)) if are), default=0)
    if len(lost) > max(1, len(reasons) * MOST_LOST) or in_a_row > MOST_LOST_IN_A_ROW:
        raise PipelineError(
            f"{len(lost)} of {len(reasons)} files of {without_userinfo(root)} {lost[0]}. At most {MOST_LOST:.0%} of "
            f"them, and {MOST_LOST_IN_A_ROW} in a row, are set aside for that. The last snapshot is as it was; see "
            "to the disk or the connection and run again: what was decoded is kept and used."
        )


def _from_journal(journal: Path, canvas: Canvas) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for path, shelf in published(journal):
        if shelf.canvas == canvas.key():
            outcomes.update(outcomes_of(shelf.columns))
        else:
            path.unlink()
            for name in shelf.rows:
                (journal / name).unlink(missing_ok=True)
    return outcomes


def sweep(journal: Path) -> None:
    """Make the journal's folder, and clear it of files that a killed ingest was still writing."""
    journal.mkdir(parents=True, exist_ok=True)
    for path in journal.glob(".*"):
        path.unlink()


# ---- size and channels -------------------------------------------------------------------------


def guess_size(todo: Sequence[Found], *, root: str, max_pixels: int) -> tuple[int, int]:
    """The commonest size in a sample; decoding everything shows whether it was right."""
    sample = todo[:: max(1, len(todo) // SAMPLE_FILES)]
    sizes = []
    for read in read_all(root, [one.name for one in sample], [(one.size, one.mtime_ns) for one in sample]):
        try:
            decoded = images.decode(read.data or b"", max_pixels=max_pixels)
        except (BadInput, MemoryError):
            continue
        sizes.append((decoded.height, decoded.width))
    return commonest_size(sizes) or (1, 1)


def commonest_size(sizes: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The commonest height and width, each side at most 224; of equally common ones the largest."""
    capped = Counter((min(height, LARGEST_CHOSEN_SIDE), min(width, LARGEST_CHOSEN_SIDE)) for height, width in sizes)
    return max(capped, key=lambda size: (capped[size], size[0] * size[1], size), default=None)


def size_in(outcomes: Iterable[Outcome]) -> tuple[int, int] | None:
    """The commonest size of the contents that were decoded, copies counted once."""
    content, height, width = _AT["content_hash"], _AT["height"], _AT["width"]
    by_content = {outcome[content]: (outcome[height], outcome[width]) for outcome in outcomes}
    by_content.pop(None, None)
    return commonest_size(by_content.values())


def first_canvas(recipe: DataRecipe, image: Mapping[str, Any] | None) -> Canvas | None:
    """How to store pixels, from what was told or chosen before; None: the size is still to be chosen."""
    stored = image or {}
    height, width = recipe.height or stored.get("height"), recipe.width or stored.get("width")
    if height is None or width is None:
        return None
    return Canvas(
        height=height,
        width=width,
        channels=recipe.channels or stored.get("channels"),
        resize=recipe.resize,
        max_pixels=recipe.max_image_pixels,
    )
