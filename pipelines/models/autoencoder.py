"""The convolutional autoencoder of the classic MNIST examples, with nearest-neighbour upsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import crop_to, encoder

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str) -> Any:
    """Convolution of 16 maps, pooling, convolution of 4 maps, upsampling, convolution to the image.

    28x28x1 -> 28x28x16 -> 14x14x16 -> 14x14x4 (the code) -> 28x28x4 -> 28x28x1; 777 parameters. The code of a
    gray image has as many numbers as the image itself: what is learned is how such images look from near, not how to
    make them small. Upsampling stands right before its convolution: `fold.py` folds both into one transposed
    convolution on export. Odd sides are rounded up on the way and cut at the end.

    Source: F. Chollet, "Building autoencoders in Keras" (2016), with the widths 16 and 4
    and one level.

    Args:
        shape: height, width and channels; 2x2 at least.
        units: the image's channels.
        activation: of the last layer.
    """
    image = keras.Input(shape, name="image")
    hidden = encoder(image)
    hidden = layers.UpSampling2D(2)(hidden)
    hidden = layers.Conv2D(units, 3, padding="same", activation=activation)(hidden)
    return keras.Model(image, crop_to(hidden, shape), name="autoencoder")
