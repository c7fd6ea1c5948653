"""What the Open Inference Protocol tells of a model: metadata, configuration, statistics; knows no call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serving import tensors
from serving.model_config import ALL_VERSIONS
from serving.v2 import open_inference_pb2 as v2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving.bundle import TensorSpec
    from serving.model_config import VersionPolicy
    from serving.registry import Handle
    from serving.telemetry import Statistics

PLATFORM: Final = "onnxruntime_onnx"

STATES: Final = {
    "Start": "LOADING",
    "Loading": "LOADING",
    "Available": "READY",
    "Unloading": "UNLOADING",
    "End": "UNAVAILABLE",
}
"""The registry's states in Triton's words."""

_NS: Final = 1_000_000_000


def metadata(handle: Handle, versions: Iterable[int]) -> v2.ModelMetadataResponse:
    """The tensors of a version, and the versions that can be called."""
    response = v2.ModelMetadataResponse(name=handle.name, platform=PLATFORM)
    response.versions.extend(str(version) for version in versions)
    for spec in handle.inputs:
        response.inputs.add(name=spec.name, datatype=tensors.datatype(spec), shape=tensors.shape(spec))
    for spec in handle.outputs:
        response.outputs.add(name=spec.name, datatype=tensors.datatype(spec), shape=tensors.shape(spec))
    return response


def config(handle: Handle) -> v2.ModelConfig:
    """The configuration of a version as it is in effect, whether a file or the server's settings say so."""
    tuning = handle.tuning
    limits, batched = tuning.limits, tuning.limits.joins
    written = v2.ModelConfig(
        name=handle.name,
        platform=PLATFORM,
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=limits.max_batch_rows if batched else 0,
        version_policy=_version_policy(tuning.policy),
    )
    for spec in handle.inputs:
        # What a bundle takes is images; of a plain model nobody knows.
        form = "FORMAT_NONE" if handle.bundle is None else "FORMAT_NHWC"
        dims = _dims(spec, batched=batched)
        written.input.add(name=spec.name, data_type=_config_type(spec), format=form, dims=dims)
    for spec in handle.outputs:
        written.output.add(name=spec.name, data_type=_config_type(spec), dims=_dims(spec, batched=batched))
    written.instance_group.add(name=handle.name, count=tuning.executors, kind="KIND_CPU")
    if batched:
        batching = written.dynamic_batching
        batching.preferred_batch_size.extend(limits.preferred_rows)
        batching.max_queue_delay_microseconds = round(limits.max_wait_ms * 1000)
        batching.default_queue_policy.max_queue_size = limits.max_queue_rows
        batching.default_queue_policy.default_timeout_microseconds = round(tuning.timeout_ms * 1000)
    return written


def _version_policy(policy: VersionPolicy) -> v2.ModelVersionPolicy:
    written = v2.ModelVersionPolicy()
    if policy.only is not None:
        written.specific.versions.extend(sorted(policy.only))
    elif policy.most == ALL_VERSIONS:
        written.all.SetInParent()
    else:
        written.latest.num_versions = policy.most
    return written


def statistics(name: str, version: int, counted: Statistics) -> v2.ModelStatistics:
    """One version's counts and times.

    As in Triton, queue and compute are counted per request, each of which felt the whole time of its batch; clients
    refuse statistics whose compute counts differ. Decoding stands for making inputs.
    """
    inferred = counted.queue_count
    stats = v2.InferStatistics(
        success=_duration(counted.requests_ok, counted.ok_seconds),
        fail=_duration(counted.requests_failed, counted.failed_seconds),
        queue=_duration(inferred, counted.queue_seconds),
        compute_input=_duration(inferred, counted.decode_seconds),
        compute_infer=_duration(inferred, counted.request_compute_seconds),
        compute_output=_duration(inferred, 0.0),
    )
    written = v2.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=counted.last_request_unix_ms,
        inference_count=counted.rows,
        execution_count=counted.batches,
        inference_stats=stats,
    )
    for size in counted.batch_sizes:
        infer, none = _duration(size.batches, size.compute_seconds), _duration(size.batches, 0.0)
        written.batch_stats.add(batch_size=size.rows, compute_input=none, compute_infer=infer, compute_output=none)
    return written


def _duration(count: int, seconds: float) -> v2.StatisticDuration:
    return v2.StatisticDuration(count=count, ns=round(seconds * _NS))


def _config_type(spec: TensorSpec) -> str:
    """The type's name, which protobuf takes for its number."""
    name = tensors.datatype(spec)
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"


def _dims(spec: TensorSpec, *, batched: bool) -> list[int]:
    return tensors.shape(spec)[1:] if batched else tensors.shape(spec)
