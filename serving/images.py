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

import hashlib
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Resize = Literal["stretch", "pad", "crop"]

MAX_PIXELS: Final = 64_000_000
BACKGROUND: Final = 255
PADDING: Final = 0

_MAX_SIDE: Final = 65_536
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_OVERHEAD_BYTES: Final = 12
_ORIENTATION_TAG: Final = 0x0112
_MAX_8_BIT: Final = 255
_MAX_16_BIT: Final = 65_535
# ITU-R 601 luma in 1/65536; the three add up to 65536, so equal channels give exactly their value.
_LUMA: Final = (19_595, 38_470, 7_471)
_NO_DECODER: Final = frozenset(
    {
        "EPS",  # Pillow would run Ghostscript on it
        "BUFR", "GRIB", "HDF5", "MPEG", "WMF",  # Pillow knows them by name only
    }
)  # fmt: skip
_HUSH: Final = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_TURNS: Final[dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


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
                raise BadInput(
                    f"An image's {name} is a whole number from 1 to {_MAX_SIDE}. Received: {side!r}"
                )
        if isinstance(self.channels, bool) or self.channels not in (1, 3):
            raise BadInput(
                f"An image has 1 channel (gray) or 3 (colour). Received: channels={self.channels!r}"
            )
        if self.resize not in get_args(Resize):
            raise BadInput(f"resize is one of {', '.join(get_args(Resize))}. Received: {self.resize!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image.

    Args:
        pixels: uint8 [height, width, 1 or 3], contiguous, upright, opaque.
        format: the encoding, as Pillow names it: PNG, JPEG, TIFF …
        mode: the kind of pixels in the file, as Pillow names it: L, RGB, P, I;16 …
        width: pixels, after orientation.
        height: pixels, after orientation.
    """

    pixels: NDArray[np.uint8]
    format: str
    mode: str
    width: int
    height: int


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
    _hush_pillow()
    # Images inside images (ICO, ICNS) are measured by Pillow alone, which refuses at twice this number.
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    try:
        return _decode(data, max_pixels)
    except (BadInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadInput(f"The image has more than the {max_pixels} pixels allowed.") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"The {len(data)} bytes are no image in a format known here.") from error
    except Exception as error:  # what decoders raise on hostile bytes has no common root
        raise BadInput(_reason(error)) from error


def content_hash(pixels: NDArray[np.uint8]) -> str:
    """32 hexadecimal digits that are equal for equal pictures: over height, width and pixels.

    A colour picture whose three channels are equal has the hash of the gray one.

    Args:
        pixels: uint8 [height, width, 1 or 3].
    """
    height, width, channels = pixels.shape
    if channels != 1 and is_gray(pixels):
        pixels = pixels[..., :1]
    digest = hashlib.blake2b(struct.pack("<II", height, width), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def is_gray(pixels: NDArray[np.uint8]) -> bool:
    """Whether the picture has no colour: one channel, or equal ones.

    Args:
        pixels: uint8 [height, width, 1 or 3].
    """
    if pixels.shape[2] == 1:
        return True
    first_row = pixels[0]  # most colour pictures show it here, which spares looking at the rest
    return _equal_channels(first_row) and _equal_channels(pixels)


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


# ---- decoding ----------------------------------------------------------------------------------


def _decode(data: bytes, max_pixels: int) -> Decoded:
    if data.startswith(_PNG_SIGNATURE):
        _check_png(data)
    with Image.open(BytesIO(data), formats=_formats(data)) as image:
        _check_size(image.size, max_pixels)
        image.load()
        _check_size(image.size, max_pixels)
        mode = image.mode
        pixels = _turned(_pixels(image), _orientation(image))
        height, width, _ = pixels.shape
        return Decoded(pixels, image.format or "", mode, width, height)


def _formats(data: bytes) -> tuple[str, ...]:
    """The decoders worth asking: the one that the first bytes name, else all that are safe to ask."""
    if data.startswith(_PNG_SIGNATURE):
        return ("PNG",)
    if data.startswith(b"\xff\xd8\xff"):
        return ("JPEG", "MPO")
    Image.init()
    return tuple(name for name in Image.ID if name not in _NO_DECODER)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadInput(f"The image has {width} x {height} pixels; at most {max_pixels} are allowed.")
    if width < 1 or height < 1:
        raise BadInput(f"The image has {width} x {height} pixels; expected at least one.")


def _check_png(data: bytes) -> None:
    """Refuse what Pillow lets pass: a PNG whose end is missing, and pixel data that fails its checksum.

    Raises:
        BadInput: naming the chunk.
    """
    view, position, end = memoryview(data), len(_PNG_SIGNATURE), len(data)
    while position + _PNG_CHUNK_OVERHEAD_BYTES <= end:
        length = int.from_bytes(view[position : position + 4])
        body_end = position + 8 + length
        if body_end + 4 > end:
            break
        kind = bytes(view[position + 4 : position + 8])
        if zlib.crc32(view[position + 4 : body_end]) != int.from_bytes(view[body_end : body_end + 4]):
            raise BadInput(
                f"The PNG is damaged: the checksum of its chunk {kind!r} at byte {position} is wrong."
            )
        if kind == b"IEND":
            return
        position = body_end + 4
    raise BadInput(f"The PNG is truncated: its {end} bytes end before its last chunk, IEND, does.")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  unreadable EXIF says nothing about orientation, and the pixels are good
        return 1


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turn = _TURNS.get(orientation)
    return np.ascontiguousarray(pixels if turn is None else turn(pixels))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A loaded image of any mode as uint8 [height, width, 1 or 3], not yet turned."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _wide(_array(image), image.info.get("transparency"))
    if mode == "I":
        return _integers(_array(image), sixteen_bit=image.format == "PPM")
    if mode == "F":
        return _floats(_array(image))
    if image.has_transparency_data:
        gray = mode in {"1", "L", "LA", "La"}
        return _on_background(_array(_transparent(image, gray=gray)))
    if mode == "1":
        image = image.convert("L")
    elif mode not in {"L", "RGB"}:
        image = image.convert("RGB")
    return _array(image)


def _transparent(image: Image.Image, *, gray: bool) -> Image.Image:
    if image.mode == "1":  # Pillow keeps the transparent value as 0 or 1, and converts to 0 and 255
        transparency = image.info.get("transparency")
        image = image.convert("L")
        image.info["transparency"] = _MAX_8_BIT if transparency else 0
    return image.convert("LA" if gray else "RGBA")


def _array(image: Image.Image) -> NDArray[Any]:
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., np.newaxis]  # noqa: PLR2004  height, width, channels


def _on_background(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite on white, rounded to nearest: [height, width, 2 or 4] to [height, width, 1 or 3]."""
    colour, alpha = pixels[..., :-1].astype(np.uint32), pixels[..., -1:].astype(np.uint32)
    blended = (colour * alpha + BACKGROUND * (_MAX_8_BIT - alpha) + _MAX_8_BIT // 2) // _MAX_8_BIT
    return blended.astype(np.uint8)


def _wide(values: NDArray[Any], transparent: object) -> NDArray[np.uint8]:
    pixels = (values >> 8).astype(np.uint8)
    return (
        np.where(values == transparent, np.uint8(BACKGROUND), pixels)
        if isinstance(transparent, int)
        else pixels
    )


def _integers(values: NDArray[Any], *, sixteen_bit: bool) -> NDArray[np.uint8]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_16_BIT:
        raise BadInput(f"The image's 32-bit values go from {low} to {high}; expected 0…255 or 0…65535.")
    return (values >> 8 if sixteen_bit or high > _MAX_8_BIT else values).astype(np.uint8)


def _floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not (low >= 0.0 and high <= _MAX_8_BIT):
        raise BadInput(
            f"The image's floating-point values go from {low:g} to {high:g}; expected 0…1 or 0…255."
        )
    return np.rint(values.astype(np.float64) * (_MAX_8_BIT if high <= 1.0 else 1)).astype(np.uint8)


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"The image is truncated: {text}."
    return f"The image is damaged or not supported: {text}."


def _hush_pillow() -> None:
    """Keep Pillow's warnings about odd files off the terminal; what matters is refused by name instead.

    A filter of the whole process, because `warnings.catch_warnings` isn't safe with threads.
    """
    if not warnings.filters or warnings.filters[0] != _HUSH:
        warnings.filterwarnings("ignore", module=_HUSH[3].pattern)


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
