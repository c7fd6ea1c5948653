"""A caller's images to requests of sensible size; knows no server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.codec import CHANNELS, pixel_block
from serving.errors import BadInput
from serving.predictions import Failure
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    Image = str | Path | bytes | NDArray[np.uint8]

_GRAY_DIMENSIONS = 2
_IMAGE_DIMENSIONS = 3
_BLOCK_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one request.

    Args:
        images: what is sent; None when nothing of the part could be read.
        failures: by position: the images that could not be read here.
    """

    images: v1.Images | None
    failures: Mapping[int, Failure] = field(default_factory=dict)

    def merged(self, results: Iterable[Any]) -> tuple[Any, ...]:
        """The server's results with this part's failures at their places."""
        merged = list(results)
        for position, failure in sorted(self.failures.items()):
            merged.insert(position, failure)
        return tuple(merged)


def split(images: Iterable[Image], *, max_images: int, max_bytes: int) -> Iterator[Part]:
    """The images in order, as parts of one form each, read no earlier than needed.

    Args:
        images: paths, encoded files, or uint8 pixels [height, width] or [height, width, channels]; or one array
            uint8 [rows, height, width, channels].
        max_images: in one part.
        max_bytes: a part that has reached it takes no more.

    Raises:
        BadInput: something that is none of these; of a list, an array of other pixels fails alone, as a file does.
    """
    if isinstance(images, (str, bytes, Path)):
        raise BadInput(f"Expected several images, such as a list. Received: one {type(images).__name__}")
    if isinstance(images, np.ndarray):
        wrong = _wrong(images, _BLOCK_DIMENSIONS)
        if wrong:
            raise BadInput(wrong)
        yield from _block_parts(images, max_images, max_bytes)
        return
    run: list[Any] = []
    size = 0
    for image in images:
        item = _item(image)
        if run and (len(run) >= max_images or size >= max_bytes or _form(item) != _form(run[0])):
            yield _part(run)
            run, size = [], 0
        run.append(item)
        size += 0 if isinstance(item, Failure) else item.nbytes if isinstance(item, np.ndarray) else len(item)
    if run:
        yield _part(run)


def _block_parts(block: NDArray[np.uint8], max_images: int, max_bytes: int) -> Iterator[Part]:
    row_bytes = max(1, block[0].nbytes) if len(block) else 1
    rows = max(1, min(max_images, max_bytes // row_bytes))
    for start in range(0, len(block), rows):
        yield Part(v1.Images(pixels=pixel_block(block[start : start + rows])))


def _item(image: Image) -> bytes | NDArray[np.uint8] | Failure:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        item = image[..., None] if image.ndim == _GRAY_DIMENSIONS else image
        wrong = _wrong(item, _IMAGE_DIMENSIONS)
        return Failure("INVALID_ARGUMENT", wrong) if wrong else item
    if isinstance(image, (str, Path)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            return Failure("NOT_FOUND", f"{image} cannot be read: {error.strerror or error}.")
    raise BadInput(f"An image is a path, bytes, or a uint8 array. Received: {type(image).__name__}")


def _wrong(array: NDArray[Any], dimensions: int) -> str:
    """Why an array is no pixels; empty when it is."""
    right = array.dtype == np.uint8 and array.ndim == dimensions
    if right and array.shape[-1] in CHANNELS and 0 not in array.shape[-_IMAGE_DIMENSIONS:]:
        return ""
    return (
        f"Pixels must be uint8 with {dimensions} dimensions and 1 or 3 channels ([height, width] is a gray image, "
        f"several images are a list or [rows, height, width, channels]). Received: {array.dtype} {list(array.shape)}"
    )


def _form(item: bytes | NDArray[np.uint8] | Failure) -> object:
    """What two images of one part have in common; what failed here goes with files."""
    return item.shape if isinstance(item, np.ndarray) else "file"


def _part(run: list[Any]) -> Part:
    if isinstance(run[0], np.ndarray):
        return Part(v1.Images(pixels=pixel_block(np.stack(run))))
    failures = {position: item for position, item in enumerate(run) if isinstance(item, Failure)}
    files = [item for item in run if not isinstance(item, Failure)]
    return Part(v1.Images(encoded=v1.EncodedImages(files=files)) if files else None, failures)
