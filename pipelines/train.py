"""From a snapshot and a recipe to `model.keras`; goes on where a killed training of the same recipe stopped.

Importing this module is cheap: TensorFlow is imported when `fit` runs, which is in a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import backend, checkpoint
from pipelines.dataset import Snapshot
from pipelines.errors import BadRecipe, BadSource
from pipelines.files import write_atomically
from pipelines.models import catalogue
from pipelines.objective import choose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from pipelines.config import Recipe
    from pipelines.loop import Plan, Progress, Training
    from pipelines.objective import Objective
    from serving.images import ImageSpec

MODEL = "model.keras"
HISTORY = "history.json"
CHECKED_ROWS = 8  # images that a model of one's own is tried on before it learns


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training came to.

    Attributes:
        epochs: trained, those before a restart included.
        best_epoch: whose weights were kept, from 1.
        fit_seconds: inside the training loop, validation included, in this call only.
        parameters: of the model.
        objective: the sentence that says what was minimised and why.
        history: figures per epoch by name: loss, val_loss, accuracy …
    """

    epochs: int
    best_epoch: int
    fit_seconds: float
    parameters: int
    objective: str
    history: dict[str, list[float]]


def settle(recipe: Recipe, snapshot: Snapshot) -> Recipe:
    """The recipe with everything filled in that the family and the data decide, the loss included.

    Raises:
        BadRecipe: something in it doesn't exist, or doesn't fit the data.
    """
    settled = catalogue.settle(recipe)
    family = catalogue.find(settled.family, task=settled.task)
    catalogue.check_size(family, height=snapshot.image.height, width=snapshot.image.width)
    return settled.model_copy(update={"loss": objective_of(settled, snapshot).loss})


def objective_of(recipe: Recipe, snapshot: Snapshot) -> Objective:
    """What a training of this recipe on this snapshot minimises.

    Raises:
        BadRecipe: the recipe's loss doesn't go with the data.
    """
    classes, channels = len(snapshot.labels), snapshot.image.channels
    return choose(recipe.task, classes=classes, channels=channels, loss=recipe.loss)


def work_digest(settled: Recipe) -> str:
    """16 hexadecimal digits of all that decides a training besides the images: the recipe, and the model's code.

    Args:
        settled: as `settle` gives it; so another habit of the family is another digest.

    Raises:
        BadRecipe: the builder's module can't be found.
    """
    family = catalogue.find(settled.family, task=settled.task)
    return hashlib.sha256(f"{settled.digest()}-{family.source_hash()}".encode()).hexdigest()[:16]


def fit(snapshot_path: Path, recipe: Recipe, folder: Path, progress: Progress = lambda _: None) -> TrainResult:
    """Train, and write `model.keras` and `history.json` into `folder`, each in one step.

    A training that was killed goes on after its last whole epoch and ends with the weights that it would have had;
    one that is already done is not repeated.

    Args:
        snapshot_path: the snapshot's folder.
        recipe: settled or not.
        folder: the run's; exists.
        progress: told the figures of every epoch, and within a long one how far it is.

    Raises:
        BadRecipe: the recipe doesn't exist or doesn't fit the data.
        BadSource: the train part is empty.
    """
    snapshot = Snapshot.open(snapshot_path)
    recipe = settle(recipe, snapshot)
    if not snapshot.part("train").rows:
        raise BadSource(f"The train part of {snapshot_path} is empty: there is nothing to learn from.")
    identity = f"{work_digest(recipe)}-{snapshot.id}"
    return _finished(folder, identity) or _fit(snapshot, recipe, folder, identity=identity, progress=progress)


def _fit(snapshot: Snapshot, recipe: Recipe, folder: Path, *, identity: str, progress: Progress) -> TrainResult:
    threads = backend.start()
    training, objective = prepare(snapshot, recipe)
    stored = checkpoint.load(folder, identity=identity)
    if stored is not None and training.takes(stored):
        training.restore(stored)
    seconds_before = training.standing.seconds
    training.run(progress, after_epoch=lambda: checkpoint.save(folder, training.state(identity)))
    standing = training.standing
    result = TrainResult(
        epochs=standing.epoch,
        best_epoch=standing.best_epoch,
        fit_seconds=standing.seconds - seconds_before,
        parameters=training.model.count_params(),
        objective=objective.reason,
        history=standing.history,
    )
    _save_model(training, objective, folder / MODEL)
    _save_history(result, recipe, folder / HISTORY, identity=identity, threads=threads)
    checkpoint.remove(folder)
    return result


def prepare(snapshot: Snapshot, recipe: Recipe) -> tuple[Training, Objective]:
    """A training of a settled recipe, before its first epoch."""
    backend.start()
    strategy = backend.strategy(recipe.devices)
    with strategy.scope() if strategy else contextlib.nullcontext():
        return _prepare(snapshot, recipe, strategy)


def _prepare(snapshot: Snapshot, recipe: Recipe, strategy: Any | None) -> tuple[Training, Objective]:
    import keras  # noqa: PLC0415 - TensorFlow, only now

    from pipelines import augment, loop, optimizers, own_model  # noqa: PLC0415 - the same

    train, validation = snapshot.part("train"), snapshot.part("validation")
    objective = objective_of(recipe, snapshot)
    keras.utils.set_random_seed(recipe.seed)
    model = build(recipe, objective, snapshot.image)
    if catalogue.find(recipe.family, task=recipe.task).is_own:
        some = train.gather(np.arange(min(CHECKED_ROWS, train.rows)))
        own_model.check_answers(model, objective, name=recipe.family, pixels=some)
    epochs, batch_size = recipe.epochs or 1, recipe.batch_size or 1
    optimizer = optimizers.build(
        recipe.optimizer or "adam",
        learning_rate=recipe.learning_rate or 0.0,
        schedule=recipe.schedule or "constant",
        steps=epochs * -(-train.rows // batch_size),
    )
    plan: Plan = loop.Plan(
        objective=objective,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=recipe.seed,
        patience=recipe.patience or 0,
        augment=augment.augmenter(recipe.augment or "none"),
        class_weights=class_weights(train.labels, len(snapshot.labels), balanced=_is_balanced(recipe)),
        strategy=strategy,
    )
    return loop.Training(model, plan, train=train, validation=validation), objective


def build(recipe: Recipe, objective: Objective, image: ImageSpec) -> Any:
    """The recipe's Keras model, with fresh weights.

    Raises:
        BadRecipe: the family doesn't take these options or images; of a model of one's own also: it fails, or is none
            that can be trained and exported.
    """
    family = catalogue.find(recipe.family, task=recipe.task)
    function: Callable[..., Any] = family.function()
    shape = (image.height, image.width, image.channels)
    given: Any = {"units": objective.units, "activation": objective.activation, **recipe.options}
    if not family.is_own:
        return function(shape, **given)
    from pipelines import own_model  # noqa: PLC0415 - TensorFlow, only now

    try:
        model = function(shape, **given)
    except Exception as error:
        words = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise BadRecipe(
            f"The architecture {family.name!r} can't build a model. Expected: a Keras model from "
            f"{function.__name__}({shape}, {words}). Received: {type(error).__name__}: {error}"
        ) from error
    own_model.check_form(model, objective, name=family.name, shape=shape)
    return model


def load(recipe: Recipe, folder: Path) -> Any:
    """The Keras model that a training of this recipe left in `folder`."""
    backend.start()
    import keras  # noqa: PLC0415 - TensorFlow, only now

    # A model of one's own may hold layers that Keras knows only once their module has been imported.
    catalogue.find(recipe.family, task=recipe.task).function()
    return keras.models.load_model(folder / MODEL, compile=False)


def class_weights(labels: NDArray[np.int32], classes: int, *, balanced: bool) -> NDArray[np.float32]:
    """What a row of each class weighs in the loss, float32 [classes]; on average over the rows 1.

    Args:
        labels: int32 [rows].
        classes: how many there are; one without rows weighs nothing.
        balanced: all classes weigh the same together; otherwise all rows do.
    """
    counts = np.bincount(labels, minlength=max(classes, 1))
    if not balanced:
        return np.ones(1, np.float32)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0.0).astype(np.float32)


def _is_balanced(recipe: Recipe) -> bool:
    return recipe.task == "classify" and recipe.class_weights == "balanced"


def _save_model(training: Training, objective: Objective, path: Path) -> None:
    """The whole model, compiled, so that one's own Keras code can go on with it."""
    metrics = ["accuracy"] if objective.task == "classify" else []
    training.model.compile(training.plan.optimizer, loss=objective.loss, metrics=metrics, jit_compile=False)
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    training.model.save(beside)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def _save_history(result: TrainResult, recipe: Recipe, path: Path, *, identity: str, threads: int) -> None:
    """Written last: its presence means that the model beside it is finished."""
    values = {
        "identity": identity,
        "recipe": recipe.to_dict(),
        "threads": threads,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "fit_seconds": result.fit_seconds,
        "parameters": result.parameters,
        "objective": result.objective,
        "history": result.history,
    }
    write_atomically(path, json.dumps(values, indent=1).encode())


def _finished(folder: Path, identity: str) -> TrainResult | None:
    """The result of this very training, if it is in the folder already."""
    try:
        values = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if values["identity"] != identity or not (folder / MODEL).exists():
        return None
    return TrainResult(
        epochs=values["epochs"],
        best_epoch=values["best_epoch"],
        fit_seconds=0.0,
        parameters=values["parameters"],
        objective=values["objective"],
        history=values["history"],
    )
