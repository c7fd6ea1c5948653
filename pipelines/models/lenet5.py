"""LeNet-5, after LeCun et al., "Gradient-based learning applied to document recognition" (1998)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import pooling_layer

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str, pooling: str = "average", hidden: str = "relu") -> Any:
    """Two convolutions of 5x5 with pooling, then 120, 84 and `units`.

    28x28x1 -> 28x28x6 -> 14x14x6 -> 10x10x16 -> 5x5x16 -> 400 -> 120 -> 84 -> units; 61,706 parameters with
    ten units. As in the paper the first convolution sees 32x32 (here by padding); the second one is connected
    to all six maps, and pooling has no weights.

    Args:
        shape: height, width and channels; 12x12 at least.
        units: of the last layer.
        activation: of the last layer.
        pooling: average (the paper's) or max.
        hidden: activation of the other layers; the paper's is tanh, relu learns faster.
    """
    pool = pooling_layer(pooling)
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(6, 5, padding="same", activation=hidden),
            pool(2),
            layers.Conv2D(16, 5, activation=hidden),
            pool(2),
            layers.Flatten(),
            layers.Dense(120, activation=hidden),
            layers.Dense(84, activation=hidden),
            layers.Dense(units, activation=activation),
        ],
        name="lenet5",
    )
