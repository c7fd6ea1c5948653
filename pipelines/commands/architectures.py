"""`calotype architectures`: the model families."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pipelines.models.catalogue import Habits


@click.command(short_help="The model families with their sizes.")
@options.JSON
def command(*, as_json: bool) -> None:
    """List the model families: what each is for, how large it is, and how it is trained unless told otherwise."""
    from pipelines.commands import session, tables
    from pipelines.models.catalogue import ARCHITECTURES
    from pipelines.progress import stderr_console

    families = ARCHITECTURES.values()
    header = ["name", "task", "parameters", "smallest image", "default recipe", "what it is"]
    body = [
        [
            family.name,
            family.task,
            family.parameters,
            f"{family.smallest}x{family.smallest}",
            _in_words(family.habits),
            family.summary,
        ]
        for family in families
    ]
    title = "Parameters are for 28x28 gray images, and ten labels"
    stderr_console().print(tables.rows(title, header, body))
    if as_json:
        session.print_json([dataclasses.asdict(family) for family in families])


def _in_words(habits: Habits) -> str:
    return f"{habits.epochs} epochs, batch {habits.batch_size}, {habits.optimizer} {habits.learning_rate:g}"
