"""Recipes."""

from __future__ import annotations

import json

import pytest

from pipelines.commands.options import make_recipe
from pipelines.config import DataRecipe, Recipe, merge, parse_setting, read_recipe
from pipelines.errors import BadRecipe


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epoch": 3}, "no key 'epoch'"),
        ({"data": {"colour": 3}}, "no key 'data.colour'"),
        ({"epochs": 0}, "'epochs'"),
        ({"task": "detect"}, "'classify' or 'reconstruct'"),
        ({"data": {"height": 28}}, "height and width go together"),
        ({"data": {"split": [0.5, 0.1, 0.1]}}, "add up to 1"),
        ({"data": {"split": [0.0, 0.5, 0.5]}}, "train above 0"),
        ({"data": {"group_by": "("}}, "regular expression"),
        ({"data": {"channels": 4}}, "'data.channels'"),
        (
            {"task": "reconstruct", "class_weights": "balanced"},
            "'class_weights' was refused: to reconstruct, there are",
        ),
    ],
)
def test_what_is_no_recipe_is_refused_by_the_name_of_the_field(values, words):
    """A wrong recipe is refused with one sentence that names the field and what was received."""
    with pytest.raises(BadRecipe) as caught:
        Recipe.from_dict(values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_survives_being_written_and_read(tmp_path):
    """What `to_dict` writes, a recipe file of either form brings back, with the same digest."""
    recipe = Recipe(task="reconstruct", epochs=3, data=DataRecipe(height=8, width=9, split=(0.6, 0.2, 0.2)))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_dict()))
    again = Recipe.from_dict(read_recipe(path))
    assert again == recipe
    assert again.digest() == recipe.digest()

    toml = tmp_path / "recipe.toml"
    toml.write_text('task = "reconstruct"\nepochs = 3\n[data]\nheight = 8\nwidth = 9\nsplit = [0.6, 0.2, 0.2]\n')
    assert Recipe.from_dict(read_recipe(toml)) == recipe


def test_naming_the_default_architecture_changes_nothing():
    """A recipe that names the task's default architecture is the recipe that leaves it out."""
    assert Recipe().family == "resnet_small"
    assert Recipe(architecture="lenet5").family == "lenet5"
    assert Recipe(architecture=Recipe().family).digest() == Recipe().digest()
    assert Recipe(epochs=3).digest() != Recipe(epochs=4).digest()


@pytest.mark.parametrize("content", ["epochs = ", "= 3", "[1, 2"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, content):
    """A recipe file that can't be parsed is refused with its path."""
    path = tmp_path / "recipe.toml"
    path.write_text(content)
    with pytest.raises(BadRecipe, match="not valid TOML"):
        read_recipe(path)
    with pytest.raises(BadRecipe, match="can't be read"):
        read_recipe(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("optimizer=sgd", ("optimizer", "sgd")),
        ("data.split=[0.8,0.1,0.1]", ("data.split", [0.8, 0.1, 0.1])),
        ("learning_rate=1e-3", ("learning_rate", 0.001)),
        ("options.pooling=max", ("options.pooling", "max")),
        ("loss=a=b", ("loss", "a=b")),
    ],
)
def test_set_reads_values_as_toml_and_else_as_words(text, expected):
    """`--set` takes numbers, lists and plain words without quotes."""
    assert parse_setting(text) == expected


def test_set_without_a_value_is_refused():
    """`--set epochs` says what it takes."""
    with pytest.raises(BadRecipe, match="KEY=VALUE"):
        parse_setting("epochs")


def test_merging_goes_below_tables_only():
    """A dotted key reaches into tables, leaves the rest alone, and refuses to go through a number."""
    values = {"epochs": 3, "data": {"seed": 1}}
    assert merge(values, "data.resize", "pad") == {"epochs": 3, "data": {"seed": 1, "resize": "pad"}}
    assert values == {"epochs": 3, "data": {"seed": 1}}
    with pytest.raises(BadRecipe, match="'epochs' is a single value"):
        merge(values, "epochs.more", 1)


def test_a_seed_told_twice_is_the_same_recipe():
    """A split's seed that is left to the run's and one that is told alike give equal digests."""
    assert Recipe(seed=3).digest() == Recipe(seed=3, data=DataRecipe(seed=3)).digest()
    assert Recipe(seed=3).digest() != Recipe(seed=3, data=DataRecipe(seed=0)).digest()


def test_a_runs_seed_is_no_demand_on_the_split():
    """--seed leaves the split's seed open, --split-seed tells it."""
    assert make_recipe(seed=3).data.seed is None
    assert make_recipe(seed=3, data_seed=1).data.seed == 1
