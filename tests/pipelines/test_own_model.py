"""A model of one's own that can't be trained, judged or exported is refused in a sentence, before it learns."""

from __future__ import annotations

import pytest

from pipelines import train
from pipelines.config import Recipe
from pipelines.errors import BadRecipe
from tests.pipelines.small_snapshots import digits, make_snapshot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """Brings a function of `own_models` as far as the first epoch."""
    pixels, numbers = digits(60, side=8)
    snapshots = {
        labels: make_snapshot(tmp_path_factory.mktemp("digits"), pixels, numbers % labels, parts=(40, 10, 10))
        for labels in (2, 10)
    }

    def call(function, *, labels=10, **more):
        recipe = Recipe.from_dict({"architecture": f"tests.pipelines.own_models:{function}", **more})
        return train.prepare(snapshots[labels], train.settle(recipe, snapshots[labels]))

    return call


@pytest.mark.parametrize(
    ("function", "more"),
    [("good", {}), ("good", {"labels": 2, "options": {"width": 8}}), ("good_images", {"task": "reconstruct"})],
)
def test_what_is_right_is_trained(prepare, function, more):
    """Functional and sequential, of each objective."""
    training, _ = prepare(function, **more)
    assert training.standing.epoch == 0


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        ("logits", {}, r"\(logits\).+Expected: numbers in 0…1\. Received: -.+ to .+activation=\"softmax\""),
        ("logits", {"labels": 2}, r"\(logits\).+activation=\"sigmoid\""),
        ("sigmoids", {}, r"add up to 1 for each image\. Received: sums of"),
        ("wide", {}, r"output.+Expected: one output of \(None, 10\)\. Received: \(None, 20\)\..+`units`"),
        ("good", {"task": "reconstruct"}, r"one output of \(None, 8, 8, 1\)\. Received: \(None, 1\)"),
        ("own_size", {}, r"one input of \(None, 8, 8, 1\)\. Received: \(None, 7, 7, 1\)"),
        ("without_input", {}, r"keras\.Input\(shape\).+Received: a Sequential"),
        ("nothing", {}, r"Received: a NoneType"),
        ("subclassed", {}, r"Received: a Subclassed, whose layers are hidden.+instead of a subclass"),
        ("with_lambda", {}, r"can't be saved and loaded again.+instead of Lambda"),
        ("forgetful", {}, r"(otherwise once it is|can't be) saved and loaded.+get_config"),
        ("fails", {}, r"Received: RuntimeError: no luck today"),
        ("good", {"options": {"depth": 3}}, r"Received: TypeError:.+depth"),
        ("missing", {}, r"can't be imported.+missing"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_epoch(prepare, function, more, words):
    """What is wrong, what was expected, what was received, and the cure."""
    with pytest.raises(BadRecipe, match=words):
        prepare(function, **more)
