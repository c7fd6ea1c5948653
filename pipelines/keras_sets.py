"""The sets of keras.datasets as folders of images; runs as a process of its own, so that Keras stays in it.

Usage: python -m pipelines.keras_sets NAME FOLDER
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.sources import write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Part = tuple[npt.NDArray[Any], npt.NDArray[Any]]

NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
    ),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "cifar100": tuple(f"{number:02d}" for number in range(100)),
}  # fmt: skip


def labelled(name: str, load: Callable[[], tuple[Part, Part]]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Label folders, below those of the parts that the set comes in, and pixels."""
    for part, (images, labels) in zip(("train", "test"), load(), strict=True):
        for pixels, label in zip(images, np.ravel(labels), strict=True):
            yield f"{part}/{NAMES[name][int(label)]}", np.asarray(pixels, dtype=np.uint8)


def main(name: str, folder: Path) -> None:
    """Fetch a set and write it out."""
    loader = importlib.import_module(f"keras.datasets.{name}")
    write_folder(folder, labelled(name, loader.load_data))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
