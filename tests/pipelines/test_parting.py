"""Groups, pre-split sources and what was assigned before: who goes where, who is set aside, what is told."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checks import judge, warnings
from pipelines.config import DataRecipe
from pipelines.ledger import Ledger
from pipelines.likeness import NEAR_BITS
from pipelines.manifest import PARTS
from pipelines.parting import part
from tests.pipelines.staged_rows import rows_of

PATIENTS = DataRecipe(group_by=r"p\d+")
ALIKE = DataRecipe(group_near_duplicates=True)


def staged(files):
    """Rows of a source as it was decoded: path -> content hash; the label and the part are what the path says."""
    paths = sorted(files)
    first = [path.split("/")[0] for path in paths]
    parts = [name if name in PARTS else None for name in first]
    labels = [path.split("/")[1 if name else 0] if "/" in path else "" for path, name in zip(paths, parts, strict=True)]
    return {
        "path": paths,
        "label": labels,
        "part": parts,
        "status": [None] * len(paths),
        "reason": [None] * len(paths),
        "content_hash": [files[path] for path in paths],
        "width": [8] * len(paths),
        "height": [8] * len(paths),
    }


class Told(NamedTuple):
    """A parting in words: the part of each content."""

    parts: dict[str, str]
    ledger: Ledger
    overruled: int
    warnings: list[str]


def parted(files, *, book=None, recipe=PATIENTS, looks=None):
    """The parting of a source's files, and the verdict on them."""
    columns = staged(files)
    rows = rows_of(columns)
    verdict = judge(rows, conflicts="drop")
    presplit = any(columns["part"])
    book = book or Ledger.empty()
    outcome = part(rows, verdict, recipe=recipe, presplit=presplit, book=book, looks=looks, listed=10)
    contents = [content.decode() for content in rows.content[verdict.used]]
    parts = dict(zip(contents, (PARTS[index] for index in outcome.parts), strict=True))
    said = warnings(rows, verdict, parts=outcome.parts, lost_colour=False, overruled=outcome.overruled)
    return Told(parts, ledger=outcome.ledger, overruled=outcome.overruled, warnings=said), verdict


def patients(count, *, images=3, folder=""):
    return {
        f"{folder}{'ab'[number % 2]}/p{number}-{image}.png": f"{folder}{number:03d}{image}"
        for number in range(count)
        for image in range(images)
    }


def parts_by_patient(files, outcome):
    found = defaultdict(set)
    for path, content in files.items():
        if content in outcome.parts:
            found[path.split("/p")[1].split("-")[0]].add(outcome.parts[content])
    return found


def two_patients(files, outcome):
    """A patient in train and one in test."""
    by_patient = parts_by_patient(files, outcome)
    return tuple(next(name for name, parts in by_patient.items() if parts == {part}) for part in ("train", "test"))


def test_a_bridge_is_alone_in_its_conflict():
    """Only the newcomer that joins two groups is set aside: others of the same groups go where theirs are."""
    files = patients(30)
    first, _ = parted(files)
    one, other = two_patients(files, first)
    bridge = {f"a/p{one}-bridge.png": "bridge", f"a/p{other}-bridge.png": "bridge"}
    late = {f"a/p{name}-late{number}.png": f"late{name}{number}" for name in (one, other) for number in range(4)}
    second, verdict = parted(files | bridge | late, book=first.ledger)
    assert [conflict.content_hash for conflict in verdict.conflicts] == ["bridge"]
    assert "bridge" not in second.parts
    assert {second.parts[f"late{one}{number}"] for number in range(4)} == {"train"}
    assert {second.parts[f"late{other}{number}"] for number in range(4)} == {"test"}


def test_a_bridge_by_looks_is_alone_in_its_conflict():
    """The same where looks make the groups: newcomers near one side only are used."""
    looks = {f"{number:02d}": number << 40 | number << 20 | 0xFFFF for number in (0, 0b11111111)}
    book = Ledger.of({"00": "train", "255": "test"}, likeness={"00": 0, "255": 0b11111111})
    looks = {"00": 0, "255": 0b11111111, "bridge": 0b1111, "left": 0b1, "right": 0b1111111}
    files = {f"a/{name}.png": name for name in looks}
    outcome, verdict = parted(files, book=book, recipe=ALIKE, looks=looks)
    assert [conflict.content_hash for conflict in verdict.conflicts] == ["bridge"]
    assert (outcome.parts["left"], outcome.parts["right"]) == ("train", "test")


def test_a_copy_of_an_old_image_under_another_name_tears_nobody():
    """An image of one patient that turns up under another's name makes no conflict of either's newcomers."""
    files = patients(30)
    first, _ = parted(files)
    one, other = two_patients(files, first)
    more = {
        f"a/p{other}-copy.png": next(content for path, content in files.items() if f"p{one}-" in path),
        f"a/p{one}-late.png": "late-one",
        f"a/p{other}-late.png": "late-other",
    }
    labels_agree = {path.replace("b/", "a/"): content for path, content in (files | more).items()}
    second, verdict = parted(labels_agree, book=first.ledger)
    assert verdict.conflicts == []
    assert (second.parts["late-one"], second.parts["late-other"]) == ("train", "test")


LOOKS = st.dictionaries(st.integers(0, 30).map(lambda name: f"c{name:02d}"), st.integers(0, 2**12 - 1), max_size=25)


@given(LOOKS, LOOKS)
@settings(deadline=None)
def test_no_newcomer_is_near_another_part(old, new):
    """Whoever is admitted later looks like nobody of another part; whoever is set aside would have."""
    looks = new | old
    first, _ = parted({f"a/{name}.png": name for name in old}, recipe=ALIKE, looks=old)
    outcome, verdict = parted({f"a/{name}.png": name for name in looks}, book=first.ledger, recipe=ALIKE, looks=looks)
    assert all(outcome.parts[name] == first.parts[name] for name in old)
    for one in outcome.parts:
        for other in outcome.parts.keys() - {one}:
            if (looks[one] ^ looks[other]).bit_count() <= NEAR_BITS:
                assert outcome.parts[one] == outcome.parts[other]
    assert {conflict.content_hash for conflict in verdict.conflicts} == looks.keys() - outcome.parts.keys()


@pytest.mark.parametrize("recipe", [PATIENTS, ALIKE], ids=["group-by", "group-near-duplicates"])
def test_a_part_cut_from_train_tears_no_group(recipe):
    """Where a pre-split source lacks a part, whole groups of its train go there, later ones too."""
    files = patients(40, folder="train/") | patients(4, folder="test/")
    looks = {
        content: int(content[-4:-1]) * 0x9E3779B97F4A7C15 % 2**60 << 4 | int(content[-1]) for content in files.values()
    }
    files = {path.replace("test/a/p", "test/a/p9").replace("test/b/p", "test/b/p9"): c for path, c in files.items()}
    looks |= {content: value ^ (2**64 - 1) for content, value in looks.items() if content.startswith("test")}
    outcome, verdict = parted(files, recipe=recipe, looks=looks)
    found = parts_by_patient(files, outcome)
    assert all(len(parts) == 1 for parts in found.values())
    assert {next(iter(parts)) for parts in found.values()} == set(PARTS)
    assert verdict.group_leaks == []
    late = {f"train/{'ab'[number % 2]}/p{number}-late.png": f"train/{number:03d}7" for number in range(40)}
    looks |= {content: looks[content[:-1] + "0"] | 7 for content in late.values()}
    later, _ = parted(files | late, book=outcome.ledger, recipe=recipe, looks=looks)
    assert parts_by_patient(files | late, later) == found


def test_groups_that_cross_given_parts_are_told():
    """A patient in the train and the test of a pre-split source stays there, and is reported as a leak."""
    files = patients(10, folder="train/") | {"test/a/p90-0.png": "t0", "test/b/p3-new.png": "t1"}
    outcome, verdict = parted(files)
    assert outcome.parts["t1"] == "test"
    (leak,) = verdict.group_leaks
    assert leak.paths[-1] == "test/b/p3-new.png"
    assert leak.paths[0].startswith("train/b/p3-")
    assert any("1 groups lie in more than one part" in warning for warning in outcome.warnings)


def test_becoming_presplit_moves_nobody():
    """A source that is laid out in parts later keeps every earlier assignment, and the disagreement is told."""
    files = patients(20)
    first, _ = parted(files)
    laid_out = {f"{'train' if number % 3 else 'test'}/{path}": c for number, (path, c) in enumerate(files.items())}
    new = {"train/a/p70-0.png": "n0", "test/b/p71-0.png": "n1"}
    second, _ = parted(laid_out | new, book=first.ledger)
    assert {content: second.parts[content] for content in first.parts} == first.parts
    assert second.parts["n1"] == "test"
    disagree = sum(
        first.parts[content] != path.split("/")[0] and (path.startswith("test") or first.parts[content] == "test")
        for path, content in laid_out.items()
    )
    assert second.overruled == disagree > 0
    assert any(f"gives {disagree} images another part" in text for text in second.warnings)


def test_gaining_a_part_moves_nobody():
    """What was cut from train stays when the source gains that part; so do test images that it moves to train."""
    files = patients(20, folder="train/") | {f"test/a/p9{number}-0.png": f"t{number}" for number in range(4)}
    first, _ = parted(files)
    moved = {path.replace("test/a/p90", "train/a/p90"): content for path, content in files.items()}
    gained = moved | {"validation/a/p80-0.png": "v0", "validation/b/p81-0.png": "v1"}
    second, _ = parted(gained, book=first.ledger)
    assert {content: second.parts[content] for content in first.parts} == first.parts
    assert second.parts["v0"] == "validation"
    assert second.overruled == 1 + sum(part == "validation" for part in first.parts.values())


def test_an_image_beside_the_parts_has_one():
    """In a pre-split source an image outside the folders of parts goes where train's may, and stays there."""
    files = {f"{name}/a/{number}.png": f"{name}{number}" for name in ("train", "test") for number in range(9)}
    loose = {f"loose{number}.png": f"l{number}" for number in range(40)}
    first, _ = parted(files | loose)
    assert {first.parts[content] for content in loose.values()} == {"train", "validation"}
    assert all(first.parts[content] == path.split("/")[0] for path, content in files.items() if "test" in path)
    assert first.overruled == 0
    second, _ = parted(files | loose | {"validation/a/0.png": "v0", "late.png": "late"}, book=first.ledger)
    assert {content: second.parts[content] for content in first.parts} == first.parts
    assert second.parts["late"] == "train"
