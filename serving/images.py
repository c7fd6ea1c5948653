"""Encoded bytes to canonical pixels: the only decoder and resizer of the house, for ingest and server alike.

Knows no model, no bundle and no file system. What it makes of each kind of image (`docs/formats.md` too):

- The content decides, never the extension. Animations and multi-page files give their first picture.
- EXIF orientation is applied. Colour profiles are not.
- Transparency is composited on white.
- 1 bit becomes 0 and 255. 16-bit samples keep their high byte (`value >> 8`), gray and colour alike. 32-bit
  integers are read as 8-bit when all lie in 0…255, as 16-bit when all lie in 0…65535; floats as 0…1, or else
  as 0…255; others, NaN and infinity are refused, because every guess would be wrong pixels.
- Damaged and truncated files are refused, also where the library underneath would shrug.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from PIL import Image

from serving import decode_any, decode_plain
from serving.decode_any import BACKGROUND, Decoded
from serving.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BACKGROUND", "MAX_PIXELS", "PADDING", "Decoded", "ImageSpec", "Resize",
    "claimed_pixels", "claimed_size", "decode", "fit", "is_gray", "read",
]  # fmt: skip

Resize = Literal["stretch", "pad", "crop"]

MAX_PIXELS: Final = 64_000_000
PADDING: Final = 0

_MAX_SIDE: Final = 65_536
# ITU-R 601 luma in 1/65536; the three add up to 65536, so equal channels give exactly their value.
_LUMA: Final = (19_595, 38_470, 7_471)


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The images that a model takes.

    Args:
        height: pixels.
        width: pixels.
        channels: 1 (gray) or 3 (red, green, blue).
        resize: how an image of another size is made to fit: `stretch` ignores its proportions, `pad` keeps
            them and adds black borders, `crop` keeps them and cuts what is too much, both about the centre.

    Raises:
        BadInput: a side below 1 or above 65536, or another number of channels or way to resize.
    """

    height: int
    width: int
    channels: int
    resize: Resize = "stretch"

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= _MAX_SIDE:
                raise BadInput(f"An image's {name} is a whole number from 1 to {_MAX_SIDE}. Received: {side!r}")
        if isinstance(self.channels, bool) or self.channels not in (1, 3):
            raise BadInput(f"An image has 1 channel (gray) or 3 (colour). Received: channels={self.channels!r}")
        if self.resize not in get_args(Resize):
            raise BadInput(f"resize is one of {', '.join(get_args(Resize))}. Received: {self.resize!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Decoded:
    """The picture in `data`, as this house sees it.

    Args:
        data: a whole encoded file.
        max_pixels: larger images are refused by their header, before anything is decoded.

    Raises:
        BadInput: empty, not an image, truncated, damaged, or too large; the message says which.
    """
    if not data:
        raise BadInput("The file is empty (0 bytes); expected an encoded image.")
    return decode_plain.decode(data, max_pixels) or decode_any.decode(data, max_pixels)


def claimed_pixels(data: bytes, *, max_pixels: int = MAX_PIXELS) -> int:
    """Width times height by the header of a file that `decode` refused: what the attempt may have cost.

    0 where nothing was decoded: no header that can be read, or more than `max_pixels`.
    """
    return decode_any.claimed_pixels(data, max_pixels)


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Height and width, in pixels and upright, by the header alone; None where there is none that can be read."""
    return decode_any.claimed_size(data)


def is_gray(pixels: NDArray[np.uint8]) -> bool:
    """Whether the picture has no colour: one channel, or equal ones.

    Args:
        pixels: uint8 [height, width, 1 or 3].
    """
    if pixels.shape[2] == 1:
        return True
    first_row = pixels[0].tobytes()  # most colour pictures show it here, which spares looking at the rest
    return first_row[::3] == first_row[1::3] == first_row[2::3] and _equal_channels(pixels)


def fit(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """The picture in the size and with the channels that a model takes.

    Colour becomes gray by ITU-R 601 luma, before resizing; gray becomes colour by repetition, after it.
    Shrinking is antialiased (a triangle filter over all pixels below, in integers: the same on any machine).

    Args:
        pixels: uint8 [height, width, 1 or 3].
        spec: what is wanted.

    Returns:
        uint8 [spec.height, spec.width, spec.channels]; `pixels` itself where nothing had to change.
    """
    if spec.channels == 1 and pixels.shape[2] != 1:
        pixels = _luma(pixels)
    if pixels.shape[:2] != (spec.height, spec.width):
        pixels = _RESIZERS[spec.resize](pixels, spec.height, spec.width)
    if spec.channels == 3 and pixels.shape[2] == 1:  # noqa: PLR2004  red, green, blue
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels


def read(data: bytes, spec: ImageSpec, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """`decode`, then `fit`: an encoded file as a row for a model.

    Returns:
        uint8 [spec.height, spec.width, spec.channels].

    Raises:
        BadInput: as `decode`.
    """
    return fit(decode(data, max_pixels=max_pixels).pixels, spec)


# ---- fitting -----------------------------------------------------------------------------------


def _equal_channels(pixels: NDArray[np.uint8]) -> bool:
    red = pixels[..., 0]
    return bool((red == pixels[..., 1]).all() and (red == pixels[..., 2]).all())


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    wide = pixels.astype(np.uint32)
    red, green, blue = _LUMA
    gray = (wide[..., 0:1] * red + wide[..., 1:2] * green + wide[..., 2:3] * blue + 0x8000) >> 16
    return gray.astype(np.uint8)


def _stretch(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return _resized(pixels, height, width, box=None)


def _pad(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows, columns, channels = pixels.shape
    scale = min(height / rows, width / columns)
    inner_height = min(height, max(1, round(rows * scale)))
    inner_width = min(width, max(1, round(columns * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas = np.full((height, width, channels), PADDING, np.uint8)
    inner = _resized(pixels, inner_height, inner_width, box=None)
    canvas[top : top + inner_height, left : left + inner_width] = inner
    return canvas


def _crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows, columns, _ = pixels.shape
    scale = min(rows / height, columns / width)
    kept_rows, kept_columns = min(rows, height * scale), min(columns, width * scale)
    top, left = (rows - kept_rows) / 2, (columns - kept_columns) / 2
    return _resized(pixels, height, width, box=(left, top, left + kept_columns, top + kept_rows))


def _resized(
    pixels: NDArray[np.uint8], height: int, width: int, *, box: tuple[float, float, float, float] | None
) -> NDArray[np.uint8]:
    gray = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return resized[..., np.newaxis] if gray else resized


_RESIZERS: Final = {"stretch": _stretch, "pad": _pad, "crop": _crop}
