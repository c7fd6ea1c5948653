"""`calotype architectures`: the model families."""

from __future__ import annotations

import dataclasses

import click

from pipelines.commands import options


@click.command(short_help="The model families with their sizes.")
@options.JSON
def command(*, as_json: bool) -> None:
    """List the model families: what each is for, how large it is, and the smallest image that it takes.

    The JSON has each family's default recipe as well.
    """
    from pipelines.commands import session, tables
    from pipelines.models.catalogue import ARCHITECTURES
    from pipelines.progress import stderr_console

    families = ARCHITECTURES.values()
    header = ["name", "task", "parameters", "from", "what it is"]
    body = [
        [
            family.name,
            family.task,
            family.parameters,
            f"{family.smallest}x{family.smallest}",
            family.summary,
        ]
        for family in families
    ]
    title = "Model families; parameters for 28x28 gray images and ten labels"
    stderr_console().print(tables.rows(title, header, body))
    if as_json:
        session.print_json([dataclasses.asdict(family) for family in families])
