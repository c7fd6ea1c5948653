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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        overruled: images that a pre-split source now gives another part than they have: they stay.
    """

    parts: dict[str, PartName]
    ledger: Ledger
    near_duplicates: dict[str, Any] | None
    overruled: int


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
    matches = _matches(rows, verdict, recipe.group_by)
    kept_looks = dict(looks or {}) if recipe.group_near_duplicates else {}
    memory = Ledger(parts=book.parts, groups={**book.groups, **matches}, likeness={**book.likeness, **kept_looks})
    overruled = 0
    if presplit:
        given = {content: rows["part"][index] for content, index in verdict.used.items()}
        parts = _carve(rows, verdict, given, memory=memory, book=book, recipe=recipe)
        overruled = _overruled(given, parts)
        _tell_group_leaks(rows, verdict, parts, memory=memory)
    else:
        newcomers = verdict.used.keys() - book.parts.keys()
        groups = _groups(rows, verdict, newcomers, memory=memory, book=book)
        labels = {content: rows["label"][index] for content, index in verdict.used.items()}
        parts = split.assign(labels, fractions=recipe.split, seed=recipe.seed or 0, earlier=book.parts, groups=groups)
    remembered = book.parts | parts if book.parts else parts
    ledger = Ledger(
        parts=remembered,
        groups={content: names for content, names in memory.groups.items() if content in remembered},
        likeness={content: value for content, value in memory.likeness.items() if content in remembered},
    )
    near = _near(rows, verdict, parts, looks, listed=listed)
    return Parting(parts, ledger=ledger, near_duplicates=near, overruled=overruled)


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
            yield content, _match(name)
    yield from likeness.alike(memory.likeness)


class Bonds:
    """Which contents belong together, and the parts that each group is in; a newcomer never joins two parts.

    Mutable: the forest of groups, which knows contents, what `group_by` matched, and perceptual hashes.

    Args:
        memory: what is known of all contents, newcomers included.
        book: what was known, and assigned, before: these contents are in, whatever their groups look like.
    """

    def __init__(self, memory: Ledger, book: Ledger) -> None:
        self._memory = memory
        self._up: dict[str, str] = {}
        self._parts: dict[str, set[PartName]] = {}
        self._near: dict[int, list[int]] = defaultdict(list)
        for content, assigned in book.parts.items():
            self._parts[self._top(content)] = {assigned}
        held = {memory.likeness[content] for content in book.parts if content in memory.likeness}
        for content in book.parts:
            self._join([content, *map(_match, book.groups.get(content, ())), *self._look(content)])
        for one, other in likeness.near(memory.likeness.values()):
            if one in held and other in held:
                self._join([_hash(one), _hash(other)])
            else:
                self._near[one].append(other)
                self._near[other].append(one)
        for content in sorted(memory.groups.keys() & book.parts.keys()):
            for name in set(memory.groups[content]) - set(book.groups.get(content, ())):
                if len(self._touched([content, _match(name)])) <= 1:  # else a copy under another name would tear
                    self._join([content, _match(name)])

    def admit(self, content: str) -> set[PartName]:
        """Let a newcomer into the groups that it touches, unless they are in several parts.

        Returns:
            The parts that they are in; with more than one, the newcomer is left out.
        """
        names = [content, *map(_match, self._memory.groups.get(content, ())), *self._look(content)]
        near = map(_hash, self._near.get(self._memory.likeness.get(content, -1), ()))
        names += [name for name in near if name in self._up]  # of hashes that nobody inside has, it knows nothing
        parts = self._touched(names)
        if len(parts) <= 1:
            self._join(names)
        return parts

    def names(self) -> dict[str, str]:
        """The name of the group of everything that is in one."""
        return {item: self._top(item) for item in list(self._up)}

    def _look(self, content: str) -> list[str]:
        return [_hash(self._memory.likeness[content])] if content in self._memory.likeness else []

    def _touched(self, items: Iterable[str]) -> set[PartName]:
        return {name for item in items if item in self._up for name in self._parts.get(self._top(item), ())}

    def _join(self, items: Sequence[str]) -> None:
        first, *others = dict.fromkeys(map(self._top, items))
        for other in others:
            self._up[other] = first
            if other in self._parts:
                self._parts.setdefault(first, set()).update(self._parts.pop(other))

    def _top(self, item: str) -> str:
        self._up.setdefault(item, item)
        while self._up[item] != item:
            self._up[item] = self._up[self._up[item]]
            item = self._up[item]
        return item


def _match(name: str) -> str:
    return f"group:{name}"


def _hash(value: int) -> str:
    return f"look:{value:x}"


def _groups(
    rows: Columns, verdict: checks.Verdict, newcomers: Iterable[str], *, memory: Ledger, book: Ledger
) -> dict[str, str]:
    """The group of each content that is in one; newcomers that would join groups of several parts are set aside."""
    if not (book.parts and (memory.groups or memory.likeness)):
        return split.joined(_joins(memory))
    bonds = Bonds(memory, book)
    torn = {}
    for content in sorted(newcomers):
        parts = bonds.admit(content)
        if len(parts) > 1:
            among = " and ".join(sorted(parts))
            torn[content] = f"joins groups of images that are in different parts already: {among}"
    checks.set_aside(verdict, torn, rows)
    return bonds.names()


def _carve(
    rows: Columns,
    verdict: checks.Verdict,
    given: dict[str, PartName],
    *,
    memory: Ledger,
    book: Ledger,
    recipe: DataRecipe,
) -> dict[str, PartName]:
    """The parts that a pre-split source gives; a part that it lacks is cut from its train; earlier parts stay."""
    lacking = set(PARTS) - set(given.values())
    cut = [
        fraction if name == "train" or name in lacking else 0.0
        for name, fraction in zip(PARTS, recipe.split, strict=True)
    ]
    whole = sum(cut)
    parts = {content: book.parts.get(content, name) for content, name in given.items()}
    carved = {"train", *lacking}
    before = book.restricted({content for content, name in book.parts.items() if name in carved})
    among = {content for content, name in parts.items() if name in carved}
    groups = _groups(
        rows, verdict, among - before.parts.keys(), memory=memory.restricted(among | before.parts.keys()), book=before
    )
    labels = {content: rows["label"][index] for content, index in verdict.used.items()}
    return {content: name for content, name in parts.items() if content in labels} | split.assign(
        {content: labels[content] for content in among if content in labels},
        fractions=(cut[0] / whole, cut[1] / whole, cut[2] / whole),
        seed=recipe.seed or 0,
        earlier=before.parts,
        groups=groups,
    )


def _overruled(given: Mapping[str, PartName], parts: Mapping[str, PartName]) -> int:
    """How many images are in another part than their source gives them, those cut from its train aside."""
    lacking = set(PARTS) - set(given.values())
    return sum(
        name != given[content] and not (given[content] == "train" and name in lacking)
        for content, name in parts.items()
    )


def _tell_group_leaks(rows: Columns, verdict: checks.Verdict, parts: Mapping[str, PartName], *, memory: Ledger) -> None:
    """Groups that a pre-split source has in several parts: one image of each part is named."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    groups = split.joined(_joins(memory.restricted(parts.keys())))
    for content in sorted(groups.keys() & parts.keys()):
        seen[groups[content]].setdefault(parts[content], content)
    for examples in seen.values():
        if len(examples) > 1:
            contents = [examples[name] for name in PARTS if name in examples]
            paths = tuple(rows["path"][verdict.used[content]] for content in contents)
            verdict.group_leaks.append(checks.Conflict(contents[0], paths))


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
