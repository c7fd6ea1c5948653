"""A model layer by layer: output shape, parameters and multiply-adds. Needs TensorFlow when `layers_of` runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import backend, train
from pipelines.models import catalogue
from pipelines.objective import choose

if TYPE_CHECKING:
    from pipelines.config import Recipe
    from serving.images import ImageSpec


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        name: in the model.
        kind: its class.
        output_shape: without the rows.
        parameters: trained or not.
        multiply_adds: for one image, of convolutions and dense layers; the others' are few.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers_of(recipe: Recipe, image: ImageSpec, *, classes: int) -> list[Layer]:
    """The layers of a recipe's model for such images.

    Args:
        recipe: its task, architecture and options count.
        image: the input.
        classes: labels of a classifier.

    Raises:
        BadRecipe: no such family, or one that doesn't take these options or images.
    """
    settled = catalogue.settle(recipe)
    family = catalogue.find(settled.family, task=settled.task)
    catalogue.check_size(family, height=image.height, width=image.width)
    objective = choose(settled.task, classes=classes, channels=image.channels, loss=settled.loss)
    backend.start()
    model = train.build(settled, objective, image)
    return [_described(layer) for layer in model.layers]


def _described(layer: Any) -> Layer:
    output = layer.output
    while isinstance(output, (list, tuple)):  # of a layer that gives several: the first
        output = output[0]
    shape = tuple(int(size) for size in output.shape[1:])
    return Layer(
        name=layer.name,
        kind=type(layer).__name__,
        output_shape=shape,
        parameters=layer.count_params(),
        multiply_adds=_multiply_adds(layer, shape),
    )


def _multiply_adds(layer: Any, shape: tuple[int, ...]) -> int:
    """A kernel's numbers, once per place that it is laid on."""
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    weights = math.prod(int(size) for size in kernel.shape)
    if "Transpose" in type(layer).__name__:  # laid on each place of the input
        return weights * math.prod(int(size) for size in layer.input.shape[1:-1])
    return weights * math.prod(shape[:-1])
