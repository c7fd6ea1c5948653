"""For large images: the first convolution makes them small at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import pooling_layer

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str, pooling: str = "max", dropout: float = 0.25) -> Any:
    """A convolution of 32 filters of 5x5 with stride 5, two of 3x3 with pooling, then the mean of each map.

    224x224x3 -> 45x45x32 -> 45x45x64 -> 22x22x64 -> 22x22x128 -> 128 -> units; 96,074 parameters with ten units in
    colour, 94,474 parameters in gray.

    Source: a patch convolution as in Dosovitskiy et al., "An image is worth 16x16 words" (2020), here of 5x5,
    before a plain network; global averages after Lin et al., "Network in network" (2013).

    Args:
        shape: height, width and channels; 10x10 at least, meant for 64x64 and more.
        units: of the last layer.
        activation: of the last layer.
        pooling: max or average.
        dropout: the share left out before the last layer while training.
    """
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(32, 5, strides=5, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            pooling_layer(pooling)(2, padding="same"),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(dropout),
            layers.Dense(units, activation=activation),
        ],
        name="cnn_strided",
    )
