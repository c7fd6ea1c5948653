"""What a training minimises: loss, last activation and units, chosen from the task and the number of classes.

Pure: knows names only, no TensorFlow; `loop.py` turns the names into Keras objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.errors import BadRecipe

if TYPE_CHECKING:
    from pipelines.config import Task

Activation = Literal["sigmoid", "softmax"]

BINARY = "binary_crossentropy"
SPARSE = "sparse_categorical_crossentropy"
SQUARED = "mean_squared_error"

TWO_CLASSES = 2


@dataclass(frozen=True, slots=True)
class Objective:
    """The end of a model and what judges it.

    Attributes:
        task: classify or reconstruct.
        loss: its Keras name.
        activation: of the last layer.
        units: of the last layer; for reconstruct the image's channels.
        reason: one sentence for the person who reads the run's log.
    """

    task: Task
    loss: str
    activation: Activation
    units: int
    reason: str


def for_classes(classes: int, *, loss: str | None = None) -> Objective:
    """The objective of a classifier.

    Args:
        classes: how many labels the data has.
        loss: set by hand; None: chosen.

    Raises:
        BadRecipe: fewer than two classes, or a loss that doesn't go with their number.
    """
    if classes < TWO_CLASSES:
        raise BadRecipe(
            f"A classifier needs two labels or more. Received: {classes}. "
            "Add folders of other labels, or use --task reconstruct."
        )
    if classes == TWO_CLASSES:
        _allow(loss, (BINARY,), why="two labels end in one sigmoid, which has one number to compare")
        reason = "2 labels: one sigmoid unit, binary cross-entropy"
        return Objective(task="classify", loss=BINARY, activation="sigmoid", units=1, reason=reason)
    _allow(loss, (SPARSE,), why=f"{classes} labels exclude each other and are given as indices")
    reason = f"{classes} labels: softmax over {classes} units, sparse categorical cross-entropy"
    return Objective(task="classify", loss=SPARSE, activation="softmax", units=classes, reason=reason)


def for_images(channels: int, *, loss: str | None = None) -> Objective:
    """The objective of an autoencoder.

    Args:
        channels: of the images.
        loss: binary_crossentropy (the default) or mean_squared_error.

    Raises:
        BadRecipe: another loss.
    """
    _allow(loss, (BINARY, SQUARED), why="a reconstruction is compared with its image pixel by pixel")
    chosen = loss or BINARY
    reason = f"reconstruction: sigmoid pixels in {channels} channel(s), {chosen.replace('_', ' ')}"
    return Objective(task="reconstruct", loss=chosen, activation="sigmoid", units=channels, reason=reason)


def choose(task: Task, *, classes: int, channels: int, loss: str | None = None) -> Objective:
    """The objective of a task on data with so many classes and channels.

    Raises:
        BadRecipe: a pairing that makes no sense; the sentence says why.
    """
    if task == "classify":
        return for_classes(classes, loss=loss)
    return for_images(channels, loss=loss)


def _allow(loss: str | None, allowed: tuple[str, ...], *, why: str) -> None:
    if loss is not None and loss not in allowed:
        raise BadRecipe(
            f"The loss {loss!r} doesn't go with this data: {why}. Expected: {' or '.join(allowed)}. "
            "Leave the loss out to have it chosen."
        )
