"""A repository with one slow model, made by `onnx` alone: ten convolutions, 0.3 G multiply-adds a row.

A server of LeNet-5 answers faster than a load generator on the same two cores can ask ten times over; of this one it
can't, so that what is measured under overload is the server and not the generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lenet5
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

_LAYERS = 10
_CHANNELS = 64


def publish(models: Path) -> None:
    """Put version 1 into the repository, under the same name and with the same labels as LeNet-5's."""
    lenet5.publish(models, model())


def model() -> bytes:
    """The ONNX file: 3x3 convolutions with 64 channels at 28x28, the mean over the image, a dense layer."""
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {"full": np.array(255.0, np.float32), "nchw": np.array([-1, 1, 28, 28], np.int64)}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full"], ["unit"]),
        helper.make_node("Reshape", ["unit", "nchw"], ["x0"]),
    ]
    for layer in range(_LAYERS):
        fan_in = _CHANNELS if layer else 1
        weights = random.standard_normal((_CHANNELS, fan_in, 3, 3)) / np.sqrt(9 * fan_in)
        constants[f"w{layer}"] = np.asarray(weights, np.float32)
        nodes += [
            helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]),
        ]
    constants["dense"] = np.asarray(random.standard_normal((_CHANNELS, len(lenet5.LABELS))), np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{_LAYERS}"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", *lenet5.IMAGE.shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", len(lenet5.LABELS)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())
