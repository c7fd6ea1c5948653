"""A wider convolutional network, kept from learning by heart by dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import pooling_layer

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(
    shape: Shape,
    *,
    units: int,
    activation: str,
    pooling: str = "max",
    dropout: float = 0.25,
    dense: int = 1000,
) -> Any:
    """Convolutions of 32 filters of 5x5 and 64 of 2x2, each with pooling and dropout, then 1000 and `units`.

    28x28x1 -> 24x24x32 -> 12x12x32 -> 11x11x64 -> 5x5x64 -> 1600 -> 1000 -> units; 1,620,098 parameters with ten
    units.

    Source: the layout of Keras' mnist_convnet example, with a wide dense layer; dropout after Srivastava et al.
    (2014).

    Args:
        shape: height, width and channels; 10x10 at least.
        units: of the last layer.
        activation: of the last layer.
        pooling: max or average.
        dropout: the share of inputs left out while training.
        dense: units of the wide layer.
    """
    pool = pooling_layer(pooling)
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(32, 5, activation="relu"),
            pool(2),
            layers.Dropout(dropout),
            layers.Conv2D(64, 2, activation="relu"),
            pool(2),
            layers.Dropout(dropout),
            layers.Flatten(),
            layers.Dense(dense, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(units, activation=activation),
        ],
        name="cnn_dropout",
    )
