"""Requests that differ from an earlier one in their contents alone: found by their bytes, without being parsed again.

A caller who sends one image after the other sends the same bytes around it each time. Of a request that protobuf parsed
once, the bytes before and behind its contents are kept; whatever begins and ends with them, and is as long, says the
same of other contents: those are one field of bytes, which may hold any, and all that tells where it stands and how
long it is are among the bytes kept. Knows messages, no model.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from serving import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

Asked = TypeVar("Asked", bound="Message")

_MOST_FORMS: Final = 128
_MOST_BYTES_AROUND: Final = 1024
_MOST_FIELDS: Final = 64  # of one message, which is looked through on the transport's thread


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

    Mutable: `_parsed`, which is given away once, so that the contents are not kept twice.

    Args:
        repeated: its form.
        data: all of it.
        parsed: the message, where it was parsed.
    """

    __slots__ = ("_parsed", "data", "repeated")

    def __init__(self, repeated: Form[Asked], data: bytes, parsed: Asked | None = None) -> None:
        self.repeated = repeated
        self.data = data
        self._parsed = parsed

    def __getattr__(self, name: str) -> Any:
        """The message's."""
        return getattr(self.repeated.message, name)

    @property
    def contents(self) -> bytes:
        """What this one has of its own."""
        return self.data[len(self.repeated.head) : len(self.data) - len(self.repeated.tail)]

    def whole(self) -> Asked:
        """The message."""
        parsed, self._parsed = self._parsed, None
        return type(self.repeated.message).FromString(self.data) if parsed is None else parsed


class Forms(Generic[Asked]):
    """The forms of the last requests; reads the next ones. Any thread may.

    Mutable, under `_lock`: `_by_length`, the forms by the length of their requests; its tuples are replaced and never
    changed, so that a reader, who needs no lock and misses one, only parses once more; `_lengths`, those of the forms,
    the oldest first.

    Args:
        request: the class of the messages.
        path: the numbers of the fields that lead to the contents, which are bytes.
        repeats: whether more requests will come that differ from a message in their contents alone.
    """

    def __init__(self, request: type[Asked], *, path: tuple[int, ...], repeats: Callable[[Asked], bool]) -> None:
        self._request = request
        self._path = path
        self._repeats = repeats
        self._lock = threading.Lock()
        self._by_length: dict[int, tuple[Form[Asked], ...]] = {}
        self._lengths: deque[int] = deque()

    def read(self, data: bytes) -> Asked | Repeat[Asked]:
        """The request in some bytes; raises protobuf's DecodeError."""
        for form in self._by_length.get(len(data), ()):
            if data.startswith(form.head) and data.endswith(form.tail):
                return Repeat(form, data)
        message = self._request.FromString(data)
        made = self._form(data) if self._repeats(message) else None
        if made is None:
            return message
        self._keep(made, len(data))
        return Repeat(made, data, message)

    def _keep(self, made: Form[Asked], length: int) -> None:
        with self._lock:
            if len(self._lengths) >= _MOST_FORMS:
                oldest = self._lengths.popleft()
                left = self._by_length[oldest][1:]
                if left:
                    self._by_length[oldest] = left
                else:
                    del self._by_length[oldest]
            self._by_length[length] = (*self._by_length.get(length, ()), made)
            self._lengths.append(length)

    def _form(self, data: bytes) -> Form[Asked] | None:
        """The form of a request, if it has contents, once, and little else."""
        start, end = 0, len(data)
        around = []
        for field in self._path:
            found = wire.only(data, field, start, end, most_fields=_MOST_FIELDS)
            if found is None:
                return None
            length_at, value, value_end = found
            around.append((data[start:length_at], data[value_end:end]))
            start, end = value, value_end
        if start == end or start + len(data) - end > _MOST_BYTES_AROUND:
            return None
        empty = b""
        for before, behind in reversed(around):
            empty = before + wire.varint(len(empty)) + empty + behind
        return Form(data[:start], data[end:], self._request.FromString(empty))
