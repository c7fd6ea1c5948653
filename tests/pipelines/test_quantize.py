"""An int8 form is published only where it pays."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines import quantize
from serving.session import Session

SIDE, LABELS = 16, 4


def _graph(*, hidden: int) -> bytes:
    """Image -> floats -> two matrix products -> probabilities, with fixed random weights."""
    rng = np.random.default_rng(0)
    weights = {
        "scale": np.float32(1 / 255),
        "flat": np.array([-1, SIDE * SIDE], np.int64),
        "first": rng.normal(0, 0.1, (SIDE * SIDE, hidden)).astype(np.float32),
        "second": rng.normal(0, 0.1, (hidden, LABELS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", LABELS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


# More than one batch.
PIXELS = np.random.default_rng(1).integers(0, 256, (300, SIDE, SIDE, 1), np.uint8)


@dataclass
class Rows:
    """Images and their labels as a snapshot's part gives them."""

    pixels: np.ndarray
    labels: np.ndarray

    @property
    def rows(self):
        return len(self.pixels)

    def gather(self, index):
        return self.pixels[index]


def test_the_small_form_is_small_and_answers_alike():
    """A quarter of the bytes, the same names and shapes, probabilities that differ a little."""
    model = _graph(hidden=256)
    shrunk = quantize.shrink(model)
    assert shrunk is not None
    assert len(shrunk) < 0.4 * len(model)
    before, after = Session(model), Session(shrunk)
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
    answers = [session.run({"image": PIXELS})["probabilities"] for session in (before, after)]
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.05


def test_both_forms_are_judged_on_the_same_images():
    """The float32 form is right on labels of its own making; what int8 gets wrong of them is counted."""
    model = _graph(hidden=64)
    shrunk = quantize.shrink(model)
    assert shrunk is not None
    labels = Session(model).run({"image": PIXELS})["probabilities"].argmax(axis=1).astype(np.int32)
    trial = quantize.compare(model, shrunk, Rows(PIXELS, labels), part="validation")
    assert trial.accuracy_float32 == 1.0
    right = Session(shrunk).run({"image": PIXELS})["probabilities"].argmax(axis=1) == labels
    assert trial.accuracy == pytest.approx(right.mean())
    assert trial.speedup > 0
    assert (trial.images, trial.part) == (len(PIXELS), "validation")


def test_a_graph_without_matrices_has_nothing_to_quantize():
    """It is left alone."""
    proto = onnx.load_from_string(_graph(hidden=8))
    del proto.graph.node[3:]
    proto.graph.output[0].name = "row"
    assert quantize.shrink(proto.SerializeToString()) is None


@pytest.mark.parametrize(
    ("speedup", "accuracy", "is_kept", "reason"),
    [
        (1.5, 0.99, True, r"1\.50 times as fast .+ loses 0\.00 points"),
        (1.5, 0.988, True, r"loses 0\.20 points"),
        (1.5, 0.987, False, r"loses 0\.30 points of accuracy, and 0\.2 are allowed"),
        (1.0, 0.99, False, "no gain"),
        (0.7, 0.995, False, "no gain"),
    ],
)
def test_it_must_be_faster_and_as_right(speedup, accuracy, is_kept, reason):
    """Two tenths of a point may be lost, and speed must be won."""
    kept, told = quantize.verdict(speedup=speedup, accuracy=accuracy, accuracy_float32=0.99)
    assert kept is is_kept
    assert re.search(reason, told)
