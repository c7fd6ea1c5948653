"""The command `calotype`. Its commands load when they are asked for, so that `--help` answers at once.

The serving commands, and what exit status an error means, come from `serving.cli`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from typing import TYPE_CHECKING

import click

from pipelines import errors
from serving import cli as serving_cli

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS = {
    "demo": "Train, publish, serve and predict, on real digits that come along.",
    "run": "A folder of labelled images to a published model.",
    "ingest": "A folder of labelled images to a snapshot.",
    "train": "An ingested dataset to a trained run.",
    "tune": "Search for the best recipe, then run it.",
    "evaluate": "Judge a run or a published model on a test part.",
    "schedule": "Keep running the pipeline: at times, at intervals, or on new data.",
    "publish": "A trained run to the newest version of its model.",
    "architectures": "The model families with their sizes.",
}

STATUS: Mapping[type[Exception], int] = {
    **serving_cli.STATUS,
    errors.UsageError: serving_cli.MISUSED,
    errors.Refused: serving_cli.REFUSED,
    errors.PipelineError: serving_cli.FAILED,
}


class Commands(click.Group):
    """The commands of both wings; one is imported when it is asked for, and not for the list of all."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order of the work."""
        return [*COMMANDS, *serving_cli.COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """One command, or None when there is none of that name."""
        if cmd_name in serving_cli.COMMANDS:
            return serving_cli.load(cmd_name)
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pipelines.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from what is known without importing them."""
        known = {**COMMANDS, **serving_cli.COMMANDS}
        with formatter.section("Commands"):
            formatter.write_dl([(name, known[name]) for name in self.list_commands(ctx)])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("calotype"), prog_name="calotype")
def calotype() -> None:
    """Folders of labelled images in, a served model out.

    `calotype COMMAND --help` tells more. Results go to stdout, everything else to stderr.
    """


def main() -> None:
    """Run the command line of this process."""
    sys.exit(serving_cli.run(calotype, status=STATUS))


if __name__ == "__main__":
    main()
