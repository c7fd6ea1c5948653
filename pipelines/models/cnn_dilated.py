"""Dilated convolutions: a wide view without pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

if TYPE_CHECKING:
    from pipelines.models.layout import Shape


def build(shape: Shape, *, units: int, activation: str, dropout: float = 0.25) -> Any:
    """3x3 convolutions of 16, 32, 32 and 64 filters with dilations 1, 2, 4 and 1, then each map's maximum.

    28x28x1 -> 28x28x16 -> 28x28x32 -> 28x28x32 -> 14x14x64 -> 64 -> units; 33,194 parameters with ten units. Each
    place of the third layer sees 15x15 pixels.

    Source: Yu and Koltun, "Multi-scale context aggregation by dilated convolutions" (2015), made small.

    Args:
        shape: height, width and channels; 4x4 at least.
        units: of the last layer.
        activation: of the last layer.
        dropout: the share left out before the last layer while training.
    """
    stack: list[Any] = [keras.Input(shape, name="image")]
    for filters, dilation in ((16, 1), (32, 2), (32, 4)):
        stack += [layers.Conv2D(filters, 3, padding="same", dilation_rate=dilation, activation="relu")]
    stack += [
        layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
        layers.GlobalMaxPooling2D(),
        layers.Dropout(dropout),
        layers.Dense(units, activation=activation),
    ]
    return keras.Sequential(stack, name="cnn_dilated")
