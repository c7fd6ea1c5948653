"""A repository with one LeNet-5 for 28x28 gray images, made by `onnx` alone: benchmarks need no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving import bundle as bundles
from serving.bundle import Bundle, Parity, TensorSpec
from serving.images import ImageSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAME = "digits"
LABELS = tuple("0123456789")
IMAGE = ImageSpec(28, 28, 1)


def pixels(rows: int) -> NDArray[np.uint8]:
    """Random images: uint8 [rows, 28, 28, 1]."""
    return np.random.default_rng(0).integers(0, 256, (rows, *IMAGE.shape), np.uint8)


def publish(models: Path, made: bytes | None = None) -> int:
    """Put the next version into the repository: this model, or another one with the same inputs and outputs."""
    bundle = Bundle(
        schema_version=bundles.SCHEMA_VERSION,
        name=NAME,
        version=0,
        task="classify",
        image=IMAGE,
        inputs=(TensorSpec("image", "uint8", (None, *IMAGE.shape)),),
        outputs=(TensorSpec("probabilities", "float32", (None, len(LABELS))),),
        labels=LABELS,
        threshold=None,
        metrics={},
        parity=Parity(max_abs_diff=0.0, rows=1),
        recipe={},
        dataset={},
        made_by={},
    )
    return bundles.publish(models, bundle, made or model())


def model(seed: int = 0) -> bytes:
    """The ONNX file: two convolutions with average pooling, three dense layers; random weights."""
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> NDArray[np.float32]:
        fan_in = int(np.prod(shape[1:]))
        return np.asarray(random.standard_normal(shape) / np.sqrt(fan_in), np.float32)

    constants: dict[str, NDArray[Any]] = {
        "full": np.array(255.0, np.float32),
        "nchw": np.array([-1, 1, 28, 28], np.int64),
        "flat": np.array([-1, 400], np.int64),
        "w1": weights(6, 1, 5, 5),
        "w2": weights(16, 6, 5, 5),
        "d1": weights(120, 400),
        "d2": weights(84, 120),
        "d3": weights(10, 84),
        "b1": weights(6),
        "b2": weights(16),
        "c1": weights(120),
        "c2": weights(84),
        "c3": weights(10),
    }
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full"], ["unit"]),
        helper.make_node("Reshape", ["unit", "nchw"], ["x"]),
        helper.make_node("Conv", ["x", "w1", "b1"], ["y1"], pads=[2, 2, 2, 2]),
        helper.make_node("Tanh", ["y1"], ["t1"]),
        helper.make_node("AveragePool", ["t1"], ["p1"], **pool),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["y2"]),
        helper.make_node("Tanh", ["y2"], ["t2"]),
        helper.make_node("AveragePool", ["t2"], ["p2"], **pool),
        helper.make_node("Reshape", ["p2", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "d1", "c1"], ["g1"], transB=1),
        helper.make_node("Tanh", ["g1"], ["h1"]),
        helper.make_node("Gemm", ["h1", "d2", "c2"], ["g2"], transB=1),
        helper.make_node("Tanh", ["g2"], ["h2"]),
        helper.make_node("Gemm", ["h2", "d3", "c3"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", 28, 28, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())
