"""A served or exported model on a dataset's test part, through ONNX; knows no TensorFlow and no flows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import evaluate, learned, originals
from pipelines.errors import BadSource
from pipelines.judge import BATCH_ROWS
from pipelines.scan import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipelines.contender import Contender
    from pipelines.dataset import Part, Snapshot
    from pipelines.scan import Progress
    from pipelines.workspace import Workspace

    Batch = tuple[list[int], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a model is worth on a test part.

    Attributes:
        report: as `evaluate` makes it.
        images: that were judged.
        left_out: those that weren't, by the reason: `label` (the model doesn't know it), `unreadable`.
        learned: of those judged, how many the model was trained or validated on; None: nobody knows any more.
    """

    report: dict[str, Any]
    images: int
    left_out: dict[str, int]
    learned: int | None


def assess(
    model: Contender, snapshot: Snapshot, *, workspace: Workspace, max_pixels: int, progress: Progress = silent
) -> Assessment:
    """Judge a model on the test part of a snapshot.

    The pixels are the snapshot's where they are in the model's size, and else those of the original files.

    Args:
        model: of either task.
        snapshot: of any dataset.
        workspace: with the datasets, and the known sets.
        max_pixels: larger original images are not read.
        progress: called with the stage, and how many images of how many are done.

    Raises:
        BadSource: no test image is left that this model can be judged on.
    """
    part = snapshot.part("test")
    labels = [snapshot.labels[at] for at in part.labels]
    known = set(model.bundle.labels if model.bundle.task == "classify" else labels)
    rows = [row for row, label in enumerate(labels) if label in known]
    judged: list[int] = []
    answer = model.probabilities if model.bundle.task == "classify" else _likeness(model)
    answers = []
    for index, pixels in _batches(model, part, rows, cache=workspace.sources, max_pixels=max_pixels):
        answers.append(answer(pixels))
        judged += index
        progress("evaluate", len(judged), len(rows))
    if not judged:
        raise BadSource(
            f"The dataset {snapshot.dataset!r} has no test image to judge this model on: of {part.rows}, "
            f"{part.rows - len(rows)} have labels that it doesn't know, and {len(rows)} can't be read."
        )
    left_out = {"label": part.rows - len(rows), "unreadable": len(rows) - len(judged)}
    paths = part.paths
    return Assessment(
        report=_report(model, answers, labels=[labels[row] for row in judged], paths=[paths[row] for row in judged]),
        images=len(judged),
        left_out={reason: count for reason, count in left_out.items() if count},
        learned=_learned(model, [part.content_hashes[row] for row in judged], workspace=workspace),
    )


def _learned(model: Contender, contents: Sequence[str], *, workspace: Workspace) -> int | None:
    theirs = learned.contents_of(model.bundle, datasets=workspace.datasets)
    return None if theirs is None else sum(content in theirs for content in contents)


def _likeness(model: Contender) -> Callable[[NDArray[np.uint8]], evaluate.Likeness]:
    return lambda pixels: evaluate.likeness(pixels, model.reconstructions(pixels))


def _report(model: Contender, answers: Sequence[Any], *, labels: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    bundle = model.bundle
    if bundle.task == "classify":
        truth = np.array([bundle.labels.index(label) for label in labels], dtype=np.int32)
        return evaluate.classification(truth, np.concatenate(answers), names=bundle.labels, paths=paths)
    joined = evaluate.Likeness(
        mean_squared_error=np.concatenate([one.mean_squared_error for one in answers]),
        binary_crossentropy=np.concatenate([one.binary_crossentropy for one in answers]),
        ssim=np.concatenate([one.ssim for one in answers]),
    )
    limit = bundle.threshold
    return evaluate.reconstruction(
        joined,
        paths=paths,
        threshold_error=math.inf if limit is None else limit.error,
        quantile=1.0 if limit is None else limit.quantile,
    )


def _batches(model: Contender, part: Part, rows: Sequence[int], *, cache: Path, max_pixels: int) -> Iterator[Batch]:
    """Some rows and their pixels as the model takes them, a batch at a time; what can't be read is missing."""
    if part.snapshot.image == model.bundle.image:
        for start in range(0, len(rows), BATCH_ROWS):
            chosen = list(rows[start : start + BATCH_ROWS])
            yield chosen, part.gather(np.array(chosen, dtype=np.int64))
        return
    chosen, pixels = [], []
    for row, picture in zip(rows, originals.pictures(part, rows, cache=cache, max_pixels=max_pixels), strict=True):
        if picture is not None:
            chosen.append(row)
            pixels.append(model.see(picture))
        if len(chosen) == BATCH_ROWS:
            yield chosen, np.stack(pixels)
            chosen, pixels = [], []
    if chosen:
        yield chosen, np.stack(pixels)
