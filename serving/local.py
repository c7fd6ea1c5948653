"""Predictions in this process, straight from a repository; the client's answers without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from serving import bundle as bundles
from serving import images
from serving.errors import BadInput, BadRepository, ModelNotFound
from serving.predictions import Answered, Classification, Failure, Reconstruction, Score
from serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_BATCH_IMAGES = 32


class LocalModel:
    """One published version, loaded here.

    Args:
        models: the repository.
        name: of the model.
        version: 0 is the newest whole one.

    Raises:
        BadRepository: `models` is no folder.
        ModelNotFound: no such model or version.
        BadBundle: the version is damaged.
    """

    def __init__(self, models: Path, name: str, version: int = 0) -> None:
        if not models.is_dir():
            raise BadRepository(f"{models} is no model repository: it is not a folder.")
        known = bundles.versions(models, name)
        if not known or (version and version not in known):
            raise ModelNotFound(
                f"{models} has no model {name!r}" + (f" version {version}." if version and known else ".")
            )
        self.version = version or known[-1]
        folder = models / name / str(self.version)
        bundles.verify(folder)
        self.bundle = bundles.read(folder)
        self._session = Session(folder / bundles.MODEL)

    def predict(self, paths: Sequence[Path], *, top_k: int = 0) -> Iterator[Answered]:
        """An answer per batch of files, in order; files that can't be read are failures in it."""
        for start in range(0, len(paths), _BATCH_IMAGES):
            yield self._predict(paths[start : start + _BATCH_IMAGES], top_k)

    def _predict(self, paths: Sequence[Path], top_k: int) -> Answered:
        rows = [self._row(path) for path in paths]
        pixels = [row for row in rows if not isinstance(row, Failure)]
        made = iter(self._results(np.stack(pixels), top_k) if pixels else ())
        results = tuple(row if isinstance(row, Failure) else next(made) for row in rows)
        return Answered(self.bundle.name, self.version, results)

    def _row(self, path: Path) -> NDArray[np.uint8] | Failure:
        try:
            return images.read(path.read_bytes(), self.bundle.image)
        except OSError as error:
            return Failure("NOT_FOUND", f"{path} cannot be read: {error.strerror or error}.")
        except BadInput as error:
            return Failure("INVALID_ARGUMENT", str(error))

    def _results(self, pixels: NDArray[np.uint8], top_k: int) -> list[Any]:
        bundle = self.bundle
        feeds = {bundle.inputs[0].name: pixels}
        if bundle.task == "classify":
            probabilities = self._session.run(feeds, ("probabilities",))["probabilities"]
            return [_classification(row, bundle.labels, top_k) for row in probabilities]
        errors = self._session.run(feeds, ("error",))["error"].tolist()
        limit = np.inf if bundle.threshold is None else bundle.threshold.error
        return [Reconstruction(error, error > limit) for error in errors]


def _classification(row: NDArray[np.float32], labels: Sequence[str], top_k: int) -> Classification:
    order = np.argsort(-row, kind="stable")[: top_k or None]
    return Classification(tuple(Score(labels[index], float(row[index])) for index in order))
