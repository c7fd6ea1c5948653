"""Long work in slices: fair, dropped when nobody waits for it, and never in the way of a stop."""

from __future__ import annotations

import threading

import pytest

from serving.errors import Draining
from serving.turns import Turns


@pytest.fixture
def turns():
    """One thread, and a slice of one step."""
    turns = Turns(1, name="test", slice_seconds=0.0)
    yield turns
    turns.close(10)


class Held:
    """Steps whose first one waits until the test lets it go."""

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def steps(self):
        self.entered.set()
        assert self.go.wait(10)
        yield


def test_a_short_job_overtakes_a_long_one(turns):
    """It waits for a step of the other, not for all of them."""
    held, done = Held(), []

    def long():
        yield from held.steps()
        for step in range(50):
            done.append(step)
            yield

    def short():
        done.append("short")
        yield
        return "answer"

    last = turns.add(long())
    assert held.entered.wait(10)
    first = turns.add(short())
    held.go.set()
    assert first.result(10) == "answer"
    last.result(10)
    assert done.index("short") <= 1


def test_long_jobs_go_on_while_short_ones_keep_coming(turns):
    """They have turns of their own."""
    done = []

    def short():
        done.append("short")
        if len(done) < 1000:
            turns.add(short())
        yield from ()  # done within its first slice

    def long():
        turns.add(short())
        for step in range(20):
            done.append(step)
            yield

    turns.add(long()).result(10)
    assert done[:40].count("short") <= 21


def test_a_job_that_nobody_waits_for_is_dropped_at_its_next_step(turns):
    """Whether a thread has it in its hands, or it waits; and what it holds is let go."""
    held, went_on = Held(), []

    def long():
        yield from held.steps()
        went_on.append(1)

    working, waiting = turns.add(long()), turns.add(long())
    assert held.entered.wait(10)
    assert working.cancel()
    assert waiting.cancel()
    assert not turns._fresh
    held.go.set()
    assert turns.add(iter_of("next")).result(10) == "next"
    assert not went_on


def iter_of(answer):
    yield
    return answer


def test_an_error_is_the_jobs_own(turns):
    """The thread goes on."""

    def bad():
        yield
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        turns.add(bad()).result(10)
    assert turns.add(iter_of(1)).result(10) == 1


def test_a_close_waits_no_longer_than_it_was_told():
    """A step that takes for ever keeps neither the stop nor the interpreter's exit waiting: its thread is a daemon."""
    turns, held = Turns(1, name="test"), Held()
    working = turns.add(held.steps())
    waiting = turns.add(iter_of(1))
    assert held.entered.wait(10)
    turns.close(0.0)
    with pytest.raises(Draining):
        waiting.result(0)
    assert all(thread.daemon for thread in turns._threads)
    with pytest.raises(Draining):
        turns.add(iter_of(1))
    held.go.set()
    with pytest.raises(Draining):
        working.result(10)
    turns.close(10)
    assert not any(thread.is_alive() for thread in turns._threads)
