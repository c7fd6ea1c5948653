"""The flows as `prefect.yaml` deploys them to work pools: parameters are plain, for the form in Prefect's page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow

from pipelines import space
from pipelines.config import Recipe  # noqa: TC001 - Prefect validates a flow's parameters by their types
from pipelines.errors import UsageError
from pipelines.flows import USUAL, WhenBusy, pipeline_flow
from pipelines.flows_tune import Goal, tune_flow
from pipelines.workspace import default_dataset_name

VARIABLE = "CALOTYPE_WORKSPACE"


@flow(name="calotype run", flow_run_name="{name}")
def run(
    *,
    source: str,
    name: str,
    dataset: str | None = None,
    recipe: Recipe = USUAL,
    workspace: Path | None = None,
    force: bool = False,
    when_busy: WhenBusy = "wait",
) -> str:
    """A folder of labelled images to a published model, if it is no worse than the version before.

    Args:
        source: A folder that the worker sees, a URL, or the name of a known set such as digits.
        name: The model is published under it.
        dataset: Its name in the workspace; by default the source's last component.
        recipe: How to train; what is left out the run chooses.
        workspace: The folder of datasets, runs and models, as the worker sees it; by default its CALOTYPE_WORKSPACE.
        force: Publish also where the gate can't tell: under 30 images to compare on.
        when_busy: While another run of the model is under way: wait for it, or refuse.

    Returns:
        The run's id.
    """
    outcome = pipeline_flow(
        source=source,
        name=name,
        dataset=dataset,
        recipe=recipe,
        workspace=_place(workspace),
        force=force,
        when_busy=when_busy,
    )
    return outcome.record.run


@flow(name="calotype tune", flow_run_name="{name}")
def tune(  # noqa: PLR0913 - they are the form in Prefect's page
    *,
    source: str,
    name: str,
    trials: int = 20,
    searched: dict[str, Any] | None = None,
    storage: str | None = None,
    dataset: str | None = None,
    recipe: Recipe = USUAL,
    workspace: Path | None = None,
    force: bool = False,
) -> str:
    """Search for the recipe with the smallest validation loss, then train, judge and publish with it.

    Args:
        source: A folder that the worker sees, a URL, or the name of a known set such as digits.
        name: The model is published under it.
        trials: How many the whole study is to have.
        searched: What to search, as in docs/tuning.md; by default what the family of models is most sensitive to.
        storage: Database of the trials, which several machines may share; by default a file in the workspace.
        dataset: Its name in the workspace; by default the source's last component.
        recipe: What is not searched.
        workspace: The folder of datasets, runs and models, as the worker sees it; by default its CALOTYPE_WORKSPACE.
        force: Publish also where the gate can't tell: under 30 images to compare on.

    Returns:
        The run's id.
    """
    wanted = space.usual(recipe) if searched is None else space.from_table(searched, where="given as `searched`")
    space.check(wanted, recipe)
    tuned = tune_flow(
        source=source,
        name=name,
        dataset=dataset or default_dataset_name(source),
        recipe=recipe,
        goal=Goal(wanted, trials, storage),
        workspace=_place(workspace),
        force=force,
    )
    return tuned.outcome.record.run


def _place(workspace: Path | None) -> Path:
    """The workspace; never below the folder that a worker is in, which is made for the run and removed after it.

    Raises:
        UsageError: it is relative, or nobody says which.
    """
    place = workspace or Path(os.environ.get(VARIABLE) or ".")
    if not place.is_absolute():
        raise UsageError(
            f"A deployed run needs the workspace's absolute path on its worker: give `workspace`, or set {VARIABLE} "
            f"there. Received: {str(place)!r}"
        )
    return place
