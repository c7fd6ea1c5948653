"""A contact sheet: one picture with samples of each label as the model will see them, and of the quarantine.

It draws what a snapshot holds; it knows no source.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines import manifest
from pipelines.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pipelines.dataset import Part, Snapshot

SHEET = "contact-sheet.png"
SAMPLES = 12
MOST_LABELS = 40
MOST_QUARANTINED = 20
_TILE = 72
_GAP = 6
_LINE = 18
_NAME_WIDTH = 170
_WIDTH = _NAME_WIDTH + SAMPLES * (_TILE + _GAP) + _GAP
_PAPER, _MAT, _INK, _FAINT = "#ffffff", "#ebebeb", "#141414", "#787878"
_PNG_COLOUR = {"L": 0, "RGB": 2}
_UP = 2  # PNG's filter: each byte as its difference from the one above


def draw_sheet(snapshot: Snapshot) -> Path:
    """Draw a snapshot's contact sheet into its folder, in one step.

    Returns:
        The picture's path.
    """
    path = snapshot.path / SHEET
    with _pillow_unlimited():
        write_atomically(path, _png(_sheet(snapshot)))
    return path


@contextmanager
def _pillow_unlimited() -> Iterator[None]:
    """Without the limit that the last decoded file left in Pillow, which holds for pictures of letters too."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _sheet(snapshot: Snapshot) -> Image.Image:
    """In gray where the snapshot is gray: a third of the bytes, and it looks the same."""
    parts, shown = snapshot.all_parts(), _chosen(snapshot)
    problems = _quarantined(snapshot)
    height = _GAP + len(shown) * (_TILE + _GAP) + (len(problems) + 1) * _LINE * bool(problems) + _LINE + _GAP
    sheet = Image.new("L" if snapshot.image.channels == 1 else "RGB", (_WIDTH, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = _GAP
    for number in shown:
        images, count = _samples(parts, number)
        pen.text((_GAP, top + _TILE // 2 - _LINE), _cut(snapshot.labels[number] or "(no label)", 22), _INK, font)
        pen.text((_GAP, top + _TILE // 2), f"{count:,} images", _FAINT, font)
        for place, pixels in enumerate(images):
            _show(pixels, sheet, (_NAME_WIDTH + place * (_TILE + _GAP), top))
        top += _TILE + _GAP
    if len(snapshot.labels) > len(shown):
        pen.text((_GAP, top), f"and {len(snapshot.labels) - len(shown)} more labels", _FAINT, font)
    top += _LINE
    if problems:
        pen.text((_GAP, top), f"Quarantined: {snapshot.counts['quarantined']:,}", _INK, font)
    for number, problem in enumerate(problems, start=1):
        line = _cut(f"{problem['path']}: {problem['reason']}".replace("\n", " "), 150)
        pen.text((2 * _GAP, top + number * _LINE), line, _FAINT, font)
    return sheet


def _chosen(snapshot: Snapshot) -> list[int]:
    """The labels that are shown: all, or evenly spread over the order of their names."""
    labels = len(snapshot.labels)
    return sorted({round(place) for place in np.linspace(0, labels - 1, min(labels, MOST_LABELS))})


def _samples(parts: Sequence[Part], number: int) -> tuple[list[np.ndarray[Any, Any]], int]:
    """Pictures of a label, from train first, and how many it has."""
    images: list[np.ndarray[Any, Any]] = []
    count = 0
    for part in parts:
        index = np.flatnonzero(part.labels == number)
        count += len(index)
        images.extend(part.gather(index[: SAMPLES - len(images)]))
    return images, count


def _quarantined(snapshot: Snapshot) -> list[dict[str, str]]:
    if not snapshot.counts["quarantined"]:
        return []
    rows = manifest.read(snapshot.path / manifest.MANIFEST, ["path", "status", "reason"])
    return manifest.quarantined(rows)[:MOST_QUARANTINED]


def _show(pixels: npt.NDArray[np.uint8], sheet: Image.Image, corner: tuple[int, int]) -> None:
    """Put a picture into a square of the sheet; small ones are enlarged unsmoothed, so that their pixels are seen."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    scale = _TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # A large one is first reduced by a whole number, which is cheap, and then smoothed to size.
    shown = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX, reducing_gap=1.0)
    left, top = corner
    if size != (_TILE, _TILE):
        sheet.paste(_MAT, (left, top, left + _TILE, top + _TILE))
    sheet.paste(shown, (left + (_TILE - size[0]) // 2, top + (_TILE - size[1]) // 2))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _png(sheet: Image.Image) -> bytes:
    """The sheet as PNG: one filter and runs only, in a quarter of the time that Pillow takes to try them all."""
    pixels = np.asarray(sheet).reshape(sheet.height, -1)
    rows = np.empty((sheet.height, 1 + pixels.shape[1]), dtype=np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    head = struct.pack(">IIBBBBB", *sheet.size, 8, _PNG_COLOUR[sheet.mode], 0, 0, 0)
    data = deflate.compress(rows.data) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
