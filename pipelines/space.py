"""What a search may change in a recipe: each parameter's values, a family's usual ones or those of a file.

Pure: knows recipes, families and TOML; not how a search chooses among the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.config import Recipe, merge, read_recipe
from pipelines.errors import BadRecipe
from pipelines.models import catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Value = bool | int | float | str
Parameters = dict[str, Value]  # dotted keys of a recipe, as `--set` takes them

SEARCHABLE = ("architecture", "epochs", "batch_size", "optimizer", "learning_rate", "schedule", "augment", "patience")
RANGE_KEYS = frozenset({"low", "high", "log", "step"})


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: the smallest.
        high: the largest; whole numbers in both mean whole numbers only.
        log: spread evenly over the orders of magnitude.
        step: only low, low + step, low + 2 step …
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 1))

    def __contains__(self, value: Value) -> bool:
        if isinstance(value, (bool, str)) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    @property
    def examples(self) -> tuple[Value, ...]:
        """Both ends and one between: a recipe that takes these takes all."""
        between = min(self.high, self.low + self.step) if self.step else self.low + (self.high - self.low) / math.e
        return (self.low, self.high) if self.whole else (self.low, self.high, between)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these values."""

    values: tuple[Value, ...]

    def __contains__(self, value: Value) -> bool:
        return value in self.values

    @property
    def examples(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values


Space = dict[str, Range | Choice]

# The options of the families' builders that a search changes unless told otherwise; a number that means a layer's
# size is searched from half to twice the family's own.
OPTIONS: Space = {
    "pooling": Choice(("max", "average")),
    "hidden": Choice(("relu", "swish")),
    "dropout": Range(0.0, 0.5),
    "blocks": Choice((1, 2)),
}
SIZES = ("dense", "width")
RATE_FACTOR = 8.0
AUGMENTS = Choice(("none", "affine"))  # mirroring makes other digits and letters: only where a person says so


def usual(recipe: Recipe) -> Space:
    """The neighbourhood of the family's default recipe; what the recipe itself sets is not searched.

    Raises:
        BadRecipe: the recipe leaves nothing open, or its family doesn't exist.
    """
    family = catalogue.find(recipe.family, task=recipe.task)
    settled = catalogue.settle(recipe)
    rate, batch_size = settled.learning_rate or 1e-3, settled.batch_size or 32
    space: Space = {
        "learning_rate": Range(rate / RATE_FACTOR, rate * RATE_FACTOR, log=True),
        "batch_size": Choice((max(1, batch_size // 2), batch_size, batch_size * 2)),
    }
    if recipe.task == "classify":
        space["augment"] = AUGMENTS
    given = {name for name in space if getattr(recipe, name) is not None}
    for name, default in family.options.items():
        key = f"options.{name}"
        if name in recipe.options:
            given.add(key)
        elif name in OPTIONS:
            space[key] = OPTIONS[name]
        elif name in SIZES:
            space[key] = Range(max(1, int(default) // 2), int(default) * 2, log=True)
    open_ones = {key: values for key, values in space.items() if key not in given}
    if not open_ones:
        raise BadRecipe(
            "The recipe sets everything that the search would change. Leave something out, or give --space."
        )
    return open_ones


def read(path: Path) -> Space:
    """The space of a TOML file.

    A key is a recipe's, dotted or as a table. Its value is a list of which one is taken, or a table with `low` and
    `high`, and `log = true` or `step` as wanted.

    Raises:
        BadRecipe: no such file, no TOML, or a parameter in another form.
    """
    return from_table(read_recipe(path), where=str(path))


def from_table(table: dict[str, Any], *, where: str) -> Space:
    """The space that a table says, in the form that `read` describes.

    Args:
        table: plain values.
        where: the table comes from, for the sentence.

    Raises:
        BadRecipe: it is empty, or a parameter in another form.
    """
    space = _flat(table)
    if not space:
        raise BadRecipe(f"The space {where} is empty: it has nothing to search, such as batch_size = [16, 32, 64].")
    return space


def check(space: Space, recipe: Recipe) -> None:
    """See that every value of the space makes a recipe.

    Raises:
        BadRecipe: one doesn't; the sentence names it.
    """
    for key in space:
        if key not in SEARCHABLE and not key.startswith("options."):
            known = ", ".join([*SEARCHABLE, "options.NAME"])
            raise BadRecipe(
                f"The search can't change {key!r}: trials are compared by the loss on one validation part. "
                f"It can change: {known}."
            )
    for family in space.get("architecture", Choice((recipe.family,))).examples:
        chosen = apply(recipe, {"architecture": family})
        for key, values in space.items():
            for example in values.examples if key != "architecture" else ():
                catalogue.settle(apply(chosen, {key: example}))
        catalogue.settle(chosen)


def start(space: Space, recipe: Recipe) -> Parameters:
    """The family's own values of what is searched, where they lie in the space: a good first trial."""
    settled = catalogue.settle(recipe)
    family = catalogue.find(settled.family, task=settled.task)
    options = {f"options.{name}": value for name, value in {**family.options, **settled.options}.items()}
    values = {**settled.to_dict(), **options}
    return {
        key: values[key] for key, allowed in space.items() if values.get(key) is not None and values[key] in allowed
    }


def apply(recipe: Recipe, parameters: Mapping[str, Value]) -> Recipe:
    """The recipe with these parameters in it.

    Raises:
        BadRecipe: a parameter out of its bounds.
    """
    values = recipe.to_dict()
    for key, value in parameters.items():
        values = merge(values, key, value)
    return Recipe.from_dict(values)


def to_dict(space: Space) -> dict[str, Any]:
    """The space as plain values, as a file would say it."""
    return {key: _plain(values) for key, values in sorted(space.items())}


def _plain(values: Range | Choice) -> Any:
    if isinstance(values, Choice):
        return list(values.values)
    bounds: dict[str, Any] = {"low": values.low, "high": values.high, "log": values.log, "step": values.step}
    return {name: value for name, value in bounds.items() if value is not None and value is not False}


def _flat(table: dict[str, Any], prefix: str = "") -> Space:
    space: Space = {}
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and not value.keys() & RANGE_KEYS:
            space |= _flat(value, f"{key}.")
        else:
            space[key] = _parameter(key, value)
    return space


def _parameter(key: str, value: Any) -> Range | Choice:
    if isinstance(value, list) and value and all(isinstance(one, (bool, int, float, str)) for one in value):
        return Choice(tuple(dict.fromkeys(value)))
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= RANGE_KEYS:
        return _range(key, value)
    raise BadRecipe(
        f"The space's {key!r} must be a list such as [16, 32, 64], or a range such as {{ low = 1e-4, high = 1e-2, "
        f"log = true }} (or with step instead of log). Received: {value!r}"
    )


def _range(key: str, table: dict[str, Any]) -> Range:
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    are_numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in numbers)
    if not are_numbers or not all(math.isfinite(one) for one in numbers) or not isinstance(log, bool):
        raise BadRecipe(f"The space's {key!r} takes numbers for low, high and step, true or false for log.")
    if not low < high or (log and low <= 0) or (step is not None and (log or step <= 0)):
        raise BadRecipe(
            f"The space's {key!r} needs low < high, low above 0 with log, and a step above 0 without log. "
            f"Received: {table!r}"
        )
    return Range(low, high, log=log, step=step)
