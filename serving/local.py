"""Predictions in this process, straight from a repository; the client's answers without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from serving import bundle as bundle_files
from serving import images, loading, repository
from serving.errors import BadBundle, BadInput, BadRepository, ModelNotFound
from serving.predictions import Answered, Classification, Failure, Reconstruction, Score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from serving.loading import Loaded
    from serving.repository import Version

_BATCH_IMAGES = 32


class LocalModel:
    """One published version, loaded and proved here as a server does it.

    Args:
        models: the repository.
        name: of the model.
        version: 0 is the newest that loads of those that the model's `config.pbtxt` has served.
        max_pixels: larger images are refused by their header.

    Raises:
        BadRepository: `models` is no folder.
        ModelNotFound: no such model or version, or none that its `config.pbtxt` has served.
        BadInput: it is plain ONNX, of which nobody knows what its numbers mean.
        BadConfig: that file can't be read.
        BadBundle: the version is damaged; for 0: every version is, and this is what is wrong with the newest.
    """

    def __init__(self, models: Path, name: str, version: int = 0, *, max_pixels: int = images.MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        found, loaded, self.skipped = _load(_candidates(models, name, version))
        assert loaded.bundle is not None  # noqa: S101 only bundles are candidates
        self.version = found.number
        self.bundle = loaded.bundle
        self._run = loaded.run

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
            return images.read(path.read_bytes(), self.bundle.image, max_pixels=self._max_pixels)
        except OSError as error:
            return Failure("NOT_FOUND", f"{path} cannot be read: {error.strerror or error}.")
        except BadInput as error:
            return Failure("INVALID_ARGUMENT", str(error))

    def _results(self, pixels: NDArray[np.uint8], top_k: int) -> list[Any]:
        bundle = self.bundle
        feeds = {bundle.inputs[0].name: pixels}
        if bundle.task == "classify":
            probabilities = self._run(feeds, ("probabilities",))["probabilities"]
            return [_classification(row, bundle.labels, top_k) for row in probabilities]
        errors = self._run(feeds, ("error",))["error"].tolist()
        limit = np.inf if bundle.threshold is None else bundle.threshold.error
        return [Reconstruction(error, error > limit) for error in errors]


def _candidates(models: Path, name: str, version: int) -> list[Version]:
    """The bundles that may answer, newest first."""
    if not models.is_dir():
        raise BadRepository(f"{models} is no model repository: it is not a folder.")
    model = repository.scan(models).models.get(name)
    if model is None or not model.usable:
        raise ModelNotFound(f"{models} has no model {name!r}.")
    if version and all(each.number != version for each in model.usable):
        raise ModelNotFound(f"{models} has no model {name!r} version {version}.")
    wanted = [each for each in model.usable if version in (0, each.number)]
    bundles = [each for each in wanted if each.kind == "bundle"]
    if not bundles:
        raise bundle_files.plain(name, wanted[-1].number)
    if version:
        return bundles
    only = repository.wanted(model)
    chosen = [each for each in bundles if only is None or each.number in only]
    if not chosen:
        raise ModelNotFound(
            f"{models} has no version of {name!r} that its config.pbtxt has served, which are "
            f"{', '.join(map(str, sorted(only or ())))}: choose one by --version."
        )
    return chosen[::-1]


def _load(candidates: Sequence[Version]) -> tuple[Version, Loaded, tuple[str, ...]]:
    """The first that loads, and why those before it don't."""
    failures: list[BadBundle] = []
    for version in candidates:
        try:
            loaded = loading.load(version, threads=None, max_batch_rows=_BATCH_IMAGES)
        except BadBundle as error:
            failures.append(error)
        else:
            return version, loaded, tuple(map(str, failures))
    raise failures[0]


def _classification(row: NDArray[np.float32], labels: Sequence[str], top_k: int) -> Classification:
    order = np.argsort(-row, kind="stable")[: top_k or None]
    return Classification(tuple(Score(labels[index], float(row[index])) for index in order))
