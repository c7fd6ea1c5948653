"""Tensors of the Open Inference Protocol to numpy and back; knows no model and decodes no image files."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from serving.bundle import TensorSpec
    from serving.v2 import open_inference_pb2 as v2

# Datatype of the protocol -> numpy's name as bundles write it, and the field of typed contents. BF16 has no
# numpy dtype: it travels as its bits.
_KINDS: Final[dict[str, tuple[str, str | None]]] = {
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
    "BF16": ("bfloat16", None),
    "BYTES": ("string", "bytes_contents"),
}
_DATATYPES: Final = {name: datatype for datatype, (name, _) in _KINDS.items()}
_LENGTH_BYTES: Final = 4


def datatype(spec: TensorSpec) -> str:
    """The protocol's name of a tensor's datatype."""
    return _DATATYPES[spec.dtype]


def shape(spec: TensorSpec) -> list[int]:
    """A tensor's dimensions as the protocol writes them: -1 is any."""
    return [-1 if size is None else size for size in spec.shape]


def read_inputs(request: v2.ModelInferRequest) -> dict[str, NDArray[Any]]:
    """The arrays of a request by name; BYTES as arrays of bytes objects.

    Raises:
        BadInput: contents mixed, missing or of another length than the shape says, or an unknown datatype.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadInput(
            f"raw_input_contents must have one element per input, {len(request.inputs)}. Received: {len(raw)}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for position, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise BadInput(f"The input {tensor.name!r} was given twice.")
        arrays[tensor.name] = _read(tensor, raw[position] if raw else None)
    return arrays


def _read(tensor: v2.ModelInferRequest.InferInputTensor, raw: bytes | None) -> NDArray[Any]:
    kind = _KINDS.get(tensor.datatype)
    if kind is None:
        raise BadInput(
            f"The input {tensor.name!r} has the datatype {tensor.datatype!r}; known are {', '.join(_KINDS)}."
        )
    dimensions = tuple(tensor.shape)
    if any(size < 0 for size in dimensions):
        raise BadInput(f"The input {tensor.name!r} has the shape {list(dimensions)}: no size may be negative.")
    elements = 1
    for size in dimensions:
        elements *= size
    if raw is None:
        return _typed(tensor, kind, elements).reshape(dimensions)
    if tensor.HasField("contents"):
        raise BadInput(f"The input {tensor.name!r} has typed contents beside raw_input_contents: send one of them.")
    if tensor.datatype == "BYTES":
        return _array_of_bytes(_unpacked(tensor.name, raw, elements)).reshape(dimensions)
    dtype = np.dtype("<u2" if tensor.datatype == "BF16" else kind[0])
    if len(raw) != elements * dtype.itemsize:
        raise BadInput(
            f"The input {tensor.name!r} of datatype {tensor.datatype} and shape {list(dimensions)} takes "
            f"{elements * dtype.itemsize} bytes. Received: {len(raw)}"
        )
    return np.frombuffer(raw, dtype).reshape(dimensions)


def _typed(tensor: v2.ModelInferRequest.InferInputTensor, kind: tuple[str, str | None], elements: int) -> NDArray[Any]:
    dtype, field = kind
    if field is None:
        raise BadInput(
            f"The input {tensor.name!r} of datatype {tensor.datatype} has no typed contents in this protocol: "
            "send raw_input_contents."
        )
    others = [other.name for other, _ in tensor.contents.ListFields() if other.name != field]
    if others:
        raise BadInput(
            f"The input {tensor.name!r} of datatype {tensor.datatype} takes {field}. Received: {', '.join(others)}"
        )
    values = getattr(tensor.contents, field)
    if len(values) != elements:
        raise BadInput(
            f"The input {tensor.name!r} of shape {list(tensor.shape)} takes {elements} elements of {field}. "
            f"Received: {len(values)}"
        )
    if dtype == "string":
        return _array_of_bytes(list(values))
    try:
        return np.array(values, dtype)
    except OverflowError as error:
        raise BadInput(f"The input {tensor.name!r} has elements that are no {tensor.datatype}: {error}.") from error


def _unpacked(name: str, raw: bytes, elements: int) -> list[bytes]:
    values: list[bytes] = []
    at = 0
    while at < len(raw) and len(values) < elements:
        start = at + _LENGTH_BYTES
        length = int.from_bytes(raw[at:start], "little")
        at = start + length
        if at > len(raw):
            break
        values.append(raw[start:at])
    if len(values) != elements or at != len(raw):
        raise BadInput(
            f"The input {name!r} of datatype BYTES must be {elements} elements, each its 4-byte little-endian "
            f"length and its bytes. Received: {len(raw)} bytes that are not"
        )
    return values


def _array_of_bytes(values: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def add_output(response: v2.ModelInferResponse, name: str, array: NDArray[Any]) -> None:
    """Append an output, raw; arrays of objects (bytes or text) as BYTES."""
    if array.dtype == object:
        kind, data = "BYTES", packed(array.ravel().tolist())
    else:
        kind, data = _DATATYPES[array.dtype.name], np.ascontiguousarray(array).tobytes()
    response.outputs.add(name=name, datatype=kind, shape=array.shape)
    response.raw_output_contents.append(data)


def packed(values: Sequence[bytes | str]) -> bytes:
    """BYTES elements as the protocol writes them."""
    written = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(part for value in written for part in (struct.pack("<I", len(value)), value))


def classes(scores: NDArray[Any], labels: Sequence[str], count: int) -> NDArray[Any]:
    """The classification extension: `score:index` or `score:index:label` of the best `count` of each row.

    Args:
        scores: [rows, classes], or [classes] for a single row.
        labels: one per class, or none.
        count: how many.
    """
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
    best = np.take_along_axis(scores, order, axis=-1)
    written = [
        f"{score:f}:{index}" + (f":{labels[index]}" if index < len(labels) else "")
        for score, index in zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return _array_of_bytes([text.encode() for text in written]).reshape(order.shape)
