"""`calotype tune`: search for the best recipe on the validation part, then run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pipelines.flows_tune import Tuned

SHOWN = 10


@click.command(short_help="Search for the best recipe, then run it.")
@click.argument("source")
@options.add(
    options.NAME,
    click.option(
        "--trials",
        type=click.IntRange(1, 1_000_000),
        default=20,
        show_default=True,
        help="How many, in the whole study.",
    ),
    click.option("--space", "space_file", type=click.Path(path_type=Path), help="What to search: a file in TOML."),
    click.option(
        "--storage", envvar="CALOTYPE_STORAGE", metavar="URL", help="Database of trials; by default in the workspace."
    ),
    options.TASK,
    *options.TRAINING,
    options.SEED,
    options.DATASET,
    *options.DATA,
    *options.RECIPE,
    options.FORCE,
    options.WORKSPACE,
    options.JSON,
)
def command(  # noqa: PLR0913 - one for each option
    *,
    source: str,
    model: str,
    trials: int,
    space_file: Path | None,
    storage: str | None,
    dataset: str | None,
    workspace: Path,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Search for the recipe of the smallest validation loss on SOURCE, then do with it what `calotype run` does.

    What the options set stays as it is; without --space the family's learning rate, batch size and own options are
    searched. The same command again goes on with its study until it has N trials, and so do other machines that
    share --storage.
    """
    from pipelines import space, tune
    from pipelines.commands import session
    from pipelines.secret import hide

    recipe = options.make_recipe(**given)
    session.check_request(recipe=recipe, source=source, model=model)
    name = session.dataset_name(dataset, source)
    searched = space.usual(recipe) if space_file is None else space.read(space_file)
    space.check(searched, recipe)
    if storage is not None:
        tune.check_storage(storage)
    with session.flows_ready():
        from pipelines.flows_tune import Goal, tune_flow

        tuned: Tuned = tune_flow(
            source=hide(source),
            name=model,
            dataset=name,
            recipe=recipe,
            goal=Goal(searched, trials, None if storage is None else hide(storage)),
            workspace=options.workspace_of(workspace).root,
            force=force,
        )
    _tell(tuned, as_json=as_json)


def _tell(tuned: Tuned, *, as_json: bool) -> None:
    from pipelines.commands import session
    from pipelines.commands.run import came_of_it
    from pipelines.errors import Refused

    study, outcome = tuned.study, tuned.outcome
    values = {
        "best": {"parameters": study.best.parameters, "value": study.best.value, "trial": study.best.number},
        "trials": len(study.trials),
        "pruned": study.count("pruned"),
        "failed": study.count("failed"),
        "study": study.name,
        "importance": study.importance,
        "charts": [str(picture) for picture in tuned.pictures],
        **session.run_values(outcome.record, nothing_new=outcome.nothing_new, seconds=outcome.seconds),
    }
    _show(tuned, came_of_it(outcome))
    if as_json:
        session.print_json(values)
    if outcome.record.was_turned_down and not outcome.nothing_new:
        raise Refused(str(outcome.record.reason))


def _show(tuned: Tuned, came_of_it: str) -> None:
    """The best trials, and what came of the best of all."""
    from pipelines.commands import tables
    from pipelines.progress import stderr_console

    study, record = tuned.study, tuned.outcome.record
    whole = [trial for trial in study.trials if trial.end == "complete" and trial.value is not None]
    best = sorted(whole, key=lambda trial: (trial.value, trial.number))[:SHOWN]
    names = list(study.best.parameters)
    body = [
        [str(trial.number), trial.value, *(trial.parameters.get(name) for name in names), f"{trial.seconds:.1f}"]
        for trial in best
    ]
    header = ["trial", "validation loss", *(name.removeprefix("options.") for name in names), "seconds"]
    counts = f"{len(study.trials)} trials, {study.count('pruned')} stopped early, {study.count('failed')} failed"
    screen = stderr_console()
    screen.print(tables.rows(f"{study.name}: {counts}", header, body))
    places = {"charts": "\n".join(map(str, tuned.pictures)), "report": record.report}
    screen.print(tables.pairs(f"{record.key.model}: {came_of_it}", {**record.metrics, **places}))
