"""`calotype run`: ingest, split, train, evaluate, export, gate, publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.flows_ingest import Runner
    from pipelines.outcome import Outcome


@click.command(short_help="A folder of labelled images to a published model.")
@click.argument("source")
@options.add(
    options.NAME,
    options.TASK,
    *options.TRAINING,
    options.SEED,
    options.DATASET,
    *options.DATA,
    *options.RUNNER,
    *options.RECIPE,
    options.FORCE,
    options.WORKSPACE,
    options.JSON,
)
def command(
    *,
    source: str,
    model: str,
    dataset: str | None,
    workspace: Path,
    force: bool,
    runner: Runner,
    runner_address: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Ingest SOURCE, split it, train, evaluate, export with proof, and publish as MODEL if it is no worse than before.

    SOURCE is a folder with one subfolder of images per label, or train/, validation/ and test/ of such; a URL of one;
    or the name of a known data set. It is never written to. The same command again, with nothing new in SOURCE,
    trains nothing and says so.
    """
    from pipelines.commands import session, tables
    from pipelines.errors import Refused
    from pipelines.foreseen import was_done
    from pipelines.progress import stderr_console
    from pipelines.secret import hide

    recipe = options.make_recipe(**given)
    session.check_request(recipe=recipe, source=source, model=model)
    name = session.dataset_name(dataset, source)
    place = options.workspace_of(workspace)
    with session.flows_ready(
        source=source if runner == "local" else None,
        dataset_dir=place.datasets / name,
        will_train=not was_done(place, name, model=model, recipe=recipe),
    ) as flows:
        outcome: Outcome = flows.pipeline_flow(
            source=hide(source),
            name=model,
            dataset=name,
            recipe=recipe,
            workspace=place.root,
            force=force,
            runner=runner,
            runner_address=runner_address,
        )
    values = session.run_values(outcome.record, nothing_new=outcome.nothing_new, seconds=outcome.seconds)
    screen = stderr_console()
    for table in tables.ingested(outcome.ingested):
        screen.print(table)
    screen.print(tables.pairs(f"{model}: {came_of_it(outcome)}", {**values["metrics"], "report": values["report"]}))
    if as_json:
        session.print_json(values)
    if outcome.record.was_turned_down and not outcome.nothing_new:
        raise Refused(str(outcome.record.reason))


def came_of_it(outcome: Outcome) -> str:
    """How a run ended, in a few words."""
    record = outcome.record
    if outcome.nothing_new:
        known = f" (published as version {record.version})" if record.state == "published" else ""
        return f"nothing new since run {record.run}{known}, so nothing was trained"
    if record.state == "published":
        return f"published as version {record.version}"
    return f"{record.state}: {record.reason}"
