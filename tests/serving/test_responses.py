"""Answers written by hand are what protobuf writes, byte for byte, the first time and every time after."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving import tensors, wire
from serving.errors import TooLarge
from serving.responses import Responder, streamed
from serving.v2 import open_inference_pb2 as v2

dtypes = st.sampled_from([np.dtype(name) for name in ("float32", "uint8", "int64", "bool", "float16")])
outputs = st.dictionaries(
    st.sampled_from(("a", "b")), dtypes.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes())), min_size=1
)


def by_protobuf(answer, name="m", version=3, request_id=""):
    response = v2.ModelInferResponse(model_name=name, model_version=str(version), id=request_id)
    for output, array in answer.items():
        datatype, raw = tensors.raw(array)
        response.outputs.add(name=output, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(raw)
    return response


def responder(names, request_id="", most=10**6):
    return Responder("m", 3, request_id=request_id, labels=(), wanted=dict.fromkeys(names, 0), max_message_bytes=most)


@given(st.lists(outputs, min_size=1, max_size=5), st.sampled_from(("", "id")))
def test_what_is_written_is_what_protobuf_writes(answers, request_id):
    made = {names: responder(names, request_id) for names in {tuple(answer) for answer in answers}}
    for answer in answers + answers:
        expected = by_protobuf(answer, request_id=request_id).SerializeToString()
        assert made[tuple(answer)](answer).SerializeToString() == expected


@given(st.lists(st.binary(max_size=5), max_size=4))
def test_elements_of_bytes_may_have_other_lengths_each_time(values):
    respond = responder(["a"])
    for elements in (values, [b"longer" + value for value in values]):
        array = np.empty(len(elements), object)
        array[:] = elements
        assert respond({"a": array}).data == by_protobuf({"a": array}).SerializeToString()


def test_rows_of_a_larger_array_are_written_alone():
    block = np.arange(12, dtype=np.float32).reshape(4, 3)
    respond = responder(["a"])
    for rows in (block[1:2], block[2:3], block[:, :2], block[:, :2]):
        assert respond({"a": rows}).data == by_protobuf({"a": rows}).SerializeToString()


def test_too_large_an_answer_is_refused_each_time():
    respond = responder(["a"], most=100)
    for _ in range(2):
        with pytest.raises(TooLarge, match="max-message-bytes"):
            respond({"a": np.zeros(26, np.float32)})


@pytest.mark.parametrize("final", [False, True])
def test_a_message_of_a_stream_holds_the_answer(final):
    answer = by_protobuf({"a": np.zeros((1, 100), np.float32)})
    message = v2.ModelStreamInferResponse.FromString(
        streamed(responder(["a"])({"a": np.zeros((1, 100), np.float32)}), final=final).data
    )
    if final:
        answer.parameters["triton_final_response"].bool_param = True
    assert message == v2.ModelStreamInferResponse(infer_response=answer)


@given(st.integers(0, 2**40))
def test_a_varint_is_protobufs(number):
    written = v2.ModelInferRequest(inputs=[{"shape": [number]}]).SerializeToString()
    assert written.endswith(wire.varint(number))
