"""Requests that are wrong: refused, whatever the status; and, marked `statuses`, by the right one."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tensors import outputs, request, sample

LEFT = np.arange(16, dtype=np.int32).reshape(1, 16)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def good(**more):
    arrays = {"INPUT0": ("INT32", LEFT), "INPUT1": ("INT32", LEFT)}
    return request("simple", arrays, **more)


def changed(change, **more):
    message = good(**more)
    change(message)
    return message


def reshaped(*shape):
    def change(message):
        message.inputs[0].shape[:] = shape

    return changed(change)


def renamed(datatype):
    return changed(lambda m: setattr(m.inputs[0], "datatype", datatype))


WRONG = {
    "unknown model": (changed(lambda m: setattr(m, "model_name", "no-such-model")), NOT_FOUND),
    "no model named": (changed(lambda m: setattr(m, "model_name", "")), (NOT_FOUND, INVALID)),
    "unknown version": (good(model_version="4711"), NOT_FOUND),
    "a version that is no number": (good(model_version="newest"), (INVALID, NOT_FOUND)),
    "unknown input": (changed(lambda m: setattr(m.inputs[0], "name", "NOBODY")), INVALID),
    "an input missing": (changed(lambda m: (m.inputs.pop(), m.raw_input_contents.pop())), INVALID),
    "an input too many": (
        changed(
            lambda m: (
                m.inputs.add(name="MORE", datatype="INT32", shape=[1, 16]),
                m.raw_input_contents.append(bytes(64)),
            )
        ),
        INVALID,
    ),
    "an input twice": (changed(lambda m: setattr(m.inputs[1], "name", "INPUT0")), INVALID),
    "no input at all": (changed(lambda m: (m.ClearField("inputs"), m.ClearField("raw_input_contents"))), INVALID),
    "unknown output": (changed(lambda m: m.outputs.add(name="NOBODY")), (INVALID, NOT_FOUND)),
    "another datatype": (renamed("FP32"), INVALID),
    "no datatype of the protocol": (renamed("INT33"), INVALID),
    "no datatype": (renamed(""), INVALID),
    "too few bytes": (changed(lambda m: m.raw_input_contents.__setitem__(0, bytes(60))), INVALID),
    "too many bytes": (changed(lambda m: m.raw_input_contents.__setitem__(0, bytes(68))), INVALID),
    "no bytes": (changed(lambda m: m.raw_input_contents.__setitem__(0, b"")), INVALID),
    "raw contents for one input only": (changed(lambda m: m.raw_input_contents.pop()), INVALID),
    "raw contents for one input too many": (changed(lambda m: m.raw_input_contents.append(bytes(64))), INVALID),
    "raw and typed contents mixed": (
        changed(lambda m: m.inputs[0].contents.int_contents.extend(range(16))),
        INVALID,
    ),
    "no contents at all": (changed(lambda m: m.ClearField("raw_input_contents")), INVALID),
    "too few typed elements": (
        changed(lambda m: m.inputs[0].contents.int_contents.pop(), raw=False),
        INVALID,
    ),
    "typed elements of another datatype": (
        changed(
            lambda m: (
                m.inputs[0].ClearField("contents"),
                m.inputs[0].contents.fp32_contents.extend([0.5] * 16),
            ),
            raw=False,
        ),
        INVALID,
    ),
    "a shape for other contents": (reshaped(2, 16), INVALID),
    "a shape that the model does not take": (reshaped(2, 8), INVALID),
    "too few dimensions": (reshaped(16), INVALID),
    "too many dimensions": (reshaped(1, 1, 16), INVALID),
    "a negative size": (reshaped(-1, 16), INVALID),
    "two negative sizes": (reshaped(-1, -16), INVALID),
    "sizes beyond 64 bits": (reshaped(2**62, 2**62, 16), INVALID),
    "sizes that wrap round to the right number": (reshaped(2**32, 2**32, 16), INVALID),
}  # fmt: skip


def refused(server, message):
    with pytest.raises(grpc.RpcError) as caught:
        server.ModelInfer(message)
    return caught.value


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_and_the_next_one_answered(server, metadata, name):
    metadata("simple")
    error = refused(server, WRONG[name][0])
    assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, "it was not answered at all"
    assert error.details(), "a refusal says why"
    found = outputs(server.ModelInfer(good()))
    np.testing.assert_array_equal(found["OUTPUT0"], LEFT + LEFT)


@pytest.mark.statuses
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_the_callers_fault(server, metadata, name):
    """Never UNKNOWN or INTERNAL, which say that the server broke and that trying again may help."""
    metadata("simple")
    message, expected = WRONG[name]
    assert refused(server, message).code() in (expected if isinstance(expected, tuple) else (expected,))


@pytest.mark.statuses
@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_questions_about_unknown_models_are_not_found(server, metadata, method):
    metadata("simple")
    with pytest.raises(grpc.RpcError) as caught:
        getattr(server, method)(name="no-such-model")
    if caught.value.code() is grpc.StatusCode.UNIMPLEMENTED:
        pytest.skip(f"the server has no {method}")
    assert caught.value.code() is NOT_FOUND


BYTES = sample("BYTES", (1, 3))
TRUNCATED = {
    "a length beyond the end": b"\xff\xff\xff\xff" + b"abc",
    "a length cut off": b"\x01\x00\x00\x00a" * 2 + b"\x01\x00",
    "an element missing": b"\x01\x00\x00\x00a" * 2,
    "an element too many": b"\x01\x00\x00\x00a" * 4,
    "nothing": b"",
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_bytes_that_are_not_elements_are_refused(server, metadata, name):
    metadata("identity_bytes")
    message = request("identity_bytes", {"INPUT0": ("BYTES", BYTES)})
    message.raw_input_contents[0] = TRUNCATED[name]
    assert refused(server, message).code() is not grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.statuses
@pytest.mark.parametrize("name", TRUNCATED)
def test_bytes_that_are_not_elements_are_the_callers_fault(server, metadata, name):
    metadata("identity_bytes")
    message = request("identity_bytes", {"INPUT0": ("BYTES", BYTES)})
    message.raw_input_contents[0] = TRUNCATED[name]
    assert refused(server, message).code() is INVALID


@pytest.mark.parametrize(
    ("datatype", "field", "value"), [("INT8", "int_contents", 128), ("UINT8", "uint_contents", 256)]
)
@pytest.mark.statuses
def test_typed_elements_outside_their_datatype_are_the_callers_fault(server, metadata, datatype, field, value):
    """They are never wrapped round in silence."""
    model = f"identity_{datatype.lower()}"
    metadata(model)
    message = request(model, {"INPUT0": (datatype, sample(datatype))}, raw=False)
    getattr(message.inputs[0].contents, field)[0] = value
    assert refused(server, message).code() is INVALID
