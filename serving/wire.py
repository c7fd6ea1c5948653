"""Protobuf's wire format as far as this house handles it itself: keys and lengths before bytes. Knows no message."""

from __future__ import annotations

from typing import Final

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5
_KINDS: Final = 8
_FIXED_BYTES: Final = {_FIXED_64: 8, _FIXED_32: 4}
_VARINT_BASE: Final = 128
_MOST_VARINT_BYTES: Final = 10
_MOST_LENGTH_BYTES: Final = 5  # nor has a key more
_LENGTHS: Final = 2**32  # likewise


def key(field: int) -> bytes:
    """What stands before the length of a field of bytes, text or a message."""
    return varint(field << 3 | _LENGTH_DELIMITED)


def varint(number: int) -> bytes:
    """A whole number from 0 up, as protobuf writes it."""
    if number < _VARINT_BASE:
        return bytes((number,))
    written = bytearray()
    while number >= _VARINT_BASE:
        written.append(number % _VARINT_BASE + _VARINT_BASE)
        number //= _VARINT_BASE
    written.append(number)
    return bytes(written)


def only(data: bytes, field: int, start: int, end: int, *, most_fields: int) -> tuple[int, int, int] | None:
    """Where a message, data[start:end], has its only field of that number.

    Args:
        data: that protobuf has read already.
        field: of bytes, text or a message.
        start: of the message.
        end: of it.
        most_fields: how many it is walked through for.

    Returns:
        Where the field's length, its value and its end are. None: there is none or several; or there is something that
        this doesn't know, or in more bytes than it takes.
    """
    found = None
    for _ in range(most_fields):
        if start == end:
            return found
        key_, at = _short_varint(data, start, end)
        number, kind = divmod(key_, _KINDS)
        if kind == _LENGTH_DELIMITED:
            length, value = _short_varint(data, at, end)
            if length < 0:
                return None
            if number == field:
                if found is not None:
                    return None
                found = (at, value, value + length)
            start = value + length
        elif kind == _VARINT:
            start = _after_varint(data, at, end)
        elif kind in _FIXED_BYTES:
            start = at + _FIXED_BYTES[kind]
        else:
            return None
        if not at < start <= end:
            return None
    return None


def _short_varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """A key or a length, and where it ends; -1 for what is not written in as few bytes as it can be."""
    number = 0
    for position, byte in enumerate(data[start : min(end, start + _MOST_LENGTH_BYTES)]):
        number |= byte % _VARINT_BASE << 7 * position
        if byte < _VARINT_BASE:
            as_short_as_can_be = (byte or not position) and number < _LENGTHS
            return (number if as_short_as_can_be else -1), start + position + 1
    return -1, start


def _after_varint(data: bytes, start: int, end: int) -> int:
    """Where a varint ends; -1: nowhere."""
    for at in range(start, min(end, start + _MOST_VARINT_BYTES)):
        if data[at] < _VARINT_BASE:
            return at + 1
    return -1
