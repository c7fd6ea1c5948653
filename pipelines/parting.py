"""From judged rows to the part of each content: groups, pre-split sources and the ledger brought to `split`.

It reads pixels only where near-duplicates are asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import checks, likeness, split
from pipelines.dataset import find_shard
from pipelines.journal import channels_of
from pipelines.manifest import PARTS, STATUSES
from pipelines.rows import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipelines.config import DataRecipe
    from pipelines.ledger import Ledger
    from pipelines.manifest import PartName
    from pipelines.rows import Contents, Numbers, Rows
    from pipelines.split import Fractions

_READ_ROWS = 512
_TRAIN = PARTS.index("train")


@dataclass(frozen=True, slots=True)
class Parting:
    """The part of each used content.

    Attributes:
        parts: int64 [used], the place in PARTS of the part of each content that the verdict says is used.
        ledger: that remembers them, and all before.
        near_duplicates: pairs across parts: `count` and the first `pairs` of paths; None: not asked for.
        overruled: images that a pre-split source now gives another part than they have: they stay.
    """

    parts: Numbers
    ledger: Ledger
    near_duplicates: dict[str, Any] | None
    overruled: int


def part(
    rows: Rows,
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
        rows: of the source.
        verdict: on these rows; extended.
        recipe: of the data.
        presplit: whether the source gives the parts.
        book: what was assigned before.
        looks: perceptual hashes of the used contents, if near-duplicates matter.
        listed: how many pairs of near-duplicates to tell.
    """
    matches = _matches(rows, verdict, recipe.group_by)
    kept_looks = looks or {} if recipe.group_near_duplicates else {}
    memory = replace(book, groups={**book.groups, **matches}, likeness={**book.likeness, **kept_looks})
    overruled = 0
    if presplit:
        parts, overruled = _carve(rows, verdict, memory=memory, book=book, recipe=recipe)
        _tell_group_leaks(rows, verdict, parts, memory=memory)
    else:
        groups = _groups(rows, verdict, verdict.used, memory=memory, book=book)
        parts = _assigned(
            rows, verdict.used, fractions=recipe.split, seed=recipe.seed or 0, earlier=book, groups=groups
        )
    return Parting(
        parts,
        ledger=memory.extended(rows.content[verdict.used], parts),
        near_duplicates=_near(rows, verdict, parts, looks, listed=listed),
        overruled=overruled,
    )


def _texts(contents: Contents) -> list[str]:
    return [content.decode() for content in contents.tolist()]


def _matches(rows: Rows, verdict: checks.Verdict, pattern: str | None) -> dict[str, tuple[str, ...]]:
    """What `pattern` finds in the paths of each used content, copies of it included."""
    if pattern is None:
        return {}
    search = re.compile(pattern).search
    found: dict[str, set[str]] = defaultdict(set)
    kept = np.flatnonzero(np.isin(verdict.status, [STATUSES.index("used"), STATUSES.index("duplicate")]))
    for row, content in zip(kept.tolist(), _texts(rows.content[kept]), strict=True):
        if match := search(rows.path[row]):
            text = match.group(1) if match.re.groups else match.group()
            if text is not None:
                found[content].add(text)
    return {content: tuple(sorted(texts)) for content, texts in found.items()}


def _assigned(
    rows: Rows, some: Numbers, *, fractions: Fractions, seed: int, earlier: Ledger, groups: Mapping[str, str]
) -> Numbers:
    """The parts of contents, which are told by their rows, as `split` gives them."""
    contents = rows.content[some]
    return split.assign(
        contents,
        rows.label.numbers[some],
        fractions=fractions,
        seed=seed,
        earlier=earlier.parts_of(contents),
        groups=_numbered(contents, groups, earlier) if groups else None,
    )


def _numbered(contents: Contents, groups: Mapping[str, str], earlier: Ledger) -> split.Groups:
    """Groups by number instead of name, and where those stand that have members already."""
    number = {name: index for index, name in enumerate(dict.fromkeys(groups.values()))}
    numbers = [number[groups[content]] if content in groups else -1 for content in _texts(contents)]
    held = {number[groups[content]]: PARTS.index(name) for content, name in earlier.parts.items() if content in groups}
    return split.Groups(np.array(numbers, dtype=np.int64), held)


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
        before = book.parts
        for content, assigned in before.items():
            self._parts[self._top(content)] = {assigned}
        held = {memory.likeness[content] for content in before if content in memory.likeness}
        for content in before:
            self._join([content, *map(_match, book.groups.get(content, ())), *self._look(content)])
        for one, other in likeness.near(memory.likeness.values()):
            if one in held and other in held:
                self._join([_hash(one), _hash(other)])
            else:
                self._near[one].append(other)
                self._near[other].append(one)
        for content in sorted(memory.groups.keys() & before.keys()):
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


def _groups(rows: Rows, verdict: checks.Verdict, among: Numbers, *, memory: Ledger, book: Ledger) -> dict[str, str]:
    """The group of each content that is in one; newcomers that would join groups of several parts are set aside.

    `among` are rows of used contents, newcomers or not.
    """
    if not (len(book.contents) and (memory.groups or memory.likeness)):
        return split.joined(_joins(memory))
    bonds = Bonds(memory, book)
    newcomers = among[book.parts_of(rows.content[among]) < 0]
    torn = {}
    for row in newcomers[in_order(rows.content[newcomers])].tolist():
        parts = bonds.admit(rows.content[row].decode())
        if len(parts) > 1:
            told = " and ".join(sorted(parts))
            torn[row] = f"joins groups of images that are in different parts already: {told}"
    checks.set_aside(verdict, torn, rows)
    return bonds.names()


def _carve(
    rows: Rows, verdict: checks.Verdict, *, memory: Ledger, book: Ledger, recipe: DataRecipe
) -> tuple[Numbers, int]:
    """The parts that a pre-split source gives, and how many images are in another one, those cut from train aside.

    A part that it lacks is cut from its train; an image outside the folders of parts goes where those of train may;
    earlier parts stay.
    """
    used, contents = verdict.used, rows.content[verdict.used]
    given = rows.part[used]
    lacking = sorted({*range(len(PARTS))} - {*given.tolist()})
    carved = [_TRAIN, *lacking]
    cut = [fraction if index in carved else 0.0 for index, fraction in enumerate(recipe.split)]
    earlier = book.parts_of(contents)
    parts = np.where(earlier >= 0, earlier, given)
    before = book.restricted(book.contents[np.isin(book.assigned, carved)])
    among = np.isin(parts, [*carved, -1])
    known = memory.restricted(np.concatenate([contents[among], before.contents]))
    groups = _groups(rows, verdict, used[among], memory=known, book=before)
    left = np.isin(used, verdict.used)
    used, given, parts, among = used[left], given[left], parts[left], among[left]
    whole = sum(cut)
    fractions = (cut[0] / whole, cut[1] / whole, cut[2] / whole)
    parts[among] = _assigned(
        rows, used[among], fractions=fractions, seed=recipe.seed or 0, earlier=before, groups=groups
    )
    overruled = (parts != given) & (given >= 0) & ~((given == _TRAIN) & np.isin(parts, lacking))
    return parts, int(np.count_nonzero(overruled))


def _tell_group_leaks(rows: Rows, verdict: checks.Verdict, parts: Numbers, *, memory: Ledger) -> None:
    """Groups that a pre-split source has in several parts: one image of each part is named."""
    contents = rows.content[verdict.used]
    groups = split.joined(_joins(memory.restricted(contents)))
    place = {content: index for index, content in enumerate(_texts(contents))} if groups else {}
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    for content in sorted(groups.keys() & place.keys()):
        seen[groups[content]].setdefault(int(parts[place[content]]), content)
    for examples in seen.values():
        if len(examples) > 1:
            told = [content for _, content in sorted(examples.items())]
            paths = tuple(rows.path[verdict.used[place[content]]] for content in told)
            verdict.group_leaks.append(checks.Conflict(told[0], paths))


def _near(
    rows: Rows, verdict: checks.Verdict, parts: Numbers, looks: Mapping[str, int] | None, *, listed: int
) -> dict[str, Any] | None:
    if looks is None:
        return None
    contents = _texts(rows.content[verdict.used])
    row = dict(zip(contents, verdict.used.tolist(), strict=True))
    part_of = {content: PARTS[index] for content, index in zip(contents, parts.tolist(), strict=True)}
    count, pairs = likeness.across_parts(looks, part_of, most=listed)
    paths = [[rows.path[row[content]] for content in pair] for pair in pairs]
    return {"count": count, "pairs": paths, "distance_bits": likeness.NEAR_BITS}


def look(rows: Rows, verdict: checks.Verdict, *, height: int, width: int, shelves: list[Path]) -> dict[str, int]:
    """The perceptual hash of each used content, from its stored pixels."""
    found: dict[str, int] = {}
    lying = rows.shard.numbers[verdict.used]
    for number in dict.fromkeys(lying.tolist()):
        shard = rows.shard.words[number]
        channels = channels_of(shard)
        row_bytes = height * width * channels
        inside = verdict.used[lying == number]
        inside = inside[np.argsort(rows.offset[inside], kind="stable")]
        with find_shard(shard, shelves=shelves).open("rb") as file:
            for start in range(0, len(inside), _READ_ROWS):
                some = inside[start : start + _READ_ROWS]
                pixels = np.empty((len(some), row_bytes), dtype=np.uint8)
                for row, offset in enumerate(rows.offset[some].tolist()):
                    file.seek(offset * row_bytes)
                    file.readinto(pixels[row].data)
                values = likeness.hashes(pixels.reshape(-1, height, width, channels))
                found.update(zip(_texts(rows.content[some]), values.tolist(), strict=True))
    return found
