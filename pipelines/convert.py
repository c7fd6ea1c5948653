"""A Keras model to the bytes of an ONNX model: the one room of tf2onnx.

The exported graph takes `image`, uint8 with dynamic rows, scales it to 0…1 and gives the outputs of the contract.
It holds nothing random: augmentation is no part of a model.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import onnx
import tensorflow as tf
import tf2onnx

from pipelines.fold import folded
from pipelines.loop import scaled
from pipelines.rewrite import move_before_scaling

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.config import Task

OPSET = 17
INPUT = "image"
OUTPUTS: dict[Task, tuple[str, ...]] = {
    "classify": ("probabilities",),
    "reconstruct": ("reconstruction", "error"),
}


def to_onnx(model: Any, task: Task) -> bytes:
    """The model with scaling before it and the contract's outputs behind it.

    Args:
        model: a Keras model from float32 [rows, height, width, channels] in 0…1.
        task: classify (one sigmoid becomes two columns) or reconstruct (the error comes on top).
    """
    proto = untouched(folded(model), task)
    move_before_scaling(proto)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


def untouched(model: Any, task: Task) -> onnx.ModelProto:
    """The same as tf2onnx writes it, without any rewriting: what ours is measured against."""
    answer = _classify(model) if task == "classify" else _reconstruct(model)
    spec = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8, name=INPUT)
    # tf2onnx counts nodes on stdout, which carries a command's result and nothing else.
    with contextlib.redirect_stdout(io.StringIO()):
        proto, _ = tf2onnx.convert.from_function(
            tf.function(answer, input_signature=[spec], autograph=False), input_signature=[spec], opset=OPSET
        )
    _name(proto, OUTPUTS[task])
    found: onnx.ModelProto = proto
    return found


def _classify(model: Any) -> Callable[[Any], Any]:
    def answer(image: Any) -> Any:
        probabilities = model(scaled(image), training=False)
        if probabilities.shape[-1] == 1:
            probabilities = tf.concat([1.0 - probabilities, probabilities], axis=1)
        return (tf.identity(probabilities),)

    return answer


def _reconstruct(model: Any) -> Callable[[Any], Any]:
    def answer(image: Any) -> Any:
        wanted = scaled(image)
        reconstruction = model(wanted, training=False)
        error = tf.reduce_mean(tf.square(reconstruction - wanted), axis=[1, 2, 3])
        return tf.identity(reconstruction), tf.identity(error)

    return answer


def _name(proto: onnx.ModelProto, outputs: tuple[str, ...]) -> None:
    """Call input and outputs as the contract does, and the rows `rows`."""
    graph = proto.graph
    names = dict(zip([value.name for value in graph.output], outputs, strict=True))
    names[graph.input[0].name] = INPUT
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        rows = value.type.tensor_type.shape.dim[0]
        rows.dim_param = "rows"
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
