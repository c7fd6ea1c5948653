"""What comes together is one round; nobody waits for company that isn't there, or pays for a neighbour."""

from __future__ import annotations

import asyncio
import itertools
import threading

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


class Work:
    """Leaves to the thread that is lent what is to be done; `log` has what was begun and what was done, in order."""

    def __init__(self, log, name, gathering, *, failing=False):
        self.log = log
        self.name = name
        self.gathering = gathering
        self.failing = failing
        self.delivered = asyncio.get_running_loop().create_future()

    def start(self):
        self.log.append(("begun", self.name))
        lending.current().due.append(self.finish)

    def finish(self):
        self.log.append(("done", self.name))
        self.gathering.tell(self)
        if self.failing:
            raise RuntimeError(self.name)

    def deliver(self):
        self.delivered.set_result(None)


class Rig:
    """A gathering on the running loop."""

    def __init__(self):
        self.gathering = Gathering(asyncio.get_running_loop())
        self.log = []
        self.all = []

    def add(self, name, **fields):
        work = Work(self.log, name, self.gathering, **fields)
        self.all.append(work)
        self.gathering.add(work)
        return work

    async def all_delivered(self):
        await asyncio.wait_for(asyncio.gather(*(work.delivered for work in self.all)), 10)

    def rounds(self):
        """The names of each round: all are begun before the first is done."""
        runs = itertools.groupby(self.log, key=lambda entry: entry[0])
        return [[name for _, name in run] for kind, run in runs if kind == "begun"]


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_lone_call_is_answered_within_two_turns():
    """Company that nobody has seen isn't waited for, but for a few turns in one call of eight, to find out."""

    async def test():
        rig = Rig()
        for number in range(1, 24):
            work = rig.add(number)
            await turns(2)
            assert work.delivered.done() == bool(number % 8)
            await turns(12)
            assert work.delivered.done()

    asyncio.run(test())


def test_what_comes_in_one_turn_is_one_round():
    """Begun together, and delivered together."""

    async def test():
        rig = Rig()
        for number in range(5):
            rig.add(number)
        await turns(3)
        await rig.all_delivered()
        assert rig.rounds() == [[0, 1, 2, 3, 4]]
        assert lending.current() is None

    asyncio.run(test())


def test_after_company_a_round_waits_for_as_much_but_not_for_ever():
    """And no longer than that: the last one to come begins it."""

    async def test():
        rig = Rig()
        for name in "abc":
            rig.add(name)
        await rig.all_delivered()
        for name in "def":
            await turns(6)
            rig.add(name)
        await turns(3)
        assert rig.all[-1].delivered.done()
        rig.add("alone")
        await rig.all_delivered()
        assert rig.rounds() == [["a", "b", "c"], ["d", "e", "f"], ["alone"]]

    asyncio.run(test())


def test_company_is_found_out_and_forgotten():
    """Within eight rounds, and two."""

    async def test():
        rig = Rig()
        for number in range(60):
            rig.add(number)
            await turns(6)
        await rig.all_delivered()
        assert {len(names) for names in rig.rounds()[:7]} == {1}
        assert len(rig.rounds()[7]) == 16
        for number in range(3):  # one after what is left of the others
            await rig.add(number).delivered
        quick = []
        for number in range(2):  # one of them may be to find out
            last = rig.add(number)
            await turns(2)
            quick.append(last.delivered.done())
            await last.delivered
        assert any(quick)

    asyncio.run(test())


def test_a_round_is_no_larger_than_pays():
    """Those who come first don't wait for everybody."""

    async def test():
        rig = Rig()
        for number in range(40):
            rig.add(number)
            await turns(1)
        await rig.all_delivered()
        assert sorted(itertools.chain(*rig.rounds())) == list(range(40))
        assert max(map(len, rig.rounds())) <= 16

    asyncio.run(test())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20), st.booleans()), max_size=12))
def test_every_call_is_begun_and_delivered_once(bursts):
    """Whatever comes when, and whoever's work fails."""

    async def test():
        rig = Rig()
        for pause, size, failing in bursts:
            await turns(pause)
            for number in range(size):
                rig.add(len(rig.all), failing=failing and number == 0)
        await rig.all_delivered()
        assert sorted(itertools.chain(*rig.rounds())) == list(range(len(rig.all)))

    asyncio.run(test())


def test_what_other_threads_finish_is_delivered_on_the_loop():
    """By one call for what is there by then."""

    class Counting(asyncio.SelectorEventLoop):
        woken = 0

        def call_soon_threadsafe(self, *args, **fields):
            self.woken += 1
            return super().call_soon_threadsafe(*args, **fields)

    loop = Counting()

    async def test():
        rig = Rig()
        works = [Work(rig.log, number, rig.gathering) for number in range(50)]
        thread = threading.Thread(target=lambda: [rig.gathering.tell(work) for work in works])
        thread.start()
        thread.join()  # the loop stands still meanwhile
        assert loop.woken == 1
        await asyncio.wait_for(asyncio.gather(*(work.delivered for work in works)), 10)

    try:
        loop.run_until_complete(test())
    finally:
        loop.close()


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
