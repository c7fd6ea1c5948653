"""The first layers of any model, drawn for the page: whatever they are, they don't fail the run."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.features import look


@pytest.mark.slow
@pytest.mark.parametrize("convolutions", [1, 2])
def test_a_model_of_one_convolution_is_looked_at_like_one_of_two(convolutions):
    """Keras gives a single output bare; each convolution has its maps of every image, of a single image too."""
    import keras

    image = keras.Input((8, 8, 1))
    hidden = image
    for _ in range(convolutions):
        hidden = keras.layers.Conv2D(3, 3, padding="same")(hidden)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(hidden)))
    for images in (1, 4):
        seen = look(model, np.zeros((images, 8, 8, 1), np.uint8))
        assert [layer.maps.shape[:2] for layer in seen] == [(images, 3)] * convolutions
