"""Tiny real models and bundles for tests: made with `onnx` alone, in milliseconds, no TensorFlow.

    bundle, model = classifier()                      a Bundle and the bytes of its ONNX file, nothing on disk
    version = publish_classifier(models, "digits")    published; version 1, 2, 3 …
    publish_reconstructor(models, "digits-ae")
    write_plain(models, "plain", 1)                   a version folder with only a model.onnx

The classifier's answer can be computed by hand, so that tests compare with it: `expected_probabilities(pixels)`.
It scores label k by the mean of rows k, k + labels, k + 2 * labels … of the image (first channel), times a gain,
so an image that is bright in row k has the label k. The reconstructor gives back half of the brightness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving import bundle as bundles
from serving.bundle import Bundle, Parity, TensorSpec, Threshold
from serving.images import ImageSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LABELS = ("zero", "one", "two")
IMAGE = ImageSpec(6, 5, 1)
GAIN = 4.0


def classifier(
    name: str = "digits", *, labels: tuple[str, ...] = LABELS, image: ImageSpec = IMAGE, gain: float = GAIN
) -> tuple[Bundle, bytes]:
    """A classifying bundle (version 0) and its ONNX file. Another `gain` gives other probabilities."""
    outputs = (TensorSpec("probabilities", "float32", (None, len(labels))),)
    size = int(np.prod(image.shape))
    nodes = [
        *_scaled(),
        helper.make_node("Reshape", ["unit", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    constants = {
        "full": np.float32(255.0),
        "flat_shape": np.array([-1, size], np.int64),
        "weights": _weights(image, len(labels), gain),
    }
    bundle = Bundle(
        schema_version=bundles.SCHEMA_VERSION,
        name=name,
        version=0,
        task="classify",
        image=image,
        inputs=(TensorSpec("image", "uint8", (None, *image.shape)),),
        outputs=outputs,
        labels=labels,
        threshold=None,
        metrics={"accuracy": 0.97},
        parity=Parity(max_abs_diff=2.5e-7, rows=64),
        recipe={"task": "classify", "architecture": "fake"},
        dataset={"name": "fake", "snapshot": "0" * 32},
        made_by={"time": "2026-01-01T00:00:00Z"},
    )
    return bundle, _model(nodes, constants, bundle.inputs, bundle.outputs)


def reconstructor(
    name: str = "digits-ae", *, image: ImageSpec = IMAGE, threshold: float = 0.05, factor: float = 0.5
) -> tuple[Bundle, bytes]:
    """A reconstructing bundle (version 0) and its ONNX file: the image at `factor` of its brightness."""
    nodes = [
        *_scaled(),
        helper.make_node("Mul", ["unit", "half"], ["reconstruction"]),
        helper.make_node("Sub", ["unit", "reconstruction"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["square"]),
        helper.make_node("ReduceMean", ["square", "pixel_axes"], ["error"], keepdims=0),
    ]
    constants = {
        "full": np.float32(255.0),
        "half": np.float32(factor),
        "pixel_axes": np.array([1, 2, 3], np.int64),
    }
    bundle = Bundle(
        schema_version=bundles.SCHEMA_VERSION,
        name=name,
        version=0,
        task="reconstruct",
        image=image,
        inputs=(TensorSpec("image", "uint8", (None, *image.shape)),),
        outputs=(
            TensorSpec("reconstruction", "float32", (None, *image.shape)),
            TensorSpec("error", "float32", (None,)),
        ),
        labels=(),
        threshold=Threshold(error=threshold, quantile=0.99),
        metrics={"binary_crossentropy": 0.09, "mean_squared_error": 0.01},
        parity=Parity(max_abs_diff=2.5e-7, rows=64),
    )
    return bundle, _model(nodes, constants, bundle.inputs, bundle.outputs)


def publish_classifier(models: Path, name: str = "digits", *, gain: float = GAIN) -> int:
    """Publish a `classifier`; returns its version."""
    bundle, model = classifier(name, gain=gain)
    return bundles.publish(models, bundle, model)


def publish_reconstructor(models: Path, name: str = "digits-ae", *, threshold: float = 0.05) -> int:
    """Publish a `reconstructor`; returns its version."""
    bundle, model = reconstructor(name, threshold=threshold)
    return bundles.publish(models, bundle, model)


def echo() -> bytes:
    """The ONNX file of a model that gives the strings of its input `image`, [rows, any], back as `words`."""
    kind = TensorProto.STRING
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["words"])],
        "fake",
        [helper.make_tensor_value_info("image", kind, ["rows", "any"])],
        [helper.make_tensor_value_info("words", kind, ["rows", "any"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def write_plain(models: Path, name: str = "plain", version: int = 1, *, model: bytes | None = None) -> Path:
    """A version folder as anybody's exporter leaves it: only a model.onnx, no bundle."""
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    (folder / bundles.MODEL).write_bytes(classifier()[1] if model is None else model)
    return folder


def pixels(rows: int, *, image: ImageSpec = IMAGE, seed: int = 0) -> NDArray[np.uint8]:
    """Random images: uint8 [rows, height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (rows, *image.shape), np.uint8)


def expected_probabilities(
    images: NDArray[np.uint8], *, labels: int = len(LABELS), gain: float = GAIN
) -> NDArray[np.float32]:
    """What `classifier` answers, computed with numpy: float32 [rows, labels]."""
    image = ImageSpec(images.shape[1], images.shape[2], images.shape[3])
    scores = (images.astype(np.float32) / 255).reshape(len(images), -1) @ _weights(image, labels, gain)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _weights(image: ImageSpec, labels: int, gain: float) -> NDArray[np.float32]:
    weights = np.zeros((*image.shape, labels), np.float32)
    for row in range(image.height):
        weights[row, :, 0, row % labels] = gain / image.width
    return weights.reshape(-1, labels)


def _scaled() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "full"], ["unit"]),
    ]


def _model(nodes, constants, inputs, outputs) -> bytes:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes, "fake", [_value(spec) for spec in inputs], [_value(spec) for spec in outputs], initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, ["rows", *spec.shape[1:]])
