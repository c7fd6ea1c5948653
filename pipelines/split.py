"""Which image goes to train, validation or test: stable, stratified, and the same on every machine.

Pure: a function of contents, labels, fractions, seed, and of what was assigned before. It knows no file names.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pipelines.manifest import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipelines.manifest import PartName

Fractions = tuple[float, float, float]
Counts = tuple[int, int, int]

SMALLEST_SPREAD = len(PARTS)  # a class with at least as many images is in every part


def assign(
    labels: Mapping[str, str],
    *,
    fractions: Fractions,
    seed: int,
    earlier: Mapping[str, PartName],
    groups: Mapping[str, str] | None = None,
) -> dict[str, PartName]:
    """The part of every content, earlier assignments kept as they are.

    Args:
        labels: of each content, by content hash.
        fractions: of train, validation and test.
        seed: another one gives another split.
        earlier: parts by content hash; may tell of contents that are gone.
        groups: the name of the group of each content that is in one; a group stays together, and one with
            a member in `earlier` joins it. A member of no group stands for itself.

    Returns:
        The part of each content in `labels`.
    """
    parts = {content: earlier[content] for content in labels if content in earlier}
    _assign_groups(labels, parts, fractions=fractions, seed=seed, groups=groups or {}, earlier=earlier)
    newcomers: dict[str, list[str]] = defaultdict(list)
    settled: dict[str, Counter[PartName]] = defaultdict(Counter)
    for content, label in labels.items():
        if content in parts:
            settled[label][parts[content]] += 1
        else:
            newcomers[label].append(content)
    order = _order(seed)
    for label, contents in newcomers.items():
        have = _counts(settled[label])
        want = quotas(len(contents) + sum(have), fractions, floor=have)
        ordered = sorted(contents, key=order)
        start = 0
        for part, wanted, had in zip(PARTS, want, have, strict=True):
            end = start + wanted - had
            parts.update(dict.fromkeys(ordered[start:end], part))
            start = end
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
    labels: Mapping[str, str],
    parts: dict[str, PartName],
    *,
    fractions: Fractions,
    seed: int,
    groups: Mapping[str, str],
    earlier: Mapping[str, PartName],
) -> None:
    """Put whole groups, the largest first, where their classes lack most; extends `parts`."""
    members: dict[str, list[str]] = defaultdict(list)
    for content in labels:
        if content in groups and content not in parts:
            members[groups[content]].append(content)
    pinned = {groups[content]: part for content, part in earlier.items() if content in groups}
    wanted = {label: [total * share for share in fractions] for label, total in Counter(labels.values()).items()}
    have: dict[str, Counter[PartName]] = defaultdict(Counter)

    def settle(contents: Sequence[str], part: PartName) -> None:
        for content in contents:
            parts[content] = part
            have[labels[content]][part] += 1

    for content, part in list(parts.items()):
        have[labels[content]][part] += 1
    for name in pinned.keys() & members.keys():
        settle(members.pop(name), pinned[name])
    # A group's place in the order comes from its contents, not from its name, which is made of file names.
    place = {name: min(map(_order(seed), contents)) for name, contents in members.items()}
    for name in sorted(place, key=lambda name: (-len(members[name]), place[name])):
        if len(members[name]) > 1:
            classes = Counter(labels[content] for content in members[name])
            costs = [_cost(part, classes, wanted=wanted, have=have) for part in PARTS]
            settle(members[name], PARTS[costs.index(min(costs))])


def _cost(
    part: PartName,
    classes: Mapping[str, int],
    *,
    wanted: Mapping[str, Sequence[float]],
    have: Mapping[str, Counter[PartName]],
) -> float:
    """By how much the squared distance from the wanted counts grows if a group of these classes joins a part."""
    index = PARTS.index(part)
    if all(wanted[label][index] <= 0 for label in classes):
        return float("inf")
    growth = 0.0
    for label, count in classes.items():
        lack = wanted[label][index] - have[label][part]
        growth += (count - lack) ** 2 - lack**2
    return growth


def _counts(counter: Counter[PartName]) -> Counts:
    return counter["train"], counter["validation"], counter["test"]


def _order(seed: int) -> Callable[[str], bytes]:
    """What gives a content its place in the order that a seed makes."""
    begun = hashlib.blake2b(f"{seed}:".encode(), digest_size=16)

    def place(content: str) -> bytes:
        digest = begun.copy()
        digest.update(content.encode())
        return digest.digest()

    return place


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
