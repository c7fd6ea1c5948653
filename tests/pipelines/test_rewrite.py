"""A rewritten graph gives the same bits; what isn't the known pattern is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.rewrite import move_before_scaling
from serving.session import Session

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 1), np.uint8)


def _graph(*, mover="Reshape", factor=1 / 255, second_reader=False, is_moved_first=False, computed_shape=False):
    """Image -> floats -> scaled -> channels first -> its negative."""
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "factor"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["moved"])
        if mover == "Reshape"
        else helper.make_node("Transpose", ["scaled"], ["moved"], perm=[0, 3, 1, 2]),
        helper.make_node("Neg", ["moved"], ["answer"]),
    ]
    if second_reader:
        nodes.append(helper.make_node("Neg", ["scaled"], ["other"]))
    if is_moved_first:
        nodes[:3] = [
            helper.make_node("Reshape", ["image", "shape"], ["early"]),
            helper.make_node("Cast", ["early"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "factor"], ["moved"]),
        ]
    if computed_shape:
        nodes.insert(2, helper.make_node("Identity", ["shape"], ["found"]))
        nodes[3].input[1] = "found"
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", 6, 5, 1])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["rows", 1, 6, 5])],
        [
            numpy_helper.from_array(np.asarray(factor, np.float32), "factor"),
            numpy_helper.from_array(np.array([-1, 1, 6, 5], np.int64), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("mover", ["Reshape", "Transpose"])
def test_pixels_move_before_they_are_scaled(mover):
    """The same answers, bit by bit, whatever the number of rows, and a graph that the checker takes."""
    proto = _graph(mover=mover)
    before = Session(proto.SerializeToString())
    assert move_before_scaling(proto)
    onnx.checker.check_model(proto)
    assert [node.op_type for node in proto.graph.node] == [mover, "Cast", "Mul", "Neg"]
    after = Session(proto.SerializeToString())
    for rows in (1, 3):
        feed = {"image": PIXELS[:rows]}
        np.testing.assert_array_equal(after.run(feed)["answer"], before.run(feed)["answer"])


@pytest.mark.parametrize(
    "other",
    [
        {"second_reader": True},
        {"factor": np.full(5, 0.1).reshape(5, 1)},
        {"is_moved_first": True},
        {"computed_shape": True},
    ],
)
def test_other_graphs_are_left_alone(other):
    """Scaled pixels read by somebody else, a factor per column, what is in order already, a computed shape."""
    proto = _graph(**other)
    before = proto.SerializeToString()
    assert not move_before_scaling(proto)
    assert proto.SerializeToString() == before
