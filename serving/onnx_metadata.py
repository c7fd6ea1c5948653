"""Key and text in an ONNX file's metadata, put there without the onnx library: protobuf's wire format is enough.

A repeated field's entries may lie anywhere in a message, so a new one is appended and an old one is cut out.
"""

from __future__ import annotations

from typing import Final

_METADATA_FIELD: Final = 14  # ModelProto.metadata_props: StringStringEntryProto {key = 1, value = 2}
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def replaced(model: bytes, key: str, value: bytes) -> bytes:
    """`model` with `value` under `key`, whatever was there before.

    Args:
        model: an ONNX file; what is none is only appended to, for the runtime to refuse.
        key: of the entry.
        value: UTF-8 text.
    """
    key_field = _field(1, key.encode())
    return _without(model, key_field) + _field(_METADATA_FIELD, key_field + _field(2, value))


def _without(model: bytes, key_field: bytes) -> bytes:
    kept, start, position = [], 0, 0
    try:
        while position < len(model):
            begin = position
            tag, position = _read_varint(model, position)
            content, position = _skip(model, position, tag & 7)
            if tag == _METADATA_FIELD << 3 | _BYTES and model.startswith(key_field, content):
                kept.append(model[start:begin])
                start = position
    except (IndexError, ValueError):
        return model
    return b"".join([*kept, model[start:]]) if kept else model


def _skip(model: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Where a field's content begins and where the field ends."""
    if wire_type == _VARINT:
        return position, _read_varint(model, position)[1]
    if wire_type == _BYTES:
        length, content = _read_varint(model, position)
        return content, content + length
    if wire_type in {_EIGHT_BYTES, _FOUR_BYTES}:
        return position, position + (8 if wire_type == _EIGHT_BYTES else 4)
    raise ValueError(f"wire type {wire_type} is none of ONNX's")


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(content)) + content


def _read_varint(model: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = model[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte <= 0x7F:  # noqa: PLR2004  seven bits to a byte
            return value, position
        if shift > 63:  # noqa: PLR2004  of 64 bits at most
            raise ValueError("a number of more than 64 bits")


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:  # noqa: PLR2004  seven bits to a byte
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
