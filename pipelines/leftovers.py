"""Runs whose process died in the middle: which there are, and what becomes of those that nobody will go on with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pipelines.publish import version_of
from pipelines.runs import interrupted_runs, mark_told, reopen_run
from serving import bundle
from serving.errors import BadBundle

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.workspace import Workspace

SUPERSEDED = "interrupted, and never gone on with: its source or recipe had changed when the next run began"


def close_leftovers(workspace: Workspace, model: str, *, told: str | None = None) -> list[str]:
    """Write down the end of every interrupted run of a model, once a later run has come to its own, which was told.

    One that was published before its process died is put down as published, any other as failed; the same command
    on the same images still goes on with it.

    Returns:
        A sentence for each.
    """
    if told is not None:
        mark_told(workspace, told)
    return [_close(workspace, model, run) for run in interrupted_runs(workspace, model)]


def _close(workspace: Workspace, model: str, run: str) -> str:
    version = version_of(workspace.models, name=model, run=run)
    with reopen_run(workspace, run) as held:
        if version is not None:
            held.update(state="published", version=version, reason=None)
            return f"run {run} was interrupted after it had been published as version {version}"
        held.update(state="failed", reason=SUPERSEDED)
        return f"run {run} was {SUPERSEDED}"


def newest_version(models: Path, model: str) -> tuple[int, float, dict[str, Any]] | None:
    """The newest version of a model: its number, when it was published (seconds since 1970), and its metrics."""
    for version in reversed(bundle.versions(models, model)):
        with contextlib.suppress(BadBundle, OSError):
            folder = models / model / str(version)
            return version, (folder / bundle.CHECKSUMS).stat().st_mtime, dict(bundle.read(folder).metrics)
    return None
