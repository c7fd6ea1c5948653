"""Judge a trained run on its test part, once, with the Keras model: `report.json`, `predictions.parquet` and more.

Export comes later and proves that its graph answers as this model does, so the report holds for both; a graph in int8,
which doesn't quite, is judged in its turn when it is the one to publish. Importing this module is cheap: TensorFlow is
imported when `evaluate_run` runs, in a process of its own.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pipelines import evaluate, features
from pipelines.dataset import Snapshot
from pipelines.errors import BadSource
from pipelines.files import write_atomically
from pipelines.train import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipelines.config import Recipe
    from pipelines.dataset import Part
    from pipelines.loop import Rows

    Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

REPORT = "report.json"
PREDICTIONS = "predictions.parquet"
GALLERY = "worst.npz"
GALLERY_IMAGES = 16
BATCH_ROWS = 256


def evaluate_run(snapshot_path: Path, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Judge `folder`'s model on the snapshot's test part.

    Writes `report.json`, `predictions.parquet` (one row per test image), and for reconstruct `worst.npz`: the worst
    images (uint8) beside their reconstructions (uint8); and `features.npz`, for the page: what the first layers see.

    Returns:
        the report, as `evaluate` describes it; `evaluate.metrics` picks the bundle's numbers out of it.

    Raises:
        BadSource: the test part is empty.
    """
    snapshot = Snapshot.open(snapshot_path)
    test = snapshot.part("test")
    if not test.rows:
        raise BadSource(
            f"The test part of {snapshot_path} is empty, so the model can't be judged. "
            "Add images, or give --split a third fraction above 0."
        )
    model = load(recipe, folder)
    from pipelines.loop import forward as compiled  # noqa: PLC0415 - TensorFlow, only now

    forward = compiled(model)
    if recipe.task == "classify":
        report = judge_classifier(test, forward, folder, names=snapshot.labels)
    else:
        good = [part for name in ("validation", "train") if (part := snapshot.part(name)).rows]
        report, table, gallery = _reconstruction(
            test, forward, good=good[0], quantile=recipe.threshold_quantile, names=snapshot.labels
        )
        write_atomically(folder / GALLERY, gallery)
        _write(folder, report, table)
    shown = features.samples(test.labels)
    features.save(model, test.gather(shown), folder, rows=shown)
    return report


def judge_classifier(test: Part, forward: Forward, folder: Path, *, names: Sequence[str]) -> dict[str, Any]:
    """Judge a classifier, in Keras or as a graph, on test images; writes `report.json` and `predictions.parquet`.

    Args:
        test: at least one row.
        forward: uint8 [rows, height, width, channels] to float32 [rows, labels], or [rows, 1] for two labels.
        folder: the run's.
        names: of the labels.

    Returns:
        the report.
    """
    report, table = _classification(test, forward, names=names)
    _write(folder, report, table)
    return report


def _write(folder: Path, report: dict[str, Any], table: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(table), buffer)
    write_atomically(folder / PREDICTIONS, buffer.getvalue())
    write_atomically(folder / REPORT, json.dumps(report, indent=1).encode())


def probabilities(part: Rows, forward: Forward) -> NDArray[np.float32]:
    """What a classifier says of every row, float32 [rows, classes]; one sigmoid becomes two columns."""
    answers = np.concatenate([forward(pixels) for pixels in _batches(part)])
    return np.concatenate([1 - answers, answers], axis=1) if answers.shape[1] == 1 else answers


def likeness(part: Rows, forward: Forward) -> evaluate.Likeness:
    """How near an autoencoder comes to every row."""
    pieces = [evaluate.likeness(pixels, forward(pixels)) for pixels in _batches(part)]
    return evaluate.Likeness(
        mean_squared_error=np.concatenate([piece.mean_squared_error for piece in pieces]),
        binary_crossentropy=np.concatenate([piece.binary_crossentropy for piece in pieces]),
        ssim=np.concatenate([piece.ssim for piece in pieces]),
    )


def _classification(test: Any, forward: Forward, *, names: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found = probabilities(test, forward)
    paths = list(test.paths)
    report = evaluate.classification(test.labels, found, names=names, paths=paths)
    table = {
        "path": paths,
        "label": [names[at] for at in test.labels],
        "predicted": [names[at] for at in found.argmax(axis=1)],
        "probability": found.max(axis=1),
        "probabilities": list(found),
    }
    return report, table


def _reconstruction(
    test: Any, forward: Forward, *, good: Rows, quantile: float, names: Any
) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    limit = evaluate.threshold(likeness(good, forward).mean_squared_error, quantile=quantile)
    judged = likeness(test, forward)
    paths, errors = list(test.paths), judged.mean_squared_error
    report = evaluate.reconstruction(judged, paths=paths, threshold_error=limit, quantile=quantile)
    table = {
        "path": paths,
        "label": [names[at] for at in test.labels],
        "error": errors,
        "binary_crossentropy": judged.binary_crossentropy,
        "ssim": judged.ssim,
        "anomalous": errors > limit,
    }
    worst = np.argsort(-errors, kind="stable")[:GALLERY_IMAGES]
    images = test.gather(worst)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, reconstructions=np.rint(forward(images) * 255).astype(np.uint8))
    return report, table, buffer.getvalue()


def _batches(part: Rows) -> Iterator[NDArray[np.uint8]]:
    """Every row in order, a batch at a time."""
    for begin in range(0, part.rows, BATCH_ROWS):
        yield part.gather(np.arange(begin, min(begin + BATCH_ROWS, part.rows)))
