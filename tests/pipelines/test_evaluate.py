"""Reports are right on cases that can be counted by hand, and on any predictions keep what their names promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines import evaluate

NAMES = ("cat", "dog", "emu")


def _report(labels, probabilities):
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float32)
    names = NAMES[: probabilities.shape[1]]
    paths = [f"{names[label]}/{at}.png" for at, label in enumerate(labels)]
    return evaluate.classification(labels, probabilities, names=names, paths=paths)


@pytest.fixture
def counted():
    """Four images, three right: a dog was taken for an emu, with 0.9."""
    return _report([0, 1, 1, 2], [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.04, 0.06, 0.9], [0.0, 0.0, 1.0]])


def test_accuracy_and_confusion_count(counted):
    """Rows of the matrix are what is there, columns what was said."""
    assert counted["accuracy"] == 0.75
    assert counted["confusion"]["matrix"] == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_each_class_has_its_own_figures(counted):
    """A dog taken for an emu costs the dog recall and the emu precision."""
    _, dog, emu = counted["per_class"]
    assert (dog["precision"], dog["recall"], dog["images"]) == (1.0, 0.5, 2)
    assert (emu["precision"], emu["recall"]) == (0.5, 1.0)
    assert emu["f1"] == pytest.approx(2 / 3)


def test_log_loss_is_the_mean_of_minus_log_p(counted):
    """It is what training minimised, so a number from elsewhere can be compared with it."""
    expected = -np.mean(np.log([0.8, 0.6, 0.06, 1.0]))
    assert counted["log_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_sure_mistake_costs_much_and_not_everything():
    """A probability of 0 for the right label doesn't make the report infinite."""
    report = _report([0], [[0.0, 1.0]])
    assert math.isfinite(report["log_loss"])
    assert report["log_loss"] > 10


def test_mistakes_come_with_their_paths_surest_first():
    """Whoever looks for wrong labels starts with what the model was surest of."""
    report = _report([0, 0, 1], [[0.4, 0.6], [0.1, 0.9], [0.0, 1.0]])
    assert [(one["path"], one["predicted"]) for one in report["mistakes"]] == [
        ("cat/1.png", "dog"),
        ("cat/0.png", "dog"),
    ]
    assert report["mistakes"][0]["probability"] == pytest.approx(0.9)


def test_calibration_error_is_the_gap_between_said_and_true():
    """Ten answers at 0.8 of which five are right are off by 0.3."""
    report = _report([0] * 5 + [1] * 5, [[0.8, 0.2]] * 10)
    assert report["expected_calibration_error"] == pytest.approx(0.3, abs=1e-6)
    assert [one["images"] for one in report["calibration"]] == [10]


def test_a_class_without_test_images_does_not_spoil_the_mean():
    """F1 of what isn't there says nothing, so it isn't averaged in."""
    report = _report([0, 1], [[1.0, 0, 0], [0, 1.0, 0]])
    assert report["macro_f1"] == 1.0
    assert report["per_class"][2]["images"] == 0


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_the_interval_is_wilsons(right, rows, low, high):
    """Values of the published tables; at 0 and at 1 it still has a width."""
    assert evaluate.wilson_interval(right, rows) == pytest.approx([low, high], abs=1e-4)


PREDICTIONS = st.integers(2, 6).flatmap(
    lambda classes: hnp.arrays(
        np.float32, st.tuples(st.integers(1, 30), st.just(classes)), elements=st.floats(0, 1, width=32)
    )
)


@given(PREDICTIONS, st.randoms(use_true_random=False))
def test_any_predictions_give_a_consistent_report(raw, random):
    """Sums agree, rates stay in 0…1, and every value is one that strict JSON has."""
    probabilities = (raw + 1e-3) / (raw + 1e-3).sum(axis=1, keepdims=True)
    rows, classes = probabilities.shape
    labels = np.array([random.randrange(classes) for _ in range(rows)])
    names = [str(at) for at in range(classes)]
    report = evaluate.classification(labels, probabilities, names=names, paths=names * rows)
    assert sum(map(sum, report["confusion"]["matrix"])) == rows
    assert report["top_k"]["1"] == pytest.approx(report["accuracy"])
    low, high = report["accuracy_interval"]
    assert 0 <= low <= report["accuracy"] + 1e-9
    assert report["accuracy"] - 1e-9 <= high <= 1
    assert list(report["top_k"].values()) == sorted(report["top_k"].values())
    assert sum(one["images"] for one in report["calibration"]) == rows
    json.dumps(report, allow_nan=False)


def test_an_equal_image_is_perfectly_alike():
    """No error, SSIM 1, and a PSNR that JSON can hold."""
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), np.uint8)
    judged = evaluate.likeness(images, images.astype(np.float32) / 255)
    assert judged.mean_squared_error == pytest.approx(0, abs=1e-12)
    assert judged.ssim == pytest.approx(1)
    report = evaluate.reconstruction(judged, paths=["a", "b", "c"], threshold_error=1.0, quantile=0.99)
    assert report["psnr"] == evaluate.BEST_PSNR


def test_reconstruction_measures_are_those_of_their_definitions():
    """A flat gray of 0.5 against black: MSE 0.25, PSNR 6.02 dB, cross-entropy ln 2."""
    images = np.zeros((2, 8, 8, 1), np.uint8)
    judged = evaluate.likeness(images, np.full(images.shape, 0.5, np.float32))
    report = evaluate.reconstruction(judged, paths=["a", "b"], threshold_error=0.2, quantile=0.99)
    assert report["mean_squared_error"] == pytest.approx(0.25)
    assert report["psnr"] == pytest.approx(6.0206, abs=1e-4)
    assert report["binary_crossentropy"] == pytest.approx(math.log(2))
    assert report["anomalous_fraction"] == 1.0


def test_ssim_falls_when_structure_is_lost():
    """Noise hurts more than a change of brightness of the same squared error."""
    rng = np.random.default_rng(1)
    image = np.tile(np.linspace(0.2, 0.8, 16), (1, 16, 1))[..., np.newaxis]
    noise = rng.choice([-0.1, 0.1], image.shape)
    brighter = evaluate.structural_similarity(image, image + 0.1)
    noisy = evaluate.structural_similarity(image, image + noise)
    assert noisy[0] < brighter[0] < 1


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_ssim_takes_images_smaller_than_its_window(side):
    """A tiny image has a likeness as well."""
    images = np.full((1, side, side, 1), 100, np.uint8)
    assert np.isfinite(evaluate.likeness(images, np.full(images.shape, 0.3, np.float32)).ssim).all()


def test_the_threshold_is_an_error_that_was_seen():
    """At most the given share of the good images lies above it."""
    errors = np.arange(100) / 100
    limit = evaluate.threshold(errors, quantile=0.95)
    assert limit in errors
    assert (errors > limit).mean() <= 0.05


def test_worst_reconstructions_come_first():
    """They are what a person looks at."""
    images = np.zeros((3, 4, 4, 1), np.uint8)
    reconstructions = np.stack([np.full((4, 4, 1), value, np.float32) for value in (0.1, 0.9, 0.5)])
    report = evaluate.reconstruction(
        evaluate.likeness(images, reconstructions), paths=["a", "b", "c"], threshold_error=0.5, quantile=0.99
    )
    assert [one["path"] for one in report["worst"]] == ["b", "c", "a"]
    json.dumps(report, allow_nan=False)
