"""Predictions to a report, in numpy only: it judges Keras and ONNX alike, and knows neither.

A report is plain JSON values. `metrics` picks the few numbers out of it that a bundle carries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = 1e-7
CALIBRATION_BINS = 15
HISTOGRAM_BINS = 40
NORMAL_95 = 1.959964
MOST_LISTED = 50
TOP = (1, 3, 5)
SSIM_WINDOW = 7
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
BEST_PSNR = 100.0
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

CLASSIFY_METRICS = ("accuracy", "macro_f1", "log_loss", "expected_calibration_error")
RECONSTRUCT_METRICS = ("binary_crossentropy", "mean_squared_error", "psnr", "ssim")


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near each reconstruction is to its image; float64 [rows] each."""

    mean_squared_error: NDArray[np.float64]
    binary_crossentropy: NDArray[np.float64]
    ssim: NDArray[np.float64]


def metrics(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report that a bundle carries and a gate compares."""
    names = CLASSIFY_METRICS if report["task"] == "classify" else RECONSTRUCT_METRICS
    return {name: report[name] for name in names} | {"images": report["images"]}


def classification(
    labels: NDArray[np.integer[Any]], probabilities: Floats, *, names: Sequence[str], paths: Sequence[str]
) -> dict[str, Any]:
    """Judge a classifier.

    Args:
        labels: the right ones, int [rows], as indices into `names`.
        probabilities: float [rows, classes].
        names: of the classes.
        paths: of the images.

    Returns:
        accuracy with its 95 % Wilson interval, top-k, log loss, calibration, precision, recall and F1 per class,
        the confusion matrix (rows: right label, columns: predicted), and the most confident mistakes.
    """
    rows, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    right = predicted == labels
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    per_class = _per_class(matrix, names)
    of_right = np.clip(probabilities[np.arange(rows), labels].astype(np.float64), SMALLEST_PROBABILITY, 1.0)
    present = [one["f1"] for one in per_class if one["images"]]
    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_LISTED]
    ece, bins = _calibration(confidence, right)
    return {
        "task": "classify",
        "images": rows,
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson_interval(int(right.sum()), rows),
        "macro_f1": float(np.mean(present)),
        "top_k": {str(k): _top_k(labels, probabilities, k) for k in TOP if k < classes or k == 1},
        "log_loss": float(-np.log(of_right).mean()),
        "expected_calibration_error": ece,
        "calibration": bins,
        "per_class": per_class,
        "confusion": {"labels": list(names), "matrix": matrix.tolist()},
        "mistakes": [
            {
                "path": paths[at],
                "label": names[int(labels[at])],
                "predicted": names[int(predicted[at])],
                "probability": float(confidence[at]),
            }
            for at in worst
        ],
    }


def wilson_interval(right: int, rows: int, *, z: float = NORMAL_95) -> list[float]:
    """The interval that holds the true rate in 95 of 100 cases, also near 0 and 1 (Wilson, 1927)."""
    rate, square = right / rows, z * z
    middle = (rate + square / (2 * rows)) / (1 + square / rows)
    half = z / (1 + square / rows) * math.sqrt(rate * (1 - rate) / rows + square / (4 * rows * rows))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def likeness(images: NDArray[np.uint8], reconstructions: NDArray[np.float32]) -> Likeness:
    """Compare reconstructions with their images, row by row.

    Args:
        images: uint8 [rows, height, width, channels].
        reconstructions: float32 of the same shape, in 0…1.
    """
    wanted, got = images.astype(np.float64) / 255.0, reconstructions.astype(np.float64)
    axes = (1, 2, 3)
    safe = np.clip(got, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    entropy = -(wanted * np.log(safe) + (1 - wanted) * np.log1p(-safe))
    return Likeness(
        mean_squared_error=((got - wanted) ** 2).mean(axis=axes),
        binary_crossentropy=entropy.mean(axis=axes),
        ssim=structural_similarity(wanted, got),
    )


def structural_similarity(wanted: NDArray[np.float64], got: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean SSIM of each pair, float64 [rows] (Wang et al., 2004; uniform windows of 7x7, range 1).

    Images with a side under 7 get the largest odd window that fits.
    """
    window = min(SSIM_WINDOW, *((side - 1) // 2 * 2 + 1 for side in wanted.shape[1:3]))
    of_sample = window**2 / max(1, window**2 - 1)
    mean_a, mean_b = _window_means(wanted, window), _window_means(got, window)
    variance_a = of_sample * (_window_means(wanted * wanted, window) - mean_a**2)
    variance_b = of_sample * (_window_means(got * got, window) - mean_b**2)
    covariance = of_sample * (_window_means(wanted * got, window) - mean_a * mean_b)
    above = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    below = (mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2)
    similarity: NDArray[np.float64] = (above / below).mean(axis=(1, 2, 3))
    return similarity


def reconstruction(
    judged: Likeness, *, paths: Sequence[str], threshold_error: float, quantile: float
) -> dict[str, Any]:
    """Judge an autoencoder.

    Args:
        judged: of the test images.
        paths: of the images.
        threshold_error: above it an image is anomalous; from `threshold`.
        quantile: of the validation errors that gave it.

    Returns:
        the mean of each measure, the distribution of the error, the threshold with the share of test images above
        it, and the worst images.
    """
    errors = judged.mean_squared_error
    psnr = np.minimum(-10 * np.log10(np.maximum(errors, 1e-30)), BEST_PSNR)
    counts, edges = np.histogram(errors, bins=HISTOGRAM_BINS)
    worst = np.argsort(-errors, kind="stable")[:MOST_LISTED]
    return {
        "task": "reconstruct",
        "images": len(errors),
        "binary_crossentropy": float(judged.binary_crossentropy.mean()),
        "mean_squared_error": float(errors.mean()),
        "psnr": float(psnr.mean()),
        "ssim": float(judged.ssim.mean()),
        "error": {
            "quantiles": {str(q): float(np.quantile(errors, q)) for q in QUANTILES},
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        },
        "threshold": {"error": threshold_error, "quantile": quantile},
        "anomalous_fraction": float((errors > threshold_error).mean()),
        "worst": [{"path": paths[at], "error": float(errors[at])} for at in worst],
    }


def threshold(errors: NDArray[np.float64], *, quantile: float) -> float:
    """The error that this share of known good images stays at or below."""
    return float(np.quantile(errors, quantile, method="higher"))


def _per_class(matrix: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1; 0 where nothing was predicted or nothing was there."""
    hits, there, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision = hits / np.maximum(said, 1)
    recall = hits / np.maximum(there, 1)
    f1 = 2 * hits / np.maximum(there + said, 1)
    return [
        {
            "label": name,
            "images": int(there[at]),
            "precision": float(precision[at]),
            "recall": float(recall[at]),
            "f1": float(f1[at]),
        }
        for at, name in enumerate(names)
    ]


def _top_k(labels: NDArray[np.integer[Any]], probabilities: Floats, k: int) -> float:
    """The share of rows whose right label is among the k most probable; ties go to the lower index."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, np.newaxis]).any(axis=1).mean())


def _calibration(confidence: Floats, right: NDArray[np.bool_]) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error (Guo et al., 2017), and the bins of its diagram that aren't empty."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    found: list[dict[str, float]] = []
    for at in np.unique(bins):
        here = bins == at
        found.append(
            {
                "from": float(at / CALIBRATION_BINS),
                "to": float((at + 1) / CALIBRATION_BINS),
                "images": int(here.sum()),
                "confidence": float(confidence[here].mean()),
                "accuracy": float(right[here].mean()),
            }
        )
    gaps = sum(one["images"] * abs(one["confidence"] - one["accuracy"]) for one in found)
    return float(gaps / len(right)), found


def _window_means(images: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of every window, float64 [rows, height - window + 1, width - window + 1, channels]."""
    means = images
    for axis in (1, 2):
        views = np.lib.stride_tricks.sliding_window_view(means, window, axis=axis)
        means = views.mean(axis=-1)
    return means
