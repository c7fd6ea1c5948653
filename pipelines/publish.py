"""A run that passed its gates becomes the newest version of its model. Knows the run's folder and the repository."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipelines.errors import UsageError
from pipelines.export import DRAFT, ONNX
from serving import bundle
from serving.bundle_json import from_json
from serving.errors import BadBundle

if TYPE_CHECKING:
    from pathlib import Path


def publish_run(folder: Path, models: Path, *, name: str, run: str) -> int:
    """Publish the bundle that `export` drafted, once: a run that was killed after this is not published again.

    Args:
        folder: the run's.
        models: the repository.
        name: of the model.
        run: the run's id, by which its version is known again.

    Returns:
        The version.

    Raises:
        UsageError: the run has not been exported, or its name can't be a model's.
        BadRepository: the repository can't be written; nothing was published.
    """
    try:
        draft = from_json((folder / DRAFT).read_bytes())
        model = (folder / ONNX).read_bytes()
    except (OSError, BadBundle) as error:
        raise UsageError(f"The run {run} has no exported model to publish ({error}). Run it again.") from error
    published = version_of(models, name=name, run=run)
    if published is not None:
        return published
    made_by = {**draft.made_by, "run": run}
    return bundle.publish(models, dataclasses.replace(draft, name=name, made_by=made_by), model)


def version_of(models: Path, *, name: str, run: str) -> int | None:
    """The version that a run was published as, or None; withdrawn ones are not looked at."""
    for version in reversed(bundle.versions(models, name)):
        try:
            made_by = bundle.read(models / name / str(version)).made_by
        except BadBundle:
            continue  # damaged, so nobody's champion
        if made_by.get("run") == run:
            return version
    return None
