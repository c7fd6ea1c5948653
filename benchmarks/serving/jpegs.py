"""Encoded photographs, 16 per request: both transports beside the same decoder and onnxruntime in a bare loop, ratios.

    python benchmarks/serving/jpegs.py [--rounds 3] [--seconds 3] [--only core] [--serve FLAG VALUE …]

Needs h2load. The files are 224x224 JPEGs cut from the two photographs that scikit-learn carries; the model is a small
residual network for that size. Sides alternate; medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import calls
import grpc
import h2load
import numpy as np
import onnx
from calls import CLASSIFY, FORMS, Side
from h2load import Load
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_images

from serving import bundle as bundles
from serving import images
from serving.bundle import Bundle, Parity, TensorSpec
from serving.images import ImageSpec
from serving.session import Session, available_cpus
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NAME = "photographs"
LABELS = tuple(f"class{number}" for number in range(10))
IMAGE = ImageSpec(224, 224, 3)
FILES = 16
LOAD = Load(4, 1)
_QUALITY = 90


def files() -> list[bytes]:
    """Crops of real photographs, as JPEG."""
    random = np.random.default_rng(0)
    found = []
    for number in range(FILES):
        photograph = load_sample_images().images[number % 2]
        top, left = (int(random.integers(0, side - 224 + 1)) for side in photograph.shape[:2])
        written = io.BytesIO()
        Image.fromarray(photograph[top : top + 224, left : left + 224]).save(written, "JPEG", quality=_QUALITY)
        found.append(written.getvalue())
    return found


def request(encoded: Sequence[bytes]) -> bytes:
    """The message of one call."""
    return v1.ClassifyRequest(
        model=NAME, images=v1.Images(encoded=v1.EncodedImages(files=encoded)), top_k=1
    ).SerializeToString()


class _Graph:
    """Nodes and weights of a model while it is put together."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(0)

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        values = self._random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.constant(f"w{len(self.weights)}", values.astype(np.float32))

    def convolution(self, x: str, channels: tuple[int, int], *, stride: int) -> str:
        weights = self.weight(channels[1], channels[0], 3, 3)
        return self.node("Conv", [x, weights], pads=[1, 1, 1, 1], strides=[stride, stride])


def model() -> bytes:
    """The ONNX file: four stages that halve the size, each with a residual block; random weights."""
    graph = _Graph()
    full = graph.constant("full", np.array(255.0, np.float32))
    floats = graph.node("Cast", ["image"], to=TensorProto.FLOAT)
    x = graph.node("Div", [graph.node("Transpose", [floats], perm=[0, 3, 1, 2]), full])
    channels = 3
    for wider in (16, 32, 64, 128):
        x = graph.node("Relu", [graph.convolution(x, (channels, wider), stride=2)])
        inner = graph.node("Relu", [graph.convolution(x, (wider, wider), stride=1)])
        x = graph.node("Relu", [graph.node("Add", [x, graph.convolution(inner, (wider, wider), stride=1)])])
        channels = wider
    pooled = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
    scores = graph.node("Gemm", [pooled, graph.weight(len(LABELS), channels)], transB=1)
    graph.nodes.append(helper.make_node("Softmax", [scores], ["probabilities"], axis=1))
    made = helper.make_graph(
        graph.nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", *IMAGE.shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", len(LABELS)])],
        graph.weights,
    )
    built = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    return bytes(built.SerializeToString())


def publish(models: Path) -> None:
    """Put version 1 into the repository."""
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
    bundles.publish(models, bundle, model())


def _rows(encoded: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.stack([images.read(data, IMAGE) for data in encoded])


def bare(path: Path, encoded: Sequence[bytes], seconds: float) -> float:
    """Images per second of decoding and onnxruntime alone, the better of two ways to use all cores."""
    cpus = available_cpus()
    return max(_side_by_side(path, encoded, seconds / 2, cpus), _together(path, encoded, seconds / 2, cpus))


def _side_by_side(path: Path, encoded: Sequence[bytes], seconds: float, cpus: int) -> float:
    """A loop per core, each by itself."""
    session = Session(path, threads=1)
    end = time.monotonic() + seconds

    def loop() -> int:
        done = 0
        while time.monotonic() < end:
            session.run({"image": _rows(encoded)})
            done += len(encoded)
        return done

    with ThreadPoolExecutor(cpus) as pool:
        return sum(future.result() for future in [pool.submit(loop) for _ in range(cpus)]) / seconds


def _together(path: Path, encoded: Sequence[bytes], seconds: float, cpus: int) -> float:
    """One loop: all cores decode, then all compute."""
    session, done = Session(path, threads=cpus), 0
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(cpus) as pool:
        while time.monotonic() < end:
            session.run({"image": np.stack(list(pool.map(lambda data: images.read(data, IMAGE), encoded)))})
            done += len(encoded)
    return done / seconds


def check(side: Side, encoded: Sequence[bytes], path: Path) -> None:
    """Leave with a sentence unless the server answers what the model says."""
    with grpc.insecure_channel(f"127.0.0.1:{side.port}") as channel:
        classify: Any = channel.unary_unary(CLASSIFY)
        answer = v1.ClassifyResponse.FromString(classify(request(encoded), timeout=20))
    expected = Session(path).run({"image": _rows(encoded)})["probabilities"].max(axis=1)
    got = [result.labels[0].probability if result.labels else -1.0 for result in answer.results]
    if len(got) != len(encoded) or not np.allclose(got, expected, atol=1e-4):
        sys.exit(f"The server answered nonsense: {answer}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", choices=FORMS)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[])
    chosen: Any = parser.parse_args()
    h2load.require()
    forms = (chosen.only,) if chosen.only else FORMS
    encoded = files()
    figures: dict[str, list[float]] = {side: [] for side in ("bare", *forms)}
    with contextlib.ExitStack() as held:
        models = Path(held.enter_context(tempfile.TemporaryDirectory()))
        publish(models)
        path = models / NAME / "1" / "model.onnx"
        sides = {form: held.enter_context(calls.listening(models, form, chosen.serve)) for form in forms}
        for side in sides.values():
            check(side, encoded, path)
        for _ in range(chosen.rounds):
            figures["bare"].append(bare(path, encoded, chosen.seconds))
            for form, side in sides.items():
                got = h2load.run(side.port, CLASSIFY, request(encoded), LOAD, seconds=chosen.seconds)
                figures[form].append(got.calls_per_second * FILES)
    words = [f"bare {statistics.median(figures['bare']):.0f}"]
    for form in forms:
        ratio = statistics.median(got / alone for got, alone in zip(figures[form], figures["bare"], strict=True))
        words.append(f"{form} {statistics.median(figures[form]):.0f} ({ratio:.2f}x)")
    print(f"{FILES} JPEGs, {LOAD.connections} in flight, images/s: " + ", ".join(words))


if __name__ == "__main__":
    main()
