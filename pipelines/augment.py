"""Small random changes to training images, drawn from a seed and a step: the same on every run.

Never part of a model: what is exported has not seen this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_RADIANS = math.radians(10.0)
SHIFT_FRACTION = 0.08
ZOOM_FRACTION = 0.10


def augmenter(name: str) -> Callable[[Any, Any], Any] | None:
    """A function from (uint8 pixels [n, h, w, c], int32 seed [2]) to pixels of the same kind.

    Args:
        name: none, affine, flip or affine-flip, as `config.Recipe.augment` says.

    Returns:
        None where nothing is to be done.
    """
    return {"none": None, "affine": _affine, "flip": _flip, "affine-flip": _both}[name]


def _flip(pixels: Any, seed: Any) -> Any:
    return tf.image.stateless_random_flip_left_right(pixels, seed=seed + tf.constant([0, 1]))


def _both(pixels: Any, seed: Any) -> Any:
    return _flip(_affine(pixels, seed), seed)


def _affine(pixels: Any, seed: Any) -> Any:
    """Turn, zoom and shift about the centre; what comes in from outside is black as the border of a digit."""
    shape = tf.shape(pixels)
    rows, height, width = shape[0], tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    draws = tf.random.stateless_uniform([5, rows], seed=seed, minval=-1.0, maxval=1.0)
    turn, zoom_x, zoom_y = draws[0] * TURN_RADIANS, 1 + draws[1] * ZOOM_FRACTION, 1 + draws[2] * ZOOM_FRACTION
    a, b = tf.cos(turn) * zoom_x, -tf.sin(turn) * zoom_y
    c, d = tf.sin(turn) * zoom_x, tf.cos(turn) * zoom_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shift_x = centre_x - a * centre_x - b * centre_y + draws[3] * SHIFT_FRACTION * width
    shift_y = centre_y - c * centre_x - d * centre_y + draws[4] * SHIFT_FRACTION * height
    nothing = tf.zeros_like(turn)
    matrices = tf.stack([a, b, shift_x, c, d, shift_y, nothing, nothing], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=matrices,
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
