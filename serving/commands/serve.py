"""`calotype serve`: the flags of the server, made from its settings."""

from __future__ import annotations

import os
from typing import Any

import click

from serving import settings


@click.command("serve")
def command(**flags: str | bool | None) -> None:
    """Serve the models of a repository over gRPC until SIGTERM or Ctrl-C.

    Prints one line with its addresses when it is ready. Every option is also an environment variable:
    --max-batch-rows is CALOTYPE_MAX_BATCH_ROWS.
    """
    # A flag without a value says true, or nothing: without it the environment is asked.
    texts = {name: ("true" if value else None) if isinstance(value, bool) else value for name, value in flags.items()}
    chosen = settings.read(texts, os.environ)
    # gRPC's core writes lines of its own on stderr beside our sentence, such as where in its C++ a port was taken. It
    # reads this when it is loaded, which must not have happened yet.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving import process

    raise SystemExit(process.run(chosen, say=click.echo))


def _option(name: str, default: Any) -> click.Option:
    known = settings.about(name)
    if isinstance(default, bool):
        return click.Option([settings.flag(name)], is_flag=True, help=known.text)
    unit = f" {known.unit}" if known.unit and known.unit != "port" else ""
    metavar = "|".join(known.choices) or known.unit.upper() or ("FILE" if default is None else name.upper())
    shown = "none" if default is None else f"{default}{unit}"
    # Everything is text here, so that a flag and its variable are read, and refused, by the same code.
    return click.Option([settings.flag(name)], type=str, metavar=metavar, help=f"{known.text}  [default: {shown}]")


command.params.extend(_option(name, default) for name, default in settings.defaults().items())
