"""A small residual network: the one to take when accuracy is what counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

if TYPE_CHECKING:
    from pipelines.models.layout import Shape

PATCHED_SIDE = 96


def build(shape: Shape, *, units: int, activation: str, width: int = 16, dropout: float = 0.2) -> Any:
    """Three stages of two residual blocks, each stage half as large and twice as wide, then the mean of each map.

    28x28x1 -> 28x28x16 -> 14x14x32 -> 7x7x64 -> 64 -> units. Images with both sides 96 or more are made four times
    smaller by the stem.

    Source: He et al., "Deep residual learning for image recognition" (2015) and "Identity mappings in deep
    residual networks" (2016), in the CIFAR-10 form.

    Args:
        shape: height, width and channels; 8x8 at least.
        units: of the last layer.
        activation: of the last layer.
        width: filters of the first stage.
        dropout: the share left out before the last layer while training.
    """
    image = keras.Input(shape, name="image")
    hidden = _stem(image, width)
    for stage in range(3):
        for block in range(2):
            halves = stage > 0 and block == 0
            hidden = _block(hidden, width * 2**stage, strides=2 if halves else 1)
    hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(hidden))
    hidden = layers.GlobalAveragePooling2D()(hidden)
    hidden = layers.Dropout(dropout)(hidden)
    return keras.Model(image, layers.Dense(units, activation=activation)(hidden), name="resnet_small")


def _stem(image: Any, width: int) -> Any:
    """A first convolution of stride 1 for tiny images, 2, or a patch of 4 for large ones."""
    strides = 4 if min(image.shape[1:3]) >= PATCHED_SIDE else 1
    return layers.Conv2D(width, 3 if strides == 1 else 7, strides=strides, padding="same", use_bias=False)(image)


def _block(hidden: Any, filters: int, *, strides: int) -> Any:
    """Normalise, activate, convolve, twice, and add what came in."""
    active = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(hidden))
    past = hidden
    if strides > 1 or hidden.shape[-1] != filters:
        past = layers.Conv2D(filters, 1, strides=strides, padding="same", use_bias=False)(active)
    inner = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(active)
    inner = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(inner))
    inner = layers.Conv2D(filters, 3, padding="same", use_bias=False)(inner)
    return layers.Add()([past, inner])
