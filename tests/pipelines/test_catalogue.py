"""Families are found by name and told apart from what they don't take, without TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.config import Recipe
from pipelines.errors import BadRecipe
from pipelines.models.catalogue import ARCHITECTURES, RATES, Architecture, check_size, find, settle


def test_listing_families_loads_no_tensorflow():
    """`calotype architectures` answers at once."""
    code = "import sys, pipelines.models.catalogue; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_family_is_refused_with_the_known_ones():
    """The sentence names what was received and what there is for the task."""
    with pytest.raises(BadRecipe, match=r"no architecture 'lenet6'\. Known for classify: .*lenet5"):
        find("lenet6", task="classify")


def test_a_family_for_the_other_task_is_refused():
    """A classifier reconstructs nothing."""
    with pytest.raises(BadRecipe, match=r"'lenet5' is for --task classify.+autoencoder"):
        find("lenet5", task="reconstruct")


@pytest.mark.parametrize("family", ARCHITECTURES.values(), ids=lambda family: family.name)
def test_the_smallest_size_is_named(family: Architecture):
    """Too small an image is told before anything is trained; the smallest one is not refused."""
    check_size(family, height=family.smallest, width=family.smallest)
    if family.smallest > 1:
        with pytest.raises(BadRecipe, match=f"images of {family.smallest}x{family.smallest} pixels or more"):
            check_size(family, height=family.smallest - 1, width=100)


def test_settling_fills_every_open_field_and_changes_nothing_twice():
    """What is written down says what was done, and means the same when it is read again."""
    settled = settle(Recipe())
    open_fields = {name for name, value in settled.to_dict().items() if value is None}
    assert open_fields == {"loss"}  # which the data decide
    assert settle(settled) == settled


def test_what_a_person_gave_is_kept():
    """A family's habit fills gaps only, a zero and a constant included."""
    given = Recipe(epochs=5, batch_size=7, learning_rate=0.5, schedule="constant", augment="none", patience=0)
    settled = settle(given)
    for name in ("epochs", "batch_size", "learning_rate", "schedule", "augment", "patience"):
        assert getattr(settled, name) == getattr(given, name)


@pytest.mark.parametrize("optimizer", RATES)
def test_another_optimizer_brings_a_rate_at_which_it_learns(optimizer):
    """The family's rate belongs to the family's optimizer."""
    settled = settle(Recipe(optimizer=optimizer))
    habits = ARCHITECTURES[settled.family].habits
    expected = habits.learning_rate if optimizer == habits.optimizer else RATES[optimizer]
    assert settled.learning_rate == expected


def test_an_unknown_optimizer_is_refused():
    """With the known ones in the sentence."""
    with pytest.raises(BadRecipe, match=r"no optimizer 'adm'\. Known: adam, "):
        settle(Recipe(optimizer="adm"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"poling": "max"}, "'lenet5' has no option 'poling'. It has: pooling"),
        ({"pooling": 3}, "option 'pooling' of 'lenet5' is like 'average'. Received: 3"),
    ],
)
def test_a_wrong_option_is_refused(options, sentence):
    """Before TensorFlow is loaded, and by its name."""
    with pytest.raises(BadRecipe, match=sentence):
        settle(Recipe(architecture="lenet5", options=options))


def test_a_model_of_ones_own_is_named_by_module_and_function():
    """It needs no entry, and its options are its own business."""
    settled = settle(Recipe(architecture="my.models:wide", options={"width": 3}))
    assert find(settled.family, task="classify").builder == "my.models:wide"


def test_a_module_that_is_not_there_is_told():
    """With the name that was tried."""
    with pytest.raises(BadRecipe, match=r"'no\.such:thing' can't be imported"):
        find("no.such:thing", task="classify").function()
