"""Augmentation changes images a little, the same way every time, and never their kind."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import backend
from tests.pipelines.small_snapshots import digits


@pytest.fixture(scope="module")
def augment():
    """The function that makes augmenters; importing it takes TensorFlow."""
    backend.start()
    from pipelines.augment import augmenter

    return augmenter


PIXELS, _ = digits(64, side=28)


def _apply(function, seed):
    import tensorflow as tf

    return np.asarray(function(tf.constant(PIXELS), tf.constant(seed, tf.int32)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["affine", "flip", "affine-flip"])
def test_the_same_seed_gives_the_same_pixels(augment, name):
    """A resumed training sees what an undisturbed one would have seen; another step sees something else."""
    first, again, later = (_apply(augment(name), seed) for seed in ([0, 5], [0, 5], [0, 6]))
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()
    assert (first.dtype, first.shape) == (PIXELS.dtype, PIXELS.shape)


@pytest.mark.slow
def test_affine_changes_are_small_and_centred(augment):
    """No image is lost, brightness stays, and the mean of many changes is no shift to one side."""
    changed = _apply(augment("affine"), [1, 1]).astype(float)
    before = PIXELS.astype(float)
    assert changed.sum() == pytest.approx(before.sum(), rel=0.1)
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(before, changed, strict=True)]
    assert 0.3 < np.mean(correlations) < 0.999
    columns = np.arange(28)[np.newaxis, np.newaxis, :, np.newaxis]
    drift = (changed * columns).sum() / changed.sum() - (before * columns).sum() / before.sum()
    assert abs(drift) < 1


@pytest.mark.slow
def test_flips_mirror_about_half_of_the_images(augment):
    """Each image is itself or its mirror image."""
    changed = _apply(augment("flip"), [2, 2])
    mirrored = np.array([(a == b[:, ::-1]).all() for a, b in zip(changed, PIXELS, strict=True)])
    same = np.array([(a == b).all() for a, b in zip(changed, PIXELS, strict=True)])
    assert (mirrored | same).all()
    assert 16 < mirrored.sum() < 48


@pytest.mark.slow
def test_none_is_nothing(augment):
    """There is no function to call."""
    assert augment("none") is None
