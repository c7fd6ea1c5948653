"""The table of layers is right where it can be counted by hand."""

from __future__ import annotations

import pytest

from pipelines.config import Recipe
from pipelines.errors import BadRecipe
from pipelines.models.catalogue import ARCHITECTURES, known
from pipelines.summary import layers_of
from serving.images import ImageSpec

DIGITS = ImageSpec(28, 28, 1)


@pytest.mark.slow
def test_lenets_layers_are_those_of_the_paper():
    """Shapes, parameters, and multiply-adds: kernel numbers times places."""
    layers = layers_of(Recipe(architecture="lenet5"), DIGITS, classes=10)
    first, last = layers[0], layers[-1]
    assert (first.kind, first.output_shape) == ("Conv2D", (28, 28, 6))
    assert (first.parameters, first.multiply_adds) == (156, 150 * 28 * 28)
    assert (last.output_shape, last.parameters, last.multiply_adds) == ((10,), 850, 840)


@pytest.mark.slow
def test_a_transposed_convolution_is_laid_on_its_input():
    """3x3 from four maps to one, on 14x14 places."""
    layers = layers_of(Recipe(task="reconstruct", architecture="autoencoder_transposed"), DIGITS, classes=1)
    (transposed,) = [layer for layer in layers if layer.kind == "Conv2DTranspose"]
    assert transposed.multiply_adds == 9 * 4 * 14 * 14


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_layers_add_up_to_the_model(name):
    """Nothing is left out or counted twice."""
    family = ARCHITECTURES[name]
    layers = layers_of(Recipe(task=family.task, architecture=name), DIGITS, classes=10)
    assert sum(layer.parameters for layer in layers) == family.parameters
    assert sum(layer.multiply_adds for layer in layers) > 0


@pytest.mark.slow
def test_a_model_of_ones_own_has_a_summary_too():
    """Found by its module and function, in no catalogue."""
    own = known("tests.pipelines.own_models:good")
    layers = layers_of(Recipe(task=own.task, architecture=own.name), DIGITS, classes=10)
    assert sum(layer.parameters for layer in layers) == 28 * 28 * 10 + 10


def test_too_small_an_image_is_refused_at_once():
    """Before TensorFlow is loaded."""
    with pytest.raises(BadRecipe, match="12x12 pixels or more"):
        layers_of(Recipe(architecture="lenet5"), ImageSpec(8, 8, 1), classes=10)
