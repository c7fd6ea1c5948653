"""Two small convolutions with pooling: the first convolutional network of a course."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import pooling_layer

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str, pooling: str = "max", hidden: str = "swish") -> Any:
    """Convolutions of 3 and 6 filters of 5x5, each with pooling, then the last layer.

    28x28x1 -> 24x24x3 -> 12x12x3 -> 8x8x6 -> 4x4x6 -> 96 -> units; 1,504 parameters with ten units.

    Source: LeNet-1's layout (LeCun et al., 1990) with other widths and swish.

    Args:
        shape: height, width and channels; 16x16 at least.
        units: of the last layer.
        activation: of the last layer.
        pooling: max or average.
        hidden: activation of the convolutions.
    """
    pool = pooling_layer(pooling)
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(3, 5, activation=hidden),
            pool(2),
            layers.Conv2D(6, 5, activation=hidden),
            pool(2),
            layers.Flatten(),
            layers.Dense(units, activation=activation),
        ],
        name="conv_pool",
    )
