"""`calotype train`: an ingested dataset to a trained, judged and exported run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="An ingested dataset to a trained run.")
@click.argument("dataset")
@options.add(
    click.option("--name", "model", metavar="MODEL", help="Name of the model to be; by default the dataset's."),
    options.TASK,
    *options.TRAINING,
    options.SEED,
    *options.RECIPE,
    options.WORKSPACE,
    options.JSON,
)
def command(*, dataset: str, model: str | None, workspace: Path, as_json: bool, **given: Any) -> None:
    """Train on DATASET's current snapshot, judge on its test part, and export; `calotype publish` does the rest."""
    from pipelines.commands import session, tables
    from pipelines.errors import Refused
    from pipelines.ledger import current
    from pipelines.progress import stderr_console
    from pipelines.workspace import check_name

    recipe = options.make_recipe(**given)
    session.check_request(recipe=recipe, model=model or dataset)
    place = options.workspace_of(workspace)
    current(place.datasets / check_name(dataset, what="dataset name"))
    with session.flows_ready(will_train=True) as flows:
        record = flows.learn_flow(dataset=dataset, name=model or dataset, recipe=recipe, workspace=place.root)
    stderr_console().print(tables.pairs(f"run {record.run}", {**record.metrics, "report": record.report}))
    if as_json:
        session.print_json({"run": record.run, "metrics": record.metrics, "report": record.report})
    if record.was_turned_down:
        raise Refused(str(record.reason))
