"""The commonest PNG and JPEG files, without the general path's overhead, to the very same pixels.

Plain is what needs no second thought: 8-bit gray or colour, not interlaced, nothing in the file about transparency or
orientation. Everything else, and everything odd, is left to `serving.decode_any`. On a 28 x 28 PNG the cost is the
overhead: reading the header here and handing the compressed rows to Pillow's own decoder takes a quarter of the time
of opening the file with Pillow.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from serving import jpeg
from serving.decode_any import Decoded, check_size

if TYPE_CHECKING:
    from collections.abc import Callable

# IHDR: width, height, bits, colour, compression, filter, interlace; its checksum; the next chunk's length and kind.
_PNG_HEAD: Final = struct.Struct(">IIBBBBBII4s")
_PNG_START: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_CHUNK: Final = struct.Struct(">I4s")
_PNG_AFTER_HEAD: Final = 8 + 12 + 13
_PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_BITS: Final = 8
_PNG_MODES: Final = {0: ("L", 1), 2: ("RGB", 3)}
# These say nothing about the pixels that this house heeds.
_PNG_HARMLESS: Final = frozenset({b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"tIME"})

_core: Final[Any] = getattr(Image, "core", None)  # no part of what Pillow promises: see `_fastest`

_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_SEGMENT: Final = struct.Struct(">BBH")
_JPEG_FRAME: Final = struct.Struct(">BHHB")
_JPEG_MODES: Final = {1: "L", 3: "RGB"}
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
_START_OF_SCAN: Final = 0xDA
# Tables, restart interval, comment, and all application segments but 1 (EXIF, XMP) and 2 (profiles, MPO).
_JPEG_HARMLESS: Final = frozenset({0xC4, 0xDB, 0xDD, 0xFE, 0xE0, *range(0xE3, 0xF0)})


def decode(data: bytes, max_pixels: int) -> Decoded | None:
    """As `images.decode`, or None where the image is not plain.

    Raises:
        BadInput: too large, or a damaged JPEG.
    """
    try:
        if data.startswith(_PNG_START):
            return _png(data, max_pixels)
        if data.startswith(_JPEG_START):
            return _jpeg(data, max_pixels)
    except (struct.error, IndexError, ValueError, OSError):
        return None  # the general path finds the words
    return None


def _png(data: bytes, max_pixels: int) -> Decoded | None:
    width, height, bits, colour, _, _, interlaced, checksum, length, kind = _PNG_HEAD.unpack_from(data, len(_PNG_START))
    mode, channels = _PNG_MODES.get(colour, ("", 0))
    if not mode or bits != _PNG_BITS or interlaced or zlib.crc32(data[12:29]) != checksum:
        return None
    check_size((width, height), max_pixels)
    rows = _only_rows(data, length) if kind == b"IDAT" else None
    if rows is None:
        rows = _png_rows(data)
    if rows is None:
        return None
    pixels = _unpacked(mode, (width, height), rows)
    return Decoded(np.frombuffer(pixels, np.uint8).reshape(height, width, channels), "PNG", mode, width, height)


def _only_rows(data: bytes, length: int) -> bytes | None:
    """The compressed rows of the commonest file: they lie in one chunk, right after the header and before the end."""
    stop = _PNG_AFTER_HEAD + 8 + length
    if data[stop + 4 :] != _PNG_END:
        return None
    whole = zlib.crc32(memoryview(data)[_PNG_AFTER_HEAD + 4 : stop]) == int.from_bytes(data[stop : stop + 4])
    return data[_PNG_AFTER_HEAD + 8 : stop] if whole else None


def _png_rows(data: bytes) -> bytes | None:
    """The compressed rows, every checksum compared; None for anything that isn't plain and whole."""
    view, end = memoryview(data), len(data)
    position, parts = _PNG_AFTER_HEAD, []
    while True:
        length, kind = _PNG_CHUNK.unpack_from(data, position)
        stop = position + 8 + length
        if stop + 4 > end or zlib.crc32(view[position + 4 : stop]) != int.from_bytes(view[stop : stop + 4]):
            return None
        if kind == b"IDAT":
            parts.append(data[position + 8 : stop])
        elif kind == b"IEND":
            return parts[0] if len(parts) == 1 else b"".join(parts)
        elif kind not in _PNG_HARMLESS:
            return None
        position = stop + 4


def unpacked_by_pillow(mode: str, size: tuple[int, int], rows: bytes) -> bytes:
    """The pixels of compressed rows, as Pillow offers it.

    Raises:
        ValueError: too few rows, or damaged ones.
    """
    return Image.frombytes(mode, size, rows, "zip", mode).tobytes()


def unpacked_by_core(mode: str, size: tuple[int, int], rows: bytes) -> bytes:
    """As `unpacked_by_pillow`, by the same decoder, without what Pillow does around it: a third of the time.

    Raises:
        ValueError: too few rows, or damaged ones.
    """
    image = _core.new(mode, size)
    decoder = _core.zip_decoder(mode, mode)
    decoder.setimage(image, (0, 0, *size))
    read, trouble = decoder.decode(rows)
    if read >= 0 or trouble:
        raise ValueError("too few rows, or damaged ones")
    encoder = _core.raw_encoder(mode, mode)
    encoder.setimage(image, (0, 0, *size))
    size_bytes = size[0] * size[1] * len(mode)
    pixels: bytes = encoder.encode(size_bytes)[2]
    if len(pixels) != size_bytes:
        raise ValueError("not all rows at once")
    return pixels


def _fastest() -> Callable[[str, tuple[int, int], bytes], bytes]:
    """Pillow's decoder itself where it is as it was when this was written; it is no part of what Pillow promises."""
    try:
        for mode in ("L", "RGB"):
            pixels = bytes(range(6 * len(mode)))
            rows = zlib.compress(b"\0" + pixels[: len(pixels) // 2] + b"\0" + pixels[len(pixels) // 2 :])
            if unpacked_by_core(mode, (3, 2), rows) != pixels:
                return unpacked_by_pillow
    except Exception:  # noqa: BLE001 - whatever a later Pillow says to it
        return unpacked_by_pillow
    return unpacked_by_core


_unpacked: Final = _fastest()


def _jpeg(data: bytes, max_pixels: int) -> Decoded | None:
    position, mode, size = 2, None, (0, 0)
    while True:
        start, kind, length = _JPEG_SEGMENT.unpack_from(data, position)
        if start != 0xFF or length < 2:  # noqa: PLR2004  every segment starts so, and counts its length's two bytes
            return None
        if kind == _START_OF_SCAN:
            break
        if kind in _FRAMES and mode is None:
            bits, height, width, components = _JPEG_FRAME.unpack_from(data, position + 4)
            mode, size = _JPEG_MODES.get(components), (width, height)
            if mode is None or bits != 8 or not width or not height:  # noqa: PLR2004  bits per sample
                return None
        elif kind not in _JPEG_HARMLESS:
            return None
        position += 2 + length
    check_size(size, max_pixels)
    pixels = jpeg.pixels(data, mode) if mode else None
    if pixels is None or mode is None or (pixels.shape[1], pixels.shape[0]) != size:
        return None
    return Decoded(pixels, "JPEG", mode, *size)
