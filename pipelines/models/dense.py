"""The plainest network: every pixel to every unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str, dense: int = 84, hidden: str = "swish") -> Any:
    """One hidden layer.

    28x28x1 -> 784 -> 84 -> units; 66,790 parameters with ten units.

    Source: the first network of most courses; the width and swish are those of LeNet-5's last hidden layer and
    of Ramachandran et al., "Searching for activation functions" (2017).

    Args:
        shape: height, width and channels; any.
        units: of the last layer.
        activation: of the last layer.
        dense: units of the hidden layer.
        hidden: its activation.
    """
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Flatten(),
            layers.Dense(dense, activation=hidden),
            layers.Dense(units, activation=activation),
        ],
        name="dense",
    )
