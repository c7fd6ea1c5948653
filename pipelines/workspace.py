"""The folders that hold a person's datasets, runs and models; knows names and places, not what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UsageError
from serving.urls import is_url, without_secrets

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that holds everything Calotype writes.

    Args:
        root: made when something is first written into it.
    """

    root: Path

    @property
    def datasets(self) -> Path:
        """One folder per dataset."""
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.root / "runs"

    @property
    def models(self) -> Path:
        """The model repository."""
        return self.root / "models"

    @property
    def sources(self) -> Path:
        """Known data sets, written out as folders of files."""
        return self.root / "sources"


def check_name(name: str, *, what: str) -> str:
    """`name`, when it can be a folder's name that no shell, protocol or file system trips over.

    Raises:
        UsageError: it can't.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"The {what} {name!r} can't be used: expected letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit, at most 128."
        )
    return name


def default_dataset_name(source: str) -> str:
    """SOURCE's last component, with what no dataset name may hold replaced by dashes; nothing secret of a URL."""
    place = without_secrets(source).partition("?")[0] if is_url(source) else source
    last = place.rstrip("/").rsplit("/", 1)[-1].rsplit("::", 1)[-1]
    if last in {"", ".", ".."}:
        last = Path(source).resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:128] or "dataset"
