"""The paired tests: is one model worse than another on the same images, beyond chance?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.paired import EXACT_PAIRS, LEVEL, binomial_tail, compare_answers, compare_errors, signed_rank_tail

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)
# Few different sizes, so that ties and zeros are common.
differences = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=10)


def _split(pairs):
    return np.array([one for one, _ in pairs]), np.array([other for _, other in pairs])


@given(answers)
def test_answers_are_compared_alike_from_both_sides(pairs):
    """What is worse for the one is better for the other, and never are both worse than the other."""
    mine, theirs = _split(pairs)
    forth, back = compare_answers(mine, theirs), compare_answers(theirs, mine)
    assert (forth.worse, forth.better) == (back.better, back.worse)
    assert (forth.challenger, forth.champion) == (back.champion, back.challenger)
    assert not (forth.beyond_chance and back.beyond_chance)
    assert forth.p_value + back.p_value >= 1.0


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.data())
def test_a_copy_of_the_champion_is_never_refused(right, data):
    """Equal answers, or equal errors up to what export allows, are no reason to refuse."""
    same = np.array(right)
    assert not compare_answers(same, same).beyond_chance
    sizes = st.lists(st.floats(0, 1, width=32), min_size=len(right), max_size=len(right))
    errors = np.array(data.draw(sizes), np.float32)
    copied = compare_errors(errors + np.float32(5e-7), errors)
    assert not copied.beyond_chance
    assert copied.p_value == 1.0


@given(st.integers(5, 400), st.integers(0, 400))
def test_a_clearly_worse_classifier_is_refused(lost, agreed):
    """One that loses five images or more and wins none is worse beyond chance: 2 ** -5 is below the level."""
    champion = np.ones(lost + agreed, bool)
    challenger = np.arange(lost + agreed) >= lost
    assert compare_answers(challenger, champion).beyond_chance
    assert not compare_answers(champion, challenger).beyond_chance


@given(st.integers(30, 400), st.floats(1.01, 3.0))
def test_a_clearly_worse_autoencoder_is_refused(images, factor):
    """Larger errors on every image are worse beyond chance, however many images there are."""
    errors = np.random.default_rng(images).uniform(0.01, 0.1, images)
    assert compare_errors(errors * factor, errors).beyond_chance
    assert not compare_errors(errors, errors * factor).beyond_chance


def test_a_lower_mean_error_is_never_called_worse():
    """A challenger that mends the few bad images is not refused for being a little behind on the many good ones."""
    champion = np.concatenate([np.full(60, 0.010), np.full(10, 0.5)])
    challenger = np.concatenate([np.full(60, 0.011), np.full(10, 0.1)])
    found = compare_errors(challenger, champion)
    assert found.p_value < LEVEL
    assert not found.beyond_chance


def test_an_error_that_is_no_number_is_the_worst_error():
    """A graph that computes NaN doesn't slip through the comparison."""
    good = np.full(40, 0.01)
    assert compare_errors(np.full(40, np.nan), good).beyond_chance
    assert not compare_errors(good, np.full(40, np.inf)).beyond_chance


@given(st.integers(0, 12).flatmap(lambda tosses: st.tuples(st.integers(0, tosses), st.just(tosses))))
def test_the_binomial_tail_is_what_counting_gives(case):
    """Every series of tosses counted."""
    heads, tosses = case
    as_many = sum(sum(series) >= heads for series in itertools.product((0, 1), repeat=tosses))
    assert binomial_tail(heads, tosses) == as_many / 2**tosses


def test_the_binomial_tail_holds_for_many_images():
    """Ten thousand discordant images are counted exactly too, and tails too thin for a float are zero."""
    assert binomial_tail(5_000, 10_000) == pytest.approx(0.5 + math.comb(10_000, 5_000) / 2**10_001)
    assert 0.0 <= binomial_tail(10_000, 10_000) < 1e-300


@given(differences)
def test_signed_ranks_are_what_counting_gives(values):
    """Every way to sign the ranks counted, with ties sharing their ranks and zeros dropped."""
    counted = [value for value in values if value]
    sizes = sorted(abs(value) for value in counted)
    rank = {size: np.mean([at for at, other in enumerate(sizes, 1) if other == size]) for size in sizes}
    ranks = [rank[abs(value)] for value in counted]
    seen = sum(rank[value] for value in counted if value > 0)
    signs = itertools.product((0, 1), repeat=len(counted))
    as_far = sum(sum(itertools.compress(ranks, chosen)) >= seen for chosen in signs)
    assert signed_rank_tail(np.array(values)) == pytest.approx(as_far / 2 ** len(counted))


@given(st.integers(0, 2**32 - 1), st.floats(-0.5, 0.5))
def test_the_normal_approximation_is_close_where_it_takes_over(seed, shift):
    """Counted out or approximated, the chance is the same to a thousandth or two."""
    values = np.random.default_rng(seed).normal(shift, 1.0, EXACT_PAIRS)
    assert signed_rank_tail(values, exact_pairs=0) == pytest.approx(signed_rank_tail(values), abs=0.002)
