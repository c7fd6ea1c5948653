"""`calotype publish`: a trained run to the newest version of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="A trained run to the newest version of its model.")
@click.argument("run")
@options.add(options.FORCE, options.WORKSPACE, options.JSON)
def command(*, run: str, workspace: Path, force: bool, as_json: bool) -> None:
    """Publish RUN, the id that `calotype train` printed, if it passes the gate.

    A run is published once: again, its version is told again. One that a rollback withdrew gets a new version.
    """
    from pipelines.commands import session
    from pipelines.errors import Refused
    from pipelines.progress import stderr_console
    from pipelines.runs import find_run

    place = options.workspace_of(workspace)
    find_run(place, run)
    with session.flows_ready() as flows:
        record = flows.publish_run_flow(run=run, workspace=place.root, force=force)
    published = record.state == "published"
    if published:
        stderr_console().print(f"{record.key.model}: version {record.version} in {place.models}")
    if as_json:
        session.print_json(
            {
                "run": run,
                "model": record.key.model,
                "version": record.version if published else None,
                "published": published,
                "reason": record.reason,
            }
        )
    if not published:
        raise Refused(str(record.reason))
