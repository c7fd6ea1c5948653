"""Small pieces that several families share: the types of a builder, and pooling by name."""

from __future__ import annotations

from typing import Any

import keras

from pipelines.errors import BadRecipe

Shape = tuple[int, int, int]


def pooling_layer(name: str) -> type[Any]:
    """The pooling layer that the option `pooling` names.

    Raises:
        BadRecipe: neither max nor average.
    """
    layers = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}
    if name not in layers:
        raise BadRecipe(f"The option 'pooling' is max or average. Received: {name!r}")
    found: type[Any] = layers[name]
    return found


def encoder(image: Any) -> Any:
    """A 3x3 convolution of 16 maps, max pooling that rounds odd sides up, and one of 4 maps.

    28x28x1 -> 28x28x16 -> 14x14x16 -> 14x14x4.
    """
    hidden = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    hidden = keras.layers.MaxPooling2D(2, padding="same")(hidden)
    # Leaky, because with four maps a dead one is a quarter of the code: one training in fourteen ended so with ReLU.
    return keras.layers.Conv2D(4, 3, padding="same", activation="leaky_relu")(hidden)


def crop_to(hidden: Any, shape: Shape) -> Any:
    """`hidden` without the rows and columns that rounding up added at the bottom and the right."""
    below, beside = hidden.shape[1] - shape[0], hidden.shape[2] - shape[1]
    if not below and not beside:
        return hidden
    return keras.layers.Cropping2D(((0, below), (0, beside)))(hidden)
