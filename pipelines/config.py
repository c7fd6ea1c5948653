"""The recipe of a run: everything that decides its outcome besides the images; frozen and checked here, once.

A recipe knows no folder and no heavy library. Where a field is `None` the run chooses and writes its choice
down: image size and channels from the data, learning rate from the optimizer, loss from the task and the number
of classes.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pipelines.errors import BadRecipe

if TYPE_CHECKING:
    from pathlib import Path

Task = Literal["classify", "reconstruct"]
Side = Annotated[int, Field(ge=1, le=4096)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Augment = Literal["none", "affine", "flip", "affine-flip"]
Schedule = Literal["constant", "cosine"]

DEFAULT_ARCHITECTURES: dict[str, str] = {"classify": "resnet_small", "reconstruct": "autoencoder"}
SPLIT_TOLERANCE = 1e-6
# What a floor may be set on: of the first a run's value must be at least as large, of the second at most.
LARGER_IS_BETTER: dict[str, tuple[str, ...]] = {"classify": ("accuracy", "macro_f1"), "reconstruct": ("psnr", "ssim")}
SMALLER_IS_BETTER: dict[str, tuple[str, ...]] = {
    "classify": ("expected_calibration_error", "log_loss"),
    "reconstruct": ("binary_crossentropy", "mean_squared_error"),
}


class DataRecipe(BaseModel):
    """How a source becomes a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    height: Side | None = None
    """Pixels; None: the commonest size in the data, at most 224. Given together with `width`."""
    width: Side | None = None
    """Pixels; as `height`."""
    channels: Literal[1, 3] | None = None
    """1 or 3; None: 1 when every image is gray."""
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    """How an image of another size is made to fit."""
    split: tuple[Fraction, Fraction, Fraction] = (0.7, 0.15, 0.15)
    """Fractions of train, validation and test; they add up to 1."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Of the split; None: the dataset's own, and for a new dataset the run's."""
    conflicts: Literal["drop", "keep-first"] = "drop"
    """What happens to equal pixels under two labels."""
    group_by: str | None = None
    """A regular expression searched in the path; images with the same match (its first group, if it has one) stay
    in one part.
    """
    near_duplicates: bool = False
    """Count near-duplicates across parts."""
    group_near_duplicates: bool = False
    """Keep near-duplicates in one part."""
    max_image_pixels: int = Field(default=64_000_000, ge=1)
    """Larger images are quarantined without being decoded."""

    @field_validator("split")
    @classmethod
    def _adds_up(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(split) - 1.0) > SPLIT_TOLERANCE or split[0] <= 0.0:
            raise ValueError("must be three fractions (train, validation, test) that add up to 1, train above 0")
        return split

    @field_validator("group_by")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return pattern

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: give both, or neither to take the data's own")
        return self


class Recipe(BaseModel):
    """Everything that decides a training run, besides the images."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: Task = "classify"
    """Classify or reconstruct."""
    architecture: str | None = None
    """A name that `calotype architectures` prints; None: the task's default."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the architecture's builder, by name."""
    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Passes over the train part, at most. None, here and below: the family's own habit, which
    `models.catalogue.settle` fills in.
    """
    batch_size: int | None = Field(default=None, ge=1, le=65_536)
    """Rows per step."""
    optimizer: str | None = None
    """By its Keras name, in lower case."""
    learning_rate: float | None = Field(default=None, gt=0.0, le=100.0)
    """None: a rate at which this optimizer learns."""
    schedule: Schedule | None = None
    """Of the learning rate: constant, or a short warm-up and then a cosine down to zero."""
    augment: Augment | None = None
    """Of training images: small turns, shifts and zooms (affine), mirroring (flip), both or none."""
    class_weights: Literal["none", "balanced"] = "none"
    """Balanced: a label's images weigh as if all labels had equally many; classifiers only."""
    patience: int | None = Field(default=None, ge=0)
    """Epochs without a better validation loss after which training stops; 0: never before the end."""
    loss: str | None = None
    """None: chosen from the task and the number of classes."""
    devices: Literal["one", "all"] = "one"
    """All: every GPU of the machine, or without one every logical CPU, takes its share of each step."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of weights, shuffling and dropout; and of a new dataset's split, where `data.seed` is None."""
    quantize: Literal["none", "int8"] = "none"
    """Int8: publish a classifier with its large matrices in 8 bits, if that is faster and as right."""
    threshold_quantile: float = Field(default=0.99, ge=0.5, le=1.0)
    """Of the validation errors: the anomaly threshold of a reconstructing bundle."""
    floors: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """What the metrics of the test part must reach to be published: a minimum for accuracy, macro_f1, psnr and
    ssim, a maximum for log_loss, expected_calibration_error, binary_crossentropy and mean_squared_error.
    """
    data: DataRecipe = Field(default_factory=DataRecipe)
    """How the source becomes a snapshot."""

    @field_validator("class_weights")
    @classmethod
    def _weights_of_classes(cls, weights: str, info: ValidationInfo) -> str:
        if weights != "none" and info.data.get("task") == "reconstruct":
            raise ValueError("to reconstruct, there are no classes to weigh; leave it out, or use --task classify")
        return weights

    @field_validator("floors")
    @classmethod
    def _floors_of_the_task(cls, floors: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        task = info.data.get("task", "classify")
        known = (*LARGER_IS_BETTER[task], *SMALLER_IS_BETTER[task])
        if unknown := [name for name in floors if name not in known]:
            raise ValueError(f"to {task}, a floor can be set on {', '.join(known)}, not on {', '.join(unknown)}")
        return dict(sorted(floors.items()))

    @property
    def family(self) -> str:
        """The architecture's name, the task's default where none was given."""
        return self.architecture or DEFAULT_ARCHITECTURES[self.task]

    def to_dict(self) -> dict[str, Any]:
        """This recipe as plain JSON values, nested as in a recipe file."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A recipe from plain values, as `to_dict` writes them and a recipe file holds them.

        Raises:
            BadRecipe: an unknown key, a value of the wrong type, or one out of its bounds.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadRecipe(_sentence(error)) from error

    def digest(self) -> str:
        """16 hexadecimal digits that are equal for equal recipes, on any machine."""
        values = {**self.to_dict(), "architecture": self.family}
        if self.data.seed is None:
            values["data"]["seed"] = self.seed
        if self.devices == "one":
            del values["devices"]  # as when there was no such key: what is finished stays finished
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_recipe(path: Path) -> dict[str, Any]:
    """The tables of a recipe file: TOML, or JSON as each run keeps its own.

    Raises:
        BadRecipe: no such file, or neither of the two.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadRecipe(f"The recipe {path} can't be read: {error.strerror}.") from error
    except ValueError as error:  # of both parsers, and of bytes that are no UTF-8
        raise BadRecipe(f"The recipe {path} is not valid {path.suffix[1:].upper() or 'TOML'}: {error}.") from error
    if not isinstance(values, dict):
        raise BadRecipe(f"The recipe {path} must be a table of values. Received: {values!r}")
    return values


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` of `--set`: the dotted key, and the value read as TOML or else as a plain string.

    Raises:
        BadRecipe: there is no `=` or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadRecipe(f"--set takes KEY=VALUE, for example --set optimizer=sgd. Received: {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def merge(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of nested `values` in which the dotted `key` is `value`.

    Raises:
        BadRecipe: the key goes through something that is no table.
    """
    head, _, rest = key.partition(".")
    if not rest:
        return {**values, head: value}
    inner = values.get(head, {})
    if not isinstance(inner, dict):
        raise BadRecipe(f"{head!r} is a single value of the recipe, so {key!r} can't be set below it.")
    return {**values, head: merge(inner, rest, value)}


def _sentence(error: ValidationError) -> str:
    """One sentence for the first thing that is wrong, and how many more there are."""
    first, *others = error.errors(include_url=False, include_context=False)
    field = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or "recipe"
    if first["type"] == "extra_forbidden":
        known = ", ".join([*Recipe.model_fields, *(f"data.{name}" for name in DataRecipe.model_fields)])
        return f"The recipe has no key {field!r}. Known keys: {known}."
    what = first["msg"].removeprefix("Value error, ")
    what = what[0].lower() + what[1:]
    more = f" ({len(others)} more like this)" if others else ""
    return f"The recipe's {field!r} was refused: {what}. Received: {first['input']!r}{more}"
