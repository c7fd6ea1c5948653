"""Every file of a source decoded once: what is known is taken over, the rest goes through worker processes.

Turns a listing into rows with pixels in the journal. It judges nothing: see `checks.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import PipelineError
from pipelines.identity import CONTENT_BYTES
from pipelines.journal import Canvas, Chunk, Shelf, published
from pipelines.outcomes import Outcomes
from pipelines.pool import expected_seconds
from pipelines.reading import is_lost, read_all, without_userinfo
from serving import images

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pipelines.config import DataRecipe
    from pipelines.pool import Staff
    from pipelines.walk import Found

    Places = npt.NDArray[np.int64]

Run = Callable[[Sequence[Chunk]], Iterable[Path]]

CHUNK_FILES = 4096
CHUNK_BYTES = 256 * 1024 * 1024
SMALLEST_CHUNK_FILES = 64
LEAST_SECONDS = 0.05  # of work in a chunk for one of several processes
SAMPLE_FILES = 101
LARGEST_CHOSEN_SIDE = 224
MOST_LOST = 0.01  # of the files, and one file in any case
MOST_LOST_IN_A_ROW = 50


def stamps_of(found: Sequence[Found]) -> Places:
    """Size and time of change of each file, as listed: int64 [n, 2]."""
    sizes = np.array([one.size for one in found], dtype=np.int64)
    return np.stack([sizes, np.array([one.mtime_ns for one in found], dtype=np.int64)], axis=1)


def decode_all(
    todo: Sequence[Found],
    *,
    root: str,
    canvas: Canvas,
    journal: Path,
    run: Run | None,
    staff: Staff,
    progress: Callable[[str, int, int], None],
    begun: Places | None = None,
) -> Outcomes:
    """Decode files, those aside whose outcome is in the journal already; outcomes in the order of the files.

    Args:
        todo: the files.
        root: of the source.
        canvas: how to store their pixels.
        journal: where outcomes are published.
        run: what takes `decode_chunk` to every chunk; None: as many processes here as are worth it.
        staff: those processes.
        progress: told after each chunk.
        begun: of the files in the chunks that the staff has begun, in their order: places in `todo`.

    Raises:
        OSError: the journal can't be written.
    """
    outcomes = Outcomes.empty(len(todo))
    if begun is not None and len(begun):  # then there is nothing else in the journal
        missing = np.setdiff1d(np.arange(len(todo)), begun, assume_unique=True)
        places = np.concatenate([begun, missing])
    else:
        places = missing = _take_over(journal, canvas, todo, outcomes)
    chunks = _chunks(
        [todo[index] for index in missing.tolist()],
        root=root,
        canvas=canvas,
        journal=journal,
        staff=staff,
        first=len(places) - len(missing),
    )
    done = len(todo) - len(places)
    for path in (run or staff.run)(chunks):
        shelf = Shelf.read(path)
        if shelf is None:
            raise OSError(f"{path} vanished or was cut short while it was written")
        outcomes.place(places[shelf.first : shelf.first + len(shelf.outcomes.rows)], shelf.outcomes)
        done += len(shelf.outcomes.rows)
        progress("decode", done, len(todo))
    return outcomes


def _chunks(
    missing: Sequence[Found], *, root: str, canvas: Canvas, journal: Path, staff: Staff, first: int
) -> list[Chunk]:
    """Files in chunks that get smaller to the end, so that no process has much left when the others are done."""
    size_bytes = sum(found.size for found in missing)
    workers = max(1, staff.worth(files=len(missing), size_bytes=size_bytes))
    most = max(1, min(CHUNK_FILES, len(missing) * CHUNK_BYTES // max(1, size_bytes)))
    least = SMALLEST_CHUNK_FILES
    if workers > 1:  # smaller ones would cost the disk more than they spare the processors
        seconds = expected_seconds(files=len(missing), size_bytes=size_bytes)
        least = max(least, math.ceil(len(missing) * LEAST_SECONDS / max(LEAST_SECONDS, seconds)))
    chunks = []
    start = 0
    while start < len(missing):
        share = math.ceil((len(missing) - start) / (2 * workers))
        stop = start + min(most, max(least, share))
        chunks.append(chunk_of(missing[start:stop], root=root, canvas=canvas, journal=journal, first=first + start))
        start = stop
    return chunks


def chunk_of(found: Sequence[Found], *, root: str, canvas: Canvas, journal: Path, first: int) -> Chunk:
    """Files as one task; arguments as in `Chunk`."""
    return Chunk(
        root=root,
        names=tuple([one.name for one in found]),
        paths=tuple([one.path for one in found]),
        stamps=tuple([(one.size, one.mtime_ns) for one in found]),
        canvas=canvas,
        journal=journal,
        first=first,
    )


def check_lost(outcomes: Outcomes, *, root: str) -> None:
    """A source that is there and can't be read is not one whose images are bad.

    Raises:
        PipelineError: more files than may be set aside for it could not be read, though they are there.
    """
    files = len(outcomes.rows)
    lost = sorted(index for index, reason in outcomes.reasons.items() if is_lost(reason))
    in_a_row = longest = 0
    for before, index in pairwise([-2, *lost]):
        in_a_row = in_a_row + 1 if index == before + 1 else 1
        longest = max(longest, in_a_row)
    if len(lost) > max(1, files * MOST_LOST) or longest > MOST_LOST_IN_A_ROW:
        raise PipelineError(
            f"{len(lost)} of {files} files of {without_userinfo(root)} {outcomes.reasons[lost[0]]}. At most "
            f"{MOST_LOST:.0%} of them, and {MOST_LOST_IN_A_ROW} in a row, are set aside for that. The last snapshot is "
            "as it was; see to the disk or the connection and run again: what was decoded is kept and used."
        )


def _take_over(journal: Path, canvas: Canvas, todo: Sequence[Found], outcomes: Outcomes) -> Places:
    """Fill in what lies in the journal already; the places of the others."""
    place: dict[str, int] | None = None
    stamps = None
    for path, shelf in published(journal):
        if shelf.canvas != canvas.key():
            path.unlink()
            for name in shelf.rows:
                (journal / name).unlink(missing_ok=True)
            continue
        if place is None or stamps is None:  # there are none, as a rule
            place, stamps = {found.path: index for index, found in enumerate(todo)}, stamps_of(todo)
        at = np.array([place.get(one, -1) for one in shelf.paths()], dtype=np.int64)
        inside = np.flatnonzero(at >= 0)
        good = inside[shelf.outcomes.still_true(inside, stamps[at[inside]])]
        outcomes.place(at[good], shelf.outcomes.chosen(good))
    return np.flatnonzero(~outcomes.rows["read"])


def sweep(journal: Path) -> bool:
    """Make the journal's folder, and clear it of files that a killed ingest was still writing; whether it is empty."""
    journal.mkdir(parents=True, exist_ok=True)
    for path in journal.glob(".*"):
        path.unlink()
    return not any(journal.iterdir())


# ---- size and channels -------------------------------------------------------------------------


def guess_canvas(todo: Sequence[Found], *, root: str, recipe: DataRecipe) -> Canvas:
    """How to store pixels, by the headers of a sample; decoding everything shows whether the size was right."""
    sample = todo[:: max(1, len(todo) // SAMPLE_FILES)]
    reads = read_all(root, [one.name for one in sample], [(one.size, one.mtime_ns) for one in sample])
    sizes = [size for read in reads if (size := images.claimed_size(read.data or b"")) is not None]
    height, width = commonest_size(sizes) or (1, 1)
    return Canvas(height, width, recipe.channels, recipe.resize, recipe.max_image_pixels)


def commonest_size(sizes: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The commonest height and width, each side at most 224; of equally common ones the largest."""
    capped = Counter((min(height, LARGEST_CHOSEN_SIDE), min(width, LARGEST_CHOSEN_SIDE)) for height, width in sizes)
    return max(capped, key=lambda size: (capped[size], size[0] * size[1], size), default=None)


def size_in(outcomes: Outcomes) -> tuple[int, int] | None:
    """The commonest size of the contents that were decoded, copies counted once."""
    rows = outcomes.rows[outcomes.rows["decoded"]]
    if not len(rows):
        return None
    heights, widths = rows["height"], rows["width"]
    if (heights == heights[0]).all() and (widths == widths[0]).all():
        return commonest_size([(int(heights[0]), int(widths[0]))])
    contents = np.ascontiguousarray(rows["content_hash"]).view(f"V{CONTENT_BYTES}")[:, 0]
    once = np.unique(contents, return_index=True)[1]
    return commonest_size(zip(heights[once].tolist(), widths[once].tolist(), strict=True))


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
