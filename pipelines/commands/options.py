"""The options that the pipeline's commands share, and how they become a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipelines.errors import BadRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines.config import Recipe
    from pipelines.workspace import Workspace
    from serving.images import ImageSpec

Command = TypeVar("Command", bound="Callable[..., Any]")

IMAGE_SIZE = re.compile(r"(\d+)[xX](\d+)(?:[xX](\d+))?")

WORKSPACE = click.option(
    "--workspace",
    envvar="CALOTYPE_WORKSPACE",
    default="workspace",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that holds datasets, runs and models.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")
NAME = click.option("--name", "model", required=True, metavar="MODEL", help="Name that the model is published under.")
DATASET = click.option("--dataset", metavar="NAME", help="Name of the dataset; by default SOURCE's last component.")

DATA = (
    click.option("--image-size", metavar="HxW[xC]", help="Pixels; by default the commonest size, at most 224."),
    click.option("--resize", metavar="stretch|pad|crop", help="How images of another size are made to fit. [stretch]"),
    click.option("--split", metavar="A,B,C", help="Fractions of train, validation and test. [0.7,0.15,0.15]"),
    click.option(
        "--split-seed",
        "data_seed",
        type=int,
        metavar="N",
        help="Seed of the split; by default a new dataset's is --seed, and stays.",
    ),
    click.option("--conflicts", metavar="drop|keep-first", help="Equal pixels under two labels. [drop]"),
    click.option("--group-by", metavar="REGEX", help="Files whose path matches alike stay in one part."),
    click.option("--near-duplicates", is_flag=True, default=None, help="Count near-duplicates across parts."),
    click.option("--group-near-duplicates", is_flag=True, default=None, help="Keep near-duplicates in one part."),
    click.option("--max-image-pixels", type=int, metavar="N", help="Larger images are quarantined. [64000000]"),
)
SEED = click.option("--seed", type=int, metavar="N", help="Of weights and shuffling, and of a new dataset's split. [0]")
SPLIT_SEED = click.option("--seed", type=int, metavar="N", help="Of the split, as --split-seed. [0]")
TRAINING = (
    click.option("--architecture", metavar="NAME", help="See `calotype architectures`."),
    click.option("--epochs", type=int, metavar="N", help="Passes over the train part, at most."),
    click.option("--batch-size", type=int, metavar="N", help="Rows per step."),
    click.option("--optimizer", metavar="NAME", help="adam, sgd, adadelta, adamw … [adam]"),
    click.option("--learning-rate", type=float, metavar="X", help="By default one at which the optimizer learns."),
    click.option("--devices", metavar="one|all", help="Of this machine; each takes a share of every step. [one]"),
    click.option("--quantize", metavar="none|int8", help="A smaller, faster graph where it is as right. [none]"),
    click.option("--loss", metavar="NAME", help="By default chosen from the task and the number of classes."),
)
RUNNER = (
    click.option(
        "--runner",
        type=click.Choice(["local", "dask", "ray"]),
        default="local",
        show_default=True,
        help="Where images are decoded.",
    ),
    click.option("--runner-address", metavar="URL", help="Of the cluster's scheduler; by default one on this machine."),
)
TASK = click.option("--task", metavar="classify|reconstruct", help="What the model is for. [classify]")
RECIPE = (
    click.option(
        "--recipe", "recipe_file", type=click.Path(path_type=Path), help="A recipe file: TOML, or a run's recipe.json."
    ),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One value of the recipe; repeatable."),
)
FORCE = click.option(
    "--force", is_flag=True, help="Publish also where the gate can't tell: under 30 images to compare on."
)


def add(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator out of several options; `--help` lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def make_recipe(
    *,
    recipe_file: Path | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> Recipe:
    """The recipe that a command line asks for: the file's, then `--set`, then the options by name.

    Args:
        recipe_file: a TOML file.
        settings: `KEY=VALUE` texts.
        options: the values of the options above by parameter name; None where not given.

    Raises:
        BadRecipe: any of it is not a recipe; the sentence names the key.
    """
    from pipelines.config import Recipe, merge, parse_setting, read_recipe

    values = read_recipe(recipe_file) if recipe_file is not None else {}
    for text in settings:
        values = merge(values, *parse_setting(text))
    for key, value in _named(options).items():
        values = merge(values, key, value)
    return Recipe.from_dict(values)


def workspace_of(folder: Path) -> Workspace:
    """The workspace at `folder`, absolute, so that it means the same in every process."""
    from pipelines.workspace import Workspace

    return Workspace(folder.absolute())


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Options as dotted recipe keys, those left out of the command line left out here as well."""
    given = {name: value for name, value in options.items() if value is not None}
    size = given.pop("image_size", None)
    split = given.pop("split", None)
    names = {
        "resize": "data.resize",
        "data_seed": "data.seed",
        "conflicts": "data.conflicts",
        "group_by": "data.group_by",
        "near_duplicates": "data.near_duplicates",
        "group_near_duplicates": "data.group_near_duplicates",
        "max_image_pixels": "data.max_image_pixels",
    }
    named = {names.get(name, name): value for name, value in given.items()}
    if size is not None:
        named |= _image_size(size)
    if split is not None:
        named["data.split"] = _split(split)
    return named


def _image_size(text: str) -> dict[str, int]:
    match = IMAGE_SIZE.fullmatch(text.strip())
    if match is None:
        raise BadRecipe(f"--image-size takes HxW or HxWxC, for example 28x28 or 224x224x3. Received: {text!r}")
    height, width, channels = match.groups()
    named = {"data.height": int(height), "data.width": int(width)}
    return named | ({"data.channels": int(channels)} if channels else {})


def image_spec(text: str) -> ImageSpec:
    """`HxW` or `HxWxC` as images that a model takes; gray unless told.

    Raises:
        BadRecipe: it is neither.
    """
    from serving.images import ImageSpec

    size = _image_size(text)
    return ImageSpec(size["data.height"], size["data.width"], size.get("data.channels", 1), "stretch")


def _split(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BadRecipe(f"--split takes three fractions, for example 0.7,0.15,0.15. Received: {text!r}") from error
