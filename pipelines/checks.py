"""Findings about a source as data: duplicates, conflicts, leaks, and what a person should look at twice.

Pure: it judges rows that were decoded already, and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pipelines.manifest import PARTS, STATUSES, part_of_folder
from pipelines.rows import in_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from pipelines.manifest import Status
    from pipelines.rows import Contents, Numbers, Rows

IMBALANCE_RATIO = 10
TINY_CLASS_IMAGES = 3
SMALL_CLASS_IMAGES = 10
PROPORTIONS_RATIO = 2.0
_KEPT_FIRST: Final = {PARTS.index("test"): 0, PARTS.index("validation"): 1, PARTS.index("train"): 2, -1: 3}
_USED, _QUARANTINED, _IGNORED = (STATUSES.index(status) for status in ("used", "quarantined", "ignored"))


@dataclass(frozen=True, slots=True)
class Conflict:
    """Equal pixels that can't all be used: under several labels, or joining groups of several parts."""

    content_hash: str
    paths: tuple[str, ...]


@dataclass(slots=True)
class Verdict:
    """What became of every row, in the order of the rows.

    Attributes:
        status: int8 [n], the place in STATUSES of each row's.
        reason: of the rows that were set aside here, by row.
        used: the row that stands for each content in the snapshot, in order of the contents' first rows.
        conflicts: contents with several labels.
        leaks: contents that a pre-split source has in several parts.
        group_leaks: groups that it has in several parts: an image of each part.
    """

    status: npt.NDArray[np.int8]
    reason: dict[int, str]
    used: Numbers
    conflicts: list[Conflict] = field(default_factory=list)
    leaks: list[Conflict] = field(default_factory=list)
    group_leaks: list[Conflict] = field(default_factory=list)


def judge(rows: Rows, *, conflicts: Literal["drop", "keep-first"]) -> Verdict:
    """Decide on every row of a decoded source.

    Args:
        rows: in order of the paths.
        conflicts: with `keep-first`, equal pixels under several labels count for the first of the labels.
    """
    status = np.full(len(rows.content), _USED, dtype=np.int8)
    status[rows.content == b""] = _QUARANTINED
    status[rows.ignored] = _IGNORED
    candidates = np.flatnonzero(status == _USED)
    used, repeated = _distinct(candidates, rows.content[candidates])
    verdict = Verdict(status=status, reason={}, used=used)
    places = np.searchsorted(used, [indices[0] for indices in repeated])
    for place, indices in zip(places.tolist(), repeated, strict=True):
        used[place] = _judge_repeated(indices, rows=rows, verdict=verdict, keep_first=conflicts == "keep-first")
    verdict.used = used[used >= 0]
    return verdict


def _distinct(candidates: Numbers, contents: Contents) -> tuple[Numbers, list[list[int]]]:
    """The first row of each content, and all rows of each that has several, in order of the second of these."""
    order = in_order(contents)
    ordered = contents[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    runs = np.split(again, np.flatnonzero(np.diff(again) > 1) + 1) if len(again) else []
    repeated = [candidates[order[run[0] - 1 : run[-1] + 1]].tolist() for run in runs]
    return np.delete(candidates, order[again]), sorted(repeated, key=lambda indices: indices[1])


def _judge_repeated(indices: Sequence[int], *, rows: Rows, verdict: Verdict, keep_first: bool) -> int:
    """One file of equal pixels is used, and its row returned; the others are duplicates, or all in conflict: -1."""
    labels = {index: rows.label[index] or "" for index in indices}
    parts, paths, content = rows.part, rows.path, rows.content[indices[0]].decode()
    kept_label = min(labels.values())
    conflicting = [index for index in indices if labels[index] != kept_label]
    kept = [index for index in indices if labels[index] == kept_label]
    if conflicting:
        verdict.conflicts.append(Conflict(content, tuple(paths[index] for index in indices)))
        if not keep_first:
            conflicting, kept = list(indices), []
        first = indices[0]
        second = next(index for index in indices if labels[index] != labels[first])
        for index in conflicting:
            other = paths[second if labels[index] == labels[first] else first]
            _set_aside(verdict, index, "conflict", f"the same pixels as {other}, which has another label")
    # Of copies in several parts of a pre-split source the test's stays: so the test set is what its maker made.
    kept.sort(key=lambda index: (_KEPT_FIRST[int(parts[index])], paths[index]))
    if len({int(parts[index]) for index in kept}) > 1:
        verdict.leaks.append(Conflict(content, tuple(paths[index] for index in kept)))
    for index in kept[1:]:
        leak = f", which is in {PARTS[parts[kept[0]]]}" if parts[index] != parts[kept[0]] else ""
        _set_aside(verdict, index, "duplicate", f"the same pixels as {paths[kept[0]]}{leak}")
    return kept[0] if kept else -1


def set_aside(verdict: Verdict, torn: Mapping[int, str], rows: Rows) -> None:
    """Turn rows that were to be used into conflicts, each with its reason."""
    for index, reason in torn.items():
        _set_aside(verdict, index, "conflict", reason)
        verdict.conflicts.append(Conflict(rows.content[index].decode(), (rows.path[index],)))
    verdict.used = verdict.used[~np.isin(verdict.used, list(torn))]


def _set_aside(verdict: Verdict, index: int, status: Status, reason: str) -> None:
    verdict.status[index] = STATUSES.index(status)
    verdict.reason[index] = reason


def warnings(
    rows: Rows,
    verdict: Verdict,
    *,
    parts: Numbers,
    lost_colour: bool,
    overruled: int,
    task: str = "classify",
) -> list[str]:
    """Sentences about what isn't wrong and may still spoil a training.

    Args:
        rows: as in `judge`.
        verdict: on these rows.
        parts: int64 [used], the place in PARTS of each used content's.
        lost_colour: colour images are stored as gray, because the dataset is gray.
        overruled: images whose part is not the one that the source now gives them.
        task: classify or reconstruct, which asks for no labels and hears nothing of them.
    """
    used = verdict.used
    found = [*_parts_as_labels(rows, used), *_class_warnings(rows, used)] if task == "classify" else []
    proportions = rows.width[used] / rows.height[used]
    if len(used) and proportions.max() > PROPORTIONS_RATIO * proportions.min():
        found.append(
            f"Proportions differ: width over height goes from {proportions.min():.2f} to {proportions.max():.2f}. "
            "--resize pad keeps them."
        )
    if lost_colour:
        found.append("Some images have colour, and the dataset is gray: they are stored as gray.")
    if verdict.leaks:
        found.append(
            f"{len(verdict.leaks)} images lie in more than one part of this pre-split source; "
            "each is used once, in test before validation before train."
        )
    if verdict.group_leaks:
        first = " and ".join(map(repr, verdict.group_leaks[0].paths))
        found.append(
            f"{len(verdict.group_leaks)} groups lie in more than one part of this pre-split source, which is "
            f"honoured: what is measured on them flatters the model. The first: {first}."
        )
    if overruled:
        found.append(
            f"The source now gives {overruled} images another part than they had in an earlier ingest. They stay "
            "where they were, because nobody moves; to follow the source, use another --dataset."
        )
    quarantined = int(np.count_nonzero(verdict.status == _QUARANTINED))
    if quarantined > len(used):
        found.append(f"More files are quarantined ({quarantined}) than used ({len(used)}).")
    trained = used[parts == PARTS.index("train")]
    untrained = sorted({*rows.label.among(used)} - {*rows.label.among(trained)})
    if untrained and task == "classify":
        found.append(f"Labels without a training image: {_listed(untrained)}.")
    return found


def empty_labels(names: Sequence[str]) -> list[str]:
    """The sentence about folders of labels that hold no file to look at, if there are any."""
    return [f"Folders of labels without a file that could be an image: {_listed(names)}."] if names else []


def _parts_as_labels(rows: Rows, used: Numbers) -> list[str]:
    """The sentence about a source that looks pre-split and isn't taken for it, because of other folders."""
    labels = sorted(rows.label.among(used))
    parts = [label for label in labels if part_of_folder(label) is not None]
    kinds = {part_of_folder(label) for label in parts}
    if "train" not in kinds or len(kinds) < 2:  # noqa: PLR2004 - two parts make a pre-split source
        return []
    others = sorted({*rows.label.among(np.flatnonzero(~rows.ignored))} - {*parts})
    sentence = (
        f"The folders {_listed(parts)} look like the parts of a pre-split source, and are labels here, because there "
        f"are other folders beside them: {_listed(others)}. Move those out of the source to have the parts honoured."
    )
    return [sentence]


def _class_warnings(rows: Rows, used: Numbers) -> list[str]:
    counted = Counter(rows.label.numbers[used].tolist())
    sizes = {rows.label.words[number]: images for number, images in counted.items()}
    found = []
    if alike := sorted(label for label, times in Counter(map(str.lower, sizes)).items() if times > 1):
        found.append(f"Labels that differ only in upper and lower case: {_listed(alike)}.")
    if unused := sorted({*rows.label.among(np.flatnonzero(~rows.ignored))} - sizes.keys()):
        found.append(f"Labels without a usable image, left out: {_listed(unused)}.")
    if tiny := sorted(label for label, images in sizes.items() if images < TINY_CLASS_IMAGES):
        found.append(f"Too few images to be in all three parts ({TINY_CLASS_IMAGES}): {_listed(tiny)}.")
    if small := sorted(label for label, images in sizes.items() if TINY_CLASS_IMAGES <= images < SMALL_CLASS_IMAGES):
        found.append(f"Fewer than {SMALL_CLASS_IMAGES} images: {_listed(small)}.")
    if len(sizes) > 1 and max(sizes.values()) > IMBALANCE_RATIO * min(sizes.values()):
        largest, smallest = max(sizes, key=lambda k: sizes[k]), min(sizes, key=lambda k: sizes[k])
        found.append(
            f"Labels are unbalanced: {largest!r} has {sizes[largest]} images, {smallest!r} has {sizes[smallest]}."
        )
    return found


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + rest
