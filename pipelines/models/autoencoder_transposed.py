"""A convolutional autoencoder that goes back by a transposed convolution, whose kernel is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import crop_to, encoder

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str) -> Any:
    """As `autoencoder`, with a transposed convolution of 3x3 and stride 2 in place of upsampling and convolution.

    28x28x1 -> 28x28x16 -> 14x14x16 -> 14x14x4 (the code) -> 28x28x1; 777 parameters.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016); Keras' example
    "Convolutional autoencoder for image denoising" (S. L. Valdarrama, 2021) goes back this way.

    Args:
        shape: height, width and channels; 2x2 at least.
        units: the image's channels.
        activation: of the last layer.
    """
    image = keras.Input(shape, name="image")
    hidden = layers.Conv2DTranspose(units, 3, strides=2, padding="same", activation=activation)(encoder(image))
    return keras.Model(image, crop_to(hidden, shape), name="autoencoder_transposed")
