"""Loss, last layer and units follow from the task and the number of classes."""

from __future__ import annotations

import pytest

from pipelines.errors import BadRecipe
from pipelines.objective import choose


def test_two_labels_end_in_one_sigmoid():
    """Two classes are one question: one unit, binary cross-entropy."""
    objective = choose("classify", classes=2, channels=3)
    assert (objective.units, objective.activation, objective.loss) == (1, "sigmoid", "binary_crossentropy")


@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_more_labels_end_in_softmax(classes):
    """Labels that exclude each other share one distribution, and are compared as indices."""
    objective = choose("classify", classes=classes, channels=1)
    assert (objective.units, objective.activation) == (classes, "softmax")
    assert objective.loss == "sparse_categorical_crossentropy"


@pytest.mark.parametrize("loss", [None, "binary_crossentropy", "mean_squared_error"])
def test_an_autoencoder_has_a_unit_for_each_channel(loss):
    """Pixels are compared with pixels, whatever the number of labels."""
    objective = choose("reconstruct", classes=1, channels=3, loss=loss)
    assert (objective.units, objective.activation) == (3, "sigmoid")
    assert objective.loss == (loss or "binary_crossentropy")


@pytest.mark.parametrize(
    ("task", "classes", "loss"),
    [
        ("classify", 2, "sparse_categorical_crossentropy"),
        ("classify", 10, "binary_crossentropy"),
        ("classify", 10, "mean_squared_error"),
        ("reconstruct", 10, "sparse_categorical_crossentropy"),
        ("classify", 3, "nonsense"),
    ],
)
def test_a_wrong_pairing_is_refused_with_the_reason(task, classes, loss):
    """The sentence names what was given and what would have gone."""
    with pytest.raises(BadRecipe, match=rf"'{loss}' doesn't go with this data: .+Expected: \w+_"):
        choose(task, classes=classes, channels=1, loss=loss)


def test_one_label_is_no_classification():
    """With one label there is nothing to tell apart, and the cure is in the sentence."""
    with pytest.raises(BadRecipe, match=r"two labels or more\. Received: 1\..+--task reconstruct"):
        choose("classify", classes=1, channels=1)
