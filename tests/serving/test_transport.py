"""What the transport itself owes: bad bytes, limits, health, reflection, drain."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import InvalidStateError
from contextlib import suppress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from serving.codec import pixel_block
from serving.errors import BadSetting
from serving.interceptors import Desk
from serving.service import PredictionService
from serving.telemetry import Telemetry
from serving.transport.face import Options
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from tests.serving.fake_models import pixels
from tests.serving.fake_registry import FORMS, served, two_models
from tests.serving.test_predictions_wire import request, wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def self_signed():
    """The key and the certificate of `localhost`, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    return private, certificate.public_bytes(pem)


@pytest.fixture
def rig(form):
    with served(two_models(), form, max_message_bytes=4096, max_streams=1) as rig:
        yield rig


@pytest.fixture
def channel(rig):
    with grpc.insecure_channel(rig.address) as channel:
        yield channel


def test_bytes_that_are_no_message_are_never_unknown(channel):
    """The caller learns that its bytes were wrong; a stream answers and goes on."""
    call = channel.unary_unary("/calotype.v1.PredictionService/Classify")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    stream = channel.stream_stream("/calotype.v1.PredictionService/StreamClassify")
    good = request("good").SerializeToString()
    answers = [v1.ClassifyResponse.FromString(a) for a in stream(iter([b"\xff\xff", good]), timeout=10)]
    assert [(a.request_id, a.error.code) for a in answers] == [("", "INVALID_ARGUMENT"), ("good", "")]


def test_a_message_over_the_limit_is_refused(channel):
    """By its size, before it is read; in a stream alone, and by a sentence that names the setting."""
    big = v1.ClassifyRequest(model="digits", images=v1.Images(pixels=pixel_block(pixels(200))))
    with pytest.raises(grpc.RpcError) as caught:
        v1_grpc.PredictionServiceStub(channel).Classify(big, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--max-message-bytes" in caught.value.details()
    stream = v1_grpc.PredictionServiceStub(channel).StreamClassify
    answers = list(stream(iter([big, request("good")]), timeout=10))
    assert {answer.request_id: answer.error.code for answer in answers} == {"": "RESOURCE_EXHAUSTED", "good": ""}


def test_a_message_far_over_the_limit_is_never_received(channel):
    """Nobody can fill the server's memory by one message."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/calotype.v1.PredictionService/Classify")(bytes(20_000_000), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def told(rig):
    """The calls counted, by method and code."""
    [family] = [metric for metric in rig.telemetry.collect() if metric.name == "calotype_requests"]
    return {(s.labels["method"], s.labels["code"]): s.value for s in family.samples if s.name.endswith("_total")}


def test_calls_that_bring_no_message_are_counted_by_what_their_callers_got():
    """Too large for gRPC, none sent, the deadline past, and hung up; grpc.aio tells its handlers of none of them."""
    hold = threading.Event()

    def nothing():
        hold.wait(20)
        yield from ()

    with served(two_models(), "core", max_message_bytes=4096) as rig, grpc.insecure_channel(rig.address) as channel:
        classify = channel.stream_unary("/calotype.v1.PredictionService/Classify")
        with pytest.raises(grpc.RpcError):
            classify(iter([bytes(20_000_000)]), timeout=20)
        with pytest.raises(grpc.RpcError):
            classify(iter(()), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            classify(nothing(), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: len(told(rig)) == 3)
        call = classify.future(nothing(), timeout=20)
        wait_until(lambda: rig.transport._calls)
        call.cancel()
        codes = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "CANCELLED")
        wait_until(lambda: told(rig) == {("Classify", code): 1.0 for code in codes})
        hold.set()


def test_an_answer_over_the_limit_is_refused(form):
    """The caller learns that it was too much, and the server goes on."""
    registry = two_models()
    with served(registry, form, max_message_bytes=4096) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        block = v1.PixelBlock(rows=120, height=6, width=5, channels=1, data=bytes(3600))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(v1.ClassifyRequest(model="digits", images=v1.Images(pixels=block)), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--max-message-bytes" in caught.value.details()
        assert stub.Classify(request("small"), timeout=10).request_id == "small"
        big = v1.ClassifyRequest(model="digits", images=v1.Images(pixels=block), request_id="big")
        answers = list(stub.StreamClassify(iter([big, request("small")]), timeout=10))
        assert {answer.request_id: answer.error.code for answer in answers} == {
            "big": "RESOURCE_EXHAUSTED",
            "small": "",
        }
        written = rig.telemetry.exposition().decode()
    assert 'code="RESOURCE_EXHAUSTED",method="Classify"' in written
    assert 'code="RESOURCE_EXHAUSTED",method="StreamClassify"' in written


def test_an_unknown_method_is_unimplemented(rig, channel):
    """In a known service or not; they are counted under one name, whatever they are called."""
    for path in ("/calotype.v1.PredictionService/Guess", "/nobody.Knows/It", "/"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    wait_until(lambda: told(rig) == {("unknown", "UNIMPLEMENTED"): 3.0})


def test_a_call_without_a_message_is_ended():
    """A caller that sends none is told so, and nothing of it stays open; grpc.aio leaves it open until its deadline."""
    with served(two_models(), "core") as rig, grpc.insecure_channel(rig.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary("/calotype.v1.PredictionService/Classify")(iter(()), timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_watch_by_bytes_that_are_no_message_is_refused(channel):
    """And the watch of a name goes on."""
    with pytest.raises(grpc.RpcError) as caught:
        next(channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff\xff", timeout=10))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_calls_are_encrypted_with_credentials(form):
    """By the certificate given; plain text is refused."""
    key, certificate = self_signed()
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    trusting = grpc.ssl_channel_credentials(certificate)
    with served(two_models(), form, credentials=credentials) as rig:
        name = rig.address.replace("127.0.0.1", "localhost")
        with grpc.secure_channel(name, trusting) as channel:
            assert v1_grpc.PredictionServiceStub(channel).Classify(request("tls"), timeout=10).request_id == "tls"
        with grpc.insecure_channel(rig.address) as channel, pytest.raises(grpc.RpcError):
            v1_grpc.PredictionServiceStub(channel).Classify(request("plain"), timeout=10)


def test_a_drain_gives_up_after_its_grace(form):
    """Who doesn't finish in time is cut off, and its work is cancelled."""
    registry = two_models()
    registry.hold = True
    with served(registry, form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        call = stub.Classify.future(request("slow"), timeout=20)
        stream = stub.StreamClassify(iter([request("slower")]), timeout=20)
        wait_until(lambda: len(registry.held) == 2)
        rig.transport.drain_and_stop(0.05)
        with pytest.raises(grpc.RpcError):
            call.result()
        with pytest.raises(grpc.RpcError):
            next(stream)
        wait_until(lambda: all(future.cancelled() for future, _ in registry.held))


def test_work_for_callers_who_left_as_the_server_stops_harms_nobody(form):
    """They are gone and the port may close, but their work ends later: nothing may be sent on a port that is closed."""
    registry = two_models()
    registry.hold = True
    with served(registry, form) as rig:
        with grpc.insecure_channel(rig.address) as channel:
            call = v1_grpc.PredictionServiceStub(channel).Classify.future(request("gone"), timeout=20)
            wait_until(lambda: len(registry.held) == 1)
        assert call.code() is grpc.StatusCode.CANCELLED
        rig.transport.drain_and_stop(20.0)
        with suppress(InvalidStateError):  # it was cancelled
            registry.answer(0)


def test_many_calls_and_streams_at_once_get_their_own_answers(form):
    """Whatever the order in which they come and are answered."""
    with served(two_models(), form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        calls = [stub.Classify.future(request(f"u{n}", pixels(1 + n % 3, seed=n)), timeout=20) for n in range(200)]
        streams = [stub.StreamClassify(iter([request(f"s{m}-{n}") for n in range(100)]), timeout=20) for m in range(3)]
        for number, stream in enumerate(streams):
            assert {answer.request_id for answer in stream} == {f"s{number}-{n}" for n in range(100)}
        answers = [call.result() for call in calls]
        assert [answer.request_id for answer in answers] == [f"u{n}" for n in range(200)]
        assert [len(answer.results) for answer in answers] == [1 + n % 3 for n in range(200)]


def test_streams_are_bounded(rig, channel):
    """One more than allowed is told which setting refused it; a finished one makes room."""
    rig.registry.hold = True
    stub = v1_grpc.PredictionServiceStub(channel)
    first = stub.StreamClassify(iter([request("a")]), timeout=20)
    wait_until(lambda: rig.registry.held)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.StreamClassify(iter([request("b")]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--max-streams" in caught.value.details()
    rig.registry.answer(0)
    assert [a.request_id for a in first] == ["a"]
    rig.registry.hold = False
    wait_until(lambda: not rig.transport._streams)
    assert [a.request_id for a in stub.StreamClassify(iter([request("c")]), timeout=10)] == ["c"]


def test_watches_are_bounded_by_themselves(form):
    """Whoever opens thousands is told which setting refused them; streams of requests are not in their way."""
    with served(two_models(), form, max_streams=2) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(2)]
        assert [next(watch).status for watch in watches] == [SERVING, SERVING]
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--max-streams" in caught.value.details()
        streams = v1_grpc.PredictionServiceStub(channel)
        assert [a.request_id for a in streams.StreamClassify(iter([request("a")]), timeout=10)] == ["a"]
        watches[0].cancel()
        wait_until(lambda: len(rig.transport._health._watches) == 1)
        assert next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)).status == SERVING


def test_health_is_told_per_service_and_per_model(rig, channel):
    """Check answers at once, Watch at every change."""
    stub = health_pb2_grpc.HealthStub(channel)
    checked = stub.Check(health_pb2.HealthCheckRequest(service="calotype.v1.PredictionService"), timeout=10)
    assert checked.status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="digits"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="digits"), timeout=20)
    assert next(watch).status == UNKNOWN
    for serving, status in ((True, SERVING), (False, NOT_SERVING)):
        rig.transport.set_health("digits", serving=serving)
        assert next(watch).status == status


def test_the_services_serve_when_the_server_does(rig, channel):
    """A balancer that asks for one of them hears the truth while nothing is loaded."""
    stub = health_pb2_grpc.HealthStub(channel)
    for serving, status in ((False, NOT_SERVING), (True, SERVING)):
        rig.transport.set_health("", serving=serving)
        for name in ("", "calotype.v1.PredictionService", "inference.GRPCInferenceService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == status


def test_services_do_not_serve_before_it_is_said(form):
    """A server that is loading has them, and they say no."""
    methods = PredictionService(two_models(), None).methods()
    transport = FORMS[form](methods, Desk(Telemetry()), Options(port=0))
    transport.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{transport.port}") as channel:
            asked = health_pb2.HealthCheckRequest(service="calotype.v1.PredictionService")
            assert health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10).status == NOT_SERVING
    finally:
        transport.drain_and_stop(1.0)


@pytest.mark.parametrize("letter", ["x", "\N{CAMERA}"])
def test_a_long_name_is_not_found_like_a_short_one(channel, letter):
    """What a status quotes is cut: it travels as headers, which have a limit."""
    for call in (
        lambda: v1_grpc.PredictionServiceStub(channel).Classify(v1.ClassifyRequest(model=letter * 900), timeout=10),
        lambda: health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=letter * 20_000), timeout=10
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert len(caught.value.details().encode()) < 1100


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_reflection_lists_and_describes_the_services(channel, package):
    """So that grpcurl needs no proto files; newer clients ask for v1 first. It describes itself, too."""
    path = f"/{package}.ServerReflection/ServerReflectionInfo"
    ask = channel.stream_stream(
        path,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{package}.ServerReflection"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Body"),
    ]
    answers = {answer.WhichOneof("message_response"): answer for answer in ask(iter(asked), timeout=10)}
    names = {service.name for service in answers["list_services_response"].list_services_response.service}
    assert names >= {"calotype.v1.PredictionService", "inference.GRPCInferenceService", "grpc.health.v1.Health"}
    assert f"{package}.ServerReflection" in names
    [file] = answers["file_descriptor_response"].file_descriptor_response.file_descriptor_proto
    described = descriptor_pb2.FileDescriptorProto.FromString(file)
    assert described.package == package
    assert described.service[0].method[0].input_type == f".{package}.ServerReflectionRequest"
    assert answers["error_response"].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_drain_finishes_what_was_accepted(rig, channel):
    """Watchers hear NOT_SERVING at once, calls and streams in work are answered, then the server is gone."""
    rig.registry.hold = True
    stub = v1_grpc.PredictionServiceStub(channel)
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service="calotype.v1.PredictionService"), timeout=20
    )
    assert next(watch).status == SERVING
    unary = stub.Classify.future(request("unary"), timeout=20)
    hold_open = threading.Event()

    def requests():
        yield request("stream")
        hold_open.wait(20)

    stream = stub.StreamClassify(requests(), timeout=20)
    wait_until(lambda: len(rig.registry.held) == 2)
    stopping = threading.Thread(target=rig.transport.drain_and_stop, args=(20.0,))
    stopping.start()
    assert [answer.status for answer in watch] == [NOT_SERVING]
    rig.registry.answer(0)
    rig.registry.answer(1)
    assert unary.result().request_id == "unary"
    assert next(stream).request_id == "stream"
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    hold_open.set()
    stopping.join(10)
    assert not stopping.is_alive()
    rig.transport.drain_and_stop(0.0)


def test_a_port_in_use_is_one_sentence(rig, form):
    """A second server on the port must not share its callers."""
    port = int(rig.address.rpartition(":")[2])
    methods = PredictionService(rig.registry, None).methods()
    second = FORMS[form](methods, Desk(Telemetry()), Options(port=port))
    with pytest.raises(BadSetting, match="--port"):
        second.start()
    second.drain_and_stop(0.0)


def test_a_drain_ends_a_stream_that_had_sent_all_as_well_answered(rig, channel):
    """Nothing of it is left for another server."""
    rig.registry.hold = True
    sent = threading.Event()

    def requests():
        yield request("last")
        sent.set()

    stream = v1_grpc.PredictionServiceStub(channel).StreamClassify(requests(), timeout=20)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
    wait_until(lambda: len(rig.registry.held) == 1)
    assert sent.wait(20)
    with suppress(grpc.RpcError):  # behind it on the same connection: once it is answered, the end was read
        channel.unary_unary("/nobody.Knows/It")(b"", timeout=10)
    stopping = threading.Thread(target=rig.transport.drain_and_stop, args=(20.0,))
    stopping.start()
    assert NOT_SERVING in (answer.status for answer in watch)
    rig.registry.answer(0)
    assert [answer.request_id for answer in stream] == ["last"]
    assert stream.code() is grpc.StatusCode.OK
    stopping.join(20)
