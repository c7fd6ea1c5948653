"""From a version folder to a model that may answer calls: verified, loaded, warmed up and self-tested.

Knows no queue and no caller, and nothing of what else is loaded. What passes here is fit to replace an older version.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving import bundle as bundles
from serving.bundle import TensorSpec
from serving.errors import BadBundle, CalotypeError
from serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from serving.bundle import Bundle
    from serving.repository import Version

    Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], Mapping[str, NDArray[Any]]]

_WARM_UP_BYTES: Final = 2**24
_SHORT_SECONDS: Final = 0.03  # for a call of the most rows, by all CPUs; a busy machine makes it three times as long
_TRIES: Final = 3
_ANSWERS: Final = {"classify": ("probabilities",), "reconstruct": ("error", "reconstruction")}
_ROWS: Final = 3  # compared with each by itself
_TOLERANCE: Final = 1e-3  # relative to the largest value; mixed rows are further apart
_HALF_TOLERANCE: Final = 1e-2


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready for calls.

    Args:
        run: (feeds, wanted outputs) -> outputs.
        inputs: what it takes.
        outputs: what it gives.
        bundle: what else is known of it; None for a plain ONNX file.
        joins: whether it computes row by row, so that rows of several callers may share a call.
        executors: how many calls at a time suit it, where nobody said.
    """

    run: Run
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bundle: Bundle | None
    joins: bool
    executors: int = 1


def load_to_fit(
    version: Version, *, cpus: int, max_batch_rows: int, clock: Callable[[], float] = time.perf_counter
) -> Loaded:
    """Load a version to use the CPUs as suits it: short calls side by side on one each, a long call on all of them.

    Threads that share a short call mostly wait for each other, and the calls that come meanwhile for all of them; a
    long call is answered sooner by all CPUs, and hardly less often.

    Args:
        version: as for `load`.
        cpus: that it may use.
        max_batch_rows: as for `load`.
        clock: by which calls are short or long.

    Raises:
        BadBundle: as `load` does.
    """
    loaded = load(version, threads=cpus, max_batch_rows=max_batch_rows)
    if cpus == 1 or _call_seconds(loaded, max_batch_rows, clock) > _SHORT_SECONDS:
        return loaded
    return replace(load(version, threads=1, max_batch_rows=max_batch_rows), executors=cpus)


def load(version: Version, *, threads: int | None, max_batch_rows: int) -> Loaded:
    """Load a version and prove that it answers.

    Args:
        version: a usable one, as `repository.scan` found it.
        threads: that one call may use; None: one per CPU.
        max_batch_rows: the largest batch that it will see.

    Raises:
        BadBundle: damaged, not loadable, not what its bundle.json says, or answering nonsense.
    """
    bundle = None
    if version.kind == "bundle":
        bundles.verify(version.path)
        bundle = bundles.read(version.path)
    session = Session(version.path / bundles.MODEL, threads=threads)
    where = str(version.path / bundles.MODEL)
    if bundle is None and bundles.METADATA_KEY in session.metadata:
        raise BadBundle(
            f"{version.path} is not whole yet: {bundles.MODEL} is a bundle's, by its metadata, and {bundles.JSON} and "
            f"{bundles.CHECKSUMS} are missing. It is tried again as soon as its files change."
        )
    if bundle is not None:
        _agree(bundle, session, where)
    rows = _warm_up_rows(session.inputs, max_batch_rows) if _rows_are_free(session) else (1,)
    try:
        session.warm_up(rows)
        if bundle is not None:
            _self_test(bundle, session, where)
        joins = _rows_are_free(session) and _computes_row_by_row(session)
    except (CalotypeError, MemoryError) as error:
        if bundle is not None:
            raise BadBundle(f"{where} failed its self-test: {error}") from error
        joins = False  # anybody's model may refuse zeros; its callers will be told what it says of their values
    return Loaded(run=session.run, inputs=session.inputs, outputs=session.outputs, bundle=bundle, joins=joins)


def _call_seconds(loaded: Loaded, max_batch_rows: int, clock: Callable[[], float]) -> float:
    """The quickest of a few calls of as many rows as the warm-up had at most; endless where it refuses zeros."""
    rows = _warm_up_rows(loaded.inputs, max_batch_rows)[0] if loaded.joins else 1
    feeds = {spec.name: _zeros(spec, rows) for spec in loaded.inputs}
    quickest = math.inf
    for _ in range(_TRIES):
        started = clock()
        try:
            loaded.run(feeds, ())
        except (CalotypeError, MemoryError):
            return math.inf
        quickest = min(quickest, clock() - started)
    return quickest


# ---- is it what its bundle.json says ------------------------------------------------------------


def _agree(bundle: Bundle, session: Session, where: str) -> None:
    """Refuse a bundle.json that describes another model than the one beside it."""
    for field, promised, found in (
        ("inputs", bundle.inputs, session.inputs),
        ("outputs", bundle.outputs, session.outputs),
    ):
        by_name = {spec.name: spec for spec in found}
        alike = all(spec.name in by_name and _alike(spec, by_name[spec.name]) for spec in promised)
        if len(promised) != len(found) or not alike:
            raise _other(where, field, _shown(promised), _shown(found))
    wanted = TensorSpec("image", "uint8", (None, *bundle.image.shape))
    inputs = session.inputs
    if len(inputs) != 1 or not _alike(inputs[0], wanted) or inputs[0].shape[0] is not None:
        raise _other(where, "image", f"one input uint8 {list(wanted.shape)}", _shown(inputs))
    outputs = {spec.name: spec for spec in session.outputs}
    for name in _ANSWERS[bundle.task]:
        if name not in outputs or not outputs[name].dtype.startswith("float"):
            raise _other(where, "task", f"{bundle.task!r} with the output {name!r}", _shown(session.outputs))
    if bundle.task == "reconstruct":
        if bundle.threshold is None:
            raise _other(where, "threshold", "a threshold, as it reconstructs", "null")
        return
    shape = outputs["probabilities"].shape
    if len(shape) != len(("rows", "columns")) or shape[1] not in {None, len(bundle.labels)}:
        raise _other(where, "labels", f"{len(bundle.labels)} columns, one per label", f"probabilities {list(shape)}")


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether both may mean the same tensor; runtimes differ in how many sizes they find out by themselves."""
    return one.dtype == other.dtype and len(one.shape) == len(other.shape) and _fits(one.shape, other.shape)


def _fits(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    return all(None in sizes or sizes[0] == sizes[1] for sizes in zip(one, other, strict=True))


def _other(where: str, field: str, expected: str, received: str) -> BadBundle:
    return BadBundle(
        f"{where} is not the model that its {bundles.JSON} describes, by the field {field!r}: expected {expected}. "
        f"Received: {received}"
    )


def _shown(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(sorted(f"{spec.name!r} {spec.dtype} {list(spec.shape)}" for spec in specs)) or "none"


def _self_test(bundle: Bundle, session: Session, where: str) -> None:
    """Refuse unless one image gives one row, two give two, of the shape that is promised, in finite numbers."""
    promised = {spec.name: TensorSpec(spec.name, spec.dtype, (None, *spec.shape[1:])) for spec in bundle.outputs}
    if bundle.task == "classify":
        promised["probabilities"] = replace(promised["probabilities"], shape=(None, len(bundle.labels)))
    for rows in (1, 2):
        answer = session.run({spec.name: _zeros(spec, rows) for spec in session.inputs})
        for name, array in answer.items():
            shape = (rows, *promised[name].shape[1:])
            if array.ndim != len(shape) or not _fits(array.shape, shape):
                raise BadBundle(
                    f"{where} failed its self-test: the output {name!r} must have one row per image, here {rows}, and "
                    f"be as its {bundles.JSON} says: {list(shape)}. Received: shape {list(array.shape)}"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BadBundle(
                    f"{where} failed its self-test: the output {name!r} is not finite on an image of zeros."
                )


# ---- may rows of several callers share a call -----------------------------------------------------


def _rows_are_free(session: Session) -> bool:
    return all(spec.shape and spec.shape[0] is None for spec in (*session.inputs, *session.outputs))


def _computes_row_by_row(session: Session) -> bool:
    """Whether rows get the same answers together as each by itself; else callers would see each other's rows."""
    feeds = {spec.name: _distinct(spec, number) for number, spec in enumerate(session.inputs)}
    together = session.run(feeds)
    for row in range(_ROWS):
        alone = session.run({name: array[row : row + 1] for name, array in feeds.items()})
        for name, array in together.items():
            if array.shape[:1] != (_ROWS,) or not _same(array[row : row + 1], alone[name]):
                return False
    return True


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Equal; floating point but for the order of its sums."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f" or not one.size:
        return bool(np.array_equal(one, other))
    tolerance = _HALF_TOLERANCE if one.dtype == np.float16 else _TOLERANCE
    most = float(np.max(np.abs(other, where=np.isfinite(other), out=np.zeros_like(other))))
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance * most, equal_nan=True))


def _distinct(spec: TensorSpec, seed: int) -> NDArray[Any]:
    """Rows that differ, of values that most models take: pixels, numbers in 0…1, or small ones that may be indices."""
    random = np.random.default_rng(seed)
    shape = (_ROWS, *(size or 1 for size in spec.shape[1:]))
    if spec.dtype.startswith("float"):
        return random.random(shape).astype(spec.dtype)
    values = random.integers(0, 256 if spec.dtype == "uint8" else _ROWS, shape)
    if values.size:
        values.reshape(_ROWS, -1)[:, 0] = range(_ROWS)
    if spec.dtype == "string":
        return values.astype(str).astype(object)
    return (values % 2 if spec.dtype == "bool" else values).astype(spec.dtype)


def _zeros(spec: TensorSpec, rows: int) -> NDArray[Any]:
    shape = (rows, *(size or 1 for size in spec.shape[1:]))
    return np.full(shape, "", object) if spec.dtype == "string" else np.zeros(shape, spec.dtype)


def _warm_up_rows(inputs: tuple[TensorSpec, ...], max_batch_rows: int) -> tuple[int, ...]:
    """Batch sizes to be run once, the largest first; large images are not run in large batches."""
    row_bytes = sum(_zeros(spec, 1).nbytes for spec in inputs)
    most = max(1, min(max_batch_rows, _WARM_UP_BYTES // max(1, row_bytes)))
    return tuple(sorted({1, min(8, most), most}, reverse=True))
