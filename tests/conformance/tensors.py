"""Tensors of the protocol to numpy and back, as its text says, in both forms of contents."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from oip import messages

# Datatype -> numpy's, and the field of typed contents; None: it travels raw only.
KINDS: dict[str, tuple[str, str | None]] = {
    "BOOL": ("bool", "bool_contents"),
    "UINT8": ("uint8", "uint_contents"),
    "UINT16": ("uint16", "uint_contents"),
    "UINT32": ("uint32", "uint_contents"),
    "UINT64": ("uint64", "uint64_contents"),
    "INT8": ("int8", "int_contents"),
    "INT16": ("int16", "int_contents"),
    "INT32": ("int32", "int_contents"),
    "INT64": ("int64", "int64_contents"),
    "FP16": ("float16", None),
    "FP32": ("float32", "fp32_contents"),
    "FP64": ("float64", "fp64_contents"),
    "BYTES": ("object", "bytes_contents"),
}
TYPED = [datatype for datatype, (_, field) in KINDS.items() if field]


def sample(datatype: str, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    """Values of a datatype that show where one is mistaken for another: its ends, and some between."""
    size = int(np.prod(shape))
    if datatype == "BYTES":
        words = [b"", b"a", "é".encode(), b"nul\x00inside", b"x" * 300, b"\n"]
        values: Any = np.empty(size, object)
        values[:] = [words[number % len(words)] for number in range(size)]
        return values.reshape(shape)
    kind = np.dtype(KINDS[datatype][0])
    if kind.kind == "b":
        ends: list[Any] = [True, False, True, True, False, False]
    elif kind.kind == "f":
        ends = [np.finfo(kind).min, np.finfo(kind).max, 0.5, -0.25, 0.0, np.inf]
    else:
        ends = [np.iinfo(kind).min, np.iinfo(kind).max, 1, 7, 100, 0]
    return np.array([ends[number % len(ends)] for number in range(size)], kind).reshape(shape)


def request(model: str, arrays: dict[str, tuple[str, np.ndarray]], *, raw: bool = True, **more: Any) -> Any:
    """A ModelInferRequest.

    Args:
        model: its name.
        arrays: input -> datatype and values.
        raw: whether contents travel raw, or typed.
        more: of its fields.
    """
    message = messages["ModelInferRequest"](model_name=model, **more)
    for name, (datatype, array) in arrays.items():
        tensor = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            message.raw_input_contents.append(packed(datatype, array))
        else:
            field = KINDS[datatype][1]
            assert field is not None, datatype
            getattr(tensor.contents, field).extend(array.ravel().tolist())
    return message


def packed(datatype: str, array: np.ndarray) -> bytes:
    """Raw contents: little-endian, row-major; BYTES with a length before each element."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())
    return np.ascontiguousarray(array).tobytes()


def outputs(response: Any) -> dict[str, np.ndarray]:
    """The arrays of an answer, in whichever of the two forms."""
    raw = response.raw_output_contents
    assert not raw or len(raw) == len(response.outputs), "raw_output_contents has one element per output, or none"
    found = {}
    for position, tensor in enumerate(response.outputs):
        kind, field = KINDS[tensor.datatype]
        if raw and tensor.datatype == "BYTES":
            values: Any = np.empty(int(np.prod(tensor.shape)), object)
            values[:] = _unpacked(raw[position])
        elif raw:
            values = np.frombuffer(raw[position], kind)
        else:
            assert field is not None, "FP16 travels raw only"
            values = np.array(list(getattr(tensor.contents, field)), kind)
        found[tensor.name] = values.reshape(tuple(tensor.shape))
    return found


def _unpacked(data: bytes) -> list[bytes]:
    values, at = [], 0
    while at < len(data):
        [length] = struct.unpack_from("<I", data, at)
        values.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return values
