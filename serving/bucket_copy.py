"""A repository in a bucket, copied once as it is, into a folder that goes again: for whoever only wants to look."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from serving import buckets, mirror_plan
from serving.bundle import CONFIG, MODEL
from serving.errors import BadRepository, Unreachable
from serving.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def copied(url: str, *, name: str | None = None, with_models: bool) -> Iterator[Path]:
    """A repository as a folder, damage and halves included.

    Args:
        url: of the repository, for fsspec.
        name: of the one model that is wanted; None: all.
        with_models: whether ONNX files are fetched; else they are there and empty, which is enough to tell what is.

    Raises:
        BadRepository: the bucket, or a file in it, can't be had.
    """
    with tempfile.TemporaryDirectory(prefix="calotype-models-") as folder:
        try:
            _copy(url, Path(folder), name=name, with_models=with_models)
        except Exception as error:  # what file systems raise has no common root
            reason = str(error) if isinstance(error, Unreachable) else buckets.why(error, url)
            raise BadRepository(f"The model repository {without_secrets(url)} can't be read: {reason}") from error
        yield Path(folder)


def _copy(url: str, folder: Path, *, name: str | None, with_models: bool) -> None:
    system, root = buckets.open_url(url)
    entries = system.find(root, detail=True).items()
    found = mirror_plan.listing((path.removeprefix(root).lstrip("/"), told) for path, told in entries)
    wanted = [f"{model}/{CONFIG}" for model in found.configs]
    wanted += [f"{model}/{number}/{file}" for (model, number), files in found.versions.items() for file in files]
    for path in wanted:
        if name is not None and not path.startswith(f"{name}/"):
            continue
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if with_models or place.name != MODEL:
            system.get_file(f"{root}/{path}", str(place))
        else:
            place.touch()
