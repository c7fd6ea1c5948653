"""Two models on the same test images, each reading the original files through its own bundle's preprocessing.

Decides nothing: it counts which images may be compared, and compares.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import learned, manifest, originals
from pipelines.errors import BadSource
from pipelines.paired import Comparison, compare_answers, compare_errors
from pipelines.scan import silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipelines.contender import Contender
    from pipelines.dataset import Snapshot
    from pipelines.scan import Progress
    from pipelines.workspace import Workspace

    Pixels = NDArray[np.uint8]

FEWEST_LABELS = 2
BATCH_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What came of it.

    Attributes:
        images: test images on which the two were compared.
        left_out: test images on which they weren't, by the reason: `learned` (one of them was trained or validated
            on it), `label` (one of them doesn't know it), `unreadable` (its original is gone, or another one now).
        champion_learned: whether it is known which images the champion learned from; where it isn't, it may have an
            advantage, never a disadvantage.
        comparison: the numbers; None where no image was left.
    """

    images: int
    left_out: dict[str, int]
    champion_learned: bool
    comparison: Comparison | None


def meet(
    challenger: Contender,
    champion: Contender,
    snapshot: Snapshot,
    *,
    workspace: Workspace,
    max_pixels: int,
    progress: Progress = silent,
) -> Meeting:
    """Compare two models of one task on a snapshot's test part.

    Args:
        challenger: trained on that snapshot.
        champion: trained on whatever its bundle says.
        snapshot: whose test images count.
        workspace: with the datasets, where the champion's is looked for, and the known sets.
        max_pixels: larger images are not read.
        progress: called with the stage, and how many images of how many are done.
    """
    theirs = learned.contents_of(champion.bundle, datasets=workspace.datasets)
    seen = learned.of_manifest(snapshot.path / manifest.MANIFEST) | (theirs or frozenset())
    part, labels = snapshot.part("test"), _shared_labels(challenger, champion)
    truth = [snapshot.labels[at] for at in part.labels]
    why = [
        _why_not(content, label, seen=seen, labels=labels)
        for content, label in zip(part.content_hashes, truth, strict=True)
    ]
    rows = [row for row, reason in enumerate(why) if reason is None]
    pictures = originals.pictures(part, rows, cache=workspace.sources, max_pixels=max_pixels)
    duel = _Duel(challenger, champion, labels=labels)
    progress("gate", 0, len(rows))
    with contextlib.suppress(BadSource):  # the source can't be had at all: its images count as unreadable
        for done, (row, picture) in enumerate(zip(rows, pictures, strict=True), start=1):
            duel.show(picture, truth[row])
            if done % BATCH_ROWS == 0:
                progress("gate", done, len(rows))
    comparison = duel.result()
    left_out = Counter(reason for reason in why if reason is not None)
    left_out["unreadable"] = len(rows) - duel.images
    return Meeting(
        images=duel.images, left_out=dict(+left_out), champion_learned=theirs is not None, comparison=comparison
    )


def _shared_labels(challenger: Contender, champion: Contender) -> tuple[str, ...] | None:
    """The labels that both know, in the challenger's order; fewer than two tell nothing apart, so none.

    None for a task without labels.
    """
    if challenger.bundle.task == "reconstruct":
        return None
    known = set(champion.bundle.labels)
    shared = tuple(label for label in challenger.bundle.labels if label in known)
    return shared if len(shared) >= FEWEST_LABELS else ()


def _why_not(content: str, label: str, *, seen: frozenset[str], labels: tuple[str, ...] | None) -> str | None:
    """Why an image is left out, or None."""
    if content in seen:
        return "learned"
    return "label" if labels is not None and label not in labels else None


class _Duel:
    """Shows pictures to two models and keeps their marks. Mutable: the rows that wait for a batch, and the marks.

    Args:
        challenger: the one.
        champion: the other.
        labels: that both know; None: they reconstruct.
    """

    def __init__(self, challenger: Contender, champion: Contender, *, labels: Sequence[str] | None) -> None:
        self._both = (challenger, champion)
        self._labels = labels
        self._waiting: list[tuple[Pixels, Pixels]] = []
        self._truth: list[int] = []
        self._marks: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
        self.images = 0

    def show(self, picture: Pixels | None, label: str) -> None:
        """Let both see a picture, as decoded, each in its own way; None is shown to nobody."""
        if picture is None:
            return
        challenger, champion = self._both
        self._waiting.append((challenger.see(picture), champion.see(picture)))
        self._truth.append(0 if self._labels is None else self._labels.index(label))
        self.images += 1
        if len(self._waiting) == BATCH_ROWS:
            self._judge()

    def result(self) -> Comparison | None:
        """The comparison on all that was shown; None when nothing was."""
        if self._waiting:
            self._judge()
        if not self.images:
            return None
        challenger, champion = (np.concatenate(marks) for marks in self._marks)
        return (compare_errors if self._labels is None else compare_answers)(challenger, champion)

    def _judge(self) -> None:
        truth = np.array(self._truth)
        for model, rows, marks in zip(self._both, zip(*self._waiting, strict=True), self._marks, strict=True):
            pixels = np.stack(rows)
            right = model.errors(pixels) if self._labels is None else model.guesses(pixels, self._labels) == truth
            marks.append(right)
        self._waiting.clear()
        self._truth.clear()
