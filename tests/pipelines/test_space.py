"""What a search may change in a recipe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import space
from pipelines.config import Recipe
from pipelines.errors import BadRecipe
from pipelines.models.catalogue import ARCHITECTURES
from pipelines.space import Choice, Range

RECIPES = [Recipe(architecture=family.name, task=family.task) for family in ARCHITECTURES.values()]


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "space.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.architecture)
def test_every_family_has_a_space_around_its_own_recipe(recipe):
    """Out of the box all values of a family's space make recipes, and its own are the first to be tried."""
    found = space.usual(recipe)
    space.check(found, recipe)
    assert space.start(found, recipe).keys() == found.keys()
    assert {f"options.{name}" for name in ARCHITECTURES[recipe.family].options} <= found.keys()


def test_what_the_user_set_is_not_searched():
    """An option of the command line stays as it is; the rest is searched."""
    recipe = Recipe(architecture="lenet5", batch_size=64, options={"pooling": "max"})
    found = space.usual(recipe)
    assert "learning_rate" in found
    assert not found.keys() & {"batch_size", "options.pooling"}


def test_nothing_left_open_is_refused():
    """A recipe that sets everything can't be searched around, and is told so."""
    recipe = Recipe(task="reconstruct", batch_size=64, learning_rate=1e-2)
    with pytest.raises(BadRecipe, match="sets everything"):
        space.usual(recipe)


def test_a_file_says_lists_and_ranges(write):
    """Lists are choices, low and high a range, whole in whole numbers; a table's keys are dotted."""
    text = """
        batch_size = [16, 32, 64]
        learning_rate = { low = 1e-4, high = 1e-2, log = true }
        [options]
        dense = { low = 20, high = 100, step = 20 }
    """
    found = space.read(write(text))
    assert found == {
        "batch_size": Choice((16, 32, 64)),
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "options.dense": Range(20, 100, step=20),
    }
    assert found["options.dense"].whole
    assert not found["learning_rate"].whole
    space.check(found, Recipe(architecture="dense"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("batch_size = []", "must be a list"),
        ("batch_size = 5", "must be a list"),
        ("epochs = { low = 5 }", "must be a list"),
        ("epochs = { low = 5, high = 9, width = 2 }", "must be a list"),
        ("epochs = { low = 9, high = 5 }", "low < high"),
        ("learning_rate = { low = 0.0, high = 0.1, log = true }", "above 0"),
        ("epochs = { low = 2, high = 9, step = 0 }", "a step above 0"),
        ("epochs = { low = 2, high = 9, step = 2, log = true }", "without log"),
        ("epochs = { low = '2', high = 9 }", "takes numbers"),
        ("learning_rate = { low = 0.1, high = inf }", "takes numbers"),
        ("epochs = [", "not valid TOML"),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_words(write, text, words):
    """The sentence says what is wrong with which parameter."""
    with pytest.raises(BadRecipe, match=words):
        space.read(write(text))


@pytest.mark.parametrize(
    ("searched", "words"),
    [
        ({"loss": Choice(("binary_crossentropy",))}, "can't change 'loss'"),
        ({"data.seed": Range(0, 3)}, "can't change 'data.seed'"),
        ({"batch_size": Choice((16, 0))}, "'batch_size' was refused"),
        ({"epochs": Range(1.0, 4.0)}, "'epochs' was refused"),
        ({"optimizer": Choice(("adam", "eve"))}, "no optimizer 'eve'"),
        ({"architecture": Choice(("dense", "vgg99"))}, "vgg99"),
        (
            {"architecture": Choice(("dense", "lenet5")), "options.dense": Range(10, 90)},
            "'lenet5' has no option 'dense'",
        ),
    ],
)
def test_what_would_fail_in_a_trial_is_refused_before_the_first(searched, words):
    """A value that makes no recipe, in any combination of family and option, is found before anything is trained."""
    with pytest.raises(BadRecipe, match=words):
        space.check(searched, Recipe(architecture="dense"))


@given(
    low=st.floats(1e-6, 1e3),
    width=st.floats(1e-3, 1e3),
    log=st.booleans(),
    words=st.lists(st.sampled_from(["relu", "swish", "tanh"]), min_size=1, unique=True),
)
def test_a_space_says_itself_as_a_file_does(low, width, log, words):
    """What a run writes down about its search is what a file for the same search would hold."""
    searched = {"learning_rate": Range(low, low + width, log=log), "options.hidden": Choice(tuple(words))}
    said = space.to_dict(searched)
    assert space._flat(said) == searched
    assert searched["learning_rate"].low in searched["learning_rate"]


def test_a_step_bounds_what_is_in_a_range():
    """The first trial never takes a value that the range would not give."""
    stepped = Range(16, 64, step=16)
    assert 48 in stepped
    assert 50 not in stepped
    assert 80 not in stepped
    assert "48" not in stepped


def test_a_file_may_leave_the_familys_own_values_out():
    """The first trial takes what of the default recipe lies in the space, and leaves the rest to the search."""
    searched = {"batch_size": Choice((8, 16)), "options.dense": Range(50, 100)}
    assert space.start(searched, Recipe(architecture="dense")) == {"options.dense": 84}
