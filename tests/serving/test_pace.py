"""What is known of how long rows take."""

from __future__ import annotations

import pytest

from serving.pace import Pace


def test_each_kind_has_its_own_mean_and_the_slowest_counts():
    pace = Pace()
    assert (pace.seconds, pace.slowest([]), pace.slowest(["small"])) == (0.0, None, None)
    pace.add("small", 1.0)
    pace.add("large", 9.0)
    pace.add("large", 4.0)
    assert pace.slowest(["small"]) == 1.0
    assert pace.slowest(["small", "large"]) == pytest.approx(8.0)
    assert pace.slowest(["small", "unseen"]) is None


def test_the_first_call_is_the_mean_of_all():
    """Not a fifth of it: a long model isn't taken for a short one while it is new."""
    pace = Pace()
    pace.add("a", 5.0)
    assert pace.seconds == 5.0
    pace.add("b", 10.0)
    assert pace.seconds == pytest.approx(6.0)


def test_a_kind_that_failed_is_forgotten():
    pace = Pace()
    pace.add("a", 5.0)
    pace.forget("a")
    pace.forget("never seen")
    assert pace.slowest(["a"]) is None


def test_any_number_of_kinds_takes_little_room():
    """The last ones are known; callers choose shapes."""
    pace = Pace()
    for number in range(10_000):
        pace.add(number, float(number + 1))
    assert pace.slowest([9_999, 9_950]) == 10_000.0
    assert pace.slowest([0]) is None
    assert len(pace._kinds) <= 128
