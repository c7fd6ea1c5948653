"""From judged rows to the part of each content: groups, pre-split sources and the ledger brought to `split`.

It reads pixels only where near-duplicates are asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import checks, likeness, split
from pipelines.dataset import find_shard
from pipelines.journal import channels_of
from pipelines.ledger import Ledger
from pipelines.manifest import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipelines.config import DataRecipe
    from pipelines.manifest import PartName

Columns = dict[str, list[Any]]

_READ_ROWS = 512


@dataclass(frozen=True, slots=True)
class Parting:
    """The part of each used content.

    Attributes:
        parts: by content hash.
        ledger: that remembers them, and all before.
        near_duplicates: pairs across parts: `count` and the first `pairs` of paths; None: not asked for.
    """

    parts: dict[str, PartName]
    ledger: Ledger
    near_duplicates: dict[str, Any] | None


def part(
    rows: Columns,
    verdict: checks.Verdict,
    *,
    recipe: DataRecipe,
    presplit: bool,
    book: Ledger,
    looks: Mapping[str, int] | None,
    listed: int,
) -> Parting:
    """Give every used content its part; newcomers that would tear a group become conflicts in `verdict`.

    Args:
        rows: the staged columns.
        verdict: on these rows; extended.
        recipe: of the data.
        presplit: whether the source gives the parts.
        book: what was assigned before.
        looks: perceptual hashes of the used contents, if near-duplicates matter.
        listed: how many pairs of near-duplicates to tell.
    """
    matches = _matches(rows, verdict, recipe.group_by) if not presplit else {}
    kept_looks = dict(looks or {}) if recipe.group_near_duplicates else {}
    memory = Ledger(parts=book.parts, groups={**book.groups, **matches}, likeness={**book.likeness, **kept_looks})
    groups = split.joined(_joins(memory)) if not presplit else {}
    _set_torn_aside(rows, verdict, groups=groups, book=book)
    labels = {content: rows["label"][index] for content, index in verdict.used.items()}
    if presplit:
        given = {content: rows["part"][index] for content, index in verdict.used.items()}
        parts = _carve(labels, given, recipe=recipe, earlier=book.parts)
    else:
        parts = split.assign(labels, fractions=recipe.split, seed=recipe.seed, earlier=book.parts, groups=groups)
    remembered = book.parts | parts
    ledger = Ledger(
        parts=remembered,
        groups={content: names for content, names in memory.groups.items() if content in remembered},
        likeness={content: value for content, value in memory.likeness.items() if content in remembered},
    )
    return Parting(parts, ledger=ledger, near_duplicates=_near(rows, verdict, parts, looks, listed=listed))


def _matches(rows: Columns, verdict: checks.Verdict, pattern: str | None) -> dict[str, tuple[str, ...]]:
    """What `pattern` finds in the paths of each used content, copies of it included."""
    if pattern is None:
        return {}
    search = re.compile(pattern).search
    found: dict[str, set[str]] = defaultdict(set)
    for path, content, status in zip(rows["path"], rows["content_hash"], verdict.status, strict=True):
        if status in ("used", "duplicate") and (match := search(path)):
            text = match.group(1) if match.re.groups else match.group()
            if text is not None:
                found[content].add(text)
    return {content: tuple(sorted(texts)) for content, texts in found.items()}


def _joins(memory: Ledger) -> Iterator[tuple[str, str]]:
    """Pairs that belong to one group: of contents with what they matched, and of contents that look alike."""
    for content, names in memory.groups.items():
        for name in names:
            yield content, f"group:{name}"
    yield from likeness.alike(memory.likeness)


def _set_torn_aside(rows: Columns, verdict: checks.Verdict, *, groups: Mapping[str, str], book: Ledger) -> None:
    """Newcomers that join images of different parts move nobody: they are conflicts."""
    parts_of: dict[str, set[str]] = defaultdict(set)
    for content, assigned in book.parts.items():
        if content in groups:
            parts_of[groups[content]].add(assigned)
    torn = {name: " and ".join(sorted(parts)) for name, parts in parts_of.items() if len(parts) > 1}
    newcomers = [content for content in verdict.used if content not in book.parts and groups.get(content) in torn]
    reason = "joins groups of images that are in different parts already: {parts}"
    checks.set_aside(verdict, {content: reason.format(parts=torn[groups[content]]) for content in newcomers}, rows)


def _carve(
    labels: dict[str, str],
    given: dict[str, PartName],
    *,
    recipe: DataRecipe,
    earlier: Mapping[str, PartName],
) -> dict[str, PartName]:
    """The parts that a pre-split source gives; a part that it lacks is cut from its train."""
    lacking = set(PARTS) - set(given.values())
    cut = [
        fraction if name == "train" or name in lacking else 0.0
        for name, fraction in zip(PARTS, recipe.split, strict=True)
    ]
    whole = sum(cut)
    train = {content: labels[content] for content, name in given.items() if name == "train"}
    allowed = {"train", *lacking}
    return given | split.assign(
        train,
        fractions=(cut[0] / whole, cut[1] / whole, cut[2] / whole),
        seed=recipe.seed,
        earlier={content: name for content, name in earlier.items() if name in allowed},
    )


def _near(
    rows: Columns,
    verdict: checks.Verdict,
    parts: Mapping[str, PartName],
    looks: Mapping[str, int] | None,
    *,
    listed: int,
) -> dict[str, Any] | None:
    if looks is None:
        return None
    count, pairs = likeness.across_parts(looks, parts, most=listed)
    paths = [[rows["path"][verdict.used[content]] for content in pair] for pair in pairs]
    return {"count": count, "pairs": paths, "distance_bits": likeness.NEAR_BITS}


def look(rows: Columns, verdict: checks.Verdict, *, height: int, width: int, shelves: list[Path]) -> dict[str, int]:
    """The perceptual hash of each used content, from its stored pixels."""
    by_shard: dict[str, list[str]] = defaultdict(list)
    for content, index in verdict.used.items():
        by_shard[rows["shard"][index]].append(content)
    found: dict[str, int] = {}
    for shard, contents in by_shard.items():
        channels = channels_of(shard)
        row_bytes = height * width * channels
        contents.sort(key=lambda content: rows["offset"][verdict.used[content]])
        with find_shard(shard, shelves=shelves).open("rb") as file:
            for start in range(0, len(contents), _READ_ROWS):
                some = contents[start : start + _READ_ROWS]
                pixels = np.empty((len(some), row_bytes), dtype=np.uint8)
                for row, content in enumerate(some):
                    file.seek(rows["offset"][verdict.used[content]] * row_bytes)
                    file.readinto(pixels[row].data)
                values = likeness.hashes(pixels.reshape(-1, height, width, channels))
                found.update(zip(some, values.tolist(), strict=True))
    return found
