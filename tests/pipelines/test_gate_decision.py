"""What the gate makes of a meeting, and what `--force` may overrule of it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pipelines.contender import Contender
from pipelines.duel import Meeting
from pipelines.gate import decide
from pipelines.paired import compare_answers
from tests.serving import fake_models


def _meeting(images, wrong, *, learned_known=True, broken=0):
    """A champion that is always right, and a challenger that isn't on `wrong` images."""
    right = np.arange(images) >= wrong
    compared = compare_answers(right, np.ones(images, bool)) if images else None
    compared = compared and replace(compared, not_finite=broken)
    return Meeting(images=images, left_out={}, champion_learned=learned_known, comparison=compared)


@pytest.mark.parametrize(
    ("met", "passed", "by_force", "words"),
    [
        (_meeting(29, 29), False, False, "Worse than version 1, beyond chance: .+ on 29 images"),
        (_meeting(29, 29, learned_known=False), False, True, "may have learned some of these"),
        (_meeting(29, 29, learned_known=False, broken=1), False, False, "on 1 of them its error is no finite number"),
        (_meeting(29, 4), False, True, "29 test images are left"),
        (_meeting(0, 0), False, True, "0 test images are left"),
        (_meeting(30, 4), True, True, "Not worse than version 1 beyond chance"),
        (_meeting(30, 5), False, False, "Worse than version 1, beyond chance"),
        (_meeting(30, 5, learned_known=False), False, True, "may have learned some of these"),
    ],
)
def test_force_is_for_what_the_gate_cannot_tell(met, passed, by_force, words):
    """Too few images to find anything, or an unfair advantage; what was found beyond chance stands, however few."""
    for force, expected in ((False, passed), (True, by_force)):
        found = decide(met, champion=1, force=force)
        assert found.passed is expected
        assert found.forced is (expected and not passed)
        assert re.search(words, found.reason)


class _Answers:
    """A session that says this of every row."""

    def __init__(self, probabilities):
        self.probabilities = np.array(probabilities, np.float32)

    def run(self, feeds, _outputs):
        return {"probabilities": np.tile(self.probabilities, (len(feeds["image"]), 1))}


def test_an_answer_that_is_no_number_is_no_guess():
    """A classifier that computes NaN doesn't get the first label's images right; labels not asked for don't count."""
    bundle, _ = fake_models.classifier()
    rows = fake_models.pixels(2)
    for answer, guess in (([np.nan] * 3, -1), ([0.1, np.nan, 0.2], -1), ([0.1, 0.2, 0.7], 1), ([0.6, 0.4, np.nan], 0)):
        labels = bundle.labels[:2] if guess == 0 else bundle.labels[1:]
        assert Contender(bundle, _Answers(answer)).guesses(rows, labels).tolist() == [guess, guess]
