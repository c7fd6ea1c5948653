"""A run that passed its gates becomes the newest version of its model. Knows the run's folder and the repository."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from pipelines.errors import Refused, UsageError
from pipelines.export import DRAFT, ONNX
from serving import bundle
from serving.bundle_json import from_json
from serving.errors import BadBundle, VersionsChanged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def publish_run(
    folder: Path, models: Path, *, name: str, run: str, expected: Sequence[int] | None = None
) -> int | None:
    """Publish the bundle that `export` drafted, once: a run that was killed after this is not published again.

    Args:
        folder: the run's.
        models: the repository.
        name: of the model.
        run: the run's id, by which its version is known again.
        expected: the versions that the gate saw; None: whatever there are.

    Returns:
        The version; None when the versions aren't the expected ones any more, so that the gate has to judge again.

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
    try:
        return bundle.publish(models, dataclasses.replace(draft, name=name, made_by=made_by), model, expected=expected)
    except VersionsChanged:
        return None


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


def refuse_withdrawn(models: Path, *, name: str, run: str) -> None:
    """Keep a run that was killed once it was published, and withdrawn since, from being published by going on with it.

    Raises:
        Refused: it is such a run.
    """
    for version, path in bundle.withdrawn(models, name):
        with contextlib.suppress(BadBundle):
            if bundle.read(path).made_by.get("run") == run:
                raise Refused(
                    f"This run was published before, as version {version}, and withdrawn since. "
                    f"`calotype publish {run}` publishes it once more."
                )
