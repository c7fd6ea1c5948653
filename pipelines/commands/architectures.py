"""`calotype architectures`: the model families, and what is inside them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pipelines.config import Task
    from pipelines.models.catalogue import Architecture
    from serving.images import ImageSpec


@click.command(short_help="The model families with their sizes.")
@click.argument("name", required=False)
@click.option("--summary", is_flag=True, help="Layer by layer: output shape, parameters, multiply-adds. Takes seconds.")
@click.option("--image-size", default="28x28x1", show_default=True, metavar="HxW[xC]", help="The input of --summary.")
@click.option("--labels", default=10, show_default=True, type=click.IntRange(2), help="Of a classifier's --summary.")
@click.option(
    "--task",
    default="classify",
    show_default=True,
    type=click.Choice(["classify", "reconstruct"]),
    help="Of a model of your own.",
)
@options.JSON
def command(*, name: str | None, summary: bool, image_size: str, labels: int, task: Task, as_json: bool) -> None:
    """List the model families, or NAME alone: what each is for, how large it is, and the smallest image that it takes.

    NAME may be a model of your own, as module:function. The JSON has each family's default recipe as well.
    """
    from pipelines.commands import session, tables
    from pipelines.models import catalogue
    from pipelines.progress import stderr_console

    families = list(catalogue.ARCHITECTURES.values()) if name is None else [catalogue.known(name, own_task=task)]
    found = [dataclasses.asdict(family) for family in families]
    if summary:
        for family, values in zip(families, found, strict=True):
            values["layers"] = _layers(family, options.image_spec(image_size), labels)
            header = ["layer", "kind", "output", "parameters", "multiply-adds"]
            body = [list(layer.values()) for layer in values["layers"]]
            sums = [sum(layer[count] for layer in values["layers"]) for count in ("parameters", "multiply_adds")]
            stderr_console().print(tables.rows(family.name, header, [*body, ["all", "", "", *sums]]))
    else:
        header = ["name", "task", "parameters", "from", "what it is"]
        body = [
            [family.name, family.task, family.parameters, f"{family.smallest}x{family.smallest}", family.summary]
            for family in families
        ]
        title = "Model families; parameters for 28x28 gray images and ten labels"
        stderr_console().print(tables.rows(title, header, body))
    if as_json:
        session.print_json(found)


def _layers(family: Architecture, image: ImageSpec, labels: int) -> list[dict[str, Any]]:
    """The layers as rows of a table; a family that doesn't take such images is refused by name."""
    from pipelines.config import Recipe
    from pipelines.models import catalogue
    from pipelines.summary import layers_of

    catalogue.check_size(family, height=image.height, width=image.width)
    recipe = Recipe(task=family.task, architecture=family.name)
    return [
        dataclasses.asdict(layer) | {"output_shape": "x".join(map(str, layer.output_shape))}
        for layer in layers_of(recipe, image, classes=labels)
    ]
