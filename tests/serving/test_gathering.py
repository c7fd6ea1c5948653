"""What comes together is one round; nobody waits for company that isn't there, or pays for a neighbour."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import lending
from serving.calls import Answer, Call, Encoded, Method, Status
from serving.errors import BadInput
from serving.interceptors import Desk
from serving.telemetry import Telemetry
from serving.transport.aio_unary import UnaryCall
from serving.transport.gathering import Gathering
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from tests.serving.fake_registry import served, two_models
from tests.serving.test_predictions_wire import request, wait_until

PATIENCE = 14
"""Turns after which a round is over, however much company was hoped for."""


class Work:
    """Leaves to the thread that is lent what is to be done; `log` has who did what in which round."""

    def __init__(self, log, name, *, gathering=None, failing=False):
        self.log = log
        self.name = name
        self.gathering = gathering
        self.failing = failing
        self.delivered = asyncio.get_running_loop().create_future()

    def start(self):
        lender = lending.current()
        assert lender is not None
        self.log.append((lender, threading.current_thread().name, self.name))
        lender.due.append(self.finish)

    def finish(self):
        self.gathering.tell(self)
        if self.failing:
            raise RuntimeError(self.name)

    def deliver(self):
        self.delivered.set_result(threading.current_thread().name)


class Rig:
    """A gathering on the running loop, whose thread is called "loop"."""

    def __init__(self):
        self.gathering = Gathering(asyncio.get_running_loop())
        self.log = []
        self.all = []

    def add(self, name, **fields):
        work = Work(self.log, name, gathering=self.gathering, **fields)
        self.all.append(work)
        self.gathering.add(work)
        return work

    async def all_delivered(self):
        return await asyncio.wait_for(asyncio.gather(*(work.delivered for work in self.all)), 10)

    def rounds(self):
        """The names of each round, in the order of their beginning."""
        found = {}
        for lender, _, name in self.log:
            found.setdefault(lender, []).append(name)
        return list(found.values())


@asynccontextmanager
async def gathering():
    threading.current_thread().name = "loop"
    rig = Rig()
    rig.gathering.start()
    try:
        yield rig
    finally:
        await asyncio.to_thread(rig.gathering.stop)


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


def run(test):
    """Run a coroutine function in a thread and a loop of its own."""
    failures = []

    def body():
        try:
            asyncio.run(test())
        except BaseException as error:  # noqa: BLE001 it is raised below
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    if failures:
        raise failures[0]
    assert not thread.is_alive()


def test_a_lone_call_is_answered_within_two_turns_and_by_no_other_thread():
    """Company that nobody has seen isn't waited for."""

    async def test():
        async with gathering() as rig:
            for number in range(3):
                work = rig.add(number)
                await turns(2)
                assert work.delivered.result() == "loop"
            assert {thread for _, thread, _ in rig.log} == {"loop"}

    run(test)


def test_what_comes_in_one_turn_is_one_round_of_another_thread():
    """And the loop delivers it."""

    async def test():
        async with gathering() as rig:
            for number in range(5):
                rig.add(number)
            assert await rig.all_delivered() == ["loop"] * 5
            assert rig.rounds() == [[0, 1, 2, 3, 4]]
            assert {thread for _, thread, _ in rig.log} == {"grpc-aio-work"}

    run(test)


def test_after_company_a_round_waits_for_as_much_but_not_for_ever():
    """A caller who is alone again waits a few turns, a few times."""

    async def test():
        async with gathering() as rig:
            for name in "abc":
                rig.add(name)
            await rig.all_delivered()
            rig.log.clear()
            for name in "def":
                rig.add(name)
                await turns(6)
            await rig.all_delivered()
            assert rig.rounds() == [["d", "e", "f"]]
            for number in range(16):
                work = rig.add(number)
                await turns(PATIENCE)
                assert work.delivered.done()
            quick = 0
            for number in range(8):
                work = rig.add(number)
                await turns(2)
                quick += work.delivered.done()
                await turns(PATIENCE)
            assert quick == 7  # and one to find out

    run(test)


def test_a_round_is_no_larger_than_pays():
    """Those who come first don't wait for everybody."""

    async def test():
        async with gathering() as rig:
            for number in range(40):
                rig.add(number)
                await turns(1)
            await rig.all_delivered()
            assert sorted(name for names in rig.rounds() for name in names) == list(range(40))
            assert max(map(len, rig.rounds())) <= 16

    run(test)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20), st.booleans()), max_size=12))
def test_every_call_is_started_and_delivered_once(bursts):
    """Whatever comes when, and whoever's work fails."""

    async def test():
        async with gathering() as rig:
            for pause, size, failing in bursts:
                await turns(pause)
                for number in range(size):
                    rig.add(len(rig.all), failing=failing and number == 0)
            await rig.all_delivered()
            assert sorted(name for _, _, name in rig.log) == list(range(len(rig.all)))

    run(test)


def test_what_was_handed_over_is_finished_at_the_end():
    """Stopping waits for it; stopped before the start, there is nothing to wait for."""

    async def test():
        Gathering(asyncio.get_running_loop()).stop()
        async with gathering() as rig:
            rig.add(1)
            rig.add(2)
            await turns(PATIENCE)
        assert [name for _, _, name in rig.log] == [1, 2]
        await rig.all_delivered()

    run(test)


class Served:
    """One unary call of a method that answers by `future`, or raises `trouble`; `told` is its outcome."""

    def __init__(self, *, trouble=None):
        self.telemetry = Telemetry()
        self.future = Answer()
        self.trouble = trouble
        self.started = 0
        self.told = []
        method = Method(service="s", name="M", request=v1.ClassifyRequest, start=self.start, read=bytes)
        self.call = UnaryCall(
            method, Desk(self.telemetry), Call("M"), b"x", answer=None, tell=lambda call: self.told.append(call.outcome)
        )

    def start(self, _request, _call):
        self.started += 1
        if self.trouble is not None:
            raise self.trouble
        return self.future

    def signed_out(self):
        """The statuses by which the call was signed out."""
        lines = self.telemetry.exposition().decode().splitlines()
        counted = [line for line in lines if line.startswith("calotype_requests_total{")]
        return {line.split('code="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in counted}


def test_a_call_is_answered_by_what_its_future_becomes():
    """Signed out once."""
    served = Served()
    served.call.start()
    assert not served.told
    served.future.succeed(Encoded(b"answer"))
    assert served.told == [b"answer"]
    served.call.hang_up()
    assert served.signed_out() == {"OK": 1.0}


def test_a_call_that_is_refused_is_told_why():
    """By the one table."""
    served = Served(trouble=BadInput("no"))
    served.call.start()
    assert served.told == [Status(grpc.StatusCode.INVALID_ARGUMENT, "no")]
    assert served.signed_out() == {"INVALID_ARGUMENT": 1.0}


def test_who_hangs_up_while_gathered_starts_nothing():
    """And is signed out all the same."""
    served = Served()
    served.call.hang_up()
    served.call.start()
    assert (served.started, served.told) == (0, [])
    assert served.signed_out() == {"CANCELLED": 1.0}


def test_who_hangs_up_later_has_its_work_cancelled():
    """Also in the middle of its start, seen by another thread."""
    served = Served()
    served.call.start()
    served.call.hang_up()
    assert served.future.cancelled()
    assert (served.told, served.signed_out()) == ([], {"CANCELLED": 1.0})
    between = Served(trouble=None)
    start = between.start

    def hung_up_meanwhile(request, call):
        between.call.hang_up()
        return start(request, call)

    between.call._method = Method(
        service="s", name="M", request=v1.ClassifyRequest, start=hung_up_meanwhile, read=bytes
    )
    between.call.start()
    assert between.future.cancelled()
    assert (between.told, between.signed_out()) == ([], {"CANCELLED": 1.0})


def test_on_the_wire_one_callers_end_is_nobody_elses(form):
    """Of calls that come together some are refused and some hung up on; the others get their own answers."""
    registry = two_models()
    with served(registry, form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        unknown = v1.ClassifyRequest(model="nobody")
        calls = [stub.Classify.future(unknown if n % 3 == 1 else request(f"u{n}"), timeout=20) for n in range(120)]
        for call in calls[2::3]:
            call.cancel()
        assert [call.result().request_id for call in calls[::3]] == [f"u{n}" for n in range(0, 120, 3)]
        for call in calls[1::3]:
            with pytest.raises(grpc.RpcError) as caught:
                call.result()
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        wait_until(lambda: not any(handle.open for handle in registry.handles.values()))
