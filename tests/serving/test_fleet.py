"""Several workers on one port: counted together, told together, and replaced when they die."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress

import grpc
import pytest

from serving.client import Client
from serving.errors import BadRepository, BadSetting, ModelNotFound, ModelNotReady
from serving.fleet import Fleet
from serving.settings import ServeSettings
from serving.v2 import open_inference_pb2 as v2
from serving.v2 import open_inference_pb2_grpc as v2_grpc
from tests.serving import fake_models
from tests.serving.test_predictions_wire import wait_until
from tests.serving.test_server import SERVE

pytestmark = pytest.mark.slow

CLIENTS = 12  # of one connection each: that all meet the same of two workers is a matter of 1 in 2048


@pytest.fixture
def fleet(tmp_path):
    fake_models.publish_classifier(tmp_path)
    settings = ServeSettings(models=tmp_path, port=0, http_port=0, workers=2, poll_seconds=0.2, drain_seconds=10)
    with Fleet(settings) as fleet:
        yield fleet


def address(fleet):
    return fleet.addresses[0].removeprefix("grpc://")


def get(where, path):
    connection = http.client.HTTPConnection(where.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def channels_of(where):
    """New ones; options that differ keep gRPC from sharing one connection."""
    return [grpc.insecure_channel(where, options=[("calotype.test", number)]) for number in range(CLIENTS)]


def each_client(fleet, do):
    """What `do` gives for every one of several new connections."""
    found = []
    for each in channels_of(address(fleet)):
        with each as channel:
            found.append(do(channel))
    return found


def ready(channel):
    request = v2.ModelReadyRequest(name="digits")
    return v2_grpc.GRPCInferenceServiceStub(channel).ModelReady(request, timeout=10).ready


def first_to_answer(channels):
    stubs = [v2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    calls = [stub.ServerLive.future(v2.ServerLiveRequest(), timeout=60) for stub in stubs]
    wait_until(lambda: any(call.done() for call in calls), seconds=30)
    return next(channel for channel, call in zip(channels, calls, strict=True) if call.done())


def one_image():
    message = v2.ModelInferRequest(model_name="digits", raw_input_contents=[fake_models.pixels(1).tobytes()])
    message.inputs.add(name="image", datatype="UINT8", shape=[1, *fake_models.IMAGE.shape])
    return message


def inferred(channel):
    request = v2.ModelStatisticsRequest(name="digits")
    [stats] = v2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=30).model_stats
    return stats.inference_count


def infer(channel):
    v2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(one_image(), timeout=10)
    return inferred(channel)


@contextmanager
def stopped(process):
    """A process that does nothing for a while."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def in_a_thread(work):
    """Until it is done, or says that somebody died meanwhile."""

    def try_to():
        with suppress(ModelNotReady):
            work()

    thread = threading.Thread(target=try_to)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def successor(fleet, before):
    """Kill the first worker, and wait for the process in its place, which takes a while to start."""
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: set(fleet.processes) != set(before), seconds=60)
    [new] = set(fleet.processes) - set(before)
    return new


def test_whatever_worker_answers_all_are_counted_together(fleet):
    assert get(fleet.addresses[1], "/readyz")[0] == 200
    assert each_client(fleet, infer) == list(range(1, CLIENTS + 1))
    text = get(fleet.addresses[1], "/metrics")[1]
    assert f'calotype_batch_rows_count{{model="digits",version="1"}} {CLIENTS}.0' in text
    assert 'calotype_model_state{model="digits",state="Available",version="1"} 1.0' in text


def test_a_worker_that_dies_is_replaced_and_what_it_counted_is_not_forgotten(fleet):
    each_client(fleet, infer)
    before = fleet.processes
    fleet._count()
    os.kill(before[0], signal.SIGKILL)
    with Client(address(fleet)) as client:
        for _ in range(5):
            assert len(client.classify(fake_models.pixels(2), model="digits")) == 2
    assert get(fleet.addresses[1], "/readyz")[0] == 200
    wait_until(lambda: len(fleet._at_work()) == 2 and set(fleet.processes) != set(before), seconds=60)
    assert before[1] in fleet.processes
    assert fleet._statistics("digits", 1).rows == CLIENTS + 10
    assert min(each_client(fleet, infer)) > CLIENTS


def test_unload_and_load_are_for_all_workers_and_for_those_to_come(fleet):
    with grpc.insecure_channel(address(fleet)) as channel:
        stub = v2_grpc.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelUnload(v2.RepositoryModelUnloadRequest(model_name="digits"), timeout=30)
        assert not any(each_client(fleet, ready))
        before = fleet.processes
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(fleet._at_work()) == 2 and set(fleet.processes) != set(before), seconds=60)
        assert not any(each_client(fleet, ready))
    with grpc.insecure_channel(address(fleet)) as channel:
        stub = v2_grpc.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelLoad(v2.RepositoryModelLoadRequest(model_name="digits"), timeout=30, wait_for_ready=True)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelLoad(v2.RepositoryModelLoadRequest(model_name="nobody"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert all(each_client(fleet, ready))


@pytest.mark.parametrize("loaded", [True, False])
def test_an_order_while_a_worker_starts_holds_for_that_one_too_and_does_not_wait_for_it(fleet, loaded):
    if loaded:
        fleet._unload("digits")
    with stopped(successor(fleet, fleet.processes)):
        (fleet._load if loaded else fleet._unload)("digits")
        assert all(each_client(fleet, ready)) is loaded
    wait_until(lambda: len(fleet._at_work()) == 2, seconds=60)
    assert set(each_client(fleet, ready)) == {loaded}


def test_an_order_that_takes_long_keeps_nobody_from_being_replaced_and_reaches_who_came_meanwhile(fleet):
    before = fleet.processes
    with ExitStack() as until_done, stopped(before[1]):
        until_done.enter_context(in_a_thread(lambda: fleet._unload("digits")))
        wait_until(fleet._turn.locked)
        new = successor(fleet, before)
        wait_until(lambda: new in {each.process.pid for each in fleet._at_work()}, seconds=60)
        assert fleet._turn.locked()
    assert not any(each_client(fleet, ready))


def test_opposite_orders_reach_all_workers_in_one_order(fleet):
    for _ in range(10):
        with in_a_thread(lambda: fleet._unload("digits")), in_a_thread(lambda: fleet._load("digits")):
            pass
        assert len(set(each_client(fleet, ready))) == 1


def test_an_order_that_nobody_could_carry_out_is_not_remembered(fleet, tmp_path):
    with pytest.raises(ModelNotFound):
        fleet._unload("later")
    fake_models.publish_classifier(tmp_path, "later")
    successor(fleet, fleet.processes)
    wait_until(lambda: len(fleet._at_work()) == 2, seconds=60)
    request = v2.ModelReadyRequest(name="later")

    def found(channel):
        return v2_grpc.GRPCInferenceServiceStub(channel).ModelReady(request, timeout=10).ready

    wait_until(lambda: all(each_client(fleet, found)), seconds=30)


def test_counts_do_not_wait_for_an_order(fleet):
    """One worker does nothing, as if a load took it for ever; what the other was told of it is what is known."""
    each_client(fleet, infer)
    with ExitStack() as stack:
        channels = [stack.enter_context(each) for each in channels_of(address(fleet))]
        assert all(map(ready, channels))
        with stopped(fleet.processes[0]):
            channel = first_to_answer(channels)
            stub = v2_grpc.GRPCInferenceServiceStub(channel)
            loading = stub.RepositoryModelLoad.future(v2.RepositoryModelLoadRequest(model_name="digits"), timeout=300)
            wait_until(fleet._turn.locked)
            assert inferred(channel) == CLIENTS
            assert f'_rows_count{{model="digits",version="1"}} {CLIENTS}.0' in get(fleet.addresses[1], "/metrics")[1]
            assert not loading.done()
        loading.result(timeout=60)


def test_a_new_version_reaches_all_workers(fleet, tmp_path):
    fake_models.publish_classifier(tmp_path)
    request = v2.ModelReadyRequest(name="digits", version="2")

    def newer(channel):
        return v2_grpc.GRPCInferenceServiceStub(channel).ModelReady(request, timeout=10).ready

    wait_until(lambda: all(each_client(fleet, newer)), seconds=30)


def test_what_a_worker_refuses_is_the_servers_own_refusal(tmp_path):
    """One sentence, and no process left."""
    with pytest.raises(BadRepository):
        Fleet(ServeSettings(models=tmp_path / "missing", port=0, http_port=0, workers=2)).__enter__()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadSetting, match="--port"):
        Fleet(ServeSettings(models=tmp_path, port=taken.getsockname()[1], http_port=0, workers=2)).__enter__()


def test_two_servers_of_several_workers_do_not_share_a_port(fleet, tmp_path):
    port = int(address(fleet).rpartition(":")[2])
    with pytest.raises(BadSetting, match="--port"):
        Fleet(ServeSettings(models=tmp_path, port=port, http_port=0, workers=2)).__enter__()


def test_after_the_end_nobody_answers(tmp_path):
    fleet = Fleet(ServeSettings(models=tmp_path, port=0, http_port=0, workers=2))
    with fleet:
        workers = [each.process for each in fleet._workers]
        where = address(fleet)
    assert [process.exitcode for process in workers] == [0, 0]
    with Client(where) as client, pytest.raises(ModelNotReady):
        client.models()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_all_of_it_at_once(tmp_path, workers, second):
    """A call that would be answered ten seconds later isn't."""
    models, log = tmp_path / "models", tmp_path / "log"
    models.mkdir()
    fake_models.publish_classifier(models)
    command = [
        sys.executable,
        "-c",
        SERVE,
        "--models",
        str(models),
        "--workers",
        str(workers),
        "--max-wait-ms",
        "10000",
    ]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*command, "--port", "0", "--http-port", "0"], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as server,
    ):
        *_, where, web = server.stdout.readline().split()
        with grpc.insecure_channel(where.removeprefix("grpc://")) as channel:
            assert ready(channel)
            call = v2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(one_image(), timeout=60)
            wait_until(lambda: 'queue_rows{model="digits",version="1"} 1.0' in get(web, "/metrics")[1])
            server.send_signal(signal.SIGTERM)
            wait_until(lambda: log.read_text().count(" draining") == workers)
            assert not call.done()
            server.send_signal(second)
            assert server.wait(60) == -second
            assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in log.read_text()


def test_sigterm_ends_all_of_it_with_0(tmp_path):
    command = [sys.executable, "-c", SERVE, "--models", str(tmp_path), "--workers", "2", "--port", "0"]
    with subprocess.Popen(
        [*command, "--http-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        line = server.stdout.readline()
        assert line.startswith("calotype serving on grpc://127.0.0.1:")
        server.send_signal(signal.SIGTERM)
        rest, log = server.communicate(timeout=60)
    assert (server.returncode, rest) == (0, "")
    assert "Traceback" not in log
    assert log.count(" repository_served") == 2  # once a worker
    assert log.count(" stopped") == 2
