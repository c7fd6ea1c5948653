"""What the commands that run flows share: Prefect's environment around the work, and the words for what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, ModuleType

    from pipelines.config import Recipe
    from pipelines.ingest import IngestResult
    from pipelines.runs import RunRecord

STAGES = ("ingest", "split", "train", "fit", "evaluate", "export", "gate", "publish")
TERMINATED = 128 + signal.SIGTERM
NOTHING_NEW = "nothing new: a finished run has the same images and recipe"


@contextlib.contextmanager
def flows_ready(
    *, source: str | None = None, dataset_dir: Path | None = None, will_train: bool = False
) -> Iterator[ModuleType]:
    """`pipelines.flows`, with a Prefect API that answers, and a runtime that ends with the block.

    Prefect's server, Prefect itself, TensorFlow and the processes that a first ingest wants load side by side.

    Args:
        source: what will be ingested, if anything will.
        dataset_dir: the folder of the dataset that it becomes.
        will_train: TensorFlow will be needed, as far as anybody can know.
    """
    from pipelines import backend
    from pipelines.pool import Staff
    from pipelines.prefect_server import prefect_environment, wait_ready
    from pipelines.process import HeavyProcess

    signal.signal(signal.SIGTERM, _terminate)
    try:
        with Staff() as staff, HeavyProcess(backend.start) as heavy, prefect_environment() as server:
            if will_train and server is None:
                heavy.start()  # with a server of its own to load, two processors have enough to do
            from pipelines import flows
            from pipelines.flows_runtime import use_runtime
            from pipelines.scan import look_ahead

            if will_train:
                heavy.start()
            if source is not None and dataset_dir is not None:
                look_ahead(source, dataset_dir, staff)
            # First: the runtime freezes Prefect's settings; without an address in them Prefect starts a second server.
            wait_ready(server)
            with use_runtime(staff=staff, heavy=heavy):
                yield flows
    except KeyboardInterrupt:
        click.echo("Interrupted; the same command again goes on from what was saved.", err=True)
        raise


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that whatever was started is stopped."""
    raise SystemExit(TERMINATED)


def check_request(*, recipe: Recipe, source: str | None = None, model: str | None = None) -> None:
    """Refuse at once what no flow has to be started for.

    Raises:
        UsageError: no such source, a name that can't be a model's, or an architecture that isn't there.
    """
    from pipelines import sources
    from pipelines.models import catalogue
    from pipelines.workspace import check_name

    if model is not None:
        check_name(model, what="model name")
    catalogue.settle(recipe)
    catalogue.find(recipe.family, task=recipe.task).source_hash()
    if source is not None and source not in sources.KNOWN and "://" not in source:
        sources.find(source, cache=Path())  # a folder: says what is wrong with it, writes nothing


def check_dataset(folder: Path, *, source: str, recipe: Recipe) -> None:
    """Refuse at once what a dataset that is there can't become: one of another source, or with another split.

    A known set, which may have to be fetched first, is left to the ingest, which asks all of it again.

    Args:
        folder: the dataset's, which need not be there.
        source: SOURCE as given.
        recipe: its data count here.

    Raises:
        UsageError: naming what the dataset was made from.
    """
    from pipelines import sources

    if source in sources.KNOWN or not folder.exists():
        return
    from pipelines.ledger import Dataset
    from pipelines.scan import settled

    settled(recipe.data, Dataset.read(folder), sources.find(source, cache=Path()), seed=recipe.seed)


def dataset_name(given: str | None, source: str) -> str:
    """The dataset's name: as given, or SOURCE's last component.

    Raises:
        UsageError: a given name that can't be one.
    """
    from pipelines.workspace import check_name, default_dataset_name

    return default_dataset_name(source) if given is None else check_name(given, what="dataset name")


def print_json(values: dict[str, Any] | list[Any]) -> None:
    """One JSON value on stdout; folders as text."""
    click.echo(json.dumps(values, indent=2, default=_plain))


def print_json_line(values: dict[str, Any]) -> None:
    """One JSON value on one line of stdout; folders as text."""
    click.echo(json.dumps(values, default=_plain))


def run_values(record: RunRecord, *, nothing_new: bool, seconds: dict[str, float]) -> dict[str, Any]:
    """The JSON result of a run."""
    published = record.state == "published" and not nothing_new
    return {
        "run": record.run,
        "dataset": record.dataset,
        "model": record.key.model,
        "version": record.version if published else None,
        "published": published,
        "reason": NOTHING_NEW if nothing_new else record.reason,
        "metrics": record.metrics,
        "images": record.images,
        "seconds": dict.fromkeys(STAGES, 0.0) | {stage: round(spent, 3) for stage, spent in seconds.items()},
        "report": record.report,
    }


def ingest_values(result: IngestResult) -> dict[str, Any]:
    """The JSON result of an ingest."""
    return dataclasses.asdict(result)


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a result")
