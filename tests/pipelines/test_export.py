"""What is exported answers as Keras does, on real images, for every family; what doesn't is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from pyarrow import parquet

from pipelines import evaluate, export, judge, quantize, train
from pipelines.config import Recipe
from pipelines.errors import BadSource, ParityFailed
from pipelines.models.catalogue import ARCHITECTURES
from serving.bundle import publish, read
from serving.bundle_json import from_json
from serving.client import Client
from serving.server import Server
from serving.settings import ServeSettings
from tests.pipelines.small_snapshots import digits, make_snapshot

CLASSIFIERS = [name for name, family in ARCHITECTURES.items() if family.task == "classify"]
AUTOENCODERS = [name for name, family in ARCHITECTURES.items() if family.task == "reconstruct"]


def _snapshot(folder, *, height=20, width=20, channels=1, labels=10):
    pixels, numbers = digits(120, side=max(height, width))
    pixels = np.repeat(pixels[:, :height, :width], channels, axis=3)
    return make_snapshot(folder, pixels, numbers % labels, parts=(70, 20, 30))


def _run(snapshot, folder, **recipe):
    settled = Recipe.from_dict({"epochs": 1, **recipe})
    folder.mkdir()
    train.fit(snapshot.path, settled, folder)
    report = judge.evaluate_run(snapshot.path, settled, folder)
    return settled, report


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A repository for what the tests of this module export."""
    return tmp_path_factory.mktemp("models")


def _put_on(shelf, folder, name):
    """Publish a run's export."""
    bundle = from_json((folder / export.DRAFT).read_bytes())
    publish(shelf, replace(bundle, name=name), (folder / export.ONNX).read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("labels", [2, 10])
def test_every_classifier_passes_parity(tmp_path, shelf, name, labels):
    """Two columns for two labels, a distribution in every row, whatever the number of rows."""
    snapshot = _snapshot(tmp_path / "data", labels=labels)
    recipe, _ = _run(snapshot, tmp_path / "run", architecture=name)
    result = export.export_run(snapshot.path, recipe, tmp_path / "run")
    assert result.parity.max_abs_diff <= 1e-5
    session = export.open_session((tmp_path / "run" / export.ONNX).read_bytes())
    assert [spec.shape for spec in session.inputs] == [(None, 20, 20, 1)]
    for rows in (1, 5):
        found = session.run({"image": snapshot.part("test").gather(np.arange(rows))})["probabilities"]
        assert found.shape == (rows, labels)
        assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    _put_on(shelf, tmp_path / "run", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOENCODERS)
@pytest.mark.parametrize(("height", "width", "channels"), [(20, 20, 1), (17, 19, 3)])
def test_every_autoencoder_passes_parity_and_keeps_the_size(tmp_path, shelf, name, height, width, channels):
    """Odd sides and colour too; the error is that of the reconstruction that comes with it."""
    snapshot = _snapshot(tmp_path / "data", height=height, width=width, channels=channels)
    recipe, _ = _run(snapshot, tmp_path / "run", architecture=name, task="reconstruct")
    export.export_run(snapshot.path, recipe, tmp_path / "run")
    session = export.open_session((tmp_path / "run" / export.ONNX).read_bytes())
    images = snapshot.part("test").gather(np.arange(3))
    found = session.run({"image": images})
    assert found["reconstruction"].shape == images.shape
    assert found["reconstruction"].dtype == np.float32
    expected = evaluate.likeness(images, found["reconstruction"]).mean_squared_error
    assert found["error"] == pytest.approx(expected, rel=1e-4)
    _put_on(shelf, tmp_path / "run", name)


@pytest.mark.slow
def test_every_family_is_served(tmp_path, shelf):
    """One real server, everything that was exported: each answers over gRPC as its graph does alone."""
    missing = set(ARCHITECTURES) - {path.name for path in shelf.iterdir()}  # all, when this test runs by itself
    for name in missing:
        snapshot = _snapshot(tmp_path / name)
        recipe, _ = _run(snapshot, tmp_path / f"run-{name}", architecture=name, task=ARCHITECTURES[name].task)
        export.export_run(snapshot.path, recipe, tmp_path / f"run-{name}")
        _put_on(shelf, tmp_path / f"run-{name}", name)
    settings = ServeSettings(models=shelf, port=0, http_port=0)
    with Server(settings) as server, Client(server.addresses[0].removeprefix("grpc://")) as client:
        for name, family in ARCHITECTURES.items():
            version = max((shelf / name).glob("[0-9]*"))
            image = read(version).image
            pixels = np.repeat(digits(3, side=20)[0][:, : image.height, : image.width], image.channels, axis=3)
            alone = export.open_session((version / export.ONNX).read_bytes()).run({"image": pixels})
            if family.task == "reconstruct":
                errors = [answer.error for answer in client.reconstruct(pixels, model=name)]
                assert errors == pytest.approx(alone["error"], rel=1e-5)
            else:
                best = [answer.labels[0].probability for answer in client.classify(pixels, model=name, top_k=1)]
                assert best == pytest.approx(alone["probabilities"].max(axis=1), abs=1e-6)


@pytest.mark.slow
def test_upsampling_leaves_no_tower_in_the_graph(tmp_path):
    """Upsampling and its convolution are one transposed convolution."""
    snapshot = _snapshot(tmp_path / "data")
    recipe, _ = _run(snapshot, tmp_path / "run", architecture="autoencoder", task="reconstruct")
    export.export_run(snapshot.path, recipe, tmp_path / "run")
    kinds = {node.op_type for node in onnx.load(tmp_path / "run" / export.ONNX).graph.node}
    assert "ConvTranspose" in kinds
    assert not kinds & {"Tile", "Resize", "Shape", "Slice"}


@pytest.mark.slow
@pytest.mark.parametrize(("strides", "kernel"), [(2, 3), (1, 5)])
def test_other_upsampling_becomes_one_resize(strides, kernel):
    """Where folding isn't exact, upsampling is still one node, and the answers are the same."""
    from pipelines import backend

    backend.start()
    import keras

    from pipelines import convert, loop

    image = keras.Input((8, 8, 1))
    hidden = keras.layers.UpSampling2D(2)(image)
    hidden = keras.layers.Conv2D(1, kernel, strides=strides, padding="same", activation="sigmoid")(hidden)
    model = keras.Model(image, keras.layers.Flatten()(hidden))
    data = convert.to_onnx(model, "classify")
    kinds = [node.op_type for node in onnx.load_from_string(data).graph.node]
    assert kinds.count("Resize") == 1
    assert "Tile" not in kinds
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    parity = export.compare(export.open_session(data), loop.forward(model), pixels, task="classify")
    assert parity.max_abs_diff <= 1e-5


@pytest.mark.slow
def test_a_run_becomes_a_bundle_that_a_reader_understands(tmp_path):
    """The draft says everything but name and version, and publishes as it is."""
    snapshot = _snapshot(tmp_path / "data")
    recipe, report = _run(snapshot, tmp_path / "run", architecture="autoencoder", task="reconstruct", epochs=2)
    export.export_run(snapshot.path, recipe, tmp_path / "run")
    bundle = from_json((tmp_path / "run" / export.DRAFT).read_bytes())
    assert (bundle.name, bundle.version) == ("", 0)
    assert bundle.threshold is not None
    assert bundle.threshold.error == report["threshold"]["error"]
    assert bundle.metrics["binary_crossentropy"] == report["binary_crossentropy"]
    assert bundle.recipe["loss"] == "binary_crossentropy"
    assert bundle.recipe["batch_size"] is not None
    model = (tmp_path / "run" / export.ONNX).read_bytes()
    version = publish(tmp_path / "models", replace(bundle, name="digits"), model)
    found = read(tmp_path / "models" / "digits" / str(version))
    assert found.dataset["snapshot"] == snapshot.id
    assert found.parity == bundle.parity


@pytest.mark.slow
def test_a_report_lists_every_test_image_once(tmp_path):
    """Predictions are a table of all of them, and its accuracy is the report's."""
    snapshot = _snapshot(tmp_path / "data")
    _, report = _run(snapshot, tmp_path / "run", architecture="dense", epochs=5)
    table = parquet.read_table(tmp_path / "run" / judge.PREDICTIONS).to_pydict()
    assert table["path"] == list(snapshot.part("test").paths)
    right = np.array(table["label"]) == np.array(table["predicted"])
    assert right.mean() == pytest.approx(report["accuracy"])
    assert json.loads((tmp_path / "run" / judge.REPORT).read_text()) == report


class _Graph:
    """A session that answers with what it was given, as many rows as it is asked for; or otherwise for one row."""

    def __init__(self, *, alone=None, **answers):
        self.answers = answers
        self.alone = {} if alone is None else alone

    def run(self, feeds):
        rows = len(feeds["image"])
        answers = {**self.answers, **self.alone} if rows == 1 else self.answers
        return {name: answer[:rows] for name, answer in answers.items()}


ROWS = np.full((2, 4, 4, 1), 51, np.uint8)
RIGHT = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
MADE = np.full((2, 4, 4, 1), 0.5, np.float32)
ERROR = np.full(2, 0.09, np.float32)


def test_equal_answers_pass():
    """The proof carries the largest difference of any output and the number of images."""
    near = _Graph(probabilities=RIGHT + np.float32(1e-6))
    parity = export.compare(near, lambda _: RIGHT, ROWS, task="classify")
    assert 0 < parity.max_abs_diff <= 1e-5
    assert parity.rows == 2
    near = _Graph(reconstruction=MADE, error=ERROR + np.float32(5e-6))
    parity = export.compare(near, lambda _: MADE, ROWS, task="reconstruct")
    assert parity.max_abs_diff == pytest.approx(5e-6, rel=0.1)


@pytest.mark.parametrize("wrong", [RIGHT + np.float32(1e-4), RIGHT * np.float32(np.nan), RIGHT[:, :1], RIGHT[:1]])
def test_other_answers_are_refused(wrong):
    """A difference, a NaN, a missing column or row: nothing of it is published."""
    with pytest.raises(ParityFailed):
        export.compare(_Graph(probabilities=wrong), lambda _: RIGHT, ROWS, task="classify")


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (_Graph(reconstruction=MADE), "no output 'error'. Received: reconstruction"),
        (_Graph(reconstruction=MADE, error=ERROR + 1), "'error' of the exported graph .+ differ by 1 on 2 real images"),
        (_Graph(reconstruction=MADE, error=ERROR * np.nan), "differ by nan"),
        (_Graph(reconstruction=MADE, error=MADE), "The graph's 'error' is"),
        (_Graph(reconstruction=MADE + 1, error=ERROR), "'reconstruction' of"),
        (_Graph(reconstruction=MADE, error=ERROR, alone={"error": ERROR * 2}), "'error' .+ on one real image alone"),
        (_Graph(reconstruction=MADE, error=ERROR, alone={"reconstruction": MADE + 1}), "on one real image alone"),
    ],
)
def test_every_output_is_compared_and_also_of_one_row(graph, words):
    """The error decides what is anomalous, and one row is what most calls bring."""
    with pytest.raises(ParityFailed, match=words):
        export.compare(graph, lambda _: MADE, ROWS, task="reconstruct")


def test_a_graph_that_does_not_load_is_refused():
    """That onnxruntime takes it is part of the proof."""
    with pytest.raises(ParityFailed, match="can't be loaded"):
        export.open_session(b"no graph")


def test_an_empty_test_part_is_told(tmp_path):
    """Without test images there is nothing to judge by, and the sentence has the cure."""
    pixels, labels = digits(20, side=8)
    snapshot = make_snapshot(tmp_path / "data", pixels, labels, parts=(15, 5, 0))
    with pytest.raises(BadSource, match=r"test part.+empty.+--split"):
        judge.evaluate_run(snapshot.path, Recipe(), tmp_path)


@pytest.mark.slow
def test_an_int8_bundle_says_so_and_has_metrics_of_its_own(tmp_path, monkeypatch):
    """What was measured on the validation part is in `made_by`; metrics and report are of the graph to be published."""
    monkeypatch.setattr(quantize, "MIN_SPEEDUP", 0.0)
    monkeypatch.setattr(quantize, "MAX_LOSS_POINTS", 100)
    snapshot = _snapshot(tmp_path / "data")
    recipe, float32 = _run(snapshot, tmp_path / "run", architecture="dense", quantize="int8")
    result = export.export_run(snapshot.path, recipe, tmp_path / "run")
    bundle = from_json((tmp_path / "run" / export.DRAFT).read_bytes())
    said = bundle.made_by["quantize"]
    kinds = {node.op_type for node in onnx.load(tmp_path / "run" / export.ONNX).graph.node}
    assert "MatMulInteger" in kinds
    assert said["is_kept"]
    assert (said["part"], said["images"]) == ("validation", 20)
    assert result.quantized == said["reason"]

    test = snapshot.part("test")
    session = export.open_session((tmp_path / "run" / export.ONNX).read_bytes())
    answers = session.run({"image": test.pixels})["probabilities"]
    expected = evaluate.classification(test.labels, answers, names=snapshot.labels, paths=test.paths)
    assert bundle.metrics == result.metrics == evaluate.metrics(expected)
    assert bundle.metrics["log_loss"] != float32["log_loss"]
    assert json.loads((tmp_path / "run" / judge.REPORT).read_text()) == expected
    table = parquet.read_table(tmp_path / "run" / judge.PREDICTIONS).to_pydict()
    assert np.array(table["probabilities"], np.float32) == pytest.approx(answers)
