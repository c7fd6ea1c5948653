"""`calotype serve`: the flags of the server, made from its settings."""

from __future__ import annotations

import os
from typing import Any

import click

from serving import settings


@click.command("serve")
def command(**flags: str | None) -> None:
    """Serve the models of a repository over gRPC until SIGTERM or Ctrl-C.

    Prints one line with its addresses when it is ready. Every option is also an environment variable:
    --max-batch-rows is CALOTYPE_MAX_BATCH_ROWS.
    """
    chosen = settings.read(flags, os.environ)
    from serving import server

    raise SystemExit(server.run(chosen, say=click.echo))


def _option(name: str, default: Any) -> click.Option:
    known = settings.about(name)
    unit = f" {known.unit}" if known.unit and known.unit != "port" else ""
    metavar = "|".join(known.choices) or (known.unit.upper() if known.unit else name.upper())
    # Everything is text here, so that a flag and its variable are read, and refused, by the same code.
    return click.Option(
        [settings.flag(name)], type=str, metavar=metavar, help=f"{known.text}  [default: {default}{unit}]"
    )


command.params.extend(_option(name, default) for name, default in settings.defaults().items())
