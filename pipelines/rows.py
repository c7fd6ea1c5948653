"""Staged files as typed columns: words by number, content hashes as bytes.

Of a million files no Python object is made for each. Paths and reasons become text when they are asked for. It knows
no pixels, and judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import manifest
from pipelines.manifest import PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pyarrow as pa

    Contents = npt.NDArray[np.bytes_]
    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Words:
    """A column of few different words.

    Attributes:
        words: each once, in order of first appearance.
        numbers: int64 [n], the place of each row's word among them; -1: none.
    """

    words: Sequence[str]
    numbers: Numbers

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Words:
        """Of a column of strings."""
        return cls(*manifest.coded(column))

    def __getitem__(self, row: Any) -> str | None:
        number = int(self.numbers[row])
        return None if number < 0 else self.words[number]

    def among(self, rows: Numbers) -> list[str]:
        """The words of some rows that have one, each once, in order of first appearance in the column."""
        counts = np.bincount(self.numbers[rows] + 1, minlength=1)[1:]
        return [self.words[number] for number in np.flatnonzero(counts).tolist()]

    def renumbered(self, words: Sequence[str | None]) -> Numbers:
        """The place of each row's word in another list of words; -1: it has none, or one that isn't there."""
        place = {word: index for index, word in enumerate(words)}
        return np.array([*(place.get(word, -1) for word in self.words), -1], dtype=np.int64)[self.numbers]


@dataclass(frozen=True, slots=True)
class Rows:
    """Files of a source, in order of their paths.

    Attributes:
        path: of each, relative to the source.
        label: of each.
        part: int64 [n], the place in PARTS of the part that a pre-split source gives; -1: none.
        ignored: bool [n].
        reason: why a file is ignored, or could not be decoded; else None.
        content: bytes [n], hexadecimal digits; empty: there is none.
        mode: as Pillow calls it.
        width: int64 [n], pixels of the file, 0 where unknown; so is `height`.
        height: int64 [n].
        shard: the file of pixels that each lies in.
        offset: int64 [n], the row in it.
    """

    path: Sequence[str]
    label: Words
    part: Numbers
    ignored: npt.NDArray[np.bool_]
    reason: Sequence[str | None]
    content: Contents
    mode: Words
    width: Numbers
    height: Numbers
    shard: Words
    offset: Numbers

    @classmethod
    def of(cls, table: pa.Table) -> Rows:
        """From columns as strings and whole numbers."""
        words = {name: Words.of(table[name]) for name in ("label", "part", "status", "mode", "shard")}
        counts = {name: manifest.numbers(table[name].combine_chunks()) for name in ("width", "height", "offset")}
        return cls(
            path=manifest.Lazy(table["path"]),
            label=words["label"],
            part=words["part"].renumbered(PARTS),
            ignored=words["status"].renumbered(["ignored"]) == 0,
            reason=manifest.Lazy(table["reason"]),
            content=manifest.fixed_bytes(table["content_hash"].combine_chunks()),
            mode=words["mode"],
            width=counts["width"],
            height=counts["height"],
            shard=words["shard"],
            offset=counts["offset"],
        )


def in_order(keys: Contents) -> Numbers:
    """What sorts `keys`, equal ones as they come: their first eight bytes, as a number, settle nearly all.

    Args:
        keys: bytes [n].

    Returns:
        int64 [n].
    """
    if not len(keys):
        return np.empty(0, dtype=np.int64)
    wide = np.ascontiguousarray(keys, dtype=f"S{max(8, keys.dtype.itemsize)}")
    heads = wide.view(np.uint8).reshape(len(keys), -1)[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)
    order = np.argsort(heads)
    same = heads[order][1:] == heads[order][:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    again = np.sort(order[tied])
    order[tied] = again[np.argsort(keys[again], kind="stable")]
    return order


def found_in(ordered: Contents, keys: Contents) -> Numbers:
    """The place of each of `keys` in `ordered`: int64 [keys]; -1: it isn't there."""
    if not len(ordered):
        return np.full(len(keys), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[at] == keys, at, -1)
