"""What a client can do to a server that means it no good: bounded memory, and the others are answered."""

from __future__ import annotations

import contextlib
import socket
import threading

import grpc
import numpy as np
import pytest

from serving.client import CallFailed, Client
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from serving.v2 import open_inference_pb2 as v2
from serving.v2 import open_inference_pb2_grpc as v2_grpc
from tests.conformance import models as plain_models
from tests.serving import http2_frames as http2
from tests.serving.fake_models import pixels, publish_classifier
from tests.serving.server_process import running
from tests.serving.test_predictions_wire import wait_until

MIB = 2**20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(form, tmp_path_factory):
    """One for all these tests: what the first did to it the next would feel."""
    folder = tmp_path_factory.mktemp("defence")
    publish_classifier(folder / "models")
    version = folder / "models" / "same" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(plain_models.identity(plain_models.KINDS["fp32"]))
    with running(folder / "models", folder / "log", "--transport", form, "--log-level", "warning") as server:
        with Client(server.address) as client:
            client.classify(pixels(64), model="digits")
        yield server


@pytest.fixture(autouse=True)
def alive(server):
    """After each test another caller is answered; for a second or so after a flood of calls the C core may refuse."""
    yield

    def answered():
        with contextlib.suppress(CallFailed), Client(server.address) as client:
            return len(client.classify(pixels(3), model="digits")) == 3

    wait_until(answered, seconds=20)
    assert "Traceback" not in server.log.read_text()


def connect(server):
    host, port = server.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 20)


def send(plain, data):
    """As much as the server takes; False: it hung up."""
    try:
        plain.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def received(plain):
    """All that the server says until it hangs up."""
    said = b""
    with contextlib.suppress(OSError):
        while data := plain.recv(65536):
            said += data
    return said


def test_metadata_beyond_a_few_kilobytes_is_refused(server):
    """By the transport, before anything of ours sees it."""
    before = server.resident_mib
    with grpc.insecure_channel(server.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        for number in range(5):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListModels(v1.ListModelsRequest(), metadata=(("x", str(number) + "x" * 10**6),), timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.resident_mib - before < 32


def test_headers_without_end_are_cut_off(server):
    """A call whose headers go on and on, two hundred megabytes of them, is not collected."""
    before = server.resident_mib
    more = http2.frame(http2.CONTINUATION, 0, 1, http2.literal(b"x", b"y" * 100) * 150)
    with connect(server) as plain:
        going = send(plain, http2.GREETING + http2.frame(http2.HEAD, 0, 1, http2.HEADERS))
        threading.Thread(target=received, args=(plain,), daemon=True).start()
        sent = 0
        while going and sent < 200 * MIB:
            going = send(plain, more)
            sent += len(more)
        assert server.resident_mib - before < 96


def test_a_path_that_is_no_text_stops_nobody_for_long(server):
    """It ends grpc.aio's server (1.85.1), in whose place another comes on the same port."""
    with connect(server) as plain:
        call = http2.frame(http2.HEAD, http2.END_HEADERS | http2.END_STREAM, 1, http2.headers(b"/\xff\xfe"))
        send(plain, http2.GREETING + call)
        plain.settimeout(1.0)
        with contextlib.suppress(OSError):
            while plain.recv(65536):
                pass


def test_a_flood_of_pings_ends_the_connection(server):
    """Told why; a ping now and then is welcome."""
    with connect(server) as plain:
        send(plain, http2.GREETING + http2.frame(http2.PING, 0, 0, bytes(8)) * 10_000)
        said = received(plain)
    assert b"too_many_pings" in said


def test_calls_reset_as_soon_as_they_are_made_cost_nothing_that_stays(server):
    """The rapid reset: ten thousand calls of one connection, each called off at once."""
    before = server.resident_mib
    with connect(server) as plain:
        threading.Thread(target=received, args=(plain,), daemon=True).start()
        going = send(plain, http2.GREETING)
        for number in range(1, 20_001, 2):
            call = http2.frame(http2.HEAD, http2.END_HEADERS, number, http2.HEADERS)
            going = going and send(plain, call + http2.frame(http2.RESET, 0, number, (8).to_bytes(4, "big")))
        with contextlib.suppress(OSError):
            plain.shutdown(socket.SHUT_RDWR)
    assert server.resident_mib - before < 256


def test_a_thousand_streams_are_as_many_as_allowed_and_refusals(server):
    """Of one connection that opens them and says nothing more; they are gone with it."""
    before, files = server.resident_mib, server.files
    path = http2.headers(b"/calotype.v1.PredictionService/StreamClassify")
    said = bytearray()
    with connect(server) as plain:
        send(plain, http2.GREETING)
        for number in range(1, 2001, 2):
            send(plain, http2.frame(http2.HEAD, http2.END_HEADERS, number, path))
        plain.settimeout(0.2)
        ended = http2.END_STREAM | http2.END_HEADERS

        def refused():
            with contextlib.suppress(TimeoutError):
                said.extend(plain.recv(2**20))
            return [stream for kind, flags, stream in http2.frames(bytes(said)) if (kind, flags) == (http2.HEAD, ended)]

        wait_until(lambda: len(refused()) >= 1000 - 256, seconds=30)
        assert server.resident_mib - before < 64
    wait_until(lambda: server.files <= files, seconds=20)
    with grpc.insecure_channel(server.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)

        def streams():
            with contextlib.suppress(grpc.RpcError):
                answers = stub.StreamClassify(iter([v1.ClassifyRequest(model="nobody")]), timeout=20)
                return [each.error.code for each in answers] == ["NOT_FOUND"]

        wait_until(streams, seconds=20)


def test_who_reads_its_answers_slowly_is_not_read_from(server):
    """Four streams that never read, three hundred megabytes each: a few are taken, and the rest waits.

    Counted by requests alone it was a gigabyte.
    """
    before, done = server.resident_mib, threading.Event()
    block = np.zeros((1, 2**18), np.float32)
    request = v2.ModelInferRequest(model_name="same", raw_input_contents=[block.tobytes()])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=block.shape)
    taken = [0]

    def requests():
        for _ in range(300):
            if done.is_set():
                return
            taken[0] += 1
            yield request

    with grpc.insecure_channel(server.address) as channel:
        stub = v2_grpc.GRPCInferenceServiceStub(channel)
        streams = [stub.ModelStreamInfer(requests(), timeout=60) for _ in range(4)]
        most, last = 0.0, -1
        while taken[0] != last:  # until nothing more is taken
            last = taken[0]
            done.wait(1.0)
            most = max(most, server.resident_mib)
        assert taken[0] < 200, f"{taken[0]} requests were taken"
        assert most - before < 512
        # Whoever reads after all has its answers.
        assert next(streams[0]).infer_response.model_name == "same"
        done.set()
        for stream in streams:
            stream.cancel()
