"""JPEG by libjpeg-turbo, strictly: the pixels that Pillow gives, sooner, and without its leniency.

A JPEG has no checksums: some damage decodes to other pixels and nobody can tell. What the decoder does notice it only
warns of, and Pillow keeps that to itself; here it is a refusal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import simplejpeg

from serving.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLORSPACES: Final = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# What a header may ask for that libjpeg-turbo's simple interface doesn't do, and Pillow may; no word of the data.
_NOT_DONE_HERE: Final = (
    "Could not determine",
    "Invalid data returned in header",
    "Unsupported JPEG data precision",
    "Unsupported JPEG process",
    "Unsupported color conversion",
)


def pixels(data: bytes, mode: str) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG as they lie in the file, or None where Pillow must do it (CMYK, odd headers).

    Whatever else the decoder complains of is a refusal: Pillow would swallow the complaint and keep wrong pixels.

    Args:
        data: a whole file, or several in one (MPO): the first.
        mode: as Pillow names it; what the header says.

    Returns:
        uint8 [height, width, 1 or 3].

    Raises:
        BadInput: truncated or damaged.
    """
    colorspace = _COLORSPACES.get(mode)
    if colorspace is None:
        return None
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace)
    except ValueError as error:
        text = str(error).rpartition("(): ")[2]  # after the name of the function that complains
        if text.startswith(_NOT_DONE_HERE):
            return None
        if text.startswith("Premature end"):
            raise BadInput(f"The JPEG is truncated: its {len(data)} bytes end before the picture does.") from error
        raise BadInput(f"The JPEG is damaged: {text.removeprefix('Corrupt JPEG data: ')}.") from error
    return None if mode == "CMYK" else decoded  # Pillow knows who inverts CMYK; damage shows here
