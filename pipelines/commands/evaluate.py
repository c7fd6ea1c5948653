"""`calotype evaluate`: what a run's model, or a published one, is worth on a dataset's test part now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.assess import Assessment
    from pipelines.contender import Contender
    from pipelines.dataset import Snapshot
    from pipelines.workspace import Workspace


@click.command(short_help="Judge a run or a published model on a test part.")
@click.argument("run_or_model")
@options.add(
    click.option(
        "--dataset", metavar="NAME", help="Whose test part; by default of the dataset that it was trained on."
    ),
    click.option("--version", type=click.IntRange(min=1), metavar="N", help="Of a model; by default the one served."),
    options.WORKSPACE,
    options.JSON,
)
def command(*, run_or_model: str, dataset: str | None, version: int | None, workspace: Path, as_json: bool) -> None:
    """Judge RUN_OR_MODEL on the current test part of its dataset, with the code that serves it; writes nothing.

    RUN_OR_MODEL is the id of a run, or the name of a published model.
    """
    from pipelines import evaluate
    from pipelines.assess import assess
    from pipelines.commands import session
    from pipelines.progress import ProgressBars
    from serving.images import MAX_PIXELS

    place = options.workspace_of(workspace)
    model, which = _find(place, run_or_model, version=version)
    snapshot = _snapshot(place, dataset or model.bundle.dataset.get("name"))
    limit = (model.bundle.recipe.get("data") or {}).get("max_image_pixels", MAX_PIXELS)
    with ProgressBars() as bars:
        found = assess(model, snapshot, workspace=place, max_pixels=limit, progress=bars.report)
    metrics = evaluate.metrics(found.report)
    _show(metrics, found, title=f"{run_or_model} on the test part of {snapshot.dataset}")
    if as_json:
        values: dict[str, Any] = {
            "metrics": metrics,
            "task": model.bundle.task,
            "images": found.images,
            **which,
            "dataset": snapshot.dataset,
            "snapshot": snapshot.id,
            "left_out": found.left_out,
            "learned": found.learned,
        }
        session.print_json(values)


def _find(place: Workspace, run_or_model: str, *, version: int | None) -> tuple[Contender, dict[str, Any]]:
    """The model that is meant, and how a result names it."""
    from pipelines import contender
    from pipelines.errors import UsageError
    from pipelines.runs import RECORD, find_run
    from pipelines.workspace import check_name

    check_name(run_or_model, what="name of a run or model")
    is_run = (place.runs / run_or_model / RECORD).is_file()
    if is_run and version is None:
        record = find_run(place, run_or_model)
        return contender.of_run(place.runs / run_or_model), {"run": record.run, "model": record.key.model}
    if not (place.models / run_or_model).is_dir():
        raise UsageError(f"There is neither a run nor a model {run_or_model!r} in {place.root}.")
    model = contender.of_version(place.models, run_or_model, version or 0)
    return model, {"model": run_or_model, "version": model.bundle.version}


def _snapshot(place: Workspace, dataset: str | None) -> Snapshot:
    from pipelines.dataset import Snapshot
    from pipelines.errors import UsageError
    from pipelines.ledger import current
    from pipelines.workspace import check_name

    if dataset is None:
        raise UsageError("This model's bundle doesn't say what it was trained on; give --dataset NAME.")
    return Snapshot.open(current(place.datasets / check_name(dataset, what="dataset name")))


def _show(metrics: dict[str, float], found: Assessment, *, title: str) -> None:
    from pipelines.commands import tables
    from pipelines.progress import stderr_console

    rows = dict(metrics)
    if interval := found.report.get("accuracy_interval"):
        rows |= {"accuracy, 95 % from": interval[0], "to": interval[1]}
    screen = stderr_console()
    screen.print(tables.pairs(title, rows | found.left_out))
    if found.learned:
        screen.print(
            f"{found.learned} of these images are ones that the model learned from, so it may do worse on others."
        )
    elif found.learned is None:
        screen.print(
            "Which images the model learned from is not known any more (its snapshot is gone, or another calotype's): "
            "it may have learned some of these, and do worse on others."
        )
