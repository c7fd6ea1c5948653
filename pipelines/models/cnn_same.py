"""3x3 convolutions with padding: the form of the MNIST lessons, and the deeper one of the CIFAR-10 lessons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from pipelines.models.layout import pooling_layer

if TYPE_CHECKING:
    from pipelines.models.layout import Shape

CIFAR_SIDE = 32
MAX_FLATTENED_SIDE = 64


def build(shape: Shape, *, units: int, activation: str, pooling: str = "max", dropout: float = 0.25) -> Any:
    """Convolutions of 32 and 64 filters of 3x3 with padding, pooling, dropout, dense, `units`.

    Under 32x32 (MNIST): 28x28x1 -> 28x28x32 -> 14x14x32 -> 14x14x64 -> 7x7x64 -> 3136 -> 128 -> units; 421,642
    parameters with ten units. From 32x32 on (CIFAR-10) every convolution is done twice: 32x32x3 -> 32x32x32 (2) ->
    16x16x32 -> 16x16x64 (2) -> 8x8x64 -> 4096 -> 512 -> units; 2,168,362 parameters with ten units. Above 64x64 the
    maps are averaged instead of flattened, so that the dense layer doesn't grow with the image.

    Source: Keras' examples mnist_cnn and cifar10_cnn (F. Chollet, 2015).

    Args:
        shape: height, width and channels; 4x4 at least.
        units: of the last layer.
        activation: of the last layer.
        pooling: max or average.
        dropout: the share left out after each pooling while training; twice that before the last layer.
    """
    pool = pooling_layer(pooling)
    is_large = min(shape[:2]) >= CIFAR_SIDE
    stack: list[Any] = [keras.Input(shape, name="image")]
    for filters in (32, 64):
        times = 2 if is_large else 1
        stack += [layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(times)]
        stack += [pool(2), layers.Dropout(dropout)]
    is_flat = max(shape[:2]) <= MAX_FLATTENED_SIDE
    stack += [layers.Flatten() if is_flat else layers.GlobalAveragePooling2D()]
    stack += [layers.Dense(512 if is_large else 128, activation="relu"), layers.Dropout(min(0.9, 2 * dropout))]
    return keras.Sequential([*stack, layers.Dense(units, activation=activation)], name="cnn_same")
