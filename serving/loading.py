"""From a version folder to a model that may answer calls: verified, loaded, warmed up and self-tested.

Knows no queue and no caller, and nothing of what else is loaded. What passes here is fit to replace an older version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving import bundle as bundles
from serving.errors import BadBundle, CalotypeError
from serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from serving.bundle import Bundle, TensorSpec
    from serving.repository import Version

    Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], Mapping[str, NDArray[Any]]]

_WARM_UP_BYTES: Final = 2**24


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready for calls.

    Args:
        run: (feeds, wanted outputs) -> outputs.
        inputs: what it takes.
        outputs: what it gives.
        bundle: what else is known of it; None for a plain ONNX file.
        joins: whether it computes row by row, so that rows of several callers may share a call.
    """

    run: Run
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bundle: Bundle | None
    joins: bool


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
    joins = _rows_are_free(session)
    try:
        session.warm_up(_warm_up_rows(session.inputs, max_batch_rows) if joins else (1,))
        joins = joins and _self_test(session, where, strict=bundle is not None)
    except CalotypeError as error:
        if bundle is not None:
            raise BadBundle(f"{where} failed its self-test: {error}") from error
        joins = False  # anybody's model may refuse zeros; its callers will be told what it says of their values
    return Loaded(run=session.run, inputs=session.inputs, outputs=session.outputs, bundle=bundle, joins=joins)


def _agree(bundle: Bundle, session: Session, where: str) -> None:
    for kind, promised, found in (
        ("inputs", bundle.inputs, session.inputs),
        ("outputs", bundle.outputs, session.outputs),
    ):
        names = {(spec.name, spec.dtype) for spec in promised}, {(spec.name, spec.dtype) for spec in found}
        if names[0] != names[1]:
            raise BadBundle(
                f"{where} and its {bundles.JSON} name different {kind}: expected {sorted(names[0])}, as "
                f"{bundles.JSON} says. Received: {sorted(names[1])}"
            )


def _rows_are_free(session: Session) -> bool:
    return all(spec.shape and spec.shape[0] is None for spec in (*session.inputs, *session.outputs))


def _self_test(session: Session, where: str, *, strict: bool) -> bool:
    """Whether two rows give two answers; strict: raise unless they do, and are finite numbers."""
    rows = 2
    answer = session.run({spec.name: _sample(spec, rows) for spec in session.inputs})
    for spec in session.outputs:
        array = answer[spec.name]
        if not array.ndim or array.shape[0] != rows:
            if strict:
                raise BadBundle(
                    f"{where} failed its self-test: the output {spec.name!r} must have one row per image, here {rows}. "
                    f"Received: shape {list(array.shape)}"
                )
            return False
        if strict and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadBundle(
                f"{where} failed its self-test: the output {spec.name!r} is not finite on an image of zeros."
            )
    return True


def _sample(spec: TensorSpec, rows: int) -> NDArray[Any]:
    shape = (rows, *(size or 1 for size in spec.shape[1:]))
    return np.full(shape, "", object) if spec.dtype == "string" else np.zeros(shape, spec.dtype)


def _warm_up_rows(inputs: tuple[TensorSpec, ...], max_batch_rows: int) -> tuple[int, ...]:
    """Batch sizes to be run once, the largest first; large images are not run in large batches."""
    row_bytes = sum(_sample(spec, 1).nbytes for spec in inputs)
    most = max(1, min(max_batch_rows, _WARM_UP_BYTES // max(1, row_bytes)))
    return tuple(sorted({1, min(8, most), most}, reverse=True))
