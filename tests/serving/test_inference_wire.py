"""The Open Inference Protocol through a real server, by hand-made messages."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from serving import tensors
from serving.codec import png
from serving.v2 import open_inference_pb2 as v2
from serving.v2 import open_inference_pb2_grpc as v2_grpc
from tests.serving.fake_models import LABELS, classifier, expected_probabilities, pixels
from tests.serving.fake_registry import served, two_models

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def rig(form):
    registry = two_models()
    registry.add(classifier(), plain="plain")
    with served(registry, form) as rig:
        yield rig


@pytest.fixture(scope="module")
def stub(rig):
    with grpc.insecure_channel(rig.address) as channel:
        yield v2_grpc.GRPCInferenceServiceStub(channel)


def request(block, *, model="digits", outputs=("probabilities",), request_id=""):
    message = v2.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[block.tobytes()])
    message.inputs.add(name="image", datatype="UINT8", shape=block.shape)
    for name in outputs:
        message.outputs.add(name=name)
    return message


def files(*contents, model="digits"):
    message = v2.ModelInferRequest(model_name=model, raw_input_contents=[tensors.packed(contents)])
    message.inputs.add(name="image", datatype="BYTES", shape=[len(contents)])
    return message


def floats(response):
    [raw] = response.raw_output_contents
    return np.frombuffer(raw, np.float32).reshape(response.outputs[0].shape)


@pytest.mark.parametrize("model", ["digits", "plain"])
def test_raw_typed_and_encoded_images_get_the_same_answer(stub, model):
    """However the pixels travel, with a bundle or without."""
    block = pixels(3)
    raw = stub.ModelInfer(request(block, model=model, request_id="me"), timeout=10)
    assert (raw.id, raw.model_name, raw.model_version) == ("me", model, "1")
    assert (raw.outputs[0].name, raw.outputs[0].datatype) == ("probabilities", "FP32")
    np.testing.assert_allclose(floats(raw), expected_probabilities(block), atol=1e-6)
    typed = request(block, model=model)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.uint_contents.extend(block.ravel().tolist())
    assert stub.ModelInfer(typed, timeout=10).raw_output_contents == raw.raw_output_contents
    encoded = stub.ModelInfer(files(*[png(row) for row in block], model=model), timeout=10)
    assert encoded.raw_output_contents == raw.raw_output_contents


def test_requests_that_repeat_a_form_get_their_own_answers_from_the_version_that_serves(form):
    """Other contents of the same form, rows of another number, and then a newer version of the model."""
    registry = two_models()
    with served(registry, form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v2_grpc.GRPCInferenceServiceStub(channel)
        for version in (1, 2):
            if version > 1:
                registry.add(classifier(), version=version)
            for rows in (1, 3, 1, 3):
                block = np.random.default_rng(rows + version).permuted(pixels(rows), axis=1)
                unary = stub.ModelInfer(request(block), timeout=10)
                [streamed] = stub.ModelStreamInfer(iter([request(block)]), timeout=10)
                assert unary == streamed.infer_response
                assert unary.model_version == str(version)
                np.testing.assert_allclose(floats(unary), expected_probabilities(block), atol=1e-6)
            unfit = request(pixels(1)[:, :2])
            with pytest.raises(grpc.RpcError, match="shape"):
                stub.ModelInfer(unfit, timeout=10)


def test_no_outputs_named_means_all(stub):
    """In the model's order."""
    response = stub.ModelInfer(request(pixels(2), model="digits-ae", outputs=()), timeout=10)
    assert [output.name for output in response.outputs] == ["reconstruction", "error"]
    assert [list(output.shape) for output in response.outputs] == [[2, 6, 5, 1], [2]]


def test_the_classification_extension_names_the_best(stub):
    """As score:index:label, best first."""
    block = pixels(2)
    message = request(block)
    message.outputs[0].parameters["classification"].int64_param = 2
    response = stub.ModelInfer(message, timeout=10)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 2])
    best = int(expected_probabilities(block)[0].argmax())
    first = response.raw_output_contents[0][4:].decode(errors="replace")
    assert f":{best}:{LABELS[best]}" in first[: 9 + len(LABELS[best]) + 4]


def broken(change):
    message = request(pixels(1))
    change(message)
    return message


@pytest.mark.parametrize(
    ("message", "code", "word"),
    [
        (request(pixels(1), model="nobody"), grpc.StatusCode.NOT_FOUND, "Request for unknown model"),
        (broken(lambda m: setattr(m, "model_version", "one")), INVALID, "decimal digits"),
        (broken(lambda m: m.raw_input_contents.append(b"")), INVALID, "one element per input"),
        (broken(lambda m: m.inputs[0].contents.uint_contents.append(1)), INVALID, "send one of them"),
        (broken(lambda m: m.inputs[0].shape.append(2)), INVALID, "takes 60 bytes"),
        (broken(lambda m: m.inputs[0].shape.append(-1)), INVALID, "negative"),
        (broken(lambda m: setattr(m.inputs[0], "datatype", "UINT9")), INVALID, "UINT9"),
        (broken(lambda m: setattr(m.inputs[0], "name", "picture")), INVALID, "picture"),
        (broken(lambda m: m.outputs.add(name="labels")), INVALID, "labels"),
        (files(png(pixels(1)[0]), b"junk"), INVALID, "`image` 1"),
        (files(), INVALID, "shape [rows]"),
    ],
)
def test_wrong_requests_get_a_sentence(stub, message, code, word):
    """And the status of the contract."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message, timeout=10)
    assert caught.value.code() is code
    assert word in caught.value.details()


def test_a_stream_goes_on_after_an_error_and_echoes_ids(stub):
    """The error message carries the id too; who asks for the final mark gets it."""
    marked = request(pixels(1), request_id="c")
    marked.parameters["triton_enable_empty_final_response"].bool_param = True
    sent = [request(pixels(1), request_id="a"), request(pixels(1), model="nobody", request_id="b"), marked]
    answers = {a.infer_response.id: a for a in stub.ModelStreamInfer(iter(sent), timeout=10)}
    assert answers.keys() == {"a", "b", "c"}
    assert "unknown model" in answers["b"].error_message
    assert answers["a"].error_message == ""
    assert "triton_final_response" not in answers["a"].infer_response.parameters
    assert answers["c"].infer_response.parameters["triton_final_response"].bool_param


def test_the_server_and_its_models_describe_themselves(stub):
    """Live, ready, metadata, configuration, index."""
    assert stub.ServerLive(v2.ServerLiveRequest(), timeout=10).live
    assert stub.ServerReady(v2.ServerReadyRequest(), timeout=10).ready
    assert stub.ModelReady(v2.ModelReadyRequest(name="digits"), timeout=10).ready
    assert not stub.ModelReady(v2.ModelReadyRequest(name="nobody"), timeout=10).ready
    assert "classification" in stub.ServerMetadata(v2.ServerMetadataRequest(), timeout=10).extensions
    metadata = stub.ModelMetadata(v2.ModelMetadataRequest(name="digits"), timeout=10)
    assert list(metadata.versions) == ["1"]
    assert (metadata.inputs[0].datatype, list(metadata.inputs[0].shape)) == ("UINT8", [-1, 6, 5, 1])
    config = stub.ModelConfig(v2.ModelConfigRequest(name="digits"), timeout=10).config
    assert config.max_batch_size == 64
    assert (list(config.input[0].dims), config.input[0].format) == ([6, 5, 1], v2.ModelInput.FORMAT_NHWC)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    index = stub.RepositoryIndex(v2.RepositoryIndexRequest(ready=True), timeout=10)
    assert {(m.name, m.version, m.state) for m in index.models} == {
        ("digits", "1", "READY"),
        ("digits-ae", "1", "READY"),
        ("plain", "1", "READY"),
    }


def test_load_and_unload_reach_the_registry(rig, stub):
    """And refuse what would change the repository."""
    stub.RepositoryModelUnload(v2.RepositoryModelUnloadRequest(model_name="plain"), timeout=10)
    stub.RepositoryModelLoad(v2.RepositoryModelLoadRequest(model_name="plain"), timeout=10)
    assert rig.registry.loads == ["-plain", "+plain"]
    changing = v2.RepositoryModelLoadRequest(model_name="plain")
    changing.parameters["config"].string_param = "{}"
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(changing, timeout=10)
    assert caught.value.code() is INVALID


def test_statistics_count_answers_and_failures(rig, stub):
    """Per version; an unknown model is not found. Perf Analyzer refuses compute counts that differ."""
    rig.telemetry.batch_done(model="plain", version=1, rows=4, queue_seconds=[0.5, 0.25], compute_seconds=0.25)
    [plain] = stub.ModelStatistics(v2.ModelStatisticsRequest(name="plain"), timeout=10).model_stats
    assert (plain.name, plain.version, plain.execution_count, plain.inference_count) == ("plain", "1", 1, 4)
    assert plain.batch_stats[0].compute_infer.ns == 250_000_000
    times = plain.inference_stats
    assert (times.queue.count, times.queue.ns, times.compute_infer.ns) == (2, 750_000_000, 500_000_000)
    assert {times.compute_input.count, times.compute_infer.count, times.compute_output.count} == {2}
    assert len(stub.ModelStatistics(v2.ModelStatisticsRequest(), timeout=10).model_stats) == 3
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelStatistics(v2.ModelStatisticsRequest(name="nobody"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
