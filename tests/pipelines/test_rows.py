"""Typed columns: what they say is what the table said, and their order is that of the bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines import manifest
from pipelines.manifest import PARTS
from pipelines.rows import Words, found_in, in_order
from tests.pipelines.staged_rows import rows_of

HASHES = st.lists(st.text("0123456789abcdef", min_size=1, max_size=12)) | st.lists(
    st.sampled_from("012").map(lambda last: f"0123456789{last}")
)
HASH = st.none() | st.sampled_from(["00ff", "01ff", "0a0b"])
ROW = st.fixed_dictionaries(
    {
        "path": st.text("äb/\n", min_size=1, max_size=9),
        "label": st.none() | st.sampled_from(["", "a", "ö"]),
        "part": st.none() | st.sampled_from(PARTS),
        "status": st.sampled_from([None, "ignored"]),
        "reason": st.none() | st.text(max_size=3),
        "content_hash": HASH,
        "width": st.none() | st.integers(1, 2**31 - 1),
        "offset": st.none() | st.integers(0, 2**40),
    }
)


def as_bytes(texts):
    return np.array(texts, dtype=np.bytes_)


@given(HASHES)
def test_order_is_that_of_the_bytes(texts):
    """Hashes are sorted as their digits are, whether or not the first eight differ; equal ones stay as they come."""
    assert in_order(as_bytes(texts)).tolist() == sorted(range(len(texts)), key=lambda index: texts[index])


@given(HASHES, HASHES)
def test_who_is_there_is_found(some, others):
    """Every hash is found at its place among those in order, and none that isn't there."""
    ordered = sorted(set(some))
    expected = [ordered.index(text) if text in ordered else -1 for text in others]
    assert found_in(as_bytes(ordered), as_bytes(others)).tolist() == expected


@given(st.lists(ROW, max_size=20))
def test_columns_say_what_the_table_said(files):
    """Every word, number and hash of the staged table is in the rows, and what is absent is told as absent."""
    told = {name: [one[name] for one in files] for name in (files[0] if files else {"path": None})}
    told = {"path": [], "part": [], **told}
    rows = rows_of(told)
    assert list(rows.path) == told["path"]
    for index, one in enumerate(files):
        assert (rows.label[index], rows.reason[index]) == (one["label"], one["reason"])
        assert rows.part[index] == (PARTS.index(one["part"]) if one["part"] else -1)
        assert rows.ignored[index] == (one["status"] == "ignored")
        assert rows.content[index].decode() == (one["content_hash"] or "")
        assert (rows.width[index], rows.offset[index]) == (one["width"] or 0, one["offset"] or 0)


@given(st.lists(st.none() | st.text("0123456789abcdef", min_size=1, max_size=8)), st.integers(0, 3))
def test_hashes_go_there_and_back(texts, skipped):
    """A column of hashes, or a slice of one, becomes bytes and strings again, whatever their widths."""
    column = manifest.strings(["0", *texts, None])[skipped:]
    found = manifest.fixed_bytes(column)
    assert [content.decode() for content in found.tolist()] == [text or "" for text in column.to_pylist()]
    assert manifest.text(found).to_pylist() == [text or "" for text in column.to_pylist()]


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), min_size=1), st.integers(0, 3))
def test_numbers_are_read_from_any_slice(values, skipped):
    """Whole numbers, nulls among them, are read rightly wherever a slice of the column begins."""
    there = np.array([value is not None for value in values])
    column = manifest.whole(np.array([value or 0 for value in values]), there=there)[skipped:]
    assert manifest.numbers(column, nothing=-7).tolist() == [
        -7 if value is None else value for value in values[skipped:]
    ]


def test_words_are_renumbered_by_name():
    """A word's place in another list is found by the word; none stays none."""
    words = Words(["b", "a"], np.array([0, 1, -1, 0]))
    assert words.renumbered(["a", "b"]).tolist() == [1, 0, -1, 1]
    assert words.renumbered(["a"]).tolist() == [-1, 0, -1, -1]
    assert words.among(np.array([2, 3])) == ["b"]
