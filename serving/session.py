"""An ONNX model, loaded and ready to run: the only file of the house that imports onnxruntime.

Export proves a model with this code and the server runs it with this code. Knows no bundle, queue or transport.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime

from serving.bundle import TensorSpec
from serving.errors import BadBundle, BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_FATAL_ONLY: Final = 4
_DTYPES: Final = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(string)": "string",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
}

_NO_MEMORY: Final = ("Failed to allocate memory", "bad_alloc")  # onnxruntime has no exception of its own for this
_OWN_SOURCE: Final = re.compile(r"(?<!\S)[\w./\\:-]+\.(?:h|hpp|cc|cpp):\d+ ")

_NATIVE: Final = {name: np.dtype(name) for name in _DTYPES.values() if name != "string"}

# Warnings that onnxruntime prints while it probes devices and folds graphs mean nothing to a user; errors come as
# exceptions too, and a caller's bad values are not to fill the server's log.
onnxruntime.set_default_logger_severity(_FATAL_ONLY)


class Session:
    """A loaded model. Immutable once built; `run` may be called from any thread, several at a time.

    Args:
        model: a file, or the bytes of one.
        threads: that one `run` may use; None: `available_cpus()`. They sleep, and do not spin, between calls.

    Raises:
        BadBundle: the file is missing, is no ONNX model, or holds something that onnxruntime can't run.
    """

    __slots__ = ("_dtypes", "_input_specs", "_output_names", "_session", "inputs", "metadata", "outputs", "threads")

    def __init__(self, model: Path | bytes, *, threads: int | None = None) -> None:
        self.threads = available_cpus() if threads is None else threads
        self._session = _load(model, self.threads)
        where = _where(model)
        self.inputs = tuple(_spec(node, where) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, where) for node in self._session.get_outputs())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input_specs = {spec.name: spec for spec in self.inputs}
        self._dtypes = {s.name: np.dtype("O" if s.dtype == "string" else s.dtype) for s in self.inputs}
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """The model's outputs for one batch.

        Args:
            feeds: an array for every input, by name; dtypes and fixed dimensions as in `inputs`.
            outputs: names of the wanted ones; none: all.

        Returns:
            An array for every wanted output, by name.

        Raises:
            BadInput: a name, dtype or shape that the model does not have, or values that it can't compute.
            MemoryError: there is no memory to compute them.
        """
        self._check(feeds, outputs)
        wanted = list(outputs) or self._output_names
        try:
            arrays = self._session.run(wanted, feeds)
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common root
            if any(words in str(error) for words in _NO_MEMORY):
                raise MemoryError(_first_line(error)) from error
            raise BadInput(f"The model could not compute these inputs: {_first_line(error)}") from error
        return dict(zip(wanted, arrays, strict=True))

    def warm_up(self, rows: Iterable[int]) -> None:
        """Run once per number of rows on zeros, so that no caller pays for first allocations.

        Args:
            rows: batch sizes; the largest first spares memory. Unknown dimensions other than the first become 1.
        """
        for count in rows:
            self.run({spec.name: _zeros(spec, count) for spec in self.inputs})

    def _check(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> None:
        specs = self._input_specs
        if feeds.keys() != specs.keys():
            raise BadInput(f"The model takes the inputs {_names(specs)}. Received: {_names(feeds)}")
        for name, array in feeds.items():
            if array.dtype is not self._dtypes[name] or not _fits(specs[name].shape, array.shape):
                check(specs[name], array)
        for name in outputs:
            if name not in self._output_names:
                raise BadInput(f"The model has no output {name!r}; it has {_names(self._output_names)}.")


def check(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Refuse an array that is not what a tensor's specification says.

    Raises:
        BadInput: another dtype, number of dimensions, or size of a fixed dimension.
    """
    dtype, shape = array.dtype, array.shape
    right = dtype.kind in "OUST" if spec.dtype == "string" else dtype == _NATIVE.get(spec.dtype)
    if not right:
        raise BadInput(f"The input {spec.name!r} is of type {spec.dtype}. Received: {dtype}")
    if not _fits(spec.shape, shape):
        raise BadInput(f"The input {spec.name!r} has the shape {_shape(spec.shape)}. Received: {_shape(shape)}")


def _fits(wanted: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    if len(wanted) != len(shape):
        return False
    for size, got in zip(wanted, shape, strict=True):  # noqa: SIM110  `all` costs as much again, at every call
        if size is not None and size != got:
            return False
    return True


def available_cpus(root: Path = Path("/")) -> int:
    """The CPUs that this process may really use: its affinity and its cgroups' quota, at least 1.

    onnxruntime and `os.cpu_count` see neither, and threads beyond the quota only get throttled.

    Args:
        root: where `proc` and `sys` are; another one for tests.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _cgroup_folders(root)]
    return max(1, min([affinity, *(int(quota) for quota in quotas if quota is not None)]))


# ---- loading ------------------------------------------------------------------------------------


def _load(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    # A memory pattern is kept for every number of rows ever seen, and grows the arena for nothing measurable.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common root
        raise BadBundle(f"{_where(model)} can't be loaded: {_first_line(error)}") from error


def _where(model: Path | bytes) -> str:
    return "The ONNX model" if isinstance(model, bytes) else str(model)


def _spec(node: Any, where: str) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        known = ", ".join(sorted(_DTYPES))
        raise BadBundle(f"{where}: the type {node.type} of {node.name!r} is not served; expected one of {known}.")
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in node.shape)
    return TensorSpec(node.name, dtype, shape)


def _zeros(spec: TensorSpec, rows: int) -> NDArray[Any]:
    first, *others = spec.shape or (None,)
    shape = [rows if first is None else first, *(size or 1 for size in others)] if spec.shape else []
    return np.full(shape, "", object) if spec.dtype == "string" else np.zeros(shape, spec.dtype)


# ---- words --------------------------------------------------------------------------------------


def _first_line(error: Exception) -> str:
    """What onnxruntime says, without the places in its own source."""
    return _OWN_SOURCE.sub("", str(error).strip() or type(error).__name__).splitlines()[0]


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def _shape(shape: Iterable[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


# ---- cgroups ------------------------------------------------------------------------------------


def _cgroup_folders(root: Path) -> Iterable[Path]:
    """The folders that limit this process' CPU, for version 1 and 2: its own, and all above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = (
            [root / "sys/fs/cgroup"] if not controllers else [root / "sys/fs/cgroup" / n for n in ("cpu", controllers)]
        )
        for top in tops:
            own = top / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder == top or top in folder.parents)


def _quota(folder: Path) -> float | None:
    """CPUs, or None where there is no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
