"""The search as a Prefect flow: ingest, trials on the train and validation parts, then the pipeline with the best.

Each trial trains in a process of its own, which ends with it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_table_artifact

from pipelines import backend, flows, space, train, trials, tune
from pipelines.dataset import Snapshot
from pipelines.errors import BadSource
from pipelines.flows_ingest import ingest_flow
from pipelines.flows_runtime import use_runtime
from pipelines.models import catalogue
from pipelines.outcome import Clock, Outcome
from pipelines.pictures import data_url
from pipelines.process import HeavyProcess
from pipelines.secret import reveal
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.config import Recipe
    from pipelines.space import Parameters, Space
    from pipelines.tune import Report, Search, Study

DATABASE = "studies.db"
UNLEARNED = {"data", "floors", "quantize", "threshold_quantile"}  # of a recipe: no validation loss depends on them


@dataclass(frozen=True, slots=True)
class Goal:
    """What a search is to do.

    Attributes:
        space: what is searched.
        trials: how many are to end in the study, those of earlier calls included.
        storage: URL of the study's database, as `secret.hide` gives it; None: a file in the workspace.
    """

    space: Space
    trials: int
    storage: str | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of a search.

    Attributes:
        study: its trials.
        outcome: of the run of the best recipe, the search's seconds among its own.
        pictures: files in the run's folder.
    """

    study: Study
    outcome: Outcome
    pictures: tuple[Path, ...]


@flow(name="tune", flow_run_name="tune {name}", validate_parameters=False)
def tune_flow(
    *,
    source: str,
    name: str,
    dataset: str,
    recipe: Recipe,
    goal: Goal,
    workspace: Path,
    force: bool = False,
) -> Tuned:
    """SOURCE to a published model of the recipe that did best on the validation part; the test part waits until then.

    Args:
        source: a folder, a URL, or the name of a known set.
        name: of the model.
        dataset: its name in the workspace.
        recipe: what is not searched.
        goal: what is, and how long.
        workspace: the workspace's folder.
        force: let the gate pass what it can't tell.
    """
    clock = Clock()
    with use_runtime() as here:
        here.bars.begin(f"{name}: {recipe.family} on {dataset}, {goal.trials} trials")
        ingested = ingest_flow(source=source, dataset=dataset, recipe=recipe, workspace=workspace)
        snapshot = Snapshot.open(ingested.path)
        _check(snapshot, recipe, goal.space)
        asked = _asked(snapshot, recipe, goal, name=name, workspace=workspace)
        with clock.stage("search"):
            study = _search(asked, snapshot.path, recipe)
        best = space.apply(recipe, study.best.parameters)
        outcome = flows.pipeline_flow(
            source=source, name=name, dataset=dataset, recipe=best, workspace=workspace, force=force
        )
        pictures = trials.keep(study, goal.space, Workspace(workspace).runs / outcome.record.run)
        _show_in_prefect(study, pictures, model=name)
        for stage, seconds in (*ingested.seconds.items(), *outcome.seconds.items()):
            clock.add(stage, seconds)
        return Tuned(study, Outcome(outcome.record, ingested, clock.seconds), pictures)


def _check(snapshot: Snapshot, recipe: Recipe, searched: Space) -> None:
    """Refuse before the first trial what would fail in every one.

    Raises:
        BadSource: there is nothing to compare trials on.
        BadRecipe: a recipe of the space doesn't fit the images.
    """
    if not snapshot.part("validation").rows:
        raise BadSource("The search compares trials on the validation part, and it is empty: see --split.")
    for family in _families(recipe, searched):
        train.settle(space.apply(recipe, {"architecture": family}), snapshot)


def _families(recipe: Recipe, searched: Space) -> tuple[str, ...]:
    choice = searched.get("architecture")
    return (recipe.family,) if choice is None else tuple(map(str, choice.examples))


def _asked(snapshot: Snapshot, recipe: Recipe, goal: Goal, *, name: str, workspace: Path) -> Search:
    """The search, under a name that is another one as soon as its trials could not be compared."""
    settled = train.settle(recipe, snapshot)
    learned = settled.model_dump(mode="json", exclude=UNLEARNED)
    code = [catalogue.find(name, task=recipe.task).source_hash() for name in _families(recipe, goal.space)]
    same = json.dumps([snapshot.id, learned, code, space.to_dict(goal.space)], sort_keys=True)
    workspace.mkdir(parents=True, exist_ok=True)
    return tune.Search(
        name=f"{name}-{hashlib.sha256(same.encode()).hexdigest()[:12]}",
        storage=reveal(goal.storage) if goal.storage else f"sqlite:///{workspace / DATABASE}",
        space=goal.space,
        start=space.start(goal.space, recipe),
        trials=goal.trials,
        warm_up_epochs=max(1, (settled.epochs or 1) // 3),
        seed=recipe.seed,
    )


@task(name="search")
def _search(asked: Search, snapshot: Path, recipe: Recipe) -> Study:
    with use_runtime() as here:
        screen = trials.Screen(here.bars, asked.trials)

        def run(number: int, parameters: Parameters, tell: Report) -> float:
            def progress(news: dict[str, Any]) -> None:
                screen.epoch(number, news)
                if "val_loss" in news:
                    tell(int(news["epoch"]), float(news["val_loss"]))

            return _one_trial(snapshot, space.apply(recipe, parameters), progress)

        return tune.search(asked, run, after_trial=screen.ended)


def _one_trial(snapshot: Path, recipe: Recipe, progress: Callable[[dict[str, Any]], None]) -> float:
    """The smallest validation loss of a training; when `progress` raises, its process is stopped."""
    with (
        tempfile.TemporaryDirectory(prefix="calotype-trial-") as folder,
        HeavyProcess(preload=backend.start) as heavy,
    ):
        result = heavy.call(train.fit, snapshot, recipe, Path(folder), progress=progress)
        return min(result.history["val_loss"])


def _show_in_prefect(study: Study, pictures: tuple[Path, ...], *, model: str) -> None:
    slug = flows.artifact_key(model)
    rows: list[Any] = [
        {"trial": trial.number, "loss": trial.value, "end": trial.end, **trial.parameters} for trial in study.trials
    ]
    create_table_artifact(rows, key=f"{slug}-trials", description=f"The trials of {study.name}")
    for picture in pictures:
        key = f"{slug}-tune-{picture.stem}"
        create_image_artifact(data_url(picture.read_bytes()), key=key, description=f"The search: {picture.stem}")
