"""A contact sheet: one picture with samples of each label as the model will see them, and of the quarantine.

It draws what a snapshot holds; it knows no source.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines import manifest
from pipelines.files import replacing
from pipelines.manifest import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)


def draw_sheet(snapshot: Snapshot) -> Path:
    """Draw a snapshot's contact sheet into its folder, in one step.

    Returns:
        The picture's path.
    """
    with _pillow_unlimited():
        return _save(_sheet(snapshot), snapshot.path / SHEET)


@contextmanager
def _pillow_unlimited() -> Iterator[None]:
    """Without the limit that the last decoded file left in Pillow, which holds for pictures of letters too."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _sheet(snapshot: Snapshot) -> Image.Image:
    parts = [snapshot.part(name) for name in PARTS]
    rows = [(snapshot.labels[number], *_samples(parts, number)) for number in _chosen(snapshot)]
    problems = _quarantined(snapshot)
    height = _GAP + len(rows) * (_TILE + _GAP) + (len(problems) + 1) * _LINE * bool(problems) + _LINE + _GAP
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = _GAP
    for label, images, count in rows:
        pen.text((_GAP, top + _TILE // 2 - _LINE), _cut(label or "(no label)", 22), fill=_INK, font=font)
        pen.text((_GAP, top + _TILE // 2), f"{count:,} images", fill=_FAINT, font=font)
        for place, pixels in enumerate(images):
            sheet.paste(_tile(pixels), (_NAME_WIDTH + place * (_TILE + _GAP), top))
        top += _TILE + _GAP
    if len(snapshot.labels) > len(rows):
        pen.text((_GAP, top), f"and {len(snapshot.labels) - len(rows)} more labels", fill=_FAINT, font=font)
    top += _LINE
    if problems:
        pen.text((_GAP, top), f"Quarantined: {snapshot.counts['quarantined']:,}", fill=_INK, font=font)
    for number, problem in enumerate(problems, start=1):
        line = _cut(f"{problem['path']}: {problem['reason']}".replace("\n", " "), 150)
        pen.text((2 * _GAP, top + number * _LINE), line, fill=_FAINT, font=font)
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
    rows = manifest.read(snapshot.path / manifest.MANIFEST, ["path", "status", "reason"])
    return manifest.quarantined(rows)[:MOST_QUARANTINED]


def _tile(pixels: np.ndarray[Any, Any]) -> Image.Image:
    """A picture in a square; small ones are enlarged without smoothing, so that their pixels are seen."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = _TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    shown = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    tile = Image.new("RGB", (_TILE, _TILE), (235, 235, 235))
    tile.paste(shown, ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    return tile


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _save(sheet: Image.Image, path: Path) -> Path:
    with replacing(path) as beside:
        sheet.save(beside, "PNG", compress_level=1)  # in a tenth of the time, for a few bytes more
    return path
