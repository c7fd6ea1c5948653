"""Several workers on one port: counted together, told together, and replaced when they die."""

import http.client
import os
import signal
import socket
import subprocess
import sys

import grpc
import pytest

from serving.client import Client
from serving.errors import BadRepository, BadSetting, ModelNotReady
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


def get(fleet, path):
    connection = http.client.HTTPConnection(fleet.addresses[1].removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def each_client(fleet, do):
    """What `do` gives for every one of several new connections."""
    found = []
    for number in range(CLIENTS):
        # Options that differ keep gRPC from sharing one connection.
        with grpc.insecure_channel(address(fleet), options=[("calotype.test", number)]) as channel:
            found.append(do(channel))
    return found


def ready(channel):
    request = v2.ModelReadyRequest(name="digits")
    return v2_grpc.GRPCInferenceServiceStub(channel).ModelReady(request, timeout=10).ready


def infer(channel):
    message = v2.ModelInferRequest(model_name="digits", raw_input_contents=[fake_models.pixels(1).tobytes()])
    message.inputs.add(name="image", datatype="UINT8", shape=[1, *fake_models.IMAGE.shape])
    v2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=10)
    [stats] = (
        v2_grpc.GRPCInferenceServiceStub(channel)
        .ModelStatistics(v2.ModelStatisticsRequest(name="digits"), timeout=10)
        .model_stats
    )
    return stats.inference_count


def test_whatever_worker_answers_all_are_counted_together(fleet):
    assert get(fleet, "/readyz")[0] == 200
    assert each_client(fleet, infer) == list(range(1, CLIENTS + 1))
    text = get(fleet, "/metrics")[1]
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
    assert get(fleet, "/readyz")[0] == 200
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
    assert log.count(" stopped") == 2
