"""A classifier that learned nothing is told from one that learned a little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import chance, evaluate


def _report(labels, answers, names=("cat", "dog")):
    """As an evaluation makes it, from right labels and answers."""
    labels, answers = np.array(labels), np.array(answers)
    probabilities = np.full((len(labels), len(names)), 0.1 / len(names), np.float32)
    probabilities[np.arange(len(labels)), answers] += 0.9
    paths = [f"{at}.png" for at in range(len(labels))]
    return evaluate.classification(labels.astype(np.int32), probabilities, names=names, paths=paths)


def test_always_the_same_answer_is_nothing_learned():
    """The commonest label for every image: warned, with both counts and the label, whatever the accuracy."""
    said = chance.warning(_report([0] * 95 + [1] * 5, [0] * 100))
    assert said is not None
    assert "on 100 test images it gets 95 right, and always answering 'cat' gets 95" in said


def test_guesses_are_nothing_learned():
    """Answers drawn without looking."""
    random = np.random.default_rng(0)
    said = chance.warning(_report(random.integers(0, 10, 200), random.integers(0, 10, 200), names=tuple("abcdefghij")))
    assert said is not None


@pytest.mark.parametrize(("right", "warned"), [(4, True), (5, False)])
def test_five_more_right_than_the_same_answer_are_beyond_chance(right, warned):
    """Of five tosses all heads is 1 in 32, below the level; of four 1 in 16 is not."""
    labels = [0] * 50 + [1] * 20
    answers = [0] * 50 + [1] * right + [0] * (20 - right)
    assert (chance.warning(_report(labels, answers)) is not None) is warned


def test_an_autoencoder_is_not_asked():
    """Its report has no confusion matrix."""
    assert chance.warning({"mean_squared_error": 0.1}) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80))
def test_no_model_is_praised_that_gets_fewer_right_than_the_same_answer(pairs):
    """Whatever the answers: at most as many right as the commonest label has images is always warned of."""
    labels, answers = zip(*pairs, strict=True)
    report = _report(labels, answers, names=tuple("abcd"))
    if sum(label == answer for label, answer in pairs) <= max(labels.count(label) for label in range(4)):
        assert chance.warning(report) is not None
