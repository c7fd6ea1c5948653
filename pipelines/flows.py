"""The pipeline as Prefect flows: one per stage, and one that runs them all.

The files named `flows` are the only ones that import Prefect. A task is a line around a plain function of the rooms
below; between tasks travel ids, paths and small numbers, never arrays. Whoever calls a flow gives it a `Runtime` by
`use_runtime`; a flow that finds none, as in a Prefect worker, makes its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from pipelines import ending, evaluate, report
from pipelines.config import Recipe
from pipelines.dataset import Snapshot
from pipelines.errors import UsageError
from pipelines.export import DRAFT, ExportResult, export_run
from pipelines.flows_ingest import Runner, ingest_on
from pipelines.flows_runtime import RETRIED, runtime, use_runtime
from pipelines.foreseen import was_done
from pipelines.gate import GateResult, judge_run
from pipelines.judge import evaluate_run
from pipelines.ledger import current, data_recipe
from pipelines.model_lock import run_turn
from pipelines.models import catalogue
from pipelines.outcome import Clock, Outcome, Released, summary
from pipelines.pictures import data_url
from pipelines.publish import publish_run, refuse_withdrawn, version_of
from pipelines.runs import Run, RunKey, RunRecord, finished_run, reopen_run, start_run
from pipelines.train import TrainResult, fit, settle, work_digest
from pipelines.workspace import Workspace, check_name, default_dataset_name

if TYPE_CHECKING:
    from pipelines.progress import ProgressBars

WhenBusy = Literal["wait", "refuse"]

PATIENCE_SECONDS = {"wait": float("inf"), "refuse": 2.0}  # a holder that was just killed lets go within two seconds
USUAL = Recipe()
COUNTED = ("train", "validation", "test", "quarantined", "duplicates")


# ---- the stages of a run ------------------------------------------------------------------------


@task(name="fit")
def _fit(snapshot: Path, recipe: Recipe, folder: Path) -> TrainResult:
    here = runtime()
    return here.heavy.call(fit, snapshot, recipe, folder, progress=lambda news: _show_epoch(here.bars, news))


@flow(name="train", flow_run_name="train {folder.name}")
def train_flow(*, snapshot: Path, recipe: Recipe, folder: Path) -> TrainResult:
    """A snapshot to `model.keras`; goes on where a killed training stopped.

    Args:
        snapshot: the snapshot's folder.
        recipe: how to train.
        folder: the run's.
    """
    with use_runtime():
        return _fit(snapshot, recipe, folder)


@task(name="judge")
def _judge(snapshot: Path, recipe: Recipe, folder: Path) -> dict[str, float]:
    return evaluate.metrics(runtime().heavy.call(evaluate_run, snapshot, recipe, folder))


@flow(name="evaluate", flow_run_name="evaluate {folder.name}")
def evaluate_flow(*, snapshot: Path, recipe: Recipe, folder: Path) -> dict[str, float]:
    """`model.keras` to its report on the test part; arguments as in `train_flow`.

    Returns:
        the metrics.
    """
    with use_runtime() as here:
        here.bars.report("evaluate", 0, 1)
        metrics = _judge(snapshot, recipe, folder)
        here.bars.report("evaluate", 1, 1, note=summary(metrics))
        return metrics


@task(name="convert and compare")
def _export(snapshot: Path, recipe: Recipe, folder: Path) -> ExportResult:
    return runtime().heavy.call(export_run, snapshot, recipe, folder)


@flow(name="export", flow_run_name="export {folder.name}")
def export_flow(*, snapshot: Path, recipe: Recipe, folder: Path) -> ExportResult:
    """`model.keras` to `model.onnx`, past the parity gate; arguments as in `train_flow`.

    Raises:
        ParityFailed: the two don't answer alike.
    """
    with use_runtime() as here:
        here.bars.report("export", 0, 1)
        result = _export(snapshot, recipe, folder)
        note = f"as Keras within {result.parity.max_abs_diff:.1e} on {result.parity.rows} images"
        here.bars.report("export", 1, 1, note=note)
        return result


@task(name="gate")
def _gate(folder: Path, name: str, snapshot: Path, recipe: Recipe, workspace: Path, force: bool) -> GateResult:  # noqa: FBT001
    bars, place = runtime().bars, Workspace(workspace)
    bars.report("gate", 0, None)
    found = judge_run(
        folder, name=name, snapshot=snapshot, recipe=recipe, workspace=place, force=force, progress=bars.report
    )
    bars.report("gate", found.images or 1, found.images or 1, note=_in_short(found))
    if found.warning:
        bars.tell(f"gate: {found.warning}")
    return found


def _in_short(found: GateResult) -> str:
    if not found.passed:
        return "refused"
    return f"passed, against version {found.champion}" if found.champion else "first version: nothing to compare with"


@task(name="publish", **RETRIED)
def _publish(folder: Path, models: Path, name: str, expected: tuple[int, ...]) -> int | None:
    return publish_run(folder, models, name=name, run=folder.name, expected=expected)


@flow(name="publish", flow_run_name="publish {name}")
def publish_flow(
    *, folder: Path, name: str, snapshot: Path, recipe: Recipe, workspace: Path, force: bool = False
) -> Released:
    """An exported run past the gate to the newest version of its model; one that is published already stays so.

    Args:
        folder: the run's.
        name: of the model.
        snapshot: the snapshot's folder.
        recipe: of the run.
        workspace: the workspace's folder.
        force: let the gate pass what it can't tell.
    """
    models, clock = Workspace(workspace).models, Clock()
    with use_runtime() as here:
        with clock.stage("publish"):
            version = version_of(models, name=name, run=folder.name)
        while version is None:  # another publisher may come between the two: then there is another champion to beat
            with clock.stage("gate"):
                found = _gate(folder, name, snapshot, recipe, workspace, force)
            if not found.passed:
                return Released(None, found.reason, clock.seconds)
            with clock.stage("publish"):
                version = _publish(folder, models, name, found.versions)
        here.bars.report("publish", 1, 1, note=f"{name} version {version}")
        return Released(version, None, clock.seconds)


# ---- all of it ----------------------------------------------------------------------------------


@flow(name="calotype", flow_run_name="{name}")
def pipeline_flow(  # noqa: PLR0913 - they are the form in Prefect's page
    *,
    source: str,
    name: str,
    dataset: str | None = None,
    recipe: Recipe = USUAL,
    workspace: Path = Path("workspace"),
    force: bool = False,
    runner: Runner = "local",
    runner_address: str | None = None,
    when_busy: WhenBusy = "wait",
) -> Outcome:
    """SOURCE to a published model: ingest, split, train, evaluate, export, gate, publish.

    Args:
        source: a folder, a URL, or the name of a known set.
        name: of the model.
        dataset: its name in the workspace; by default the last component of the source.
        recipe: what to make of it.
        workspace: the workspace's folder.
        force: let the gate pass what it can't tell; it also asks once more for a finished run that was refused.
        runner: where images are decoded: local, dask or ray.
        runner_address: of the cluster's scheduler.
        when_busy: what to do while another run of the model is under way: wait for it to end, or refuse.
    """
    place = _checked(workspace, name, recipe)
    dataset = dataset or default_dataset_name(source)
    with (
        use_runtime() as here,
        run_turn(place, name, patience_seconds=PATIENCE_SECONDS[when_busy], told=here.bars.tell),
    ):
        here.bars.begin(f"{name}: {recipe.family} on {dataset}")
        place.models.mkdir(parents=True, exist_ok=True)  # a prediction server may be started on it already
        if not was_done(place, dataset, model=name, recipe=recipe):
            here.heavy.start()  # while images are read; where there may be nothing new, it is not worth it
        ingested = ingest_on(
            runner,
            runner_address,
            source=source,
            dataset=dataset,
            recipe=recipe,
            workspace=place.root,
            training=True,
        )
        snapshot = Snapshot.open(ingested.path)
        recipe = recipe.model_copy(update={"data": data_recipe(place.datasets / dataset)})  # its choices filled in
        record, seconds = _learn(snapshot, model=name, recipe=recipe, workspace=place, publish=True, force=force)
        return Outcome(record, ingested, seconds=ingested.seconds | seconds)


@flow(name="learn", flow_run_name="{name}")
def learn_flow(*, dataset: str, name: str, recipe: Recipe, workspace: Path) -> RunRecord:
    """An ingested dataset to a trained, judged and exported run, not published.

    Args:
        dataset: its name in the workspace.
        name: of the model to be.
        recipe: what to make of it.
        workspace: the workspace's folder.
    """
    place = _checked(workspace, name, recipe)
    folder = place.datasets / check_name(dataset, what="dataset name")
    with use_runtime():
        snapshot = Snapshot.open(current(folder))
        if recipe.task == "classify" and "" in snapshot.labels:
            raise UsageError(
                f"The dataset {dataset!r} was last ingested for --task reconstruct, with files that have no label. "
                "Ingest it for --task classify first, or keep one --dataset per task."
            )
        recipe = recipe.model_copy(update={"data": data_recipe(folder)})
        return _learn(snapshot, model=name, recipe=recipe, workspace=place, publish=False)[0]


def _checked(workspace: Path, name: str, recipe: Recipe) -> Workspace:
    """The workspace, absolute; a flow may be called by anybody, so names and recipe are looked at here."""
    check_name(name, what="model name")
    catalogue.settle(recipe)
    return Workspace(workspace.absolute())


def _learn(
    snapshot: Snapshot, *, model: str, recipe: Recipe, workspace: Workspace, publish: bool, force: bool = False
) -> tuple[RunRecord, dict[str, float]]:
    """The record of the run that this work needed, and the seconds it took; none when it was done before."""
    recipe = settle(recipe, snapshot)  # what doesn't fit the data is refused before there is a run
    key = RunKey(snapshot=snapshot.id, model=model, recipe=work_digest(recipe))
    known = finished_run(workspace, key)
    if known is not None:
        exported = (workspace.runs / known.run / DRAFT).exists()
        if not (publish and force and known.state == "refused" and exported):
            return ending.with_page(workspace, known, tell=runtime().bars.tell), {}
        with reopen_run(workspace, known.run) as held:
            seconds = _release(held, workspace, force=True)
            ending.make_page(held, Clock(), tell=runtime().bars.tell)
            return held.record, seconds
    asked = RunRecord(
        run="",
        state="started",
        key=key,
        dataset=snapshot.dataset,
        snapshot_path=str(snapshot.path),
        recipe=recipe.to_dict(),
        images={part: snapshot.counts[part] for part in COUNTED},
    )
    clock = Clock()
    with start_run(workspace, asked) as run:
        run.update(untold=runtime().scheduled)
        try:
            with ending.written_down(run):
                _stages(run, clock, recipe=recipe)
                if not publish:
                    run.update(state="trained")
                else:
                    refuse_withdrawn(workspace.models, name=model, run=run.record.run)
                    clock.seconds |= _release(run, workspace, force=force)
        finally:
            run.update(seconds=clock.seconds)
            ending.make_page(run, clock, tell=runtime().bars.tell)
        _show_in_prefect(run)
        return run.record, clock.seconds


def _stages(run: Run, clock: Clock, *, recipe: Recipe) -> None:
    """Train, evaluate and export."""
    work: Any = {"snapshot": Path(run.record.snapshot_path), "recipe": recipe, "folder": run.folder}
    with clock.stage("train"):
        trained = train_flow(**work)
    clock.add("fit", trained.fit_seconds)
    with clock.stage("evaluate"):
        run.update(metrics=evaluate_flow(**work))
    with clock.stage("export"):
        run.update(metrics=export_flow(**work).metrics)  # of what is published, which int8 makes another graph


def _release(run: Run, workspace: Workspace, *, force: bool) -> dict[str, float]:
    """Publish a held run past the gate, write down what came of it, and return the seconds by stage."""
    record = run.record
    released = publish_flow(
        folder=run.folder,
        name=record.key.model,
        snapshot=Path(record.snapshot_path),
        recipe=Recipe.from_dict(record.recipe),
        workspace=workspace.root,
        force=force,
    )
    if released.version is None:
        ending.refuse(run, released.reason)
    else:
        run.update(state="published", version=released.version, reason=None)
    return released.seconds


@flow(name="publish run", flow_run_name="{run}")
def publish_run_flow(*, run: str, workspace: Path, force: bool = False) -> RunRecord:
    """A run that was trained without being published, past the gate to the newest version of its model.

    Args:
        run: its id.
        workspace: the workspace's folder.
        force: let the gate pass what it can't tell.
    """
    place = Workspace(workspace)
    with use_runtime() as here, reopen_run(place, run) as held:
        _release(held, place, force=force)
        ending.make_page(held, Clock(), tell=here.bars.tell)
        return held.record


def _show_epoch(bars: ProgressBars, news: dict[str, Any]) -> None:
    figures = [f"{name} {news[name]:.4f}" for name in ("loss", "val_loss", "val_accuracy") if name in news]
    bars.report("train", int(news["epoch"]), int(news["epochs"]), note=", ".join(figures))


def artifact_key(model: str) -> str:
    """A model's name as Prefect's artifacts take it."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-") or "model"


def _show_in_prefect(run: Run) -> None:
    """What a person looks for in Prefect's page: a summary, the metrics, and the curve."""
    slug = artifact_key(run.record.key.model)
    create_markdown_artifact(report.markdown(run.record), key=f"{slug}-summary", description="What came of the run")
    rows = [{"metric": name, "value": value} for name, value in run.record.metrics.items()]
    create_table_artifact(rows, key=f"{slug}-metrics", description="On the test part")
    curve = report.curve(run.folder)
    if curve is not None:
        create_image_artifact(data_url(curve), key=f"{slug}-curve", description="Loss by epoch")
