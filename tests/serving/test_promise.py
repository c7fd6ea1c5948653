"""A promise behaves as the future of concurrent.futures does, wherever this house uses one."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.promise import Promise

STEPS = {
    "cancel": lambda future: future.cancel(),
    "run": lambda future: future.set_running_or_notify_cancel(),
    "succeed": lambda future: future.set_result(7),
    "fail": lambda future: future.set_exception(ValueError("no")),
    "done": lambda future: future.done(),
    "cancelled": lambda future: future.cancelled(),
    "running": lambda future: future.running(),
    "result": lambda future: future.result(0),
    "exception": lambda future: str(future.exception(0)),
}


def outcome(step, future):
    try:
        return step(future)
    except (CancelledError, InvalidStateError, TimeoutError, ValueError) as error:
        return type(error)


def told(future, steps):
    """What each step returned or raised, and when callbacks were called."""
    heard, seen = [], []
    future.add_done_callback(lambda done: heard.append(done is future))
    for name in steps:
        if name == "run" and future.cancelled() and "run" in seen:
            continue  # Future logs that nobody may ask twice, and so nobody does here
        seen.append(name)
        heard.append((name, outcome(STEPS[name], future)))
    if future.done():
        future.add_done_callback(lambda _: heard.append("late"))
    return heard


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=8))
def test_every_sequence_of_steps_ends_as_with_a_future(steps):
    if steps.count("run") > 1:  # the second one raises in both, but Future's logs it as critical
        steps = [step for number, step in enumerate(steps) if step != "run" or "run" not in steps[:number]]
    try:
        expected = told(Future(), steps)
    except RuntimeError:  # Future's word for a step that cannot be
        return
    assert told(Promise(), steps) == expected


def test_a_thread_waits_for_the_result():
    promise = Promise()
    threading.Timer(0.01, promise.set_result, (5,)).start()
    assert promise.result(10) == 5


def test_one_that_fails_raises_the_same_error_each_time():
    promise, error = Promise(), ValueError("no")
    promise.set_exception(error)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            promise.result()
    assert promise.exception() is error


def test_a_callback_that_raises_stops_no_other(caplog):
    promise, heard = Promise(), []
    promise.add_done_callback(lambda _: 1 / 0)
    promise.add_done_callback(heard.append)
    promise.set_result(None)
    assert heard == [promise]
    assert "ZeroDivisionError" in caplog.text


def test_asyncio_awaits_it_and_cancels_it():
    async def play():
        good, given_up = Promise(), Promise()
        threading.Timer(0.01, good.set_result, (5,)).start()
        assert await asyncio.wrap_future(good) == 5
        asyncio.wrap_future(given_up).cancel()
        await asyncio.sleep(0)
        assert given_up.cancelled()

    asyncio.run(play())


def test_it_says_where_it_is():
    promise = Promise()
    assert repr(promise) == "<Promise pending>"
    promise.set_result(1)
    assert repr(promise) == "<Promise finished>"
