"""The families of models by name, and what each one's default recipe is. Imports neither Keras nor TensorFlow.

A builder is named as `module:function` and imported when a model is built: `calotype architectures` stays quick,
and a model of one's own is given in the same form. Every builder takes `shape` (height, width, channels) and
`units=`, `activation=` of its last layer, its options by name, and returns a Keras model from floats in 0…1.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import BadRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipelines.config import Recipe, Task

Option = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Habits:
    """How a family is trained unless the recipe says otherwise; each field as in `config.Recipe`."""

    epochs: int = 12
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    augment: str = "none"
    patience: int = 0


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family.

    Attributes:
        name: as recipes say it; for a model of one's own `module:function`.
        task: what it is for.
        builder: `module:function`.
        summary: one line for a table.
        parameters: of the model for 28x28x1 images and, for a classifier, ten labels; None: unknown.
        smallest: the shortest side that it takes, in pixels.
        options: the builder's options and their defaults.
        habits: the default recipe.
    """

    name: str
    task: Task
    builder: str
    summary: str
    parameters: int | None = None
    smallest: int = 1
    options: Mapping[str, Option] = field(default_factory=dict)
    habits: Habits = field(default_factory=Habits)

    @property
    def is_own(self) -> bool:
        """Whether it is a model of one's own, of which only its function knows more."""
        return self.name == self.builder

    def function(self) -> Callable[..., Any]:
        """The builder itself; imports Keras.

        Raises:
            BadRecipe: there is no such module or function, or the module fails when it is imported.
        """
        module, _, name = self.builder.partition(":")
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except Exception as error:
            raise self._not_importable(error) from error
        return found

    def source_hash(self) -> str:
        """16 hexadecimal digits of the source of the builder's module, which is not imported, only its packages are.

        What that module imports is not looked at.

        Raises:
            BadRecipe: there is no such module.
        """
        module = self.builder.partition(":")[0]
        try:
            spec = importlib.util.find_spec(module)
        except Exception as error:
            raise self._not_importable(error) from error
        if spec is None:
            raise self._not_importable(ModuleNotFoundError(f"No module named {module!r}"))
        source = Path(spec.origin).read_bytes() if spec.origin and spec.has_location else b""
        return hashlib.sha256(source).hexdigest()[:16]

    def _not_importable(self, error: Exception) -> BadRecipe:
        what = "" if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: "
        return BadRecipe(
            f"The architecture {self.builder!r} can't be imported: {what}{error}. Expected: module:function, "
            "found as Python finds modules (PYTHONPATH)."
        )


ARCHITECTURES: dict[str, Architecture] = {
    family.name: family
    for family in (
        Architecture(
            name="dense",
            task="classify",
            builder="pipelines.models.dense:build",
            summary="flattened pixels, dense 84 with swish",
            parameters=66_790,
            options={"dense": 84, "hidden": "swish"},
        ),
        Architecture(
            name="conv_pool",
            task="classify",
            builder="pipelines.models.conv_pool:build",
            summary="3 and 6 filters of 5x5 with swish and pooling",
            parameters=1_504,
            smallest=16,
            options={"pooling": "max", "hidden": "swish"},
            habits=Habits(epochs=18, batch_size=32, learning_rate=1e-2),
        ),
        Architecture(
            name="cnn_dropout",
            task="classify",
            builder="pipelines.models.cnn_dropout:build",
            summary="32 filters of 5x5 and 64 of 2x2, pooling, dropout, dense 1000",
            parameters=1_620_098,
            smallest=10,
            options={"pooling": "max", "dropout": 0.25, "dense": 1000},
            habits=Habits(augment="affine"),
        ),
        Architecture(
            name="cnn_same",
            task="classify",
            builder="pipelines.models.cnn_same:build",
            summary="32 and 64 filters of 3x3 with padding; twice as deep from 32x32 pixels on",
            parameters=421_642,
            smallest=4,
            options={"pooling": "max", "dropout": 0.25},
            habits=Habits(augment="affine"),
        ),
        Architecture(
            name="cnn_strided",
            task="classify",
            builder="pipelines.models.cnn_strided:build",
            summary="5x5 with stride 5, then 3x3; for large images",
            parameters=94_474,
            smallest=10,
            options={"pooling": "max", "dropout": 0.25},
            habits=Habits(epochs=18, learning_rate=3e-3),
        ),
        Architecture(
            name="cnn_dilated",
            task="classify",
            builder="pipelines.models.cnn_dilated:build",
            summary="3x3 with dilations 1, 2 and 4 instead of pooling",
            parameters=33_194,
            smallest=4,
            options={"dropout": 0.25},
            habits=Habits(learning_rate=3e-3),
        ),
        Architecture(
            name="resnet_small",
            task="classify",
            builder="pipelines.models.resnet_small:build",
            summary="residual blocks of 3x3 in three stages, batch normalisation; the most accurate",
            parameters=174_658,
            smallest=8,
            options={"width": 24, "blocks": 1, "dropout": 0.2},
            habits=Habits(epochs=18, batch_size=64, learning_rate=5e-3, augment="affine"),
        ),
        Architecture(
            name="lenet5",
            task="classify",
            builder="pipelines.models.lenet5:build",
            summary="LeNet-5 (1998): two 5x5 convolutions, average pooling, dense 120 and 84",
            parameters=61_706,
            smallest=12,
            options={"pooling": "average", "hidden": "relu"},
            habits=Habits(epochs=18, batch_size=64, learning_rate=8e-3, augment="affine"),
        ),
        Architecture(
            name="autoencoder",
            task="reconstruct",
            builder="pipelines.models.autoencoder:build",
            summary="conv 16, max pooling, conv 4, and back by nearest-neighbour upsampling",
            parameters=777,
            smallest=2,
            habits=Habits(epochs=10, batch_size=32, learning_rate=1e-2),
        ),
        Architecture(
            name="autoencoder_transposed",
            task="reconstruct",
            builder="pipelines.models.autoencoder_transposed:build",
            summary="conv 16, max pooling, conv 4, and back by a transposed convolution",
            parameters=777,
            smallest=2,
            habits=Habits(epochs=10, batch_size=32, learning_rate=1e-2),
        ),
        Architecture(
            name="autoencoder_bed_of_nails",
            task="reconstruct",
            builder="pipelines.models.autoencoder_bed_of_nails:build",
            summary="conv 16, max pooling, conv 4, and back by zeros around each number",
            parameters=777,
            smallest=2,
            habits=Habits(epochs=10, batch_size=32, learning_rate=3e-3),
        ),
        Architecture(
            name="autoencoder_max_unpooling",
            task="reconstruct",
            builder="pipelines.models.autoencoder_max_unpooling:build",
            summary="conv 16, max pooling, conv 4 and 16, and back to where each maximum stood",
            parameters=1_477,
            smallest=2,
            habits=Habits(epochs=10, batch_size=32, learning_rate=1e-2),
        ),
    )
}


# Rates at which each optimizer learns these models; Keras' own default for adadelta, 0.001, learns nothing.
RATES: dict[str, float] = {
    "adam": 1e-3,
    "adamw": 1e-3,
    "nadam": 1e-3,
    "adamax": 2e-3,
    "lion": 3e-4,
    "rmsprop": 1e-3,
    "sgd": 5e-2,
    "adagrad": 5e-2,
    "adadelta": 1.0,
}


def known(name: str, *, own_task: Task = "classify") -> Architecture:
    """The family of that name, whatever its task; a model of one's own, given as `module:function`, is for `own_task`.

    Raises:
        BadRecipe: no such family.
    """
    if ":" in name:
        return find(name, task=own_task)
    if name not in ARCHITECTURES:
        raise BadRecipe(f"There is no architecture {name!r}. Known: {', '.join(sorted(ARCHITECTURES))}.")
    return ARCHITECTURES[name]


def find(name: str, *, task: Task) -> Architecture:
    """The family of that name, or a model of one's own given as `module:function`.

    Raises:
        BadRecipe: no such family, or one for another task.
    """
    if ":" in name:
        return Architecture(name=name, task=task, builder=name, summary="a model of your own")
    family = ARCHITECTURES.get(name)
    known = ", ".join(sorted(other.name for other in ARCHITECTURES.values() if other.task == task))
    if family is None:
        raise BadRecipe(
            f"There is no architecture {name!r}. Known for {task}: {known}; or module:function for your own."
        )
    if family.task != task:
        raise BadRecipe(
            f"The architecture {name!r} is for --task {family.task}, and the task is {task}. Known for {task}: {known}."
        )
    return family


def check_size(family: Architecture, *, height: int, width: int) -> None:
    """See that images of this size can go through the family.

    Raises:
        BadRecipe: they are too small; the sentence names the smallest size.
    """
    if min(height, width) < family.smallest:
        raise BadRecipe(
            f"The architecture {family.name!r} takes images of {family.smallest}x{family.smallest} pixels or "
            f"more, and these are {height}x{width}. Give --image-size, or choose another architecture."
        )


def check_options(family: Architecture, options: Mapping[str, Option]) -> None:
    """See that the family has these options and that their values are of the right kind.

    Raises:
        BadRecipe: an unknown option, or a value of another type than the default.
    """
    if family.is_own:
        return  # only the function itself knows its options
    for name, value in options.items():
        if name not in family.options:
            known = ", ".join(family.options) or "none"
            raise BadRecipe(f"The architecture {family.name!r} has no option {name!r}. It has: {known}.")
        default = family.options[name]
        if isinstance(value, bool) != isinstance(default, bool) or not isinstance(
            value, (int, float) if isinstance(default, float) else type(default)
        ):
            raise BadRecipe(f"The option {name!r} of {family.name!r} is like {default!r}. Received: {value!r}")


def settle(recipe: Recipe) -> Recipe:
    """The recipe with every open field filled in from its family's habits; settled ones stay as they are.

    Raises:
        BadRecipe: an unknown architecture, option or optimizer.
    """
    family = find(recipe.family, task=recipe.task)
    check_options(family, recipe.options)
    habits = family.habits
    optimizer = recipe.optimizer or habits.optimizer
    if optimizer not in RATES:
        raise BadRecipe(f"There is no optimizer {optimizer!r}. Known: {', '.join(RATES)}.")
    usual = habits.learning_rate if optimizer == habits.optimizer else RATES[optimizer]
    chosen = {
        "architecture": family.name,
        "epochs": recipe.epochs or habits.epochs,
        "batch_size": recipe.batch_size or habits.batch_size,
        "optimizer": optimizer,
        "learning_rate": recipe.learning_rate or usual,
        "schedule": recipe.schedule or habits.schedule,
        "augment": recipe.augment or habits.augment,
        "patience": habits.patience if recipe.patience is None else recipe.patience,
    }
    return recipe.model_copy(update=chosen)
