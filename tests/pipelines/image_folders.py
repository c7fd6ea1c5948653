"""Folders of small images for the tests of ingest."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, *, height: int = 8, width: int = 8, channels: int = 1) -> np.ndarray:
    """Pixels that differ for every seed: uint8 [height, width] or [height, width, 3]."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def put(path: Path, pixels: np.ndarray, kind: str = "PNG", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels, kind, **options))
    return path


def labelled(root: Path, classes: dict[str, int], *, first_seed: int = 0, **shape) -> Path:
    """`root/label/NNN.png`, as many different images for each label as told."""
    seed = first_seed
    for label, images in classes.items():
        for _ in range(images):
            put(root / label / f"{seed:04d}.png", picture(seed, **shape))
            seed += 1
    return root


def state(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """What nobody may change in a source: names, kinds, times, bytes."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            readable = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
            found[os.fspath(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if readable else b"")
    return found
