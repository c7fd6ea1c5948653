"""Perceptual hashes: alike for pictures that look alike, and near pairs found without comparing all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.likeness import NEAR_BITS, across_parts, alike, hashes, near_pairs
from pipelines.split import joined
from serving.images import decode
from tests.pipelines.image_folders import encoded

HASHES = st.lists(
    st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 3, 7, 15, 31, 63, 2**63, 2**63 + 1, 5 << 20, 2**64 - 1]),
    max_size=40,
    unique=True,
)
PHOTO = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 80))
)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    first, second = (hashes(np.atleast_3d(pixels)[None])[0] for pixels in (one, other))
    return int(np.bitwise_count(first ^ second))


@pytest.mark.parametrize(
    ("change", "near"),
    [
        (lambda pixels: pixels, True),
        (lambda pixels: decode(encoded(pixels, "JPEG", quality=60)).pixels, True),
        (lambda pixels: np.asarray(Image.fromarray(pixels).resize((48, 40))), True),
        (lambda pixels: np.clip(pixels.astype(int) + 12, 0, 255).astype(np.uint8), True),
        (lambda pixels: np.asarray(Image.fromarray(pixels).convert("L")), True),
        (lambda pixels: pixels[::-1], False),
        (lambda pixels: pixels.swapaxes(0, 1), False),
        (lambda pixels: 255 - pixels, False),
    ],
    ids=["same", "jpeg", "half", "brighter", "gray", "upside-down", "turned", "negative"],
)
def test_what_looks_alike(change, near):
    """What an encoder or a resizer does keeps a picture near; what makes another picture of it doesn't."""
    assert (distance(PHOTO, change(PHOTO)) <= NEAR_BITS) == near


def test_known_hash():
    """The same on any machine and in any later version: this very hash."""
    ramp = np.add.outer(np.arange(40) ** 2, 7 * np.arange(30)).astype(np.uint8)
    assert f"{hashes(ramp[None, ..., None])[0]:016x}" == "85033f2d3f296e49"


@given(HASHES)
def test_near_pairs_are_all_and_only(values):
    """Exactly the pairs within the distance are found, each once."""
    found = [
        tuple(sorted(pair))
        for left, right in near_pairs(np.array(values, dtype=np.uint64))
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    ]
    expected = {
        (one, other)
        for one, other in combinations(range(len(values)), 2)
        if (values[one] ^ values[other]).bit_count() <= NEAR_BITS
    }
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 2**40, 2**40 + 1, 2**64 - 1]), st.sampled_from("abc")), max_size=25)
)
def test_counts_across_parts(drawn):
    """Pairs in different parts are counted without listing all of them, and groups have none."""
    looks = {f"{number:03d}": value for number, (value, _) in enumerate(drawn)}
    parts = {f"{number:03d}": part for number, (_, part) in enumerate(drawn)}
    expected = {
        (one, other)
        for one, other in combinations(sorted(looks), 2)
        if parts[one] != parts[other] and (looks[one] ^ looks[other]).bit_count() <= NEAR_BITS
    }
    count, listed = across_parts(looks, parts, most=1000)
    assert count == len(expected)
    assert {tuple(sorted(pair)) for pair in listed} == expected
    assert len(across_parts(looks, parts, most=3)[1]) == min(3, count)
    groups = joined(alike(looks))
    assert all(groups[one] == groups[other] for one, other in expected)
