"""A model as it is, or will be, served: its bundle, and its graph loaded by `serving.session`. No TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import UsageError
from pipelines.export import DRAFT, ONNX
from serving import bundle as bundles
from serving import images
from serving.bundle_json import from_json
from serving.errors import BadBundle, BadInput
from serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from serving.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Contender:
    """A loaded model.

    Attributes:
        bundle: what it says of itself; version 0 where it isn't published.
        session: its graph.
    """

    bundle: Bundle
    session: Session

    def see(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A decoded picture as a row of this model, uint8 of the bundle's image."""
        return images.fit(picture, self.bundle.image)

    def probabilities(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What a classifier says, float32 [rows, labels]."""
        return self._run(rows, "probabilities")

    def errors(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How far an autoencoder is from each row, float32 [rows]."""
        return self._run(rows, "error")

    def reconstructions(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What an autoencoder makes of each row, float32 [rows, height, width, channels] in 0…1."""
        return self._run(rows, "reconstruction")

    def guesses(self, rows: NDArray[np.uint8], labels: Sequence[str]) -> NDArray[np.int64]:
        """The most probable of some labels, as indices into `labels`: int64 [rows]; -1 where one is no number."""
        columns = [self.bundle.labels.index(label) for label in labels]
        answers = self.probabilities(rows)[:, columns]
        found: NDArray[np.int64] = np.where(np.isfinite(answers).all(axis=1), answers.argmax(axis=1), -1)
        return found

    def _run(self, rows: NDArray[np.uint8], output: str) -> NDArray[np.float32]:
        return self.session.run({self.bundle.inputs[0].name: rows}, (output,))[output]


def of_run(folder: Path) -> Contender:
    """The model that a run exported.

    Raises:
        UsageError: it has exported none, or one that can't be loaded.
    """
    try:
        return Contender(from_json((folder / DRAFT).read_bytes()), Session(folder / ONNX))
    except (OSError, BadBundle) as error:
        raise UsageError(f"The run {folder.name} has no exported model ({error}). Run it again.") from error


def of_version(models: Path, name: str, version: int = 0) -> Contender:
    """A published model; version 0 is the one being served.

    Raises:
        UsageError: no such model or version.
        BadBundle: the version is damaged.
    """
    try:
        known = bundles.versions(models, name)
    except BadInput as error:
        raise UsageError(str(error)) from error
    if not known:
        raise UsageError(f"There is no model {name!r} in {models}.")
    if version:
        if version not in known:
            raise UsageError(f"The model {name!r} has no version {version}; it has {known}.")
        return _load(models / name / str(version))
    found = champion(models, name)
    if found is None:
        raise BadBundle(f"No version of {name!r} in {models} can be loaded; `calotype models verify` says why.")
    return found


def champion(models: Path, name: str) -> Contender | None:
    """The version being served: the newest whole one that loads. What is withdrawn or damaged is no champion."""
    for version in reversed(bundles.versions(models, name)):
        try:
            return _load(models / name / str(version))
        except BadBundle:
            continue
    return None


def _load(folder: Path) -> Contender:
    bundles.verify(folder)
    return Contender(bundles.read(folder), Session(folder / bundles.MODEL))
