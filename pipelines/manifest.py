"""The manifest: one row per file found in a source, as a table with fixed columns; read, write, count.

It knows the columns and what a path says (label, part), not what an image is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

PartName = Literal["train", "validation", "test"]
Status = Literal["used", "quarantined", "duplicate", "conflict", "ignored"]

PARTS: tuple[PartName, ...] = ("train", "validation", "test")
STATUSES: tuple[Status, ...] = ("used", "quarantined", "duplicate", "conflict", "ignored")
MANIFEST = "manifest.parquet"
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("size", pa.int64()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("content_hash", pa.string()),
        ("file_hash", pa.string()),
        ("mtime_ns", pa.int64()),
        ("row", pa.int64()),
    ]
)
_COUNTED = {"quarantined": "quarantined", "duplicate": "duplicates", "conflict": "conflicts", "ignored": "ignored"}
_FEW_WORDS = frozenset({"label", "part", "split", "status", "format", "mode", "shard"})
_ROW_GROUP = 16_384  # what the writer holds at once
_NUMBER = re.compile(r"(^|[ (])(\d+)")
_FATES = (*PARTS, "quarantined", "duplicate", "conflict")
_SYNONYMS: dict[str, PartName] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


def part_of_folder(name: str) -> PartName | None:
    """The part that a folder of this name stands for in a pre-split source, or None."""
    return _SYNONYMS.get(name.lower())


def is_presplit(paths: Iterable[str]) -> bool:
    """Whether files at these paths are laid out as `train/label/…`, `validation/…`, `test/…`.

    They are when every folder at the top has the name of a part, one is train, and there is another.
    """
    tops = {path.split("/", 1)[0] for path in paths if "/" in path}
    parts = {part_of_folder(top) for top in tops}
    return None not in parts and "train" in parts and len(parts) > 1


def label_and_part(path: str, *, presplit: bool) -> tuple[str | None, PartName | None]:
    """What a path says: its label (None: the file lies outside any label's folder) and its part, if given."""
    folders = path.split("/")[:-1]
    part = part_of_folder(folders[0]) if presplit and folders else None
    labels = folders[1:] if part else folders
    return (labels[0] if labels else None), part


def table(columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """A table of string and integer columns from lists, in which None is null.

    Not `pyarrow.table`, which imports pandas, where it is installed, to ask whether a list is a Series.
    """
    arrays = [_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.string():
        return strings(values)
    there = np.array([value is not None for value in values], dtype=np.bool_)
    return whole(np.array([value or 0 for value in values], dtype=np.int64), there=there, kind=kind)


def strings(values: Sequence[str | None]) -> pa.Array:
    """A column of strings, in which None is null."""
    if values and values[0] is None and values.count(None) == len(values):
        return pa.nulls(len(values), pa.string())
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def whole(
    values: npt.NDArray[Any], *, there: npt.NDArray[np.bool_] | None = None, kind: pa.DataType | None = None
) -> pa.Array:
    """A column of whole numbers, null where not `there`."""
    wide = np.ascontiguousarray(values, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(wide), [_bits(there), pa.py_buffer(wide)]).cast(kind or pa.int64())


def hexadecimal(hashes: npt.NDArray[np.uint8], *, there: npt.NDArray[np.bool_]) -> pa.Array:
    """A column of hexadecimal digits, null where not `there`.

    Args:
        hashes: uint8 [n, bytes].
        there: bool [n].
    """
    digits = 2 * hashes.shape[1]
    offsets = np.concatenate([[0], np.cumsum(there * digits)]).astype(np.int32)
    text = pa.py_buffer(np.ascontiguousarray(hashes[there]).tobytes().hex().encode())
    return pa.Array.from_buffers(pa.string(), len(hashes), [_bits(there), pa.py_buffer(offsets), text])


def text(words: npt.NDArray[np.bytes_]) -> pa.Array:
    """A column of strings from bytes [n] without zeros in them, as `fixed_bytes` has them; none is null."""
    offsets = np.concatenate([[0], np.cumsum(np.strings.str_len(words))]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(words), [None, pa.py_buffer(offsets), pa.py_buffer(joined(words))])


def joined(words: npt.NDArray[np.bytes_]) -> bytes:
    """All of them, one after another, without the zeros that fill each up."""
    return words.tobytes().replace(b"\0", b"")


def chosen(words: Sequence[str], index: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """A column of words by their places; null where the place is below 0."""
    return strings(list(words)).take(whole(index, there=index >= 0))


def numbers(column: pa.Array, *, nothing: int = 0) -> npt.NDArray[np.int64]:
    """A column of whole numbers as int64 [n], with `nothing` in place of null.

    Not by pyarrow's `to_numpy`, which imports pandas, where it is installed.
    """
    if not len(column):
        return np.empty(0, dtype=np.int64)
    size = column.type.bit_width // 8
    values = np.frombuffer(column.buffers()[1], f"i{size}", len(column), column.offset * size).astype(np.int64)
    values[~_there(column)] = nothing
    return values


def coded(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The words of a column, each once, in order of first appearance; which each row has: int64 [n], -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), numbers(encoded.indices, nothing=-1)


def fixed_bytes(column: pa.Array) -> npt.NDArray[np.bytes_]:
    """A column of ASCII strings as bytes [n], all as wide as the longest; empty in place of null."""
    held = column.drop_null()
    sizes = pc.min_max(pc.binary_length(held)).as_py()
    width = sizes["max"] or 1
    if sizes["min"] != width:
        return np.array([text or "" for text in column.to_pylist()], dtype=f"S{width}")
    _, offsets, text = held.buffers()
    start = np.frombuffer(offsets, dtype=np.int32)[held.offset]
    found = np.zeros(len(column), dtype=f"S{width}")
    found[_there(column)] = np.frombuffer(text, found.dtype, len(held), start)
    return found


def _there(column: pa.Array) -> npt.NDArray[np.bool_]:
    bits = column.buffers()[0]
    if bits is None:
        return np.ones(len(column), dtype=np.bool_)
    stop = column.offset + len(column)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=stop, bitorder="little")[column.offset :].view(np.bool_)


def _bits(there: npt.NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if there is None or there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))


def columns(rows: pa.Table, names: Iterable[str]) -> dict[str, list[Any]]:
    """Columns as lists, in which equal words are one object, and paths none yet: there may be millions of rows."""
    return {
        name: cast("list[Any]", Lazy(rows[name])) if name == "path" else _values(rows[name], shared=name in _FEW_WORDS)
        for name in names
    }


class Lazy(Sequence[Any]):
    """A column of which few values are looked at: each becomes a Python object when it is."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column.combine_chunks()

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        return self._column[index].as_py()


def _values(column: pa.ChunkedArray, *, shared: bool) -> list[Any]:
    if not shared:
        return cast("list[Any]", column.to_pylist())
    encoded = column.combine_chunks().dictionary_encode()
    words = [*encoded.dictionary.to_pylist(), None]
    return [words[-1 if index is None else index] for index in encoded.indices.to_pylist()]


def write(rows: pa.Table, path: Path, *, lasting: bool = True) -> None:
    """Put a table at `path` in one step: a reader sees the old file or the whole new one.

    Args:
        rows: the table.
        path: of a file.
        lasting: no: it is read once, and soon: it takes more room and less time, and may be lost in a power cut.
    """
    words = [name for name in rows.schema.names if name in _FEW_WORDS]
    counts = [field.name for field in rows.schema if lasting and pa.types.is_integer(field.type)]
    try:
        with replacing(path, lasting=lasting) as beside:
            pq.write_table(
                rows,
                beside,
                compression="zstd" if lasting else "none",
                row_group_size=_ROW_GROUP,
                use_dictionary=words,
                column_encoding=dict.fromkeys(counts, "DELTA_BINARY_PACKED") or None,  # smaller, in half of the time
                write_statistics=False,
            )
    finally:
        pa.default_memory_pool().release_unused()


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table at `path`, or some of its columns, in memory."""
    with pq.ParquetFile(path) as file:  # pyarrow's read_table imports datasets, and pandas with them
        return file.read(columns=columns)


def read_coded(path: Path, words: Sequence[str]) -> pa.Table:
    """The table at `path`; those of its columns that hold few `words` as dictionaries, in less time and memory."""
    with pq.ParquetFile(path, read_dictionary=list(words)) as file:
        return file.read(use_threads=False)


def counts(rows: pa.Table) -> dict[str, int]:
    """Files by what became of them: the parts, quarantined, duplicates, conflicts, ignored, and all files."""
    by_split = _tally(rows["split"])
    by_status = _tally(rows["status"])
    return {
        **{part: by_split.get(part, 0) for part in PARTS},
        **{word: by_status.get(status, 0) for status, word in _COUNTED.items()},
        "files": rows.num_rows,
    }


def per_label(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Files of each label by what became of them: parts, quarantined, duplicate, conflict."""
    labels, label = coded(rows["label"])
    fates, fate = coded(pc.coalesce(rows["split"], rows["status"]))
    pairs = (label * len(fates) + fate)[label >= 0]
    files = np.bincount(pairs, minlength=len(labels) * len(fates)).reshape(len(labels), len(fates)).tolist()
    nothing = dict.fromkeys(_FATES, 0)
    told = {
        name: nothing | {fate: count for fate, count in zip(fates, counts, strict=True) if fate in nothing}
        for name, counts in zip(labels, files, strict=True)
    }
    return {name: counts for name, counts in sorted(told.items()) if any(counts.values())}


def quarantined(rows: pa.Table) -> list[dict[str, str]]:
    """Path and reason of every quarantined file."""
    return cast("list[dict[str, str]]", of_status(rows, "quarantined").select(["path", "reason"]).to_pylist())


def why_ignored(rows: pa.Table) -> dict[str, int]:
    """Ignored files by reason, the commonest first."""
    return dict(Counter(of_status(rows, "ignored")["reason"].to_pylist()).most_common())


def of_status(rows: pa.Table, status: Status) -> pa.Table:
    """The rows that have it."""
    return rows.filter(_is(rows["status"], status))


def _is(column: pa.ChunkedArray, word: str) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=strings([word]))  # not `pc.equal`, which imports pandas to look at the word


def reasons(problems: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Quarantined files by reason, the commonest first; numbers don't tell reasons apart: `…` where they differ."""
    counts: Counter[str] = Counter()
    numbers: dict[str, list[str | None]] = {}
    for problem in problems:
        words, here = _NUMBER.sub(r"\1{}", _escaped(problem["reason"])), _NUMBER.findall(problem["reason"])
        counts[words] += 1
        known = numbers.setdefault(words, [number for _, number in here])
        for at, (_, number) in enumerate(here):
            if known[at] != number:
                known[at] = None
    return {words.format(*(number or "…" for number in numbers[words])): count for words, count in counts.most_common()}


def _escaped(text: str) -> str:
    """For `str.format`."""
    return text.replace("{", "{{").replace("}", "}}")


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value is there, nulls aside."""
    return {item["values"]: item["counts"] for item in pc.value_counts(column.drop_null()).to_pylist()}
