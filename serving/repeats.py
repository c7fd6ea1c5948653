"""Requests that differ from an earlier one in their contents alone: found by their bytes, without being parsed again.

A caller who sends one image after the other sends the same bytes around it each time. Of a request that protobuf parsed
once, the bytes before and behind its contents are kept; whatever begins and ends with them, and is as long, says the
same of other contents, as the length of the contents is among those bytes. Knows messages, no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

Asked = TypeVar("Asked", bound="Message")

_MOST_FORMS: Final = 128
_MOST_BYTES_AROUND: Final = 1024


class Form(Generic[Asked]):
    """What some requests have in common.

    Mutable: `plan`, what its reader found out about it; whoever sets it last is right.

    Args:
        head: their bytes before the contents.
        tail: their bytes behind them.
        message: the request with empty contents; not to be changed.
    """

    __slots__ = ("head", "message", "plan", "tail")

    def __init__(self, head: bytes, tail: bytes, message: Asked) -> None:
        self.head = head
        self.tail = tail
        self.message = message
        self.plan: Any = None


class Repeat(Generic[Asked]):
    """One request of a form; it can stand in for the message wherever its contents are not asked for.

    Args:
        repeated: its form.
        data: all of it.
    """

    __slots__ = ("data", "repeated")

    def __init__(self, repeated: Form[Asked], data: bytes) -> None:
        self.repeated = repeated
        self.data = data

    def __getattr__(self, name: str) -> Any:
        """The message's."""
        return getattr(self.repeated.message, name)

    @property
    def contents(self) -> bytes:
        """What this one has of its own."""
        return self.data[len(self.repeated.head) : len(self.data) - len(self.repeated.tail)]

    def whole(self) -> Asked:
        """The message."""
        return type(self.repeated.message).FromString(self.data)


class Forms(Generic[Asked]):
    """The forms of the last requests; reads the next ones. Any thread may.

    Mutable: `_by_length`, the forms by the length of their requests; its tuples are replaced and never changed, so that
    a reader who misses one only parses once more.

    Args:
        request: the class of the messages.
        contents: of a message, what the next one will have others of; None: its like will hardly come again.
        put: replaces them.
    """

    def __init__(
        self, request: type[Asked], *, contents: Callable[[Asked], bytes | None], put: Callable[[Asked, bytes], None]
    ) -> None:
        self._request = request
        self._contents = contents
        self._put = put
        self._by_length: dict[int, tuple[Form[Asked], ...]] = {}

    def read(self, data: bytes) -> Asked | Repeat[Asked]:
        """The request in some bytes; raises protobuf's DecodeError."""
        for form in self._by_length.get(len(data), ()):
            if data.startswith(form.head) and data.endswith(form.tail):
                return Repeat(form, data)
        message = self._request.FromString(data)
        made = self._form(message, data)
        if made is None:
            return message
        if sum(map(len, self._by_length.values())) >= _MOST_FORMS:
            self._by_length = {}
        self._by_length[len(data)] = (*self._by_length.get(len(data), ()), made)
        return Repeat(made, data)

    def _form(self, message: Asked, data: bytes) -> Form[Asked] | None:
        """The form of a request, if it can have one: contents in what is written as protobuf writes it.

        Where the contents are is told by two messages that differ in nothing else: that they are found somewhere in
        the bytes would prove nothing.
        """
        contents = self._contents(message)
        if not contents or len(data) - len(contents) > _MOST_BYTES_AROUND:
            return None
        empty = self._request()
        empty.CopyFrom(message)
        zeros, ones = (self._written(empty, byte * len(contents)) for byte in (b"\0", b"\1"))
        self._put(empty, b"")
        start = next(at for at, (zero, one) in enumerate(zip(zeros, ones, strict=True)) if zero != one)
        head, tail = zeros[:start], zeros[start + len(contents) :]
        return Form(head, tail, empty) if head + contents + tail == data else None

    def _written(self, message: Asked, contents: bytes) -> bytes:
        self._put(message, contents)
        return message.SerializeToString(deterministic=True)
