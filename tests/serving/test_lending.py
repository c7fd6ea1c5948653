"""A lent thread makes short model calls itself, in an idle executor's place, and nothing gets lost on the way."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving import lending
from serving.batcher import Batcher
from serving.calls import Answer
from serving.row_queue import BatchLimits


class Clock:
    """Stands still but while the model computes: then it goes on by `step` seconds."""

    def __init__(self):
        self.now = 100.0
        self.step = 0.0005

    def __call__(self):
        return self.now


class Rig:
    """A batcher whose model doubles, and a thread that lends itself; `ran` are the threads and rows of its calls."""

    def __init__(self, **limits):
        self.clock = Clock()
        self.ran = []
        self.error = None
        self.lender = lending.Lender()
        self.pool = ThreadPoolExecutor(1, "lent", initializer=self.lender.lend)
        self.batcher = Batcher(self.run, limits=BatchLimits(**limits), clock=self.clock, name="executor")
        self.batcher.start()
        self.submit([1]).result(10)  # now it is known how long a row takes

    def run(self, feeds, _outputs):
        self.ran.append((threading.current_thread().name.split("_")[0].split("-")[0], len(feeds["x"])))
        self.clock.now += self.clock.step
        if self.error is not None:
            raise self.error
        return {"x": feeds["x"] * 2}

    def submit(self, values):
        """From a thread that lends nothing, once an executor waits."""
        self.idle()
        return self.batcher.submit({"x": np.array(values)})

    def idle(self):
        """Wait until an executor waits."""
        while "1 idle" not in repr(self.batcher):
            pass

    def lent(self, work):
        """Have the lent thread do something."""
        return self.pool.submit(work).result(10)

    def submit_lent(self, values):
        return self.lent(lambda: self.batcher.submit({"x": np.array(values)}))


@pytest.fixture
def rig():
    rig = Rig()
    rig.idle()
    yield rig
    rig.batcher.close()
    assert rig.batcher.join(10)
    rig.pool.shutdown()


def test_what_comes_until_the_thread_has_time_is_one_call_of_that_thread(rig):
    """No executor wakes for it, and each gets its own rows."""
    futures = [rig.submit_lent([n, n + 1]) for n in range(3)]
    assert not any(future.done() for future in futures)
    rig.lent(rig.lender.work)
    assert [future.result(0)["x"].tolist() for future in futures] == [[0, 2], [2, 4], [4, 6]]
    assert rig.ran[1:] == [("lent", 6)]
    assert "1 idle" in repr(rig.batcher)


def test_the_executor_is_there_again_afterwards(rig):
    """For those who don't lend themselves."""
    rig.submit_lent([1])
    rig.lent(rig.lender.work)
    assert rig.submit([5]).result(10)["x"].tolist() == [10]
    assert [thread for thread, _ in rig.ran] == ["executor", "lent", "executor"]


def test_a_long_call_is_the_executors(rig):
    """A transport must not wait for it: neither when it is submitted, nor when it has grown meanwhile."""
    assert rig.submit_lent(range(50)).result(10)["x"].tolist() == [2 * n for n in range(50)]
    assert not rig.lender.due
    rig.submit([1]).result(10)
    rig.idle()
    grown = [rig.submit_lent([n]) for n in range(50)]
    rig.lent(rig.lender.work)
    assert [future.result(10)["x"].tolist() for future in grown] == [[2 * n] for n in range(50)]
    assert {thread for thread, _ in rig.ran} == {"executor"}


@pytest.mark.parametrize("values", [np.zeros((1, 9)), np.zeros(1, np.int8)], ids=["shape", "dtype"])
def test_rows_of_another_kind_are_the_executors_until_their_time_is_known(rig, values):
    """A model that is quick with small images says nothing of how it is with large ones."""
    rig.submit_lent(values).result(10)
    assert not rig.lender.due
    rig.idle()
    rig.submit_lent(values)
    rig.lent(rig.lender.work)
    assert [thread for thread, _ in rig.ran] == ["executor", "executor", "lent"]


def test_a_long_kind_stays_the_executors_whatever_short_ones_there_are(rig):
    """However many of the others come in between."""
    for _ in range(20):
        rig.clock.step = 0.001
        rig.submit([1]).result(10)
        rig.clock.step = 0.006
        rig.idle()
        rig.submit_lent(np.zeros((1, 9))).result(10)
        rig.idle()
    assert {thread for thread, _ in rig.ran} == {"executor"}


def test_calls_that_fail_make_no_model_short(rig):
    """They end early; what comes after them may not."""
    rig.clock.step, rig.error = 0.0, RuntimeError("no")
    for _ in range(30):
        assert rig.submit([1]).exception(10)
    rig.clock.step, rig.error = 0.006, None
    rig.idle()
    rig.submit_lent([1]).result(10)
    assert {thread for thread, _ in rig.ran} == {"executor"}


@pytest.mark.parametrize(
    ("joins", "values"), [(False, [1]), (True, np.array(["a"], object))], ids=["batchless", "text"]
)
def test_models_of_which_a_mean_tells_nothing_are_the_executors(joins, values):
    """One request of theirs may be a thousand times another."""
    rig = Rig(joins=joins)
    for _ in range(3):
        rig.idle()
        rig.submit_lent(values).result(10)
    assert {thread for thread, _ in rig.ran} == {"executor"}
    rig.batcher.close()
    assert rig.batcher.join(10)
    rig.pool.shutdown()


def test_a_thread_may_lend_itself_for_a_while():
    """And is what it was before afterwards, whatever happened."""
    outer, inner = lending.Lender(), lending.Lender()
    with outer.lent():
        with inner.lent():
            assert lending.current() is inner
        with pytest.raises(RuntimeError), inner.lent():
            raise RuntimeError
        assert lending.current() is outer
    assert lending.current() is None


def test_a_batcher_that_fills_its_batches_lends_nothing():
    """Whoever waits for company waits in an executor."""
    rig = Rig(max_wait_ms=1, max_batch_rows=1)
    rig.idle()
    assert rig.submit_lent([3]).result(10)["x"].tolist() == [6]
    assert not rig.lender.due
    rig.batcher.close()
    assert rig.batcher.join(10)
    rig.pool.shutdown()


def test_what_was_left_to_a_lent_thread_is_finished_at_the_end(rig):
    """Closing wakes the executor that the thread stood in for; coming late, the thread finds nothing to do."""
    future = rig.submit_lent([7])
    rig.batcher.close()
    assert future.result(10)["x"].tolist() == [14]
    assert rig.batcher.join(10)
    rig.lent(rig.lender.work)
    assert rig.ran[1:] == [("executor", 1)]


def test_a_caller_who_hangs_up_in_between_costs_no_call(rig):
    """Its rows are dropped, and the place is given back."""
    rig.submit_lent([7]).cancel()
    rig.lent(rig.lender.work)
    assert len(rig.ran) == 1
    assert "1 idle" in repr(rig.batcher)


def test_a_call_leaves_nothing_for_the_garbage_collector(rig):
    """It looks seldom, and what waits for it holds images."""
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            future = rig.submit([number])
            future.result(10)
            left = rig.submit_lent([number])
            rig.lent(rig.lender.work)
            left.result(10)
            answer = Answer()
            answer.follow(rig.submit([number]), lambda arrays: arrays["x"])
            answer.result(10)
            del future, left, answer
        assert gc.collect() < 50
    finally:
        gc.enable()
