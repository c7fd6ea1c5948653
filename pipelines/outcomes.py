"""What decoding made of files: a row of a hundred bytes per file, where Python objects would take a thousand.

Knows no files: rows are packed by workers (`journal.py`), gathered by the parent (`decode.py`), told as columns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from pipelines.identity import CONTENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

FILE_HASH_BYTES: Final = 32
ROW: Final = np.dtype(
    [
        ("size", "<i8"),  # bytes
        ("mtime_ns", "<i8"),
        ("offset", "<i8"),  # row in the file of pixels
        ("content_hash", "u1", CONTENT_BYTES),
        ("file_hash", "u1", FILE_HASH_BYTES),
        ("width", "<i4"),  # pixels
        ("height", "<i4"),
        ("format", "<i4"),  # this and the next two: index into the words, -1: none
        ("mode", "<i4"),
        ("shard", "<i4"),
        ("read", "?"),  # there is a file_hash
        ("decoded", "?"),  # there is a content_hash; else a reason
    ]
)
_WHOLE: Final = np.dtype((np.void, ROW.itemsize))  # rows as lumps of bytes, which numpy moves ten times as fast
_PACKED: Final = struct.Struct(f"<qqq{CONTENT_BYTES}s{FILE_HASH_BYTES}siiiii??")
_WORDS: Final = ("format", "mode", "shard")


@dataclass(slots=True)
class Outcomes:
    """What became of some files. Mutable: filled as chunks arrive.

    Attributes:
        rows: of dtype ROW, one per file.
        words: formats, modes and names of files of pixels, which rows tell by their place here.
        reasons: why a file was not decoded, by its place in `rows`; of the others nothing.
    """

    rows: npt.NDArray[np.void]
    words: list[str] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, files: int) -> Self:
        """Of files of which nothing is known yet."""
        rows = np.zeros(files, dtype=ROW)
        for name in _WORDS:
            rows[name] = -1
        return cls(rows)

    def place(self, at: npt.NDArray[np.int64] | slice, others: Outcomes) -> None:
        """Take over others' outcomes, each at its place in `at`."""
        number = {word: index for index, word in enumerate(self.words)}
        new = [word for word in others.words if word not in number]
        number.update({word: len(self.words) + index for index, word in enumerate(new)})
        self.words.extend(new)
        renumbered = np.array([*(number[word] for word in others.words), -1], dtype=np.int32)  # -1 finds the last
        rows = others.rows.copy()
        for name in _WORDS:
            rows[name] = renumbered[rows[name]]
        self.rows.view(_WHOLE)[at] = rows.view(_WHOLE)
        places = np.arange(len(self.rows))[at] if others.reasons or self.reasons else np.empty(0, dtype=np.int64)
        for place in places.tolist() if self.reasons else ():
            self.reasons.pop(place, None)
        for index, reason in others.reasons.items():
            self.reasons[int(places[index])] = reason

    def chosen(self, at: npt.NDArray[np.int64]) -> Outcomes:
        """Some of them, in the order of `at`."""
        told = {}
        if self.reasons:
            told = {place: self.reasons[index] for place, index in enumerate(at.tolist()) if index in self.reasons}
        return Outcomes(self._at(at), words=self.words, reasons=told)

    def still_true(self, at: npt.NDArray[np.int64], stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Of which files at `at` the outcome holds for them as they are now; what couldn't be read is tried anew.

        Args:
            at: int64 [n], -1: nothing is known.
            stamps: int64 [n, 2]: size and time of change as they are now.
        """
        if not len(self.rows):
            return np.zeros(len(at), dtype=np.bool_)
        rows = self._at(at)
        same: npt.NDArray[np.bool_] = (rows["size"] == stamps[:, 0]) & (rows["mtime_ns"] == stamps[:, 1])
        held: npt.NDArray[np.bool_] = same & rows["read"] & (at >= 0)
        return held

    def _at(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        return self.rows.view(_WHOLE)[at].view(ROW)

    def file_hash(self, index: int) -> str | None:
        """64 hexadecimal digits, or None for a file that wasn't read."""
        row = self.rows[index]
        return row["file_hash"].tobytes().hex() if row["read"] else None


class Recorder:
    """Packs outcomes one by one. Mutable: the packed rows, words and reasons so far."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._words: dict[str, int] = {}
        self._reasons: dict[int, str] = {}

    def decoded(
        self,
        size: int,
        mtime_ns: int,
        *,
        content: bytes,
        file_hash: bytes,
        seen: tuple[str, str, int, int],
        place: tuple[str, int],
    ) -> None:
        """A file whose pixels are kept: `seen` is format, mode, width and height, `place` where they lie."""
        form, mode, width, height = seen
        shard, offset = place
        word = self._words
        numbers = (
            word.setdefault(form, len(word)),
            word.setdefault(mode, len(word)),
            word.setdefault(shard, len(word)),
        )
        self._packed.append(
            _PACKED.pack(size, mtime_ns, offset, content, file_hash, width, height, *numbers, True, True)
        )

    def undecodable(self, size: int, mtime_ns: int, *, reason: str, file_hash: bytes | None) -> None:
        """A file without pixels; without its hash, if it couldn't be read."""
        self._reasons[len(self._packed)] = reason
        read = file_hash is not None
        self._packed.append(_PACKED.pack(size, mtime_ns, 0, b"", file_hash or b"", 0, 0, -1, -1, -1, read, False))

    def told(self) -> Outcomes:
        """All of them."""
        rows = np.frombuffer(b"".join(self._packed), dtype=ROW)
        return Outcomes(rows, words=list(self._words), reasons=self._reasons)


def from_hexadecimal(texts: Sequence[str | None], size_bytes: int) -> npt.NDArray[np.uint8]:
    """Hashes as bytes, uint8 [n, size_bytes]; zeros where there is none."""
    nothing = "0" * (2 * size_bytes)
    joined = "".join([nothing if text is None else text for text in texts])
    return np.frombuffer(bytes.fromhex(joined), dtype=np.uint8).reshape(-1, size_bytes)


def numbered(values: Iterable[str | None], words: list[str]) -> npt.NDArray[np.int32]:
    """The place of each value among `words`, which are extended by what they lack; -1 for None."""
    number = {word: index for index, word in enumerate(words)}
    places = [-1 if value is None else number.setdefault(value, len(number)) for value in values]
    words[:] = list(number)
    return np.array(places, dtype=np.int32)
