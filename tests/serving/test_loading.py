"""Loading: only what is whole, says what it is, and answers with finite numbers may serve."""

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
from onnx import helper

from serving import bundle as bundles
from serving import repository
from serving.bundle import TensorSpec, Threshold
from serving.errors import BadBundle
from serving.images import ImageSpec
from serving.loading import load, load_to_fit
from tests.serving import fake_models


def find(models, name="digits"):
    return repository.scan(models).models[name].newest


def test_a_bundle_is_loaded_and_answers_as_it_should(tmp_path):
    fake_models.publish_classifier(tmp_path)
    loaded = load(find(tmp_path), threads=1, max_batch_rows=16)
    pixels = fake_models.pixels(3)
    answer = loaded.run({"image": pixels}, ())["probabilities"]
    np.testing.assert_allclose(answer, fake_models.expected_probabilities(pixels), atol=1e-6)
    assert loaded.joins
    assert loaded.bundle.labels == fake_models.LABELS


@pytest.mark.parametrize(("seconds", "cpus", "executors"), [(0.001, 4, 4), (0.1, 4, 1), (0.001, 1, 1)])
def test_short_calls_run_side_by_side_and_long_ones_on_all_cpus(tmp_path, seconds, cpus, executors):
    """By a clock that says how long its calls are; answers are the same either way."""
    fake_models.publish_classifier(tmp_path)
    ticks = itertools.count()
    version = find(tmp_path)
    loaded = load_to_fit(version, cpus=cpus, max_batch_rows=16, clock=lambda: next(ticks) * seconds)
    assert loaded.executors == executors
    assert loaded.run.__self__.threads == cpus // executors
    pixels = fake_models.pixels(3)
    answer = loaded.run({"image": pixels}, ())["probabilities"]
    np.testing.assert_allclose(answer, fake_models.expected_probabilities(pixels), atol=1e-6)


def test_a_plain_model_is_loaded_without_a_bundle(tmp_path):
    fake_models.write_plain(tmp_path)
    loaded = load(find(tmp_path, "plain"), threads=1, max_batch_rows=16)
    assert loaded.bundle is None
    assert loaded.joins


def test_one_changed_byte_keeps_a_bundle_from_loading(tmp_path):
    fake_models.publish_classifier(tmp_path)
    version = find(tmp_path)
    content = bytearray((version.path / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version.path / "model.onnx").write_bytes(content)
    with pytest.raises(BadBundle, match=r"model\.onnx"):
        load(version, threads=1, max_batch_rows=16)


def test_half_a_plain_model_does_not_load(tmp_path):
    whole = fake_models.classifier()[1]
    fake_models.write_plain(tmp_path, model=whole[: len(whole) // 2])
    with pytest.raises(BadBundle):
        load(find(tmp_path, "plain"), threads=1, max_batch_rows=16)


def test_a_bundle_whose_model_has_other_outputs_than_it_says_is_refused(tmp_path):
    bundle, model = fake_models.classifier()
    promised = dataclasses.replace(bundle, outputs=(TensorSpec("logits", "float32", (None, 3)),))
    bundles.publish(tmp_path, promised, model)
    with pytest.raises(BadBundle, match="logits"):
        load(find(tmp_path), threads=1, max_batch_rows=16)


def test_a_bundle_that_answers_nan_is_refused(tmp_path):
    bundle, model = fake_models.classifier(gain=float("nan"))
    bundles.publish(tmp_path, bundle, model)
    with pytest.raises(BadBundle, match="not finite"):
        load(find(tmp_path), threads=1, max_batch_rows=16)


@pytest.mark.parametrize("dimensions", [[4, 2], ["rows", 2]], ids=["fixed", "free"])
def test_rows_are_joined_only_where_the_model_computes_row_by_row(tmp_path, dimensions):
    """With a free number of rows but one answer for all, joining would mix callers."""
    out = [4, 2] if dimensions[0] == 4 else [1, 2]
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dimensions)
    answer = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, out if out[0] == 4 else ["one", 2])
    node = helper.make_node("Relu", ["x"], ["y"]) if out[0] == 4 else helper.make_node("ReduceMax", ["x", "a"], ["y"])
    axes = [] if out[0] == 4 else [onnx.numpy_helper.from_array(np.array([0], np.int64), "a")]
    graph = helper.make_graph([node], "g", [value], [answer], axes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    fake_models.write_plain(tmp_path, model=model.SerializeToString())
    assert not load(find(tmp_path, "plain"), threads=1, max_batch_rows=16).joins


def test_the_model_of_a_half_copied_bundle_is_no_plain_model(tmp_path):
    """A copy that brings model.onnx first must not replace the version before it."""
    fake_models.publish_classifier(tmp_path)
    for name in ("bundle.json", "checksums"):
        (tmp_path / "digits" / "1" / name).unlink()
    with pytest.raises(BadBundle, match="not whole yet"):
        load(find(tmp_path), threads=1, max_batch_rows=16)


def plain(tmp_path, node, *, dtype=onnx.TensorProto.FLOAT, columns=2, constants=()):
    """A model of one node that takes x and gives y, both with free rows."""
    value = helper.make_tensor_value_info("x", dtype, ["rows", columns])
    answer = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", None])
    graph = helper.make_graph([node], "g", [value], [answer], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    fake_models.write_plain(tmp_path, model=model.SerializeToString())
    return load(find(tmp_path, "plain"), threads=1, max_batch_rows=16)


@pytest.mark.parametrize(("axis", "joins"), [(0, False), (1, True)])
def test_rows_that_change_each_other_are_not_joined(tmp_path, axis, joins):
    """As many rows out as in prove nothing: a softmax over the rows answers by who else is in the batch."""
    assert plain(tmp_path, helper.make_node("Softmax", ["x"], ["y"], axis=axis)).joins is joins


def test_a_model_that_takes_indices_joins_and_one_that_refuses_what_we_try_does_not(tmp_path, capfd):
    """What can't be proved is not assumed: one request per call; onnxruntime's complaint is for its caller alone."""
    for rows, joins in ((5, True), (1, False)):
        table = onnx.numpy_helper.from_array(np.arange(rows * 1.0, dtype=np.float32), "table")
        node = helper.make_node("Gather", ["table", "x"], ["y"])
        loaded = plain(tmp_path / str(rows), node, dtype=onnx.TensorProto.INT64, constants=[table])
        assert loaded.joins is joins
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labels": ("zero", "one")}, "labels"),
        ({"labels": (*fake_models.LABELS, "three")}, "labels"),
        ({"image": ImageSpec(5, 6, 1)}, "image"),
        ({"image": ImageSpec(6, 5, 3)}, "image"),
        ({"inputs": (TensorSpec("image", "uint8", (None, 5, 6, 1)),)}, "inputs"),
        ({"outputs": (TensorSpec("probabilities", "float32", (None, 4)),)}, "outputs"),
        ({"task": "reconstruct", "threshold": Threshold(0.5, 0.99)}, "task"),
    ],
    ids=["fewer labels", "more labels", "image turned", "image in colour", "input shape", "output shape", "task"],
)
def test_a_bundle_that_describes_another_model_is_refused_by_field(tmp_path, changes, field):
    """Names and types alone are not agreement: such a bundle would answer with the wrong labels, or not at all."""
    bundle, model = fake_models.classifier()
    bundles.publish(tmp_path, dataclasses.replace(bundle, **changes), model)
    with pytest.raises(BadBundle, match=f"field '{field}'"):
        load(find(tmp_path), threads=1, max_batch_rows=16)


def test_a_reconstructing_bundle_needs_its_threshold(tmp_path):
    bundle, model = fake_models.reconstructor()
    bundles.publish(tmp_path, dataclasses.replace(bundle, threshold=None), model)
    with pytest.raises(BadBundle, match="field 'threshold'"):
        load(find(tmp_path, "digits-ae"), threads=1, max_batch_rows=16)


def test_a_size_that_the_description_leaves_open_is_no_disagreement(tmp_path):
    """Another onnxruntime may find out fewer sizes of a graph than the one that served it when it was exported."""
    bundle, model = fake_models.classifier()
    free = (TensorSpec("probabilities", "float32", (None, None)),)
    bundles.publish(tmp_path, dataclasses.replace(bundle, outputs=free), model)
    assert load(find(tmp_path), threads=1, max_batch_rows=16).joins


def test_what_only_a_call_can_tell_is_compared_too(tmp_path):
    """A graph may keep to itself how many columns it has; one call tells."""
    bundle, model = fake_models.classifier()
    graph = onnx.load_from_string(model)
    graph.graph.node[-1].output[0] = "closed"
    graph.graph.node.append(helper.make_node("Compress", ["closed", "kept"], ["probabilities"], axis=1))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([True, True, False]), "kept"))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "columns"
    free = (TensorSpec("probabilities", "float32", (None, None)),)
    promised = dataclasses.replace(bundle, outputs=free, labels=(*fake_models.LABELS, "three"))
    bundles.publish(tmp_path, promised, graph.SerializeToString())
    with pytest.raises(BadBundle, match="self-test"):
        load(find(tmp_path), threads=1, max_batch_rows=16)
