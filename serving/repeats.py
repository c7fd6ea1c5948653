"""Requests that differ from an earlier one in their contents alone: found by their bytes, without being parsed again.

A caller who sends one image after the other sends the same bytes around it each time. Of a request that protobuf parsed
once, the bytes before its contents are kept; whatever begins with them, and is as long, says the same of other
contents, as the length of the contents is among those bytes and nothing follows. Knows messages, no model.
"""

from __future__ import annotations

from typing import Any, Final

from serving import wire
from serving.v2 import open_inference_pb2 as v2

_RAW: Final = wire.key(v2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER)
_MOST_FORMS: Final = 128
_MOST_HEAD_BYTES: Final = 1024


class Form:
    """What some requests have in common.

    Mutable: `plan`, what its reader found out about it; whoever sets it last is right.

    Args:
        head: their bytes up to the contents of their only input.
        message: the request without contents; not to be changed.
    """

    __slots__ = ("head", "message", "model_name", "model_version", "plan")

    def __init__(self, head: bytes, message: v2.ModelInferRequest) -> None:
        self.head = head
        self.message = message
        self.model_name, self.model_version = message.model_name, message.model_version
        self.plan: Any = None


class Repeat:
    """One request of a form; it can stand in for the message wherever no inputs are asked for.

    Args:
        form: its own.
        data: all of it.
    """

    __slots__ = ("data", "form")

    def __init__(self, form: Form, data: bytes) -> None:
        self.form = form
        self.data = data

    @property
    def model_name(self) -> str:
        """The message's."""
        return self.form.model_name

    @property
    def model_version(self) -> str:
        """The message's."""
        return self.form.model_version

    @property
    def id(self) -> str:
        """The message's: requests that have one are of no form."""
        return ""

    @property
    def parameters(self) -> Any:
        """The message's."""
        return self.form.message.parameters

    @property
    def contents(self) -> bytes:
        """Of the only input, raw."""
        return self.data[len(self.form.head) :]

    def whole(self) -> v2.ModelInferRequest:
        """The message."""
        return v2.ModelInferRequest.FromString(self.data)


class Forms:
    """The forms of the last requests; reads the next ones. Any thread may.

    Mutable: `_by_length`, the forms by the length of their requests; its tuples are replaced and never changed, so that
    a reader who misses one only parses once more.
    """

    def __init__(self) -> None:
        self._by_length: dict[int, tuple[Form, ...]] = {}

    def read(self, data: bytes) -> v2.ModelInferRequest | Repeat:
        """The request in some bytes; raises protobuf's DecodeError."""
        for form in self._by_length.get(len(data), ()):
            if data.startswith(form.head):
                return Repeat(form, data)
        message = v2.ModelInferRequest.FromString(data)
        form_ = _form(message, data)
        if form_ is None:
            return message
        if sum(map(len, self._by_length.values())) >= _MOST_FORMS:
            self._by_length = {}
        self._by_length[len(data)] = (*self._by_length.get(len(data), ()), form_)
        return Repeat(form_, data)


def _form(message: v2.ModelInferRequest, data: bytes) -> Form | None:
    """The form of a request, if it can have one: one raw input at the end of what is written as protobuf writes it.

    One with an id or parameters has none: the next one would hardly have the same.
    """
    if message.id or message.parameters or len(message.raw_input_contents) != 1 or len(message.inputs) != 1:
        return None
    raw = message.raw_input_contents[0]
    if len(data) - len(raw) > _MOST_HEAD_BYTES:
        return None
    rest = v2.ModelInferRequest()
    rest.CopyFrom(message)
    rest.ClearField("raw_input_contents")
    head = rest.SerializeToString() + _RAW + wire.varint(len(raw))
    return Form(head, rest) if head + raw == data else None
