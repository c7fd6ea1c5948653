"""Has a classifier learned anything at all? It is held against always giving the same answer. Pure.

A first version has no champion to be compared with, and a recipe has no floors by default: this is the least that can
be said of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.paired import LEVEL, MCNEMAR, binomial_tail

if TYPE_CHECKING:
    from collections.abc import Mapping


def warning(report: Mapping[str, Any]) -> str | None:
    """A sentence for a classifier that isn't better, beyond chance, than always answering the commonest label.

    Asked by the exact McNemar test, one-sided at the level 0.05: of the test images that one of the two gets right and
    the other doesn't, does the model get so many that the toss of a coin doesn't explain it?

    Args:
        report: of an evaluation; one without a confusion matrix, as an autoencoder's, gives no warning.
    """
    confusion = report.get("confusion")
    if confusion is None:
        return None
    matrix = np.asarray(confusion["matrix"], np.int64)
    rows, images = matrix.sum(axis=1), int(matrix.sum())
    common = int(rows.argmax())
    both_right = int(matrix[common, common])
    better, worse = int(matrix.trace()) - both_right, int(rows[common]) - both_right
    chance = binomial_tail(better, better + worse)
    if chance < LEVEL:
        return None
    return (
        f"It may have learned nothing: on {images} test images it gets {int(matrix.trace())} right, and always "
        f"answering {confusion['labels'][common]!r} gets {int(rows[common])}, which is no difference beyond chance "
        f"({MCNEMAR}, p = {chance:.3g}, level {LEVEL:g})."
    )
