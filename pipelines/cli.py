"""The command `calotype`. Its commands load when they run, so that `--help` answers at once.

The serving commands come from `serving.cli`, which also knows what exit status an error means.
"""

from __future__ import annotations

import importlib
import sys

import click

from serving import cli as serving_cli

COMMANDS = {
    "demo": "Train, publish, serve and predict, on real digits that come along.",
    "run": "A folder of labelled images to a published model.",
    "ingest": "A folder of labelled images to a snapshot.",
    "train": "An ingested dataset to a trained run.",
    "evaluate": "Judge a run or a published model on a test part.",
    "publish": "A trained run to the newest version of its model.",
    "architectures": "The model families with their sizes.",
}


class LazyGroup(click.Group):
    """A group that knows the names and the short helps of its commands, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the work."""
        return [*COMMANDS, *serving_cli.COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; for `--help` of the group a stand-in that knows its short help."""
        help_line = {**COMMANDS, **serving_cli.COMMANDS}.get(cmd_name)
        if help_line is None:
            return None
        wing = "pipelines" if cmd_name in COMMANDS else "serving"
        return importlib.import_module(f"{wing}.commands.{cmd_name}").command
