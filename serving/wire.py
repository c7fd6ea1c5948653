"""Protobuf's wire format as far as this house writes it by hand: keys and lengths before bytes. Knows no message."""

from __future__ import annotations

from typing import Final

_LENGTH_DELIMITED: Final = 2
_VARINT_BASE: Final = 128


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
