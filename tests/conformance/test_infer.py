"""Tensors in, tensors out, in every form that the protocol has."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import KINDS, TYPED, outputs, request, sample

LEFT = np.arange(32, dtype=np.int32).reshape(2, 16)
RIGHT = np.ones((2, 16), np.int32)


def pair(**more):
    """A request for the sum and the difference."""
    return request("simple", {"INPUT0": ("INT32", LEFT), "INPUT1": ("INT32", RIGHT)}, **more)


@pytest.fixture
def simple(metadata):
    """The model `simple` is there."""
    return metadata("simple")


@pytest.mark.parametrize("datatype", KINDS)
def test_raw_contents_of_each_datatype_come_back_bit_by_bit(server, metadata, datatype):
    model, given = f"identity_{datatype.lower()}", sample(datatype)
    metadata(model)
    response = server.ModelInfer(request(model, {"INPUT0": (datatype, given)}))
    assert [tensor.datatype for tensor in response.outputs] == [datatype]
    np.testing.assert_array_equal(outputs(response)["OUTPUT0"], given)


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_of_each_datatype_come_back_as_raw_ones_do(server, metadata, datatype):
    model, given = f"identity_{datatype.lower()}", sample(datatype)
    metadata(model)
    response = server.ModelInfer(request(model, {"INPUT0": (datatype, given)}, raw=False))
    np.testing.assert_array_equal(outputs(response)["OUTPUT0"], given)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "BYTES"])
def test_shapes_come_back_as_they_were_sent(server, metadata, datatype, rows):
    model, given = f"identity_{datatype.lower()}", sample(datatype, (rows, 5))
    metadata(model)
    response = server.ModelInfer(request(model, {"INPUT0": (datatype, given)}))
    assert list(response.outputs[0].shape) == [rows, 5]
    np.testing.assert_array_equal(outputs(response)["OUTPUT0"], given)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_several_inputs_give_several_outputs(server, simple, raw):
    found = outputs(server.ModelInfer(pair(raw=raw)))
    np.testing.assert_array_equal(found["OUTPUT0"], LEFT + RIGHT)
    np.testing.assert_array_equal(found["OUTPUT1"], LEFT - RIGHT)


def test_inputs_go_by_their_names_not_by_their_order(server, simple):
    message = request("simple", {"INPUT1": ("INT32", RIGHT), "INPUT0": ("INT32", LEFT)})
    np.testing.assert_array_equal(outputs(server.ModelInfer(message))["OUTPUT1"], LEFT - RIGHT)


def test_without_outputs_named_all_are_sent(server, simple):
    response = server.ModelInfer(pair())
    assert sorted(tensor.name for tensor in response.outputs) == ["OUTPUT0", "OUTPUT1"]


@pytest.mark.parametrize("names", [["OUTPUT1"], ["OUTPUT0"], ["OUTPUT1", "OUTPUT0"]])
def test_only_the_outputs_named_are_sent(server, simple, names):
    message = pair()
    for name in names:
        message.outputs.add(name=name)
    response = server.ModelInfer(message)
    found = outputs(response)
    assert sorted(found) == sorted(names)
    expected = {"OUTPUT0": LEFT + RIGHT, "OUTPUT1": LEFT - RIGHT}
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("request_id", ["", "42", "é, any text", "x" * 200])
def test_the_id_comes_back(server, simple, request_id):
    """An empty one may be replaced by one of the server's."""
    answered = server.ModelInfer(pair(id=request_id)).id
    assert answered == request_id or not request_id


def test_the_answer_names_model_and_version(server, simple):
    response = server.ModelInfer(pair())
    assert response.model_name == "simple"
    assert not simple.versions or response.model_version in {*simple.versions, ""}


def test_a_version_can_be_called_by_its_number(server, simple):
    for version in simple.versions:
        response = server.ModelInfer(pair(model_version=version))
        assert response.model_version == version


def test_parameters_that_the_model_does_not_know_do_no_harm(server, simple):
    message = pair()
    message.parameters["conformance_text"].string_param = "any"
    message.parameters["conformance_number"].int64_param = 7
    message.parameters["conformance_switch"].bool_param = True
    message.inputs[0].parameters["conformance_text"].string_param = "any"
    np.testing.assert_array_equal(outputs(server.ModelInfer(message))["OUTPUT0"], LEFT + RIGHT)


def test_a_model_named_on_the_command_line_answers_in_the_shapes_it_announced(server, metadata, named):
    """With zeros, or words where it takes BYTES; a size that it leaves open is 1."""
    told = metadata(named)
    arrays = {}
    for tensor in told.inputs:
        shape = tuple(1 if size < 0 else size for size in tensor.shape)
        values = np.zeros(shape, KINDS[tensor.datatype][0])
        if tensor.datatype == "BYTES":
            values[...] = b"0"
        arrays[tensor.name] = (tensor.datatype, values)
    response = server.ModelInfer(request(named, arrays))
    announced = {tensor.name: tensor for tensor in told.outputs}
    assert {tensor.name for tensor in response.outputs} == set(announced)
    for tensor in response.outputs:
        assert tensor.datatype == announced[tensor.name].datatype
        assert len(tensor.shape) == len(announced[tensor.name].shape)
        assert all(want in (-1, got) for want, got in zip(announced[tensor.name].shape, tensor.shape, strict=True))
    outputs(response)


def test_a_message_of_eight_megabytes_comes_through(server, metadata):
    metadata("identity_fp32")
    given = np.arange(2**21, dtype=np.float32).reshape(2, -1)
    response = server.ModelInfer(request("identity_fp32", {"INPUT0": ("FP32", given)}))
    np.testing.assert_array_equal(outputs(response)["OUTPUT0"], given)


def test_calls_at_once_get_their_own_answers(server, metadata):
    from concurrent.futures import ThreadPoolExecutor

    metadata("identity_int64")

    def call(number):
        given = np.full((1 + number % 4, 3), number, np.int64)
        response = server.ModelInfer(request("identity_int64", {"INPUT0": ("INT64", given)}, id=str(number)))
        return response.id, outputs(response)["OUTPUT0"]

    with ThreadPoolExecutor(16) as pool:
        for number, (answered, found) in enumerate(pool.map(call, range(200))):
            assert answered == str(number)
            np.testing.assert_array_equal(found, np.full((1 + number % 4, 3), number, np.int64))
