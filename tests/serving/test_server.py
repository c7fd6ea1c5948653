"""The whole server: in this process for what it answers, in one of its own for how it starts and ends."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import Client
from serving.errors import BadRepository, BadSetting
from serving.loading import load
from serving.server import Server
from serving.settings import ServeSettings
from serving.v2 import open_inference_pb2 as v2
from serving.v2 import open_inference_pb2_grpc as v2_grpc
from tests.serving import fake_models

SERVE = "import sys; from serving import cli; sys.exit(cli.run(cli.load('serve')))"


@pytest.fixture
def serve(tmp_path):
    """Start servers on free ports; stopped at the end."""
    servers = []

    def start(models=tmp_path, load=None, asked_to_stop=lambda: False, **chosen):
        settings = ServeSettings(**{"models": models, "port": 0, "http_port": 0, "poll_seconds": 3600, **chosen})
        server = Server(settings, load=load, asked_to_stop=asked_to_stop)
        servers.append(server)
        return server.__enter__()

    yield start
    for server in servers:
        server.stop(10)


def address(server):
    return server.addresses[0].removeprefix("grpc://")


def get(server, path):
    try:
        with urllib.request.urlopen(server.addresses[1] + path, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def health(server, service=""):
    with grpc.insecure_channel(address(server)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def test_a_published_model_is_served_with_the_answers_it_gives_alone(serve, tmp_path):
    fake_models.publish_classifier(tmp_path)
    server = serve()
    pixels = fake_models.pixels(5)
    with Client(address(server)) as client:
        results = client.classify(pixels, model="digits")
    expected = fake_models.expected_probabilities(pixels)
    for result, row in zip(results, expected, strict=True):
        given = {score.label: score.probability for score in result.labels}
        np.testing.assert_allclose([given[label] for label in fake_models.LABELS], row, atol=1e-6)


def test_a_new_version_answers_after_a_poll_and_metrics_count_both(serve, tmp_path):
    fake_models.publish_classifier(tmp_path)
    server = serve()
    pixels = fake_models.pixels(2)
    with Client(address(server)) as client:
        client.classify(pixels, model="digits")
        fake_models.publish_classifier(tmp_path, gain=8.0)
        server.registry.poll()
        client.classify(pixels, model="digits")
    text = get(server, "/metrics")[1]
    for version in (1, 2):
        assert f'calotype_images_total{{method="Classify",model="digits",version="{version}"}} 2.0' in text


def test_the_configuration_told_is_the_one_in_effect(serve, tmp_path):
    """What the server's flags say, unless the model's own file says otherwise."""
    fake_models.publish_classifier(tmp_path)
    fake_models.write_plain(tmp_path)
    (tmp_path / "digits" / "config.pbtxt").write_text(
        "max_batch_size: 8 version_policy { all { } } instance_group { count: 2 } dynamic_batching {"
        " preferred_batch_size: 4 default_queue_policy { max_queue_size: 99 default_timeout_microseconds: 5000 } }"
    )
    server = serve(max_batch_rows=100, max_wait_ms=0.25)
    with grpc.insecure_channel(address(server)) as channel:
        ask = v2_grpc.GRPCInferenceServiceStub(channel).ModelConfig
        own, default = (ask(v2.ModelConfigRequest(name=name), timeout=10).config for name in ("digits", "plain"))
    assert (own.max_batch_size, own.instance_group[0].count, own.version_policy.WhichOneof("policy_choice")) == (
        8,
        2,
        "all",
    )
    batching = own.dynamic_batching
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([4], 250)
    policy = batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (99, 5000)
    assert (default.max_batch_size, default.version_policy.latest.num_versions) == (100, 1)


def test_a_model_without_batching_computes_each_request_by_itself(serve, tmp_path):
    fake_models.publish_classifier(tmp_path)
    (tmp_path / "digits" / "config.pbtxt").write_text("max_batch_size: 0")
    server = serve(max_batch_rows=2)
    with Client(address(server)) as client:
        assert len(client.classify(fake_models.pixels(5), model="digits")) == 5
    assert 'calotype_batch_rows_count{model="digits",version="1"} 1.0' in get(server, "/metrics")[1]


def test_an_empty_repository_is_ready_and_health_knows_the_models_that_come(serve, tmp_path):
    server = serve()
    assert get(server, "/readyz")[0] == 200
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    fake_models.publish_classifier(tmp_path)
    server.registry.poll()
    assert health(server, "digits") == health_pb2.HealthCheckResponse.SERVING


def test_what_is_served_is_logged_at_the_start_and_a_wrong_folder_with_a_hint(serve, tmp_path, caplog):
    for _ in range(2):
        fake_models.publish_classifier(tmp_path)
    fake_models.write_plain(tmp_path)
    caplog.set_level("INFO", "calotype.server")
    serve()
    serve(models=tmp_path / "digits")
    right, wrong = [record for record in caplog.records if record.getMessage() == "repository_served"]
    assert (right.levelname, right.fields) == ("INFO", {"models": 2, "versions": 2, "repository": tmp_path})
    assert (wrong.levelname, wrong.fields["models"], wrong.fields["versions"]) == ("WARNING", 0, 0)
    assert wrong.fields["hint"].endswith(f"the repository is the folder that it is in: {tmp_path}.")


@pytest.mark.parametrize("port", ["port", "http_port"])
def test_a_taken_port_is_one_sentence_and_leaves_the_other_free(serve, port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=f"--{port.replace('_', '-')}"):
            serve(**{port: number})


def test_two_servers_do_not_share_a_port(serve):
    first = serve()
    with pytest.raises(BadSetting, match="--port"):
        serve(port=int(first.addresses[0].rpartition(":")[2]))


def test_a_missing_repository_or_a_file_in_its_place_is_an_error(serve, tmp_path):
    with pytest.raises(BadRepository):
        serve(models=tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRepository):
        serve(models=tmp_path / "file")


def process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CALOTYPE_PORT": "0", "CALOTYPE_HTTP_PORT": "0"},
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_process_says_one_line_when_ready_and_ends_on_a_signal(tmp_path, number, status):
    with process("--models", str(tmp_path)) as server:
        line = server.stdout.readline()
        assert line.startswith("calotype serving on grpc://127.0.0.1:")
        server.send_signal(number)
        rest, log = server.communicate(timeout=30)
    assert rest == ""
    assert "Traceback" not in log
    assert server.returncode == status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "/nowhere"], "/nowhere"),
        (["--port", "many"], "--port"),
        (["--colour", "red"], "--colour"),
        (["--tokens", "/nowhere"], "--tokens /nowhere"),
        (["--tls-certificate", "/nowhere", "--tls-key", "/nowhere", "--http-plain"], "--tls-certificate /nowhere"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_sentence(arguments, words):
    with process(*arguments) as server:
        out, log = server.communicate(timeout=30)
    assert server.returncode == 2
    assert out == ""
    assert words in log
    assert "Traceback" not in log


def test_a_server_open_to_the_network_says_so(tmp_path):
    with process("--models", str(tmp_path), "--host", "0.0.0.0") as server:
        server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        log = server.communicate(timeout=30)[1]
    assert "WARNING open_to_the_network host=0.0.0.0" in log


def test_the_server_imports_nothing_of_training():
    code = "import sys, serving.server; print({'tensorflow', 'keras', 'prefect', 'pipelines'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "set()"


def test_the_process_above_its_workers_imports_no_heavy_library():
    """It computes and answers nothing: what models and transports need would be memory and time for nobody."""
    code = (
        "import sys, serving.process, serving.fleet; print({'numpy', 'onnxruntime', 'grpc', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_server_that_is_asked_to_stop_while_it_loads_stops_and_never_says_ready(serve, tmp_path):
    """An orchestrator that changes its mind doesn't wait for a hundred models, nor send calls to a server that goes."""
    for name in ("a", "b", "c"):
        fake_models.publish_classifier(tmp_path, name)
    loading, go_on, asked = threading.Event(), threading.Event(), threading.Event()
    loads, servers = [], []

    def load_slowly(version, _tuning):
        loads.append(version.name)
        loading.set()
        assert go_on.wait(20)
        return load(version, threads=1, max_batch_rows=8)

    starting = threading.Thread(
        target=lambda: servers.append(serve(load=load_slowly, asked_to_stop=asked.is_set)), daemon=True
    )
    starting.start()
    assert loading.wait(20)
    asked.set()
    starting.join(20)
    assert servers, "it waits for its models"
    assert get(servers[0], "/readyz")[0] == 503
    assert health(servers[0]) == health_pb2.HealthCheckResponse.NOT_SERVING
    stopping = threading.Thread(target=servers[0].stop)
    stopping.start()
    assert servers[0].registry._keeper.stopped.wait(20)
    go_on.set()
    stopping.join(20)
    assert loads == ["a"]


def test_while_draining_the_accepted_call_finishes_and_nobody_is_told_ready(serve, tmp_path):
    """Readiness goes first, liveness stays, and what was accepted is answered before the end."""
    fake_models.publish_classifier(tmp_path)
    seen = {}
    entered, go_on = threading.Event(), threading.Event()

    def load_slow_model(version, tuning):
        loaded = load(version, threads=1, max_batch_rows=8)

        def run(feeds, outputs):
            entered.set()
            assert go_on.wait(20)
            return loaded.run(feeds, outputs)

        return dataclasses.replace(loaded, run=run)

    server = serve(load=load_slow_model)
    with Client(address(server)) as client:
        call = threading.Thread(
            target=lambda: seen.update(answer=client.classify(fake_models.pixels(2), model="digits"))
        )
        call.start()
        assert entered.wait(20)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert server._draining.wait(20)
        assert get(server, "/readyz")[0] == 503
        assert get(server, "/livez")[0] == 200
        go_on.set()
        call.join(20)
        stopping.join(20)
    assert len(seen["answer"]) == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address(server).rpartition(":")[2])), timeout=5)
