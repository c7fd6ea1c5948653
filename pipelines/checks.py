"""Findings about a source as data: duplicates, conflicts, leaks, and what a person should look at twice.

Pure: it judges rows that were decoded already, and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipelines.manifest import Status

Columns = dict[str, list[Any]]

IMBALANCE_RATIO = 10
TINY_CLASS_IMAGES = 3
SMALL_CLASS_IMAGES = 10
PROPORTIONS_RATIO = 2.0
_KEPT_FIRST = {"test": 0, "validation": 1, "train": 2, None: 3}


@dataclass(frozen=True, slots=True)
class Conflict:
    """Equal pixels that can't all be used: under several labels, or joining groups of several parts."""

    content_hash: str
    paths: tuple[str, ...]


@dataclass(slots=True)
class Verdict:
    """What became of every row, in the order of the rows.

    Attributes:
        status: of each row.
        reason: of each row, None for those used.
        used: the row that stands for each content in the snapshot, by content hash.
        conflicts: contents with several labels.
        leaks: contents that a pre-split source has in several parts.
        group_leaks: groups that it has in several parts: an image of each part.
    """

    status: list[Status]
    reason: list[str | None]
    used: dict[str, int] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    leaks: list[Conflict] = field(default_factory=list)
    group_leaks: list[Conflict] = field(default_factory=list)


def judge(rows: Columns, *, conflicts: Literal["drop", "keep-first"]) -> Verdict:
    """Decide on every row of a decoded source.

    Args:
        rows: columns `path`, `label`, `part` (None: not pre-split), `status` ("ignored" or None),
            `reason` and `content_hash` (None: unreadable), in order of the paths.
        conflicts: with `keep-first`, equal pixels under several labels count for the first of the labels.
    """
    verdict = Verdict(status=["used"] * len(rows["path"]), reason=list(rows["reason"]))
    repeated: dict[str, list[int]] = {}
    for index, (content, status) in enumerate(zip(rows["content_hash"], rows["status"], strict=True)):
        if status == "ignored":
            verdict.status[index] = "ignored"
        elif content is None:
            verdict.status[index] = "quarantined"
        elif content in verdict.used:
            repeated.setdefault(content, [verdict.used[content]]).append(index)
        else:
            verdict.used[content] = index
    for content, indices in repeated.items():
        _judge_repeated(content, indices, rows=rows, verdict=verdict, keep_first=conflicts == "keep-first")
    return verdict


def _judge_repeated(content: str, indices: Sequence[int], *, rows: Columns, verdict: Verdict, keep_first: bool) -> None:
    """One file of equal pixels is used; the others are duplicates, or all are in conflict."""
    labels, parts, paths = rows["label"], rows["part"], rows["path"]
    kept_label = min(labels[index] for index in indices)
    conflicting = [index for index in indices if labels[index] != kept_label]
    kept = [index for index in indices if labels[index] == kept_label]
    if conflicting:
        verdict.conflicts.append(Conflict(content, tuple(paths[index] for index in indices)))
        if not keep_first:
            conflicting, kept = list(indices), []
        for index in conflicting:
            other = next(paths[other] for other in indices if labels[other] != labels[index])
            _set_aside(verdict, index, "conflict", f"the same pixels as {other}, which has another label")
    # Of copies in several parts of a pre-split source the test's stays: so the test set is what its maker made.
    kept.sort(key=lambda index: (_KEPT_FIRST[parts[index]], paths[index]))
    if len({parts[index] for index in kept}) > 1:
        verdict.leaks.append(Conflict(content, tuple(paths[index] for index in kept)))
    for index in kept[1:]:
        leak = f", which is in {parts[kept[0]]}" if parts[index] != parts[kept[0]] else ""
        _set_aside(verdict, index, "duplicate", f"the same pixels as {paths[kept[0]]}{leak}")
    if kept:
        verdict.used[content] = kept[0]
    else:
        del verdict.used[content]


def set_aside(verdict: Verdict, contents: Mapping[str, str], rows: Columns) -> None:
    """Turn contents that were to be used into conflicts, each with its reason."""
    for content, reason in contents.items():
        index = verdict.used.pop(content)
        _set_aside(verdict, index, "conflict", reason)
        verdict.conflicts.append(Conflict(content, (rows["path"][index],)))


def _set_aside(verdict: Verdict, index: int, status: Status, reason: str) -> None:
    verdict.status[index] = status
    verdict.reason[index] = reason


def warnings(
    rows: Columns,
    verdict: Verdict,
    *,
    parts: Mapping[str, str],
    lost_colour: bool,
    overruled: int,
    task: str = "classify",
) -> list[str]:
    """Sentences about what isn't wrong and may still spoil a training.

    Args:
        rows: as in `judge`, with `width` and `height`.
        verdict: on these rows.
        parts: of the used contents, by content hash.
        lost_colour: colour images are stored as gray, because the dataset is gray.
        overruled: images whose part is not the one that the source now gives them.
        task: classify or reconstruct, which asks for no labels and hears nothing of them.
    """
    used = list(verdict.used.values())
    found = _class_warnings(rows, used) if task == "classify" else []
    widths, heights, labels = rows["width"], rows["height"], rows["label"]
    proportions = {width / height for width, height in {(widths[index], heights[index]) for index in used}}
    if proportions and max(proportions) > PROPORTIONS_RATIO * min(proportions):
        found.append(
            f"Proportions differ: width over height goes from {min(proportions):.2f} to {max(proportions):.2f}. "
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
    quarantined = verdict.status.count("quarantined")
    if quarantined > len(used):
        found.append(f"More files are quarantined ({quarantined}) than used ({len(used)}).")
    row = verdict.used
    trained = {labels[row[content]] for content, part in parts.items() if part == "train"}
    untrained = sorted({labels[index] for index in used} - trained)
    if untrained and task == "classify":
        found.append(f"Labels without a training image: {_listed(untrained)}.")
    return found


def empty_labels(names: Sequence[str]) -> list[str]:
    """The sentence about folders of labels that hold no file to look at, if there are any."""
    return [f"Folders of labels without a file that could be an image: {_listed(names)}."] if names else []


def _class_warnings(rows: Columns, used: Sequence[int]) -> list[str]:
    sizes = Counter(rows["label"][index] for index in used)
    found = []
    empty = {label for label, status in zip(rows["label"], rows["status"], strict=True) if status is None}
    if unused := sorted(empty - sizes.keys() - {None}):
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
