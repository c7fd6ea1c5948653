"""Who may call what, by a real server of either form; and what a file of tokens may say."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.aio_client import AsyncClient
from serving.authorization import Grant, Tokens, guarded, metrics_for
from serving.calls import Method
from serving.client import Client
from serving.errors import BadSetting, PermissionDenied, Unauthenticated
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from serving.v2 import open_inference_pb2 as v2
from serving.v2 import open_inference_pb2_grpc as v2_grpc
from tests.serving.fake_models import pixels
from tests.serving.fake_registry import served, two_models
from tests.serving.test_inference_wire import request as infer
from tests.serving.test_predictions_wire import request as classify

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("secrets") / "tokens"
    path.write_text("# the operators\noperator\n\n  some digits\nnone nothing\n")
    return path


@pytest.fixture(scope="module")
def rig(form, file):
    with served(two_models(), form, tokens=Tokens(file, pause_seconds=0)) as rig:
        yield rig


@pytest.fixture(scope="module")
def channel(rig):
    with grpc.insecure_channel(rig.address) as channel:
        yield channel


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


def code_of(call, *arguments, token=None):
    """The status of a unary call."""
    try:
        call(*arguments, timeout=10, metadata=None if token is None else bearer(token))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def unary_calls(channel):
    own, v2_stub = v1_grpc.PredictionServiceStub(channel), v2_grpc.GRPCInferenceServiceStub(channel)
    return {
        "Classify": (own.Classify, classify("")),
        "Reconstruct": (own.Reconstruct, v1.ReconstructRequest(model="digits-ae", images=classify("").images)),
        "ListModels": (own.ListModels, v1.ListModelsRequest()),
        "ServerLive": (v2_stub.ServerLive, v2.ServerLiveRequest()),
        "ServerReady": (v2_stub.ServerReady, v2.ServerReadyRequest()),
        "ModelReady": (v2_stub.ModelReady, v2.ModelReadyRequest(name="digits")),
        "ServerMetadata": (v2_stub.ServerMetadata, v2.ServerMetadataRequest()),
        "ModelMetadata": (v2_stub.ModelMetadata, v2.ModelMetadataRequest(name="digits")),
        "ModelInfer": (v2_stub.ModelInfer, infer(pixels(1))),
        "ModelConfig": (v2_stub.ModelConfig, v2.ModelConfigRequest(name="digits")),
        "ModelStatistics": (v2_stub.ModelStatistics, v2.ModelStatisticsRequest(name="digits")),
        "RepositoryIndex": (v2_stub.RepositoryIndex, v2.RepositoryIndexRequest()),
        "Load": (v2_stub.RepositoryModelLoad, v2.RepositoryModelLoadRequest(model_name="digits")),
        "Unload": (v2_stub.RepositoryModelUnload, v2.RepositoryModelUnloadRequest(model_name="digits")),
    }


def test_every_call_needs_a_token_and_a_good_one_is_good_for_every_call(channel):
    for name, (call, message) in unary_calls(channel).items():
        assert code_of(call, message) is UNAUTHENTICATED, name
        assert code_of(call, message, token="guess") is UNAUTHENTICATED, name
        assert code_of(call, message, token="operator") is grpc.StatusCode.OK, name


def test_a_token_with_models_is_good_for_those_and_changes_nothing_for_others(channel, rig):
    calls = unary_calls(channel)
    found = {name: code_of(call, message, token="some") for name, (call, message) in calls.items()}
    denied = {"Reconstruct", "Load", "Unload"}
    assert found == {name: DENIED if name in denied else grpc.StatusCode.OK for name in calls}
    for name in ("Classify", "ModelReady", "ModelMetadata", "ModelInfer", "ModelConfig", "ModelStatistics"):
        assert code_of(*calls[name], token="none") is DENIED, name


def test_a_model_that_nobody_may_know_of_and_one_that_is_not_there_look_the_same(channel):
    ask = v2_grpc.GRPCInferenceServiceStub(channel).ModelMetadata
    statuses = {code_of(ask, v2.ModelMetadataRequest(name=name), token="some") for name in ("digits-ae", "nobody", "")}
    assert statuses == {DENIED}


@pytest.mark.parametrize(("token", "names"), [("operator", ["digits", "digits-ae"]), ("some", ["digits"])])
def test_lists_show_only_what_the_token_is_good_for(channel, token, names):
    own, v2_stub = v1_grpc.PredictionServiceStub(channel), v2_grpc.GRPCInferenceServiceStub(channel)
    metadata = bearer(token)
    told = [
        own.ListModels(v1.ListModelsRequest(), timeout=10, metadata=metadata).models,
        v2_stub.RepositoryIndex(v2.RepositoryIndexRequest(), timeout=10, metadata=metadata).models,
        v2_stub.ModelStatistics(v2.ModelStatisticsRequest(), timeout=10, metadata=metadata).model_stats,
    ]
    assert [[model.name for model in models] for models in told] == [names] * 3


def test_a_stream_without_a_token_ends_at_once_and_a_model_not_allowed_fails_its_request_alone(channel):
    stub = v1_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.StreamClassify(iter([classify("1")]), timeout=10))
    assert caught.value.code() is UNAUTHENTICATED
    other = classify("2")
    other.model = "digits-ae"
    answers = list(stub.StreamClassify(iter([classify("1"), other]), timeout=10, metadata=bearer("some")))
    assert {answer.request_id: answer.error.code for answer in answers} == {"1": "", "2": "PERMISSION_DENIED"}


def test_health_needs_no_token_and_reflection_does(channel):
    health = health_pb2_grpc.HealthStub(channel)
    wanted = health_pb2.HealthCheckRequest(service="calotype.v1.PredictionService")
    assert health.Check(wanted, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(wanted, timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        list(reflect(iter([wanted]), timeout=10))
    assert caught.value.code() is UNAUTHENTICATED
    [listed] = reflect(iter([wanted]), timeout=10, metadata=bearer("some"))
    assert listed.list_services_response.service


def test_a_changed_file_takes_effect(form, tmp_path):
    """For new calls and for the next request of an open stream; a file that went away locks nobody out."""
    path = tmp_path / "tokens"
    path.write_text("first")
    with (
        served(two_models(), form, tokens=Tokens(path, pause_seconds=0)) as rig,
        Client(rig.address, token="first") as first,
        Client(rig.address, token="second") as second,
    ):
        assert len(first.models()) == 2
        path.unlink()
        assert len(first.models()) == 2
        path.write_text("second digits")
        assert [info.name for info in second.models()] == ["digits"]
        with pytest.raises(Unauthenticated):
            first.models()


def test_both_clients_bring_their_token(rig):
    with Client(rig.address, token="some") as client:
        assert len(client.classify(pixels(40), model="digits")) == 40
        with pytest.raises(PermissionDenied, match="digits-ae"):
            client.reconstruct(pixels(1), model="digits-ae")

    async def ask():
        async with AsyncClient(rig.address, token="some") as client:
            return await client.classify(pixels(3), model="digits")

    assert len(asyncio.run(ask())) == 3


@pytest.mark.parametrize(
    ("text", "token", "grant"),
    [
        ("a", "a", Grant()),
        ("a one two", "a", Grant(frozenset({"one", "two"}))),
        ("a\tone,two", "a", Grant(frozenset({"one", "two"}))),
        ("a one\na two", "a", Grant(frozenset({"one", "two"}))),
        ("a one\na", "a", Grant()),
        ("caf\u00e9 one\r\nb", "b", Grant()),
    ],
)
def test_what_a_file_may_say(tmp_path, text, token, grant):
    (tmp_path / "tokens").write_text(text, encoding="utf-8")
    tokens = Tokens(tmp_path / "tokens")
    assert tokens.grant({"authorization": f"bearer  {token}"}) == grant
    for value in ("", token, "Bearer", "Bearer ", "Basic " + token, f"Bearer {token}x", "Bearer #", b"\xff"):
        with pytest.raises(Unauthenticated):
            tokens.grant({"authorization": value})


@pytest.mark.parametrize("content", [b"", b"\n# only words\n", b"\xff\xfe", None])
def test_a_file_without_tokens_is_no_file_of_tokens(tmp_path, content):
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadSetting, match=f"--tokens {path}"):
        Tokens(path)


def test_a_method_that_nobody_decided_about_does_not_build(file):
    """Whoever adds a method must say which model it is about."""
    with pytest.raises(KeyError):
        guarded([Method(service="s", name="Novelty", request=v1.ClassifyRequest, start=print)], Tokens(file))


def test_metrics_tell_only_of_models_that_the_token_is_good_for():
    text = b'# HELP a b\na{model="digits",version="1"} 1.0\na{code="OK",model="other"} 2.0\na{model=""} 3.0\nc 4.0\n'
    assert metrics_for(Grant(), text) == text
    some = metrics_for(Grant(frozenset({"digits"})), text)
    assert some == b'# HELP a b\na{model="digits",version="1"} 1.0\na{model=""} 3.0\nc 4.0\n'
