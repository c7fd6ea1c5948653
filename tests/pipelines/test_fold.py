"""Rewriting a model for export changes none of its answers, and leaves alone what it can't rewrite."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import backend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keras():
    backend.start()
    import keras

    return keras


def _check(model, images):
    from pipelines.fold import folded

    wanted = np.asarray(model(images))
    found = folded(model)
    np.testing.assert_allclose(np.asarray(found(images)), wanted, atol=1e-6)
    return [type(layer).__name__ for layer in found.layers]


def test_a_layer_at_two_sizes_stays(keras):
    """One Flatten behind two tensors: neither size is the layer's. Another Flatten in the model is still rewritten."""
    image = keras.Input((8, 8, 1))
    flatten = keras.layers.Flatten()
    small = keras.layers.MaxPooling2D()(image)
    both = keras.layers.Concatenate()([flatten(image), flatten(small), keras.layers.Flatten()(small)])
    kinds = _check(keras.Model(image, keras.layers.Dense(3)(both)), np.random.default_rng(0).random((2, 8, 8, 1), "f4"))
    assert (kinds.count("Flatten"), kinds.count("Lambda")) == (1, 1)


@pytest.mark.parametrize("upsampled_first", [True, False])
def test_a_convolution_of_two_tensors_stays(keras, upsampled_first):
    """Behind an upsampling it would be folded; but it also reads another tensor, before or after."""
    image = keras.Input((8, 8, 1))
    conv = keras.layers.Conv2D(2, 3, padding="same")
    up = keras.layers.UpSampling2D(2)(keras.layers.MaxPooling2D()(image))
    pair = [conv(up), conv(image)] if upsampled_first else [conv(image), conv(up)]
    model = keras.Model(image, keras.layers.Add()(pair))
    kinds = _check(model, np.random.default_rng(0).random((2, 8, 8, 1), "f4"))
    assert ("Conv2D" in kinds, "Conv2DTranspose" in kinds) == (True, False)


def test_a_subclassed_model_is_returned_as_it_is(keras):
    """Nobody knows how its layers hang together."""
    from pipelines.fold import folded

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten = keras.layers.Flatten()

        def call(self, images):
            return self.flatten(images)

    model = Own()
    model(np.zeros((1, 4, 4, 1), "f4"))
    assert folded(model) is model


def test_a_model_that_cannot_be_put_together_anew_is_returned_as_it_is(keras):
    """A size that is not known before an image is there: exported slower, but exported."""
    from pipelines.fold import folded

    image = keras.Input((None, None, 1))
    model = keras.Model(image, keras.layers.Flatten()(image))
    assert folded(model) is model
