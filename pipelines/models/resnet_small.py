"""A small residual network: the one to take when accuracy is what counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

if TYPE_CHECKING:
    from pipelines.models.layout import Shape

STAGES = 3
LARGE_SIDE = 96
MOMENTUM = 0.9  # of the running means that take the batch's place outside training; fits trainings of few steps


def build(shape: Shape, *, units: int, activation: str, width: int = 24, blocks: int = 1, dropout: float = 0.2) -> Any:
    """A convolution of 5x5 with pooling, three stages of residual blocks, the mean of each map, `units`.

    28x28x1 -> 28x28x24 -> 14x14x24 -> 14x14x24 -> 7x7x48 -> 4x4x96 -> 96 -> units; 174,658 parameters with ten units.
    From 96x96 on the first convolution has stride 2: 224x224x3 -> 112x112x24 -> 56x56x24 -> … -> 14x14x96.

    Source: He et al., "Deep residual learning for image recognition" (2015), and the order of "Identity mappings
    in deep residual networks" (2016): normalise, activate, convolve.

    Args:
        shape: height, width and channels; 8x8 at least.
        units: of the last layer.
        activation: of the last layer.
        width: filters of the first stage; every stage has twice as many as the one before.
        blocks: residual blocks of a stage.
        dropout: the share left out before the last layer while training.
    """
    image = keras.Input(shape, name="image")
    strides = 2 if min(shape[:2]) >= LARGE_SIDE else 1
    hidden = layers.Conv2D(width, 5, strides=strides, padding="same", use_bias=False)(image)
    hidden = layers.MaxPooling2D(2, padding="same")(hidden)
    for stage in range(STAGES):
        for block in range(blocks):
            halves = stage > 0 and block == 0
            hidden = _block(hidden, width * 2**stage, strides=2 if halves else 1)
    hidden = layers.GlobalAveragePooling2D()(_active(hidden))
    hidden = layers.Dropout(dropout)(hidden)
    return keras.Model(image, layers.Dense(units, activation=activation)(hidden), name="resnet_small")


def _block(hidden: Any, filters: int, *, strides: int) -> Any:
    """Normalise, activate, convolve, twice, and add what came in; resized by a 1x1 convolution where needed."""
    active, past = _active(hidden), hidden
    if strides > 1 or hidden.shape[-1] != filters:
        past = layers.Conv2D(filters, 1, strides=strides, padding="same", use_bias=False)(active)
    inner = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(active)
    inner = layers.Conv2D(filters, 3, padding="same", use_bias=False)(_active(inner))
    return layers.Add()([past, inner])


def _active(hidden: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(hidden))
