"""A convolutional autoencoder that goes back by a bed of nails: each number in a corner, zeros around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers, ops

from pipelines.models.layout import crop_to, encoder

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str) -> Any:
    """As `autoencoder`, with zeros in place of repeated numbers.

    28x28x1 -> 28x28x16 -> 14x14x16 -> 14x14x4 (the code) -> 28x28x4 -> 28x28x1; 777 parameters. The zeros are put in
    by padding: the obvious transposed convolution, whose kernel is smaller than its stride, exports to a graph that
    onnxruntime doesn't load.

    Source: the name is of Stanford's CS231n, lecture "Detection and segmentation" (2017).

    Args:
        shape: height, width and channels; 2x2 at least.
        units: the image's channels.
        activation: of the last layer.
    """
    image = keras.Input(shape, name="image")
    hidden = _nails(encoder(image))
    hidden = layers.Conv2D(units, 3, padding="same", activation=activation)(hidden)
    return keras.Model(image, crop_to(hidden, shape), name="autoencoder_bed_of_nails")


def _nails(hidden: Any) -> Any:
    """[rows, h, w, c] -> [rows, 2h, 2w, c]; numbers go to even rows and columns."""
    _, height, width, channels = hidden.shape
    apart = ops.reshape(hidden, (-1, height, 1, width, 1, channels))
    padded = ops.pad(apart, ((0, 0), (0, 0), (0, 1), (0, 0), (0, 1), (0, 0)))
    return ops.reshape(padded, (-1, 2 * height, 2 * width, channels))
