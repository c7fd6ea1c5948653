"""A convolutional autoencoder that remembers where each maximum stood, and puts numbers back there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers, ops

from pipelines.models.layout import crop_to

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str) -> Any:
    """Convolution of 16, max pooling, convolutions of 4 and 16, unpooling to the remembered places, convolution.

    28x28x1 -> 28x28x16 -> 14x14x16 -> 14x14x4 (the code) -> 14x14x16 -> 28x28x16 -> 28x28x1; 1,477 parameters. The
    places go past the code: it alone doesn't make an image.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2013).

    Args:
        shape: height, width and channels; 2x2 at least.
        units: the image's channels.
        activation: of the last layer.
    """
    image = keras.Input(shape, name="image")
    hidden = layers.ZeroPadding2D(((0, shape[0] % 2), (0, shape[1] % 2)))(image)
    hidden = layers.Conv2D(16, 3, padding="same", activation="relu")(hidden)
    hidden, places = _pool(hidden)
    hidden = layers.Conv2D(4, 3, padding="same", activation="relu")(hidden)
    hidden = layers.Conv2D(16, 3, padding="same", activation="relu")(hidden)
    hidden = _unpool(hidden, places)
    hidden = layers.Conv2D(units, 3, padding="same", activation=activation)(hidden)
    return keras.Model(image, crop_to(hidden, shape), name="autoencoder_max_unpooling")


def _pool(hidden: Any) -> tuple[Any, Any]:
    """The maximum of each 2x2 square, [rows, h/2, w/2, c], and where it stood, [rows, h/2, w/2, c, 4].

    Of equal numbers the first counts, so exactly one of the four places is 1. Keras' argmax
    would take bits apart, which ONNX can't.
    """
    _, height, width, channels = hidden.shape
    split = ops.reshape(hidden, (-1, height // 2, 2, width // 2, 2, channels))
    squares = ops.reshape(ops.transpose(split, (0, 1, 3, 5, 2, 4)), (-1, height // 2, width // 2, channels, 4))
    maxima = ops.max(squares, axis=-1)
    is_maximum = ops.cast(ops.equal(squares, ops.expand_dims(maxima, -1)), squares.dtype)
    is_first = ops.cast(ops.equal(ops.cumsum(is_maximum, axis=-1), 1.0), squares.dtype)
    return maxima, is_maximum * is_first


def _unpool(hidden: Any, places: Any) -> Any:
    """Every number where its maximum stood, zeros elsewhere: [rows, h, w, c] -> [rows, 2h, 2w, c]."""
    _, height, width, channels = hidden.shape
    squares = ops.expand_dims(hidden, -1) * places
    split = ops.reshape(squares, (-1, height, width, channels, 2, 2))
    return ops.reshape(ops.transpose(split, (0, 1, 4, 2, 5, 3)), (-1, 2 * height, 2 * width, channels))
