"""Models that somebody might bring along: one for each way to be wrong, and two that are right."""

from __future__ import annotations

import keras
from keras import layers


def good(shape, *, units, activation, width=4):
    image = keras.Input(shape)
    return keras.Model(image, layers.Dense(units, activation=activation)(layers.Flatten()(image)))


def good_images(shape, *, units, activation):
    return keras.Sequential([keras.Input(shape), layers.Conv2D(units, 3, padding="same", activation=activation)])


def logits(shape, *, units, activation):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(units)])


def sigmoids(shape, *, units, activation):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(units, activation="sigmoid")])


def wide(shape, *, units, activation):
    return good(shape, units=2 * units, activation=activation)


def own_size(shape, *, units, activation):
    return good((7, 7, 1), units=units, activation=activation)


def without_input(shape, *, units, activation):
    return keras.Sequential([layers.Flatten(), layers.Dense(units, activation=activation)])


def nothing(shape, *, units, activation):
    """Forgets to return it."""


class Subclassed(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(units, activation="softmax")

    def call(self, images):
        return self.dense(self.flatten(images))


def subclassed(shape, *, units, activation):
    return Subclassed(units)


def with_lambda(shape, *, units, activation):
    image = keras.Input(shape)
    return keras.Model(image, good(shape, units=units, activation=activation)(layers.Lambda(lambda x: x * 2)(image)))


class Forgetful(layers.Layer):
    """Keeps what it multiplies with to itself."""

    def __init__(self, factor=1.0, **more):
        super().__init__(**more)
        self.factor = factor

    def call(self, images):
        return images * self.factor


def forgetful(shape, *, units, activation):
    image = keras.Input(shape)
    return keras.Model(image, good(shape, units=units, activation=activation)(Forgetful(9.0)(image)))


def fails(shape, *, units, activation):
    raise RuntimeError("no luck today")
