"""Pictures that look alike though their pixels differ: perceptual hashes, and which of them are close.

The hash is the classic one: the sign of each of the 64 lowest frequencies (discrete cosine transform of the
picture shrunk to 32 x 32) against their median. Computed in whole numbers that float64 holds exactly, so
it is the same on every machine. Knows arrays only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Indices = npt.NDArray[np.int64]

NEAR_BITS = 4
_SHRUNK_SIDE = 32
_FREQUENCIES = 8
_SCALE = 4096
_LUMA = (19_595, 38_470, 7_471)  # ITU-R 601, in 1/65536
_BLOCK_BYTES = 16 * 1024 * 1024
_BAND_SHIFTS = (0, 13, 26, 39, 52)  # NEAR_BITS + 1 bands: hashes that near agree in one of them
_BAND_MASK = (1 << 13) - 1


def hashes(pixels: npt.NDArray[np.uint8]) -> Hashes:
    """The perceptual hash of each picture.

    Args:
        pixels: uint8 [rows, height, width, channels].

    Returns:
        uint64 [rows].
    """
    rows, height, width, _ = pixels.shape
    if not rows:
        return np.empty(0, dtype=np.uint64)
    down, across = _transform(height), _transform(width).T
    block = max(1, _BLOCK_BYTES // (height * width * 8))
    parts = [_signs(down @ _gray(pixels[start : start + block]) @ across) for start in range(0, rows, block)]
    return np.concatenate(parts)


def _gray(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Luma in whole numbers, so that a picture and its gray copy have the same hash."""
    if pixels.shape[3] == 1:
        return pixels[..., 0].astype(np.float64)
    return (pixels @ np.array(_LUMA, dtype=np.uint32) >> 16).astype(np.float64)


def _transform(side: int) -> npt.NDArray[np.float64]:
    """Whole numbers [frequencies, side]: shrink by area, then the lowest frequencies."""
    edges = np.linspace(0, side, _SHRUNK_SIDE + 1)
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    shrink = np.clip(overlap, 0, None) * (_SHRUNK_SIDE / side)
    angle = np.pi / _SHRUNK_SIDE * np.outer(np.arange(_FREQUENCIES), np.arange(_SHRUNK_SIDE) + 0.5)
    whole: npt.NDArray[np.float64] = np.rint(np.cos(angle) @ shrink * _SCALE)
    return whole


def _signs(coefficients: npt.NDArray[np.float64]) -> Hashes:
    flat = coefficients.reshape(len(coefficients), -1)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_pairs(values: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of indices of `values`, which are all different, that differ in at most `NEAR_BITS` bits; each once."""
    for band, shift in enumerate(_BAND_SHIFTS):
        keys = (values >> np.uint64(shift)) & np.uint64(_BAND_MASK)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)))
        for start, stop in pairwise([*starts.tolist(), len(values)]):
            bucket = order[start:stop]
            for place, one in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                near = others[np.bitwise_count(values[others] ^ values[one]) <= NEAR_BITS]
                for earlier in _BAND_SHIFTS[:band]:
                    agree = ((values[near] ^ values[one]) >> np.uint64(earlier)) & np.uint64(_BAND_MASK) == 0
                    near = near[~agree]  # found in that band already
                if len(near):
                    yield np.full(len(near), one), near


def near(values: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Pairs of different hashes that are close; each once."""
    ordered = np.array(sorted(set(values)), dtype=np.uint64)
    for left, right in near_pairs(ordered):
        yield from zip(ordered[left].tolist(), ordered[right].tolist(), strict=True)


def alike(likeness: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of contents that join all contents which look alike into groups (not every pair there is)."""
    values, holders = _by_value(likeness)
    for contents in holders:
        yield from pairwise(contents)
    for left, right in near_pairs(values):
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            yield holders[one][0], holders[other][0]


def across_parts(
    likeness: Mapping[str, int], parts: Mapping[str, str], *, most: int
) -> tuple[int, list[tuple[str, str]]]:
    """How many pairs that look alike lie in different parts, and the first `most` of them, by content hash."""
    values, holders = _by_value({content: likeness[content] for content in parts})
    by_part = [Counter(parts[content] for content in contents) for contents in holders]
    count = 0
    listed: list[tuple[str, str]] = []

    def add(one: int, other: int) -> None:
        nonlocal count
        crossing = sum(
            left * right
            for part, left in by_part[one].items()
            for another, right in by_part[other].items()
            if part != another
        )
        count += crossing if one != other else crossing // 2
        if crossing and len(listed) < most:
            listed.extend(_crossing(holders[one], holders[other], parts, most=most - len(listed), same=one == other))

    for index in range(len(values)):
        add(index, index)
    for left, right in near_pairs(values):
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            add(one, other)
    return count, listed


def _crossing(
    lefts: list[str], rights: list[str], parts: Mapping[str, str], *, most: int, same: bool
) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for left in lefts:
        for right in rights:
            if parts[left] != parts[right] and not (same and right < left):
                pairs.append((left, right))
                if len(pairs) == most:
                    return pairs
    return pairs


def _by_value(likeness: Mapping[str, int]) -> tuple[Hashes, list[list[str]]]:
    """The different hashes in order, and the contents that have each."""
    holders: dict[int, list[str]] = defaultdict(list)
    for content in sorted(likeness):
        holders[likeness[content]].append(content)
    ordered = sorted(holders)
    return np.array(ordered, dtype=np.uint64), [holders[value] for value in ordered]
