"""Tensors of the Open Inference Protocol to numpy and back; knows no model and decodes no image files."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

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
_LENGTH: Final = struct.Struct("<I")
_LENGTH_BYTES: Final = _LENGTH.size

_MOST_DIMENSIONS: Final = 32
_MOST_ELEMENTS: Final = 2**40
_CLASS_BYTES: Final = _LENGTH_BYTES + len("0.000000:0")
_FEW_ELEMENTS: Final = 4096  # that Python looks at in about a millisecond
_MOST_ITEM_BYTES: Final = 8
_OBJECT_BYTES: Final = 48  # of a short bytes object and of the pointer to it


def datatype(spec: TensorSpec) -> str:
    """The protocol's name of a tensor's datatype."""
    return _DATATYPES[spec.dtype]


def shape(spec: TensorSpec) -> list[int]:
    """A tensor's dimensions as the protocol writes them: -1 is any."""
    return [-1 if size is None else size for size in spec.shape]


@dataclass(slots=True)  # one per input of a call: a frozen one takes five times as long to make
class Sent:
    """An input as it was sent: what is said of it fits its contents' length, and they are unread.

    Args:
        name: of the input.
        datatype: as the protocol calls it.
        shape: no size is negative.
        elements: their product.
        contents: raw, or the container of typed ones.
        dtype: numpy's name of the elements, as bundles write it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int
    contents: Any
    dtype: str

    @property
    def slow(self) -> bool:
        """Whether each element has to be looked at, and there are many."""
        return self.elements > _FEW_ELEMENTS and (self.dtype == "string" or not isinstance(self.contents, bytes))

    @property
    def least_bytes(self) -> int:
        """What the contents take in memory at least, by their number, as sent and as they are read."""
        return self.elements * (_OBJECT_BYTES if self.dtype == "string" else 2 * _MOST_ITEM_BYTES)

    @property
    def read_bytes(self) -> int:
        """About what they take; looks at the length of each typed text or file."""
        if self.dtype != "string":
            return self.least_bytes
        sent_bytes = len(self.contents) if isinstance(self.contents, bytes) else sum(map(len, self.contents))
        return 2 * sent_bytes + self.least_bytes


def sent(request: v2.ModelInferRequest) -> list[Sent]:
    """The inputs of a request; costs little, however many elements they have.

    Raises:
        BadInput: contents mixed, missing or of another length than the shape says, or an unknown datatype.
    """
    raw = request.raw_input_contents
    if raw:
        _check_unmixed(request)
    if raw and len(raw) != len(request.inputs):
        raise BadInput(
            f"raw_input_contents must have one element per input, {len(request.inputs)}. Received: {len(raw)}"
        )
    names: set[str] = set()
    found = []
    for position, tensor in enumerate(request.inputs):
        if tensor.name in names:
            raise BadInput(f"The input {tensor.name!r} was given twice.")
        names.add(tensor.name)
        found.append(_sent(tensor, raw[position] if raw else None))
    return found


def _check_unmixed(request: v2.ModelInferRequest) -> None:
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise BadInput(  # in Triton's words, which clients look for
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' for model "
                f"'{request.model_name}': send one of them."
            )


def check(given: Sent, spec: TensorSpec) -> None:
    """Refuse an input that the model doesn't take, before its contents are read.

    Raises:
        BadInput: another datatype, number of dimensions, or size of a fixed dimension.
    """
    if given.dtype != spec.dtype:
        raise BadInput(
            f"The input {given.name!r} is of datatype {datatype(spec)} ({spec.dtype}). Received: {given.datatype}"
        )
    fits = len(given.shape) == len(spec.shape)
    if not fits or any(size not in (None, got) for size, got in zip(spec.shape, given.shape, strict=True)):
        raise BadInput(
            f"The input {given.name!r} has the shape {shape(spec)} (-1 is any). Received: {list(given.shape)}"
        )


def _sent(tensor: v2.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Sent:
    kind = _KINDS.get(tensor.datatype)
    if kind is None:
        raise BadInput(
            f"The input {tensor.name!r} has the datatype {tensor.datatype!r}; known are {', '.join(_KINDS)}."
        )
    dimensions = tuple(tensor.shape)
    elements = _elements(tensor.name, dimensions)
    if raw is None:
        contents = _typed(tensor, kind, elements)
        return Sent(tensor.name, tensor.datatype, dimensions, elements, contents, kind[0])
    if tensor.datatype == "BYTES":
        if len(raw) < elements * _LENGTH_BYTES:
            raise _not_packed(tensor.name, raw, elements)
    elif len(raw) != elements * _dtype(kind[0]).itemsize:
        raise BadInput(
            f"The input {tensor.name!r} of datatype {tensor.datatype} and shape {list(dimensions)} takes "
            f"{elements * _dtype(kind[0]).itemsize} bytes. Received: {len(raw)}"
        )
    return Sent(tensor.name, tensor.datatype, dimensions, elements, raw, kind[0])


def _elements(name: str, dimensions: tuple[int, ...]) -> int:
    if len(dimensions) > _MOST_DIMENSIONS:
        raise BadInput(f"The input {name!r} may have {_MOST_DIMENSIONS} dimensions. Received: {len(dimensions)}")
    elements = room = 1
    for size in dimensions:
        if size < 0:
            raise BadInput(f"The input {name!r} has the shape {list(dimensions)}: no size may be negative.")
        elements *= size
        room *= size or 1
    if room > _MOST_ELEMENTS:  # numpy multiplies what is not zero, even of an array without elements
        raise BadInput(f"The input {name!r} has the shape {list(dimensions)}: no array can be so large.")
    return elements


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("<u2" if name == "bfloat16" else name)


def _typed(tensor: v2.ModelInferRequest.InferInputTensor, kind: tuple[str, str | None], elements: int) -> Any:
    _, field = kind
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
    return values


def read(inputs: Iterable[Sent], *, files: str = "") -> Generator[None, None, dict[str, NDArray[Any]]]:
    """The arrays by name, in steps of about a millisecond.

    Args:
        inputs: of one request.
        files: name of the input whose BYTES stay bytes objects; others become text, as models take it.

    Raises:
        BadInput: contents that are not what the datatype says, or text that is not UTF-8.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for given in inputs:
        text = given.dtype == "string" and given.name != files
        arrays[given.name] = (yield from _read(given, text=text)).reshape(given.shape)
    return arrays


def read_now(inputs: Iterable[Sent], *, files: str = "") -> dict[str, NDArray[Any]]:
    """As `read`, at one go."""
    steps = read(inputs, files=files)
    while True:
        try:
            next(steps)
        except StopIteration as last:
            arrays: dict[str, NDArray[Any]] = last.value
            return arrays


def _read(given: Sent, *, text: bool) -> Generator[None, None, NDArray[Any]]:
    contents = given.contents
    if not isinstance(contents, bytes):
        return (yield from _converted(given, text=text))
    if given.dtype == "string":
        return (yield from _unpacked(given.name, contents, given.elements, text=text))
    return np.frombuffer(contents, _dtype(given.dtype))


def _converted(given: Sent, *, text: bool) -> Generator[None, None, NDArray[Any]]:
    dtype = np.dtype(object) if given.dtype == "string" else np.dtype(given.dtype)
    array = np.empty(given.elements, dtype)
    try:
        for start in range(0, given.elements, _FEW_ELEMENTS):
            values = given.contents[start : start + _FEW_ELEMENTS]
            if dtype.hasobject:
                array[start : start + _FEW_ELEMENTS] = _text(given.name, values) if text else values
            else:
                array[start : start + _FEW_ELEMENTS] = np.array(values, dtype)
            if start + _FEW_ELEMENTS < given.elements:
                yield
    except OverflowError as error:
        raise BadInput(f"The input {given.name!r} has elements that are no {given.datatype}: {error}.") from error
    return array


def _unpacked(name: str, raw: bytes, elements: int, *, text: bool) -> Generator[None, None, NDArray[Any]]:
    array = np.empty(elements, object)
    at, length_at = 0, _LENGTH.unpack_from
    for first in range(0, elements, _FEW_ELEMENTS):
        values = []
        try:
            for _ in range(min(_FEW_ELEMENTS, elements - first)):
                start = at + _LENGTH_BYTES
                at = start + length_at(raw, at)[0]
                values.append(raw[start:at])
        except struct.error:
            raise _not_packed(name, raw, elements) from None
        array[first : first + len(values)] = _text(name, values) if text else values
        if first + _FEW_ELEMENTS < elements:
            yield
    if at != len(raw):
        raise _not_packed(name, raw, elements)
    return array


def _text(name: str, values: Sequence[bytes]) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise BadInput(f"The input {name!r} takes text, and an element of it is not UTF-8: {error}.") from error


def _not_packed(name: str, raw: bytes, elements: int) -> BadInput:
    return BadInput(
        f"The input {name!r} of datatype BYTES must be {elements} elements, each its 4-byte little-endian "
        f"length and its bytes. Received: {len(raw)} bytes that are not"
    )


def _array_of_bytes(values: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def least_bytes(array: NDArray[Any], count: int) -> int:
    """The bytes that an output takes at least in a message; with a `count`, as its classes.

    Raises:
        BadInput: the classes of what is no scores.
    """
    if count:
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
            raise BadInput(
                "`classification` needs an output of scores, [rows, classes]. "
                f"Received: {array.dtype} {list(array.shape)}"
            )
        return array.size // array.shape[-1] * min(count, array.shape[-1]) * _CLASS_BYTES if array.size else 0
    return array.size * _LENGTH_BYTES + sum(map(len, array.flat)) if array.dtype == object else array.nbytes


def raw(array: NDArray[Any]) -> tuple[str, bytes]:
    """The datatype and the contents of an output; arrays of objects (bytes or text) as BYTES."""
    if array.dtype == object:
        return "BYTES", packed(array.ravel().tolist())
    return _DATATYPES[array.dtype.name], array.tobytes()


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
    ranked = scores if scores.dtype.kind == "f" else scores.astype(np.float64)  # unsigned ones have no negative
    order = np.argsort(-ranked, axis=-1, kind="stable")[..., :count]
    best = np.take_along_axis(scores, order, axis=-1)
    written = [
        f"{score:f}:{index}" + (f":{labels[index]}" if index < len(labels) else "")
        for score, index in zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return _array_of_bytes([text.encode() for text in written]).reshape(order.shape)
