"""An exported graph with its large matrices in 8 bits, kept only if it is faster and as right.

The scheme is the one that measured best: weights of matrix products in int8, their inputs quantized on the fly.
Convolutions stay in float32, where int8 was no faster or slower. The only other room of onnxruntime: its quantizer.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from serving.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.loop import Rows
    from pipelines.manifest import PartName

SCHEME = "int8 weights of matrix products, inputs quantized dynamically"
KINDS = ["MatMul", "Gemm"]
MAX_LOSS_POINTS = 0.2
MIN_SPEEDUP = 1.05  # less is within what measuring the same graph twice gives
TRIAL_ROWS = 32
TRIAL_ROUNDS = 40
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """How the two forms of a graph compare.

    Attributes:
        scheme: what was quantized.
        is_kept: whether the int8 form is the one to publish.
        reason: why, in a sentence.
        speedup: how many times as fast the int8 form is, at 32 rows.
        accuracy: of the int8 form.
        accuracy_float32: of the graph as it was, on the same images.
        images: that both were judged on.
        part: of the snapshot, where these come from.
    """

    scheme: str
    is_kept: bool
    reason: str
    speedup: float
    accuracy: float
    accuracy_float32: float
    images: int
    part: PartName


def shrink(model: bytes) -> bytes | None:
    """The graph in int8; None where it has no matrix product with fixed weights."""
    proto = onnx.load_from_string(model)
    weights = {tensor.name for tensor in proto.graph.initializer}
    if not any(node.op_type in KINDS and weights & set(node.input) for node in proto.graph.node):
        return None
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it recommends a preparation that our graphs don't need
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(proto, path, op_types_to_quantize=KINDS, per_channel=True, weight_type=QuantType.QInt8)
            return path.read_bytes()
    finally:
        root.setLevel(level)


def compare(model: bytes, shrunk: bytes, rows: Rows, *, part: PartName) -> Trial:
    """Hold both forms of a classifier against each other on the same images.

    To choose is to learn, so these are no images that what is chosen is judged on afterwards.

    Args:
        model: the graph in float32.
        shrunk: the same in int8.
        rows: at least one.
        part: of the snapshot, that they are.
    """
    before, after = Session(model), Session(shrunk)
    before_accuracy, after_accuracy = (_accuracy(session, rows) for session in (before, after))
    speedup = _speedup(before, after, rows.gather(np.arange(min(TRIAL_ROWS, rows.rows))))
    is_kept, reason = verdict(speedup=speedup, accuracy=after_accuracy, accuracy_float32=before_accuracy)
    return Trial(
        scheme=SCHEME,
        is_kept=is_kept,
        reason=reason,
        speedup=speedup,
        accuracy=after_accuracy,
        accuracy_float32=before_accuracy,
        images=rows.rows,
        part=part,
    )


def verdict(*, speedup: float, accuracy: float, accuracy_float32: float) -> tuple[bool, str]:
    """Whether int8 is worth it, and the reason."""
    lost_points = (accuracy_float32 - accuracy) * 100
    if lost_points > MAX_LOSS_POINTS + 1e-9:
        return False, f"int8 loses {lost_points:.2f} points of accuracy, and {MAX_LOSS_POINTS} are allowed"
    if speedup < MIN_SPEEDUP:
        return False, f"int8 is {speedup:.2f} times as fast as float32, which is no gain"
    return True, f"int8 is {speedup:.2f} times as fast as float32 and loses {max(0.0, lost_points):.2f} points"


def _accuracy(session: Session, rows: Rows) -> float:
    right = 0
    for begin in range(0, rows.rows, _BATCH_ROWS):
        here = np.arange(begin, min(begin + _BATCH_ROWS, rows.rows))
        answers = session.run({"image": rows.gather(here)}, ("probabilities",))["probabilities"]
        right += int((answers.argmax(axis=1) == rows.labels[here]).sum())
    return right / rows.rows


def _speedup(before: Session, after: Session, pixels: NDArray[np.uint8]) -> float:
    """By the median of many runs, taken in turns, so that a busy machine slows both."""
    feed = {"image": pixels}
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TRIAL_ROUNDS):
        for session, taken in zip((before, after), seconds, strict=True):
            began = time.perf_counter()
            session.run(feed)
            taken.append(time.perf_counter() - began)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])
