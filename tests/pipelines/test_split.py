"""The split: stable, stratified, and the same on every machine."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import split
from pipelines.manifest import PARTS
from pipelines.split import Groups, joined, quotas

if TYPE_CHECKING:
    import random

FRACTIONS = st.sampled_from(
    [
        (0.7, 0.15, 0.15),
        (0.8, 0.1, 0.1),
        (0.6, 0.2, 0.2),
        (0.5, 0.25, 0.25),
        (0.9, 0.0, 0.1),
        (1.0, 0.0, 0.0),
        (0.34, 0.33, 0.33),
    ]
)
LABELS = st.dictionaries(
    st.integers(0, 10_000).map(lambda number: f"{number:08x}"), st.sampled_from("abc"), min_size=1, max_size=120
)
SEEDS = st.integers(0, 2**63 - 1)


def assign(labels, *, fractions, seed, earlier, groups=None):
    """The split in words: labels, earlier parts, groups and the answer by content."""
    number = {name: index for index, name in enumerate(dict.fromkeys((groups or {}).values()))}
    numbers = [number.get((groups or {}).get(content), -1) for content in labels]
    held = {
        number[groups[content]]: PARTS.index(part) for content, part in earlier.items() if content in (groups or {})
    }
    known = [PARTS.index(earlier[content]) if content in earlier else -1 for content in labels]
    parts = split.assign(
        np.array(list(labels), dtype=np.bytes_),
        np.array([ord(label) - ord("a") for label in labels.values()], dtype=np.int64),
        fractions=fractions,
        seed=seed,
        earlier=np.array(known, dtype=np.int64),
        groups=Groups(np.array(numbers, dtype=np.int64), held) if groups else None,
    )
    return dict(zip(labels, (PARTS[part] for part in parts), strict=True))


def by_class(labels, parts):
    return {
        label: Counter(parts[content] for content in labels if labels[content] == label)
        for label in set(labels.values())
    }


@given(LABELS, FRACTIONS, SEEDS, st.randoms())
def test_order_says_nothing(labels, fractions, seed, shuffler: random.Random):
    """The split is a function of the set of contents and labels: in any order it is the same."""
    shuffled = list(labels.items())
    shuffler.shuffle(shuffled)
    one = assign(labels, fractions=fractions, seed=seed, earlier={})
    assert assign(dict(shuffled), fractions=fractions, seed=seed, earlier={}) == one


@given(LABELS, FRACTIONS, SEEDS)
def test_stratified(labels, fractions, seed):
    """Each class is within one image of the fractions, save where three parts need an image each."""
    parts = assign(labels, fractions=fractions, seed=seed, earlier={})
    assert parts.keys() == labels.keys()
    for counts in by_class(labels, parts).values():
        total = counts.total()
        for part, fraction in zip(PARTS, fractions, strict=True):
            assert (
                abs(counts[part] - total * fraction) < 1 or min(total * share for share in fractions if share > 0) < 1
            )
            assert fraction > 0 or not counts[part]


@given(LABELS, FRACTIONS, SEEDS)
def test_every_part_sees_a_class_of_three(labels, fractions, seed):
    """A class with at least three images is in every part whose fraction isn't zero."""
    parts = assign(labels, fractions=fractions, seed=seed, earlier={})
    for counts in by_class(labels, parts).values():
        if counts.total() >= 3:
            assert all(counts[part] for part, fraction in zip(PARTS, fractions, strict=True) if fraction > 0)


@given(LABELS, LABELS, FRACTIONS, SEEDS, st.randoms())
def test_nobody_moves(first, second, fractions, seed, chooser: random.Random):
    """Later ingests keep every earlier assignment, of images that went away for a time too."""
    ledger = assign(first, fractions=fractions, seed=seed, earlier={})
    second = {**second, **{content: label for content, label in first.items() if chooser.random() < 0.5}}
    parts = assign(second, fractions=fractions, seed=seed, earlier=ledger)
    assert parts.keys() == second.keys()
    assert all(parts[content] == ledger[content] for content in second if content in ledger)


@given(LABELS, FRACTIONS, SEEDS)
def test_newcomers_fill_quotas(labels, fractions, seed):
    """Added in two halves, a class ends as near to the fractions as if it had come at once."""
    half = dict(list(labels.items())[::2])
    ledger = assign(half, fractions=fractions, seed=seed, earlier={})
    parts = assign(labels, fractions=fractions, seed=seed, earlier=ledger)
    for counts in by_class(labels, parts).values():
        for part, fraction in zip(PARTS, fractions, strict=True):
            assert abs(counts[part] - counts.total() * fraction) < 2.5


@given(st.integers(0, 500), FRACTIONS, st.tuples(*[st.integers(0, 60)] * 3))
def test_quotas_add_up(images, fractions, floor):
    """Every image has a place, and no part gets less than it has."""
    images = max(images, sum(floor))
    counts = quotas(images, fractions, floor=floor)
    assert sum(counts) == images
    assert all(count >= least for count, least in zip(counts, floor, strict=True))


def test_another_seed_is_another_split():
    """The seed decides, and the names of the parts' images aren't simply the sorted ones."""
    labels = {f"{number:032x}": "a" for number in range(200)}
    splits = [assign(labels, fractions=(0.7, 0.15, 0.15), seed=seed, earlier={}) for seed in (0, 1)]
    assert splits[0] != splits[1]
    assert [splits[0][content] for content in sorted(labels)][:140] != ["train"] * 140


def test_known_answer():
    """The same on any machine and in any later version: this very split."""
    labels = {f"{number:032x}": "ab"[number % 2] for number in range(12)}
    parts = assign(labels, fractions=(0.5, 0.25, 0.25), seed=7, earlier={})
    assert "".join(parts[content][0] + parts[content][1] for content in sorted(labels)) == "vatrtevatrvavatrtrtetrtr"


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=8), min_size=1, max_size=30), SEEDS)
def test_groups_stay_together(groups, seed):
    """No group is in two parts, at first and after growing."""
    name_of = joined((f"{member:04x}", f"group:{number}") for number, group in enumerate(groups) for member in group)
    labels = {content: "ab"[int(content, 16) % 2] for content in name_of if not content.startswith("group:")}
    early = {content: label for content, label in labels.items() if int(content, 16) % 3}
    ledger = assign(early, fractions=(0.7, 0.15, 0.15), seed=seed, earlier={}, groups=name_of)
    parts = assign(labels, fractions=(0.7, 0.15, 0.15), seed=seed, earlier=ledger, groups=name_of)
    for found in (ledger, parts):
        places = {(name_of[content], part) for content, part in found.items()}
        assert len(places) == len({name for name, _ in places})
    assert all(parts[content] == part for content, part in ledger.items())


def test_groups_are_stratified_as_far_as_they_can():
    """Ten groups of ten: seven, and two times one or two, go to the parts."""
    labels = {f"{number:04x}": "a" for number in range(100)}
    groups = {content: f"g{int(content, 16) // 10}" for content in labels}
    parts = assign(labels, fractions=(0.7, 0.15, 0.15), seed=0, earlier={}, groups=groups)
    counts = Counter(parts.values())
    assert counts["train"] == 70
    assert sorted(counts.values()) == [10, 20, 70]


def test_names_of_groups_say_nothing():
    """Groups are told apart by their contents: other names, the same split."""
    labels = {f"{number:04x}": "a" for number in range(60)}
    one = {content: f"x{int(content, 16) // 4}" for content in labels}
    other = {content: f"y{99 - int(content, 16) // 4}" for content in labels}
    options = {"fractions": (0.7, 0.15, 0.15), "seed": 3, "earlier": {}}
    assert assign(labels, groups=one, **options) == assign(labels, groups=other, **options)


def test_a_gone_member_still_holds_its_group():
    """An image that joins a group whose members are all gone goes where they were."""
    labels = {f"{number:04x}": "a" for number in range(30)}
    for part in PARTS:
        parts = assign(
            labels,
            fractions=(0.7, 0.15, 0.15),
            seed=0,
            earlier={"gone": part},
            groups={"gone": "g", "0003": "g"},
        )
        assert parts["0003"] == part


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (10, (7, 2, 1)), (500, (350, 75, 75))],
)
def test_small_classes(images, expected):
    """What happens to classes of a few images, in figures."""
    assert quotas(images, (0.7, 0.15, 0.15)) == expected
