"""Sessions: what they refuse, what they compute, and how many threads they take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving import bundle as bundles
from serving.errors import BadBundle, BadInput
from serving.session import Session, available_cpus
from tests.serving import fake_models


def test_a_session_computes_what_the_model_says():
    """Probabilities from a session equal those computed by hand."""
    _, model = fake_models.classifier()
    pixels = fake_models.pixels(7)
    got = Session(model).run({"image": pixels})["probabilities"]
    np.testing.assert_allclose(got, fake_models.expected_probabilities(pixels), atol=1e-6)


def test_a_published_model_still_loads_and_carries_its_bundle(tmp_path):
    """Appending the metadata leaves a valid ONNX file, which says what bundle.json says."""
    fake_models.publish_classifier(tmp_path)
    folder = tmp_path / "digits" / "1"
    session = Session(folder / bundles.MODEL)
    assert session.metadata[bundles.METADATA_KEY] == (folder / bundles.JSON).read_text()
    assert json.loads(session.metadata["calotype"])["version"] == 1
    onnx.checker.check_model(onnx.load(folder / bundles.MODEL))


def test_publishing_what_was_published_replaces_its_metadata(tmp_path):
    """A model that already carries a bundle gets the new one instead, and stays valid to ONNX's own checker."""
    bundle, model = fake_models.classifier()
    bundles.publish(tmp_path, bundle, model)
    again = (tmp_path / "digits" / "1" / bundles.MODEL).read_bytes()
    assert bundles.publish(tmp_path, bundle, again) == 2
    path = tmp_path / "digits" / "2" / bundles.MODEL
    assert json.loads(Session(path).metadata["calotype"])["version"] == 2
    onnx.checker.check_model(onnx.load(path))
    assert onnx.load(path).graph == onnx.load_from_string(model).graph


def test_only_the_wanted_outputs_are_returned():
    """Named outputs come alone."""
    _, model = fake_models.reconstructor()
    session = Session(model)
    feeds = {"image": fake_models.pixels(2)}
    assert set(session.run(feeds)) == {"reconstruction", "error"}
    assert set(session.run(feeds, outputs=["error"])) == {"error"}


def test_specifications_name_free_dimensions_none():
    """Dynamic rows are None, fixed dimensions are numbers, dtypes are numpy's names."""
    session = Session(fake_models.reconstructor()[1])
    assert [(s.name, s.dtype, s.shape) for s in session.inputs] == [("image", "uint8", (None, 6, 5, 1))]
    assert [(s.name, s.shape) for s in session.outputs] == [
        ("reconstruction", (None, 6, 5, 1)),
        ("error", (None,)),
    ]


@pytest.mark.parametrize(
    ("feeds", "outputs", "words"),
    [
        ({}, (), "takes the inputs 'image'. Received: none"),
        ({"picture": np.zeros((1, 6, 5, 1), np.uint8)}, (), "Received: 'picture'"),
        ({"image": np.zeros((1, 6, 5, 1), np.float32)}, (), "of type uint8. Received: float32"),
        ({"image": np.zeros((1, 6, 5), np.uint8)}, (), "[any, 6, 5, 1]. Received: [1, 6, 5]"),
        ({"image": np.zeros((1, 7, 5, 1), np.uint8)}, (), "[any, 6, 5, 1]. Received: [1, 7, 5, 1]"),
        ({"image": np.zeros((1, 6, 5, 1), np.uint8)}, ("logits",), "no output 'logits'; it has 'probabilities'"),
    ],
)
def test_wrong_feeds_are_refused_in_words(feeds, outputs, words):
    """Names, dtypes and shapes that the model does not have say what was expected and received."""
    with pytest.raises(BadInput) as refusal:
        Session(fake_models.classifier()[1]).run(feeds, outputs)
    assert words in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not a model", fake_models.classifier()[1][:200]])
def test_what_is_no_model_is_a_bad_bundle(tmp_path, content, capfd):
    """Empty, foreign and cut files are refused by name, and onnxruntime prints nothing."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BadBundle, match=r"model\.onnx"):
        Session(path)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_a_bad_bundle(tmp_path):
    """The path is in the sentence."""
    with pytest.raises(BadBundle, match=r"nowhere\.onnx"):
        Session(tmp_path / "nowhere.onnx")


def model(node, inputs, output, *constants):
    """Of a single node, as a session."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return Session(made.SerializeToString(), threads=1)


def test_values_that_the_graph_cannot_compute_are_the_callers_fault(capfd):
    """An index out of range fails that call as BadInput; the session stays good."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 20.0])
    gather = helper.make_node("Gather", ["table", "index"], ["value"])
    session = model(gather, [("index", TensorProto.INT64, ["rows"])], "value", table)
    with pytest.raises(BadInput, match="could not compute"):
        session.run({"index": np.array([7])})
    assert session.run({"index": np.array([1])})["value"].tolist() == [20.0]


def test_a_refusal_tells_no_place_in_onnxruntimes_source():
    """Shapes that don't go together are refused in its words, but not with the path of the line that found it."""
    two = [(name, TensorProto.FLOAT, ["rows", "columns"]) for name in "ab"]
    for kind, fields in (("Add", {}), ("MatMul", {}), ("Concat", {"axis": 0})):
        session = model(helper.make_node(kind, ["a", "b"], ["sum"], **fields), two, "sum")
        with pytest.raises(BadInput, match=f"running {kind} node") as refusal:
            session.run({"a": np.ones((2, 3), np.float32), "b": np.ones((2, 2), np.float32)})
        assert not re.search(r"\.(h|cc):\d|_src/", str(refusal.value))


def test_want_of_memory_is_not_the_callers_fault():
    """However it comes about: nobody is told that no retry will mend it."""
    session = model(helper.make_node("ConstantOfShape", ["shape"], ["ones"]), [("shape", 7, ["sizes"])], "ones")
    with pytest.raises(MemoryError, match="allocate"):
        session.run({"shape": np.array([10**6, 10**6, 1000])})  # more than there are addresses
    assert session.run({"shape": np.array([2])})["ones"].shape == (2,)


def test_warming_up_runs_every_size():
    """Any number of rows, in any order, on models of one or two outputs."""
    Session(fake_models.reconstructor()[1]).warm_up([32, 1, 7])


def _cgroup(root, lines, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for path, text in files.items():
        (root / "sys/fs/cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/app\n", {"app/cpu.max": "100000 100000\n", "cpu.max": "max 100000\n"}),
        ("0::/app/x\n", {"app/x/cpu.max": "max 100000\n", "app/cpu.max": "150000 100000\n"}),
        ("0::/\n", {"cpu.max": "50000 100000\n"}),
        (
            "3:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "100000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        ),
        ("3:cpuset:/b\n1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}),
        ("1:cpu:/docker/abc\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}),
    ],
)
def test_a_cgroups_quota_bounds_the_cpus(tmp_path, lines, files):
    """Version 1 and 2, its own group or one above: a quota below two CPUs means one thread."""
    assert available_cpus(_cgroup(tmp_path, lines, files)) == 1


@pytest.mark.parametrize("text", ["max 100000\n", "", "nonsense", "10000000000 100000\n"])
def test_no_quota_means_the_affinity(tmp_path, text):
    """Without a limit, or with one that can't be read, all CPUs of the process count."""
    bare = available_cpus(tmp_path / "nothing")
    assert bare >= 1
    assert available_cpus(_cgroup(tmp_path, "0::/\n", {"cpu.max": text})) == bare


def test_many_batch_sizes_cost_bounded_memory():
    """Resident memory after every batch size from 1 to 64 stays near that of the largest alone."""
    code = (
        "import numpy as np, sys\n"
        "from serving.session import Session\n"
        "from tests.serving import fake_models\n"
        "from serving.images import ImageSpec\n"
        "image = ImageSpec(96, 96, 3)\n"
        "session = Session(fake_models.reconstructor(image=image)[1], threads=1)\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "pixels = np.zeros((64, *image.shape), np.uint8)\n"
        "for _ in range(3): session.run({'image': pixels}, ['error'])\n"
        "before = resident()\n"
        "for rows in range(1, 65): session.run({'image': pixels[:rows]}, ['error'])\n"
        "for rows in range(64, 0, -1): session.run({'image': pixels[:rows]}, ['error'])\n"
        "print((resident() - before) / (64 * 96 * 96 * 3 * 4))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2  # in units of one float tensor of the largest batch
    assert done.stderr == ""
