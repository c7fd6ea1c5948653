"""A source to a snapshot as a Prefect flow, on this machine or on a cluster that Prefect's task runners know."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Prefect validates a flow's parameters by their types
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, task
from prefect.futures import as_completed

from pipelines.config import Recipe  # noqa: TC001 - the same
from pipelines.errors import UsageError
from pipelines.flows_runtime import RETRIED, runtime, use_runtime
from pipelines.ingest import IngestResult, split_and_seal
from pipelines.journal import Chunk, decode_chunk
from pipelines.ledger import dataset_held
from pipelines.models import catalogue
from pipelines.scan import Staged, scan_and_decode
from pipelines.workspace import Workspace, check_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prefect.task_runners import TaskRunner

Runner = Literal["local", "dask", "ray"]


@task(name="decode a chunk", **RETRIED)
def _decode_chunk(chunk: Chunk) -> Path:
    return decode_chunk(chunk)


def _scatter(chunks: Sequence[Chunk]) -> Iterator[Path]:
    """Decode chunks wherever the flow's task runner puts them; in the order in which they end."""
    for future in as_completed([_decode_chunk.submit(chunk) for chunk in chunks]):
        yield future.result()


@task(name="list and decode", **RETRIED)
def _decode(source: str, folder: Path, recipe: Recipe, verify: bool) -> Staged:  # noqa: FBT001
    return _scan(source, folder, recipe, verify=verify, staff=runtime().staff)


def _scan(source: str, folder: Path, recipe: Recipe, **how: Any) -> Staged:
    """`scan_and_decode` as the recipe says, in the surrounding runtime."""
    report = runtime().bars.report
    return scan_and_decode(source, folder, recipe.data, task=recipe.task, seed=recipe.seed, progress=report, **how)


@task(name="split and seal", **RETRIED)
def _split(staged: Staged) -> IngestResult:
    return split_and_seal(staged, progress=runtime().bars.report)


@flow(name="ingest", flow_run_name="ingest {dataset}")
def ingest_flow(
    *, source: str, dataset: str, recipe: Recipe, workspace: Path, verify: bool = False, training: bool = False
) -> IngestResult:
    """SOURCE to a snapshot, on this machine.

    Args:
        source: a folder, a URL, or the name of a known set.
        dataset: its name in the workspace.
        recipe: its task and data count here.
        workspace: the workspace's folder.
        verify: read every file, also those whose size and time didn't change.
        training: a model is to be trained on it: images that don't fit the recipe's architecture are refused.
    """
    folder = _dataset_folder(workspace, dataset)
    with use_runtime():
        staged = _decode(source, folder, recipe, verify)
        if training:
            _check_fits(staged, recipe)
        return _split(staged)


@flow(name="ingest on a cluster", flow_run_name="ingest {dataset}")
def cluster_ingest_flow(
    *, source: str, dataset: str, recipe: Recipe, workspace: Path, verify: bool = False, training: bool = False
) -> IngestResult:
    """SOURCE to a snapshot, decoded by the workers of the flow's task runner; arguments as in `ingest_flow`.

    The workers see the source and the workspace under the same paths as this process.
    """
    folder = _dataset_folder(workspace, dataset)
    with use_runtime():
        staged = _scan(source, folder, recipe, verify=verify, run=_scatter)
        if training:
            _check_fits(staged, recipe)
        return _split(staged)


def ingest_on(runner: Runner, address: str | None, **arguments: Any) -> IngestResult:
    """Ingest on this machine, or on a Dask or Ray cluster.

    Args:
        runner: local, dask or ray.
        address: of the cluster's scheduler; None: a cluster on this machine, as long as the flow lasts.
        arguments: of `ingest_flow`.

    Raises:
        UsageError: the runner's package isn't installed, or there is an address and no cluster.
    """
    if runner == "local":
        if address is not None:
            raise UsageError(f"--runner-address names a cluster: give --runner dask or ray too. Received: {address!r}")
        result: IngestResult = ingest_flow(**arguments)
        return result
    clustered = cluster_ingest_flow.with_options(task_runner=_task_runner(runner, address))
    return clustered(**arguments)  # type: ignore[no-any-return]  # arguments are checked by Prefect


def _dataset_folder(workspace: Path, dataset: str) -> Path:
    """Where a dataset lies; a flow may be called by anybody, so its name is looked at here."""
    return Workspace(workspace.absolute()).datasets / check_name(dataset, what="dataset name")


def _check_fits(staged: Staged, recipe: Recipe) -> None:
    """Refuse images that the architecture can't take before they are made a snapshot, whose size stays."""
    with dataset_held(staged.dataset_dir, made=staged.made):
        family = catalogue.find(recipe.family, task=recipe.task)
        catalogue.check_size(family, height=staged.canvas.height, width=staged.canvas.width)


def _task_runner(runner: Runner, address: str | None) -> TaskRunner[Any]:
    try:
        if runner == "dask":
            from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415 - comes with an extra of its own

            return DaskTaskRunner(address=address)
        from prefect_ray.task_runners import RayTaskRunner  # noqa: PLC0415 - the same

        return RayTaskRunner(address=address)  # type: ignore[no-any-return]  # untyped where it isn't installed
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--runner {runner} needs {error.name}: pip install 'calotype[{runner}]' brings it."
        ) from error
