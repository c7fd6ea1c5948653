"""The answer to a ModelInfer, written as bytes: a message object per call would cost as much as all else that is done.

What stands around the contents is the same for every answer of one shape, and is written by protobuf once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serving import tensors, wire
from serving.calls import Encoded
from serving.errors import TooLarge
from serving.v2 import open_inference_pb2 as v2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_RAW: Final = wire.key(v2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER)
_IN_STREAM: Final = wire.key(v2.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER)
_FINAL: Final = v2.ModelInferResponse(
    parameters={"triton_final_response": v2.InferParameter(bool_param=True)}
).SerializeToString()
_MOST_HEADS: Final = 128


class Responder:
    """Makes answers of a model's outputs; called in the thread that computed them, any number of times.

    Mutable: `_heads`, what stands before the contents of an only output, by its shape and datatype; filled by any
    thread, each of which would write the same.

    Args:
        name: of the model that answers.
        version: of it.
        request_id: of the caller.
        labels: one per class, or none.
        wanted: outputs by name, each with its number of classes; 0: the output itself.
        max_message_bytes: of the answer.
    """

    __slots__ = ("_beginning", "_heads", "_labels", "_max_bytes", "_only", "_wanted", "names")

    def __init__(
        self,
        name: str,
        version: int,
        *,
        request_id: str,
        labels: Sequence[str],
        wanted: Mapping[str, int],
        max_message_bytes: int,
    ) -> None:
        self._beginning = v2.ModelInferResponse(model_name=name, model_version=str(version), id=request_id)
        self._labels = labels
        self._wanted = wanted
        self._max_bytes = max_message_bytes
        self._heads: dict[tuple[tuple[int, ...], str], bytes] = {}
        self.names = tuple(wanted)
        self._only = self.names[0] if len(wanted) == 1 and not any(wanted.values()) else None

    def __call__(self, arrays: Mapping[str, NDArray[Any]]) -> Encoded:
        """The answer.

        Raises:
            TooLarge: it would be over the limit; nothing was copied.
            BadInput: classes of an output that turned out to be no scores.
        """
        if self._only is not None:
            array = arrays[self._only]
            head = self._heads.get((array.shape, array.dtype.char))
            if head is not None:
                return Encoded(head + array.tobytes())
        wanted = [(name, arrays[name], count) for name, count in self._wanted.items()]
        self._check(sum(tensors.least_bytes(array, count) for _, array, count in wanted))
        response = v2.ModelInferResponse()
        response.CopyFrom(self._beginning)
        contents = []
        for name, array, count in wanted:
            told = tensors.classes(array, self._labels, count) if count else array
            datatype, raw = tensors.raw(told)
            response.outputs.add(name=name, datatype=datatype, shape=told.shape)
            contents.append(_RAW + wire.varint(len(raw)) + raw)
        head = response.SerializeToString()
        if self._only is not None and not array.dtype.hasobject:
            self._keep(array, head + _RAW + wire.varint(array.nbytes))
        return Encoded(b"".join((head, *contents)))

    def _keep(self, array: NDArray[Any], head: bytes) -> None:
        if len(self._heads) >= _MOST_HEADS:
            self._heads = {}
        self._heads[array.shape, array.dtype.char] = head

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise TooLarge(
                f"The answer would have at least {size_bytes} bytes, and a message may have {self._max_bytes} "
                "(--max-message-bytes): send fewer rows in one request, or ask for fewer outputs."
            )


def streamed(response: Encoded, *, final: bool) -> Encoded:
    """An answer as a message of a stream; `final`: it says that it is the last one to its request."""
    data = response.data + _FINAL if final else response.data  # a field more, wherever it stands
    return Encoded(b"".join((_IN_STREAM, wire.varint(len(data)), data)))
