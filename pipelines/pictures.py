"""Pixels and weights to pictures inside a page: PNG bytes, and the address that carries them. Knows no run."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

THUMBNAIL_SIDE = 96
NEGATIVE, ZERO, POSITIVE = (33, 102, 172), (247, 247, 247), (178, 24, 43)
COLOURS = 3


def data_url(png: bytes) -> str:
    """A picture inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 [height, width, channels], no larger than a thumbnail; small ones are enlarged by the page."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return _png(image)


def weights(values: NDArray[np.float32]) -> bytes:
    """A filter, float32 [height, width, channels]: of one channel blue below zero, white at it, red above.

    Of three channels each weight is that colour's light, gray at zero. The largest size of a weight is full colour.
    """
    scaled = _by_size(values)
    if values.shape[-1] == COLOURS:
        return _png(Image.fromarray(np.rint(127.5 + 127.5 * scaled).astype(np.uint8)))
    return _signed(scaled[..., 0])


def feature_maps(maps: NDArray[np.float32]) -> list[bytes]:
    """The maps that one unit makes of several images, float32 [images, height, width], on one scale.

    A unit that is never below zero goes from black (zero) to white; another one as a filter does.
    """
    scaled = _by_size(maps)
    if (maps < 0).any():
        return [_signed(one) for one in scaled]
    return [_png(Image.fromarray(np.rint(255 * one).astype(np.uint8))) for one in scaled]


def _by_size(values: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    return finite / max(float(np.abs(finite).max(initial=0.0)), 1e-12)


def _signed(scaled: NDArray[np.float32]) -> bytes:
    """float32 [height, width] in -1…1 as a picture of 255 colours."""
    image = Image.fromarray(np.rint(127 + 127 * scaled).astype(np.uint8)).convert("P")
    image.putpalette(_PALETTE)
    return _png(image)


def _palette() -> list[int]:
    """Red, green and blue of 255 colours, the middle one for zero."""
    at = np.linspace(-1, 1, 255)[:, np.newaxis]
    ends = np.where(at < 0, NEGATIVE, POSITIVE)
    mixed: list[int] = np.rint(np.array(ZERO) * (1 - np.abs(at)) + ends * np.abs(at)).astype(int).ravel().tolist()
    return mixed


_PALETTE = _palette()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
