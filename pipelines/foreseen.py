"""Whether a command will have to train, known before anything is started for it; imports no Prefect, no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.dataset import Snapshot
from pipelines.errors import PipelineError
from pipelines.ledger import current, data_recipe
from pipelines.runs import was_finished
from pipelines.train import settle, work_digest

if TYPE_CHECKING:
    from pipelines.config import Recipe
    from pipelines.workspace import Workspace


def was_done(place: Workspace, dataset: str, *, model: str, recipe: Recipe) -> bool:
    """Whether this was done before on the dataset, whatever images it had then, so that nothing may be new."""
    folder = place.datasets / dataset
    try:
        snapshot = Snapshot.open(current(folder))
        settled = settle(recipe.model_copy(update={"data": data_recipe(folder)}), snapshot)
        return was_finished(place, model=model, recipe=work_digest(settled))
    except (OSError, PipelineError):
        return False  # no such dataset yet, or what the ingest or the training will refuse
