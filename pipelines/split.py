"""Which image goes to train, validation or test: stable, stratified, and the same on every machine.

Pure: a function of contents, labels, fractions, seed, and of what was assigned before. It knows no file names.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.manifest import PARTS
from pipelines.rows import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipelines.rows import Contents, Numbers

Fractions = tuple[float, float, float]
Counts = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Groups:
    """Which contents stay together.

    Attributes:
        numbers: int64 [n], the group of each content; -1: none.
        held: the part, as its place in PARTS, that groups are in already: the rest of them joins it.
    """

    numbers: Numbers
    held: Mapping[int, int]


SMALLEST_SPREAD = len(PARTS)  # a class with at least as many images is in every part


def assign(
    contents: Contents,
    labels: Numbers,
    *,
    fractions: Fractions,
    seed: int,
    earlier: Numbers,
    groups: Groups | None = None,
) -> Numbers:
    """The part of every content, earlier assignments kept as they are.

    Args:
        contents: bytes [n], content hashes, each once.
        labels: int64 [n], from 0.
        fractions: of train, validation and test.
        seed: another one gives another split.
        earlier: int64 [n], the place in PARTS of what was assigned before; -1: a newcomer.
        groups: what stays together. A member of no group stands for itself.

    Returns:
        int64 [n], the place of each content's part in PARTS.
    """
    parts = earlier.copy()
    if groups is not None:
        _assign_groups(contents, labels, parts, fractions=fractions, seed=seed, groups=groups)
    settled = np.flatnonzero(parts >= 0)
    classes = int(labels.max()) + 1 if len(labels) else 0
    have = np.zeros((classes, len(PARTS)), dtype=np.int64)
    np.add.at(have, (labels[settled], parts[settled]), 1)
    newcomers = np.flatnonzero(parts < 0)
    ordered = newcomers[in_order(_places(contents[newcomers], seed))]
    ordered = ordered[np.argsort(labels[ordered], kind="stable")]
    taken = np.zeros_like(have)
    for label, images in enumerate(np.bincount(labels[newcomers], minlength=classes).tolist()):
        if images:
            floor = _counts(have[label])
            taken[label] = np.subtract(quotas(images + sum(floor), fractions, floor=floor), floor)
    parts[ordered] = np.repeat(np.tile(np.arange(len(PARTS)), classes), taken.ravel())
    return parts


def quotas(images: int, fractions: Fractions, *, floor: Counts = (0, 0, 0)) -> Counts:
    """How many of a class's images each part gets, at least `floor` and `images` in all.

    As near to the fractions as the floor allows: within one image of them where it doesn't bind. A class
    with at least three images is in every part whose fraction isn't zero.
    """
    least = list(floor)
    if images >= SMALLEST_SPREAD:
        for part, fraction in enumerate(fractions):
            if fraction > 0 and sum(least) < images:
                least[part] = max(1, least[part])
    return _apportion(images, fractions, least)


def _apportion(images: int, fractions: Fractions, least: Sequence[int]) -> Counts:
    """Largest remainders, with parts that have more than their share already left as they are."""
    fixed: set[int] = set()
    while True:
        free = [part for part in range(len(PARTS)) if part not in fixed]
        weight = sum(fractions[part] for part in free)
        left = images - sum(least[part] for part in fixed)
        if weight <= 0 or left <= 0:
            return _with_rest(least, left - sum(least[part] for part in free), fractions)
        share = {part: left * fractions[part] / weight for part in free}
        over = {part for part in free if least[part] > share[part]}
        if not over:
            break
        fixed |= over
    whole = {part: max(least[part], int(share[part] + 1e-9)) for part in free}
    rest = left - sum(whole.values())
    # Ties go to the part with the larger fraction, then to the first.
    for part in sorted(free, key=lambda part: (whole[part] - share[part], -fractions[part], part))[:rest]:
        whole[part] += 1
    counts = [whole.get(part, least[part]) for part in range(len(PARTS))]
    return counts[0], counts[1], counts[2]


def _with_rest(least: Sequence[int], rest: int, fractions: Fractions) -> Counts:
    counts = list(least)
    counts[max(range(len(PARTS)), key=lambda part: fractions[part])] += max(0, rest)
    return counts[0], counts[1], counts[2]


def _assign_groups(
    contents: Contents, labels: Numbers, parts: Numbers, *, fractions: Fractions, seed: int, groups: Groups
) -> None:
    """Put whole groups, the largest first, where their classes lack most; fills in `parts`."""
    members: dict[int, list[int]] = defaultdict(list)
    for index in np.flatnonzero((groups.numbers >= 0) & (parts < 0)).tolist():
        members[int(groups.numbers[index])].append(index)
    wanted = {label: [total * share for share in fractions] for label, total in Counter(labels.tolist()).items()}
    have: dict[int, Counter[int]] = defaultdict(Counter)

    def settle(some: Sequence[int], part: int) -> None:
        for index in some:
            parts[index] = part
            have[int(labels[index])][part] += 1

    for index in np.flatnonzero(parts >= 0).tolist():
        have[int(labels[index])][int(parts[index])] += 1
    for group in groups.held.keys() & members.keys():
        settle(members.pop(group), groups.held[group])
    # A group's place in the order comes from its contents, not from its number, which file names decide.
    places = _places(contents, seed).tolist()
    place = {group: min(places[index] for index in some) for group, some in members.items()}
    for group in sorted(place, key=lambda group: (-len(members[group]), place[group])):
        if len(members[group]) > 1:
            classes = Counter(int(labels[index]) for index in members[group])
            costs = [_cost(part, classes, wanted=wanted, have=have) for part in range(len(PARTS))]
            settle(members[group], costs.index(min(costs)))


def _cost(
    part: int,
    classes: Mapping[int, int],
    *,
    wanted: Mapping[int, Sequence[float]],
    have: Mapping[int, Counter[int]],
) -> float:
    """By how much the squared distance from the wanted counts grows if a group of these classes joins a part."""
    if all(wanted[label][part] <= 0 for label in classes):
        return float("inf")
    growth = 0.0
    for label, count in classes.items():
        lack = wanted[label][part] - have[label][part]
        growth += (count - lack) ** 2 - lack**2
    return growth


def _counts(row: Numbers) -> Counts:
    train, validation, test = row.tolist()
    return train, validation, test


def _places(contents: Contents, seed: int) -> Contents:
    """What gives each content its place in the order that a seed makes: bytes [n], 16 each."""
    begun = hashlib.blake2b(f"{seed}:".encode(), digest_size=16)
    places = []
    for content in contents.tolist():
        digest = begun.copy()
        digest.update(content)
        places.append(digest.digest())
    return np.frombuffer(b"".join(places), dtype="S16")


def joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names of the groups that `pairs` join their members into: each the smallest member, by member."""
    parent: dict[str, str] = {}

    def root(item: str) -> str:
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for left, right in pairs:
        first, second = sorted((root(left), root(right)))
        parent[second] = first
    return {item: root(item) for item in parent}
