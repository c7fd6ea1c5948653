"""The extensions that NVIDIA Triton's own clients use."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tensors import KINDS, outputs, request, sample

pytestmark = pytest.mark.triton

LEFT = np.arange(16, dtype=np.int32).reshape(1, 16)
DATATYPES = dict(
    zip(
        [
            "BOOL",
            "UINT8",
            "UINT16",
            "UINT32",
            "UINT64",
            "INT8",
            "INT16",
            "INT32",
            "INT64",
            "FP16",
            "FP32",
            "FP64",
            "BYTES",
        ],
        range(1, 14),
        strict=True,
    )
)  # Triton's enumeration DataType


def pair(**more):
    return request("simple", {"INPUT0": ("INT32", LEFT), "INPUT1": ("INT32", LEFT)}, **more)


@pytest.fixture
def announced(extensions):
    """Name -> a skip, unless the server announces this extension."""

    def check(name):
        if name not in extensions:
            pytest.skip(f"the server does not announce the extension {name!r}")

    return check


def test_a_models_configuration_agrees_with_its_metadata(server, metadata, announced):
    """Dimensions are those of one row where the model is batched."""
    announced("model_configuration")
    told, config = metadata("simple"), server.ModelConfig(name="simple").config
    assert config.name == "simple"
    assert config.platform or config.backend
    rows = 1 if config.max_batch_size > 0 else 0
    for tensors, configured in ((told.inputs, config.input), (told.outputs, config.output)):
        expected = {t.name: (DATATYPES[t.datatype], list(t.shape)[rows:]) for t in tensors}
        assert {t.name: (t.data_type, list(t.dims)) for t in configured} == expected


@pytest.mark.parametrize("datatype", KINDS)
def test_each_datatype_has_its_number_in_a_configuration(server, metadata, announced, datatype):
    announced("model_configuration")
    name = f"identity_{datatype.lower()}"
    metadata(name)
    assert server.ModelConfig(name=name).config.input[0].data_type == DATATYPES[datatype]


def test_statistics_count_rows_and_executions(server, metadata, announced):
    announced("statistics")
    metadata("simple")

    def counted():
        [stats] = server.ModelStatistics(name="simple").model_stats
        return stats

    before = counted()
    rows = np.concatenate([LEFT, LEFT, LEFT])
    server.ModelInfer(request("simple", {"INPUT0": ("INT32", rows), "INPUT1": ("INT32", rows)}))
    after = counted()
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count > before.execution_count
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    computed = after.inference_stats
    counts = {getattr(computed, f"compute_{part}").count for part in ("input", "infer", "output")}
    assert len(counts) == 1, "Perf Analyzer refuses compute counts that differ"
    assert after.last_inference >= before.last_inference > 0 or before.last_inference == 0


def test_statistics_without_a_name_are_of_all_models(server, metadata, announced):
    announced("statistics")
    metadata("simple")
    metadata("identity_fp32")
    assert {"simple", "identity_fp32"} <= {stats.name for stats in server.ModelStatistics().model_stats}


def test_the_index_lists_what_is_ready(server, metadata, announced):
    announced("model_repository")
    metadata("simple")
    found = {model.name: model.state for model in server.RepositoryIndex(ready=True).models}
    assert found["simple"] == "READY"
    assert set(found.values()) == {"READY"}
    assert set(found) <= {model.name for model in server.RepositoryIndex().models}


def test_an_unloaded_model_is_not_ready_until_it_is_loaded(server, metadata, announced):
    announced("model_repository")
    metadata("simple_identity")
    try:
        server.RepositoryModelUnload(model_name="simple_identity")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            pytest.skip(f"the server refuses: {error.details()}")
        raise
    try:
        assert not server.ModelReady(name="simple_identity").ready
        with pytest.raises(grpc.RpcError) as caught:
            server.ModelInfer(request("simple_identity", {"INPUT0": ("BYTES", sample("BYTES"))}))
        assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
    finally:
        server.RepositoryModelLoad(model_name="simple_identity")
    assert server.ModelReady(name="simple_identity").ready


def test_an_unknown_model_cannot_be_loaded(server, announced):
    announced("model_repository")
    with pytest.raises(grpc.RpcError) as caught:
        server.RepositoryModelLoad(model_name="no-such-model")
    assert caught.value.code() is not grpc.StatusCode.UNKNOWN


@pytest.fixture
def streaming(server, metadata):
    metadata("simple")
    try:
        server.stream([])
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            pytest.skip("the server has no ModelStreamInfer")
        raise


def test_a_stream_answers_each_request_by_its_id(server, streaming):
    sent = [pair(id=str(number)) for number in range(20)]
    answers = server.stream(sent)
    assert sorted(answer.infer_response.id for answer in answers) == sorted(message.id for message in sent)
    for answer in answers:
        assert answer.error_message == ""
        np.testing.assert_array_equal(outputs(answer.infer_response)["OUTPUT0"], LEFT + LEFT)


def test_a_stream_goes_on_after_a_request_that_fails(server, streaming):
    wrong = pair(id="wrong")
    wrong.inputs[0].datatype = "FP32"
    answers = server.stream([pair(id="before"), wrong, pair(id="after")])
    assert sorted(bool(answer.error_message) for answer in answers) == [False, False, True]
    good = {answer.infer_response.id for answer in answers if not answer.error_message}
    assert good == {"before", "after"}


@pytest.mark.parametrize("count", [1, 3, 100])
def test_classification_sends_the_best_of_each_row(server, metadata, announced, count):
    announced("classification")
    metadata("identity_fp32")
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.125, 0.25]], np.float32)
    message = request("identity_fp32", {"INPUT0": ("FP32", scores)})
    wanted = message.outputs.add(name="OUTPUT0")
    wanted.parameters["classification"].int64_param = count
    response = server.ModelInfer(message)
    assert response.outputs[0].datatype == "BYTES"
    found = outputs(response)["OUTPUT0"]
    assert found.shape == (2, min(count, 3))
    for row, texts in zip(scores, found, strict=True):
        best = np.argsort(-row)[:count]
        for text, index in zip(texts, best, strict=True):
            score, position, *_ = text.decode().split(":")
            assert int(position) == index
            assert float(score) == pytest.approx(row[index], abs=1e-5)
