"""What callers see of a server that stops under load and comes back: our clients nothing, others UNAVAILABLE."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from serving.aio_client import AsyncClient
from serving.client import Client, Options, retry_after
from serving.errors import CalotypeError, ModelNotReady
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from tests.serving.fake_models import LABELS, pixels
from tests.serving.fake_registry import served, two_models

CALLERS = 8
RESTARTS = 5
PATIENT = Options(attempts=200, backoff_ms=2, timeout_seconds=20)


class _TurnsAway(v1_grpc.PredictionServiceServicer):
    """Answers as the core of a stopping server does, `times` times, then well."""

    def __init__(self, times):
        self.times = times

    def Classify(self, request, context):  # noqa: N802 - gRPC's name
        if self.times:
            self.times -= 1
            context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
        return v1.ClassifyResponse(
            model=request.model, results=[v1.Classification(labels=[v1.LabelScore(label="seven", probability=1.0)])]
        )


@contextmanager
def turning_away(times):
    """The address of a server, not one of ours, that turns so many calls away."""
    server = grpc.server(ThreadPoolExecutor(2))
    v1_grpc.add_PredictionServiceServicer_to_server(_TurnsAway(times), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


async def ask_twin(address, options):
    async with AsyncClient(address, options=options) as client:
        return await client.classify(pixels(1), model="digits")


def test_a_call_that_a_stopping_server_turned_away_is_sent_again():
    """The core ends it by CANCELLED, which for nobody else means that (grpc/grpc#41785)."""
    with turning_away(2) as address, Client(address, options=PATIENT) as client:
        assert [each.label for each in client.classify(pixels(1), model="digits")] == ["seven"]
    with turning_away(2) as address:
        assert [each.label for each in asyncio.run(ask_twin(address, PATIENT))] == ["seven"]


def test_a_caller_that_gives_up_hears_that_the_server_stopped():
    """Not that somebody cancelled."""
    once = Options(attempts=1)
    with turning_away(1) as address, Client(address, options=once) as client:
        with pytest.raises(ModelNotReady, match="stopped before"):
            client.classify(pixels(1), model="digits")
        assert client.classify(pixels(1), model="digits")
    with turning_away(1) as address, pytest.raises(ModelNotReady, match="stopped before"):
        asyncio.run(ask_twin(address, once))


def test_the_defaults_outlast_a_restart():
    """However the waits are spread, and without waiting long once the server is back."""

    class Refused:
        code = staticmethod(lambda: grpc.StatusCode.UNAVAILABLE)
        details = staticmethod(lambda: "Connection refused")
        trailing_metadata = staticmethod(lambda: None)

    options = Options()
    waits = [retry_after(Refused, attempt, options) for attempt in range(1, options.attempts + 1)]
    assert waits.pop() is None
    assert 5 < sum(waits) < 10
    assert max(waits) <= 1.5
    assert retry_after(Refused, 5000, Options(attempts=10_000)) <= 1.5
    assert 3 <= retry_after(Refused, 1, Options(backoff_ms=3000)) <= 4.5


def test_a_server_that_is_back_after_two_seconds_answers(form):
    """As our client is by default: the two seconds are only said to have been slept."""
    slept = []
    with served(two_models(), form) as rig:
        address = rig.address

    with ExitStack() as later:

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) > 1 and sum(slept) > 2.5 > sum(slept[:-1]):
                later.enter_context(served(two_models(), form, port=int(address.rpartition(":")[2])))
            if sum(slept) > 2.5:
                time.sleep(seconds)

        with Client(address, sleep=sleep) as client:
            assert len(client.classify(pixels(1), model="digits")) == 1
    assert sum(slept) > 2.5


def test_restarts_under_load_fail_no_call_of_our_client(form):
    """Whatever a stopping server says to those who come too late, the next one answers them."""
    over = threading.Event()
    answered, failed = [0] * CALLERS, []

    def call(place, address):
        with Client(address, options=PATIENT) as client:
            while not over.is_set():
                try:
                    [prediction] = client.classify(pixels(1), model="digits")
                except CalotypeError as error:
                    failed.append(error)
                else:
                    answered[place] += prediction.label in LABELS

    port, callers = 0, []
    try:
        for _ in range(RESTARTS):
            with served(two_models(), form, port=port) as rig:
                if not port:
                    port = int(rig.address.rpartition(":")[2])
                    callers = [
                        threading.Thread(target=call, args=(place, rig.address), daemon=True)
                        for place in range(CALLERS)
                    ]
                    for caller in callers:
                        caller.start()
                before = list(answered)
                deadline = time.monotonic() + 10
                while not all(now > then for now, then in zip(answered, before, strict=True)):
                    assert time.monotonic() < deadline, failed
                    time.sleep(0.01)
                rig.transport.drain_and_stop(5.0)
        with served(two_models(), form, port=port):
            over.set()
            for caller in callers:
                caller.join(20)
    finally:
        over.set()
    assert not failed, failed[0]
