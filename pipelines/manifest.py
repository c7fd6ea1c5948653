"""The manifest: one row per file found in a source, as a table with fixed columns; read, write, count.

It knows the columns and what a path says (label, part), not what an image is.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

PartName = Literal["train", "validation", "test"]
Status = Literal["used", "quarantined", "duplicate", "conflict", "ignored"]

PARTS: tuple[PartName, ...] = ("train", "validation", "test")
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
        builder = pa.lib.StringBuilder()
        builder.append_values(values)
        return builder.finish()
    nulls = None
    if None in values:
        nulls = pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little"))
        values = [value or 0 for value in values]
    whole = np.array(values, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [nulls, pa.py_buffer(whole)]).cast(kind)


def columns(rows: pa.Table, names: Iterable[str]) -> dict[str, list[Any]]:
    """Columns as lists, in which equal words are one object: there may be millions of rows."""
    return {name: _values(rows[name], shared=name in _FEW_WORDS) for name in names}


def _values(column: pa.ChunkedArray, *, shared: bool) -> list[Any]:
    if not shared:
        return cast("list[Any]", column.to_pylist())
    encoded = column.combine_chunks().dictionary_encode()
    words = [*encoded.dictionary.to_pylist(), None]
    return [words[-1 if index is None else index] for index in encoded.indices.to_pylist()]


def write(rows: pa.Table, path: Path) -> None:
    """Put a table at `path` in one step: a reader sees the old file or the whole new one."""
    try:
        with replacing(path) as beside:
            pq.write_table(rows, beside, compression="zstd", row_group_size=_ROW_GROUP)
    finally:
        pa.default_memory_pool().release_unused()


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table at `path`, or some of its columns, in memory."""
    with pq.ParquetFile(path) as file:  # pyarrow's read_table imports datasets, and pandas with them
        return file.read(columns=columns)


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
    columns = [rows[name].to_pylist() for name in ("label", "split", "status")]
    told: dict[str, dict[str, int]] = {}
    for (label, part, status), files in Counter(zip(*columns, strict=True)).items():
        if label is not None and status != "ignored":
            told.setdefault(label, dict.fromkeys(_FATES, 0))[part or status] += files
    return dict(sorted(told.items()))


def quarantined(rows: pa.Table) -> list[dict[str, str]]:
    """Path and reason of every quarantined file."""
    told = zip(*(rows[name].to_pylist() for name in ("path", "reason", "status")), strict=True)
    return [{"path": path, "reason": reason} for path, reason, status in told if status == "quarantined"]


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
