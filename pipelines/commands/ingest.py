"""`calotype ingest`: a source to a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.flows_ingest import Runner


@click.command(short_help="A folder of labelled images to a snapshot.")
@click.argument("source")
@options.add(
    options.DATASET,
    options.TASK,
    options.SPLIT_SEED,
    *options.DATA,
    click.option("--verify", is_flag=True, help="Read every file, also those whose size and time didn't change."),
    *options.RUNNER,
    *options.RECIPE,
    options.WORKSPACE,
    options.JSON,
)
def command(
    *,
    source: str,
    dataset: str | None,
    workspace: Path,
    verify: bool,
    runner: Runner,
    runner_address: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Bring the dataset of SOURCE up to date: every file accounted for, decoded once, split for good.

    SOURCE is never written to. A second ingest reads only what is new or changed, and moves no image between parts.
    """
    from pipelines.commands import session, tables
    from pipelines.progress import stderr_console
    from pipelines.secret import hide

    if given["data_seed"] is None:
        given["data_seed"] = given["seed"]  # here it can be meant for the split alone
    recipe = options.make_recipe(**given)
    session.check_request(recipe=recipe, source=source)
    name = session.dataset_name(dataset, source)
    place = options.workspace_of(workspace)
    session.check_dataset(place.datasets / name, source=source, recipe=recipe)
    with session.flows_ready(source=source if runner == "local" else None, dataset_dir=place.datasets / name):
        from pipelines.flows_ingest import ingest_on

        result = ingest_on(
            runner,
            runner_address,
            source=hide(source),
            dataset=name,
            recipe=recipe,
            workspace=place.root,
            verify=verify,
        )
    for table in tables.ingested(result):
        stderr_console().print(table)
    if as_json:
        session.print_json(session.ingest_values(result))
