"""The manifest: fixed columns, whole files, counts that add up."""

from __future__ import annotations

import sys
from subprocess import run

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import manifest
from tests.pipelines.image_folders import labelled

TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.none() | st.integers(0, 2**31 - 1)
STATUS = st.sampled_from(["used", "quarantined", "duplicate", "conflict", "ignored"])
ROWS = st.fixed_dictionaries(
    {column.name: TEXT if column.type == pa.string() else NUMBER for column in manifest.SCHEMA}
)


def rows_of(statuses):
    return [
        {"status": status, "split": part if status == "used" else None, "label": label}
        for status, part, label in statuses
    ]


@settings(deadline=None)
@given(st.lists(ROWS, max_size=20))
def test_written_rows_are_read_again(tmp_path_factory, rows):
    """Every text and number, and every null, comes back as it was."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    columns = {name: [row[name] for row in rows] for name in manifest.SCHEMA.names}
    manifest.write(manifest.table(columns, manifest.SCHEMA), path)
    assert manifest.read(path).to_pylist() == rows
    assert pq.read_schema(path).equals(manifest.SCHEMA)
    assert [found.name for found in path.parent.iterdir()] == ["manifest.parquet"]


@given(st.lists(st.tuples(STATUS, st.sampled_from(manifest.PARTS), st.sampled_from("ab")), max_size=50))
def test_counts_add_up(statuses):
    """All files are counted once, whatever became of them; per label too."""
    rows = rows_of(statuses)
    columns = {name: [row.get(name) for row in rows] for name in manifest.SCHEMA.names}
    table = manifest.table(columns, manifest.SCHEMA)
    counts = manifest.counts(table)
    assert sum(counts.values()) == 2 * counts["files"] == 2 * len(rows)
    told = manifest.per_label(table)
    assert sum(sum(fates.values()) for fates in told.values()) == len(rows) - counts["ignored"]


def test_reasons_are_counted_by_kind():
    """Numbers in a reason don't tell reasons apart, numbers in words do; a number that all share is told."""
    told = ["The 12 bytes are odd; at most 5.", "no {UTF-8}", "The 7 bytes are odd; at most 5.", "9 {}"]
    found = manifest.reasons([{"path": "x", "reason": reason} for reason in told])
    assert list(found.items()) == [("The … bytes are odd; at most 5.", 2), ("no {UTF-8}", 1), ("9 {}", 1)]


@pytest.mark.parametrize(
    ("paths", "presplit"),
    [
        (["train/a/1.png", "test/a/2.png"], True),
        (["Training/a/1.png", "VAL/a/2.png", "eval/b/1.png"], True),
        (["train/1.png", "dev/2.png"], True),
        (["train/a/1.png", "test/a/2.png", "readme.txt"], True),
        (["train/a/1.png"], False),
        (["test/a/1.png", "val/a/1.png"], False),
        (["train/a/1.png", "test/a/2.png", "cat/1.png"], False),
        (["cat/1.png", "dog/2.png"], False),
        (["1.png"], False),
        ([], False),
    ],
)
def test_presplit_layouts(paths, presplit):
    """A source is pre-split when all its folders are parts, one of them train, and there are two."""
    assert manifest.is_presplit(paths) == presplit


@pytest.mark.parametrize(
    ("path", "presplit", "said"),
    [
        ("cat/1.png", False, ("cat", None)),
        ("cat/deep/er/1.png", False, ("cat", None)),
        ("1.png", False, (None, None)),
        ("train/cat/1.png", True, ("cat", "train")),
        ("Valid/cat/deep/1.png", True, ("cat", "validation")),
        ("testing/1.png", True, (None, "test")),
        ("train/cat/1.png", False, ("train", None)),
    ],
)
def test_what_a_path_says(path, presplit, said):
    """The first folder is the label, below the part's where there is one; nested folders belong to it."""
    assert manifest.label_and_part(path, presplit=presplit) == said


def test_pandas_stays_out(tmp_path):
    """An ingest does without pandas, whose import takes longer than most ingests."""
    code = """
import sys
from pathlib import Path
from pipelines.config import DataRecipe
from pipelines.ingest import ingest
ingest(sys.argv[1], Path(sys.argv[2]), DataRecipe())
ingest(sys.argv[1], Path(sys.argv[2]), DataRecipe())
sys.exit("pandas" in sys.modules)
"""
    source = labelled(tmp_path / "photos", {"a": 5, "b": 5})
    assert run([sys.executable, "-c", code, source, tmp_path / "w" / "d" / "x"], check=False).returncode == 0
