"""Every image that Pillow reads, to canonical pixels: the general path of `serving.images`, where the rules are told.

Refuses what Pillow lets pass: a PNG without its end or with a wrong checksum, a damaged JPEG, and its own warnings.
"""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from serving import jpeg
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BACKGROUND: Final = 255

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_OVERHEAD_BYTES: Final = 12
_ORIENTATION_TAG: Final = 0x0112
_MAX_8_BIT: Final = 255
_MAX_16_BIT: Final = 65_535
_NO_DECODER: Final = frozenset(
    {
        "EPS",  # Pillow would run Ghostscript on it
        "BUFR", "GRIB", "HDF5", "MPEG", "WMF",  # Pillow knows them by name only
    }
)  # fmt: skip
_BOMB: Final = re.compile(r"\((\d+) pixels\)")  # in what Pillow says of an image that is too large
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
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})


@dataclass(slots=True)  # not frozen, which costs a microsecond for each image
class Decoded:
    """A decoded image; nobody changes it.

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


def decode(data: bytes, max_pixels: int) -> Decoded:
    """As `images.decode`, whatever the format; the length of `data` is above 0."""
    _hush_pillow()
    # Images inside images (ICO, ICNS) are measured by Pillow alone, which refuses at twice this number.
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    try:
        return _decode(data, max_pixels)
    except (BadInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        claimed = _BOMB.search(str(error))
        many = f"{claimed[1]} pixels" if claimed else "too many pixels"
        raise BadInput(f"The image has {many}; {_allowed(max_pixels)}.") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"The {len(data)} bytes are no image in a format known here.") from error
    except Exception as error:  # what decoders raise on hostile bytes has no common root
        raise BadInput(_reason(error)) from error


def _decode(data: bytes, max_pixels: int) -> Decoded:
    if data.startswith(_PNG_SIGNATURE):
        _check_png(data)
    with Image.open(BytesIO(data), formats=_formats(data)) as image:
        check_size(image.size, max_pixels)
        if image.format == "JPEG2000":
            _check_jpeg2000(data)
        pixels = jpeg.pixels(data, image.mode) if image.format in {"JPEG", "MPO"} else None
        if pixels is None:
            image.load()
            check_size(image.size, max_pixels)
            pixels = _pixels(image)
        mode = image.mode
        pixels = _turned(pixels, _orientation(image))
        height, width, _ = pixels.shape
        return Decoded(pixels, image.format or "", mode, width, height)


def claimed_pixels(data: bytes, max_pixels: int) -> int:
    """As `images.claimed_pixels`."""
    _hush_pillow()
    try:
        with Image.open(BytesIO(data), formats=_formats(data)) as image:
            claimed = image.size[0] * image.size[1]
    except Exception:  # noqa: BLE001 as above; then nothing was decoded
        return 0
    return claimed if claimed <= max_pixels else 0


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """As `images.claimed_size`."""
    _hush_pillow()
    try:
        with Image.open(BytesIO(data), formats=_formats(data)) as image:
            width, height = image.size
            # Not the PNG plugin's own `getexif`, which decodes the picture to see what comes after it.
            sideways = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1) in _SIDEWAYS
    except Exception:  # noqa: BLE001 as above
        return None
    return (width, height) if sideways else (height, width)


def _formats(data: bytes) -> tuple[str, ...]:
    """The decoders worth asking: the one that the first bytes name, else all that are safe to ask."""
    if data.startswith(_PNG_SIGNATURE):
        return ("PNG",)
    if data.startswith(b"\xff\xd8\xff"):
        return ("JPEG", "MPO")
    Image.init()
    return tuple(name for name in Image.ID if name not in _NO_DECODER)


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image by its header.

    Raises:
        BadInput: more pixels than allowed, or none.
    """
    width, height = size
    if width * height > max_pixels:
        raise BadInput(f"The image has {width} x {height} pixels; {_allowed(max_pixels)}.")
    if width < 1 or height < 1:
        raise BadInput(f"The image has {width} x {height} pixels; expected at least one.")


def _allowed(max_pixels: int) -> str:
    return f"at most {max_pixels} are allowed (--max-image-pixels)"


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
            chunk = ascii(kind.decode("latin-1"))
            raise BadInput(f"The PNG is damaged: the checksum of its chunk {chunk} at byte {position} is wrong.")
        if kind == b"IEND":
            return
        position = body_end + 4
    raise BadInput(f"The PNG is truncated: its {end} bytes end before its last chunk, IEND, does.")


def _check_jpeg2000(data: bytes) -> None:
    """Refuse what Pillow lets pass as black: a JPEG 2000 that ends after its header.

    Raises:
        BadInput: no end of codestream after a start of data; neither marker can occur inside coded data.
    """
    start = data.find(b"\xff\x93")
    if start < 0 or data.find(b"\xff\xd9", start) < 0:
        raise BadInput(f"The JPEG 2000 is truncated: its {len(data)} bytes end before the picture does.")


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
    return np.where(values == transparent, np.uint8(BACKGROUND), pixels) if isinstance(transparent, int) else pixels


def _integers(values: NDArray[Any], *, sixteen_bit: bool) -> NDArray[np.uint8]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_16_BIT:
        raise BadInput(f"The image's 32-bit values go from {low} to {high}; expected 0…255 or 0…65535.")
    return (values >> 8 if sixteen_bit or high > _MAX_8_BIT else values).astype(np.uint8)


def _floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not (low >= 0.0 and high <= _MAX_8_BIT):
        raise BadInput(f"The image's floating-point values go from {low:g} to {high:g}; expected 0…1 or 0…255.")
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
