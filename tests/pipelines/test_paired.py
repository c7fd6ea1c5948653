"""The paired tests: is one model worse than another on the same images, beyond chance?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.paired import (
    EXACT_FLIPS,
    EXACT_PAIRS,
    LEVEL,
    binomial_tail,
    compare_answers,
    compare_errors,
    flipped_signs_tail,
    signed_rank_tail,
)

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


def test_a_few_catastrophes_outweigh_many_small_gains():
    """A little better on most images, far off on the rest, ten times the mean error: ranks alone would let it pass."""
    champion = np.full(750, 0.0050)
    challenger = np.where(np.arange(750) < 40, 0.9770, 0.0049)
    found = compare_errors(challenger, champion)
    assert signed_rank_tail(challenger - champion) > 0.9
    assert (found.worse, found.better) == (40, 710)
    assert found.beyond_chance
    assert not compare_errors(champion, challenger).beyond_chance


def test_outliers_do_not_hide_that_most_images_are_worse():
    """The mean alone can't tell, with a far-off image on either side; the ranks can."""
    champion, challenger = np.full(750, 0.0050), np.full(750, 0.0060)
    champion[0], challenger[1] = 0.9, 0.9
    assert flipped_signs_tail(challenger - champion) > 0.2
    assert compare_errors(challenger, champion).beyond_chance


@given(st.integers(0, 2**32 - 1))
def test_both_tests_together_refuse_no_more_than_one(seed):
    """The smaller of two chances is doubled, and never more than one."""
    values = np.random.default_rng(seed).normal(0.0, 1.0, 40)
    found = compare_errors(values, np.zeros(40))
    assert found.p_value == min(1.0, 2 * flipped_signs_tail(values), 2 * signed_rank_tail(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_no_number_is_the_worst_error(bad):
    """A graph that computes NaN doesn't slip through the comparison, be it on one image of many where it is better."""
    good = np.full(750, 0.01)
    for count in (1, 40, 750):
        broken = np.where(np.arange(750) < count, bad, 0.005)
        found = compare_errors(broken, good)
        assert found.not_finite == count
        assert found.beyond_chance
        assert not compare_errors(good, broken).beyond_chance
        assert not compare_errors(broken, broken).beyond_chance


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


@given(differences)
def test_flipped_signs_are_what_counting_gives(values):
    """Every way to sign the differences counted; zeros change nothing."""
    signs = itertools.product((-1, 1), repeat=len(values))
    as_high = sum(np.dot(chosen, np.abs(values)) >= sum(values) for chosen in signs)
    assert flipped_signs_tail(np.array(values)) == pytest.approx(as_high / 2 ** len(values))


@given(st.integers(0, 2**32 - 1), st.floats(-0.5, 0.5))
@settings(max_examples=20)
def test_drawn_signs_are_close_where_they_take_over(seed, shift):
    """Counted out or drawn, the chance is the same to four deviations of 9,999 draws; and always the same draws."""
    values = np.random.default_rng(seed).normal(shift, 1.0, EXACT_FLIPS)
    drawn = flipped_signs_tail(values, exact_pairs=0)
    assert drawn == pytest.approx(flipped_signs_tail(values), abs=0.02)
    assert drawn == flipped_signs_tail(values, exact_pairs=0)
