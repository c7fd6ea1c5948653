"""Findings: every row gets one verdict, and what is odd is said."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.checks import judge, warnings
from pipelines.manifest import PARTS, STATUSES
from tests.pipelines.staged_rows import rows_of

ROW = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["1", "2", "3", None]),
    st.sampled_from([None, None, "train", "validation", "test"]),
    st.booleans(),
)


def columns(rows):
    """From (label, content, part, ignored)."""
    return {
        "path": [f"{label}/{number:03d}" for number, (label, *_) in enumerate(rows)],
        "label": [label for label, *_ in rows],
        "content_hash": [None if ignored else content for _, content, _, ignored in rows],
        "part": [part for _, _, part, _ in rows],
        "status": ["ignored" if ignored else None for *_, ignored in rows],
        "reason": ["a reason" if ignored or content is None else None for _, content, _, ignored in rows],
        "width": [8] * len(rows),
        "height": [8] * len(rows),
    }


def verdict_on(told, conflicts="drop"):
    """A verdict in words: status and reason of each row, and the row that stands for each content."""
    rows = rows_of(told)
    verdict = judge(rows, conflicts=conflicts)
    reasons = [verdict.reason.get(index, reason) for index, reason in enumerate(told["reason"])]
    used = {rows.content[index].decode(): index for index in verdict.used.tolist()}
    return verdict, [STATUSES[status] for status in verdict.status], reasons, used


def used(label, content, part=None):
    return label, content, part, False


@given(st.lists(ROW, max_size=30), st.sampled_from(["drop", "keep-first"]))
def test_every_row_has_one_verdict(rows, conflicts):
    """A content is used once or not at all; all that isn't used says why, and nothing that is used does."""
    told = columns(rows)
    _, statuses, reasons, used = verdict_on(told, conflicts)
    assert len(statuses) == len(reasons) == len(rows)
    assert sorted(used.values()) == [i for i, status in enumerate(statuses) if status == "used"]
    assert all(told["content_hash"][index] == content for content, index in used.items())
    for status, reason in zip(statuses, reasons, strict=True):
        assert (status == "used") == (reason is None)
    if conflicts == "keep-first":
        assert used.keys() == {content for content in told["content_hash"] if content}


@given(st.lists(ROW, max_size=30))
def test_conflicts_are_contents_with_several_labels(rows):
    """Dropped are exactly the contents that have more than one label, all their files."""
    told = columns(rows)
    labels = {}
    for content, label in zip(told["content_hash"], told["label"], strict=True):
        labels.setdefault(content, set()).add(label)
    verdict, statuses, *_ = verdict_on(told)
    expected = {content for content, found in labels.items() if content and len(found) > 1}
    assert {conflict.content_hash for conflict in verdict.conflicts} == expected
    for content, status in zip(told["content_hash"], statuses, strict=True):
        assert (status == "conflict") == (content in expected)


def test_a_leak_keeps_the_test_image():
    """Of copies in several parts the test's is used, then the validation's: the test set stays as it was made."""
    copies = [used("a", "1", part) for part in ("train", "validation", "test")]
    rows = columns([*copies, used("a", "2", "train")])
    verdict, statuses, reasons, _ = verdict_on(rows)
    assert statuses == ["duplicate", "duplicate", "used", "used"]
    assert [len(leak.paths) for leak in verdict.leaks] == [3]
    assert reasons[0] == "the same pixels as a/002, which is in test"


def said(rows, *, parts=None, lost_colour=False, overruled=0, task="classify", **sizes):
    told = columns(rows) | sizes
    verdict, *_, used = verdict_on(told)
    given = np.array([PARTS.index((parts or {}).get(content, "train")) for content in used], dtype=np.int64)
    return " ".join(
        warnings(rows_of(told), verdict, parts=given, lost_colour=lost_colour, overruled=overruled, task=task)
    )


def test_what_is_worth_a_second_look():
    """Imbalance, tiny classes, odd proportions, labels without images: each is said, and calm data says nothing."""
    calm = [used("ab"[number % 2], str(number)) for number in range(40)]
    assert said(calm) == ""
    assert "12 images" in said(calm, overruled=12)
    assert "unbalanced: 'a' has 40 images, 'b' has 3" in said(
        [used("a", f"a{n}") for n in range(40)] + [used("b", f"b{n}") for n in range(3)]
    )
    assert "Too few images to be in all three parts (3): 'c'" in said([*calm, used("c", "x")])
    assert "Labels without a usable image, left out: 'c'" in said([*calm, ("c", None, None, False)])
    assert "from 0.25 to 1.00" in said(calm, width=[2] + [8] * 39)
    assert "stored as gray" in said(calm, lost_colour=True)
    assert "without a training image: 'b'" in said(
        calm, parts={str(n): "train" if n % 2 == 0 else "test" for n in range(40)}
    )
    assert "More files are quarantined (41) than used (40)" in said(calm + [("a", None, None, False)] * 41)


def test_who_asks_for_no_labels_hears_nothing_of_them():
    """For reconstruct labels mean nothing, so nothing is said of them; what concerns all images is."""
    rows = [used("a", f"a{n}") for n in range(40)] + [used("b", "b"), ("c", None, None, False)]
    assert said(rows, parts={"b": "test"}, task="reconstruct") == ""
    assert "stored as gray" in said(rows, lost_colour=True, task="reconstruct")


def test_parts_that_are_labels_are_told():
    """Folders named as parts beside another: a model would learn which part an image was meant for, so it is said."""
    rows = [used(label, f"{label}{n}") for label in ("train", "val", "x") for n in range(20)]
    assert "folders 'train', 'val' look like the parts of a pre-split source" in said(rows)
    assert "beside them: 'x'. Move those out" in said(rows)
    assert "pre-split" not in said([used(label, f"{label}{n}") for label in ("train", "bus") for n in range(20)])


def test_labels_that_differ_only_in_case_are_told():
    """They are two classes, which may not be meant."""
    rows = [used(label, f"{label}{n}") for label in ("Cat", "cat", "dog") for n in range(20)]
    assert said(rows).endswith("Labels that differ only in upper and lower case: 'cat'.")
