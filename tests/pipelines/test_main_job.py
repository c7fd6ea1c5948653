"""The main job, end to end: a folder to a published model to predictions, as a user runs it."""

from __future__ import annotations

import hashlib
import html
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import bundle
from serving.session import Session

pytestmark = pytest.mark.slow

EPOCHS = "4"


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A home for Prefect that these tests share, so that its tables are made once."""
    return str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def run(calotype, state, digits_folder, tmp_path):
    """`calotype run` on the small digits, into `ws`."""

    def call(*arguments, source=digits_folder, name="digits", **more):
        where = ("--workspace", tmp_path / "ws", "--json")
        small = () if "reconstruct" in arguments else ("--architecture", "lenet5")
        words = ("run", source, "--name", name, "--epochs", EPOCHS, *small, *where, *arguments)
        return calotype(*words, XDG_STATE_HOME=state, **more)

    return call


def test_a_folder_becomes_a_model_once(run, calotype, digits_folder, tmp_path):
    """The first run publishes version 1 and says so as JSON; the same again trains nothing, says why, and exits 0.

    The published bundle is whole, describes itself, and answers for a file as the report says.
    """
    before = _fingerprint(digits_folder)
    done = run()
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    result = json.loads(done.out)
    assert (result["model"], result["version"], result["published"]) == ("digits", 1, True)
    assert (
        sum(result["images"][part] for part in ("train", "validation", "test")) == 600 - result["images"]["duplicates"]
    )
    assert 0.3 < result["metrics"]["accuracy"] <= 1
    stages = {"ingest", "split", "train", "fit", "evaluate", "export", "publish"}
    assert stages <= set(result["seconds"])
    assert result["seconds"]["fit"] <= result["seconds"]["train"]
    page = Path(result["report"]).read_text()
    assert page.startswith("<!doctype html>")
    assert "published as version 1" in page
    with np.load(Path(result["report"]).with_name("features.npz")) as kept:
        assert {"filters0", "maps0", "maps1"} <= set(kept)
    assert (tmp_path / "ws" / "runs" / result["run"] / "model.keras").exists()
    kept = json.loads((tmp_path / "ws" / "runs" / result["run"] / "recipe.json").read_text())
    assert kept["learning_rate"], "the recipe by which to get it again leaves the family's habit open"
    assert kept["loss"] == "sparse_categorical_crossentropy"

    version = tmp_path / "ws" / "models" / "digits" / "1"
    bundle.verify(version)
    described = bundle.read(version)
    assert described.parity is not None
    assert described.parity.max_abs_diff <= 1e-5
    assert described.labels == tuple("0123456789")
    assert described.metrics["accuracy"] == result["metrics"]["accuracy"]
    session = Session(version / "model.onnx")
    answers = session.run({"image": np.zeros((3, 16, 16, 1), np.uint8)})["probabilities"]
    assert answers.shape == (3, 10)
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)

    again = run()
    assert again.status == 0, again.err
    nothing = json.loads(again.out)
    assert nothing["version"] is None
    assert not nothing["published"]
    assert "nothing new" in nothing["reason"]
    assert nothing["run"] == result["run"]
    assert nothing["seconds"]["train"] == 0
    assert bundle.versions(tmp_path / "ws" / "models", "digits") == [1]
    assert _fingerprint(digits_folder) == before, "the source was written to"


def test_the_page_says_how_to_get_the_same_again(run, calotype, state, tmp_path):
    """Its command, as it stands there, makes the same snapshot and the same figures, of a known set too."""
    done = run("--architecture", "dense", source="digits")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    page = Path(result["report"]).read_text()
    command = shlex.split(html.unescape(page.partition("<pre>calotype ")[2].partition("</pre>")[0]))
    again = calotype(*command, "--json", XDG_STATE_HOME=state)
    assert again.status == 0, again.err
    same = json.loads(again.out)
    assert (same["metrics"], same["images"], same["version"]) == (result["metrics"], result["images"], 1)
    assert same["report"].startswith(str(tmp_path / "again"))


def test_a_prefect_server_that_is_not_there_is_told(run):
    """An address in PREFECT_API_URL where nobody answers: exit 1, one sentence that names the variable."""
    done = run(PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.status == 1
    assert "PREFECT_API_URL" in done.err
    assert "Traceback" not in done.err


def test_an_autoencoder_goes_the_same_way(run, tmp_path):
    """The other task: a bundle with a threshold, and both outputs in its graph."""
    done = run("--task", "reconstruct", name="digits-ae")
    assert done.status == 0, done.err
    assert {"binary_crossentropy", "mean_squared_error"} <= set(json.loads(done.out)["metrics"])
    version = tmp_path / "ws" / "models" / "digits-ae" / "1"
    described = bundle.read(version)
    assert described.threshold is not None
    assert described.threshold.error > 0
    outputs = Session(version / "model.onnx").run({"image": np.zeros((2, 16, 16, 1), np.uint8)})
    assert outputs["reconstruction"].shape == (2, 16, 16, 1)
    assert outputs["error"].shape == (2,)


@pytest.mark.parametrize(
    ("what", "task", "words"),
    [
        ("nothing", "classify", "no image"),
        ("one label", "classify", "two labels"),
        ("rubbish", "classify", "read"),
        ("tiny", "reconstruct", "2x2"),
    ],
)
def test_folders_that_teach_nothing_are_refused(run, tmp_path, what, task, words):
    """A folder without images, with one label, with rubbish only: exit 2, one sentence, nothing left but a lock."""
    source = tmp_path / "source"
    source.mkdir()
    if what == "one label":
        _one_label(source)
    elif what == "tiny":
        (source / "a").mkdir()
        Image.fromarray(np.zeros((1, 1), np.uint8)).save(source / "a" / "x.png")
    elif what == "rubbish":
        (source / "a").mkdir()
        (source / "a" / "x.png").write_bytes(b"junk")
    done = run("--task", task, source=source)
    assert done.status == 2, done.err
    assert "Traceback" not in done.err
    assert words in done.err
    left = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()] if (tmp_path / "ws").exists() else []
    assert [path for path in left if path.parent.name != ".locks"] == []


def test_a_killed_run_goes_on_and_is_published_once(state, digits_folder, calotype, tmp_path):
    """Kill -9 in the middle of training, the same command again: one run, one version, no process left behind."""
    words = ["run", str(digits_folder), "--name", "digits", "--epochs", "40", "--set", "patience=0", "--json"]
    words += ["--workspace", str(tmp_path / "ws"), "--batch-size", "8", "--architecture", "lenet5"]
    mark = f"CALOTYPE_TEST_MARK={uuid.uuid4()}"
    environment = {**os.environ, "XDG_STATE_HOME": state, **dict([mark.split("=")])}
    command = [sys.executable, "-m", "pipelines.cli", *words]
    doomed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list((tmp_path / "ws" / "runs").glob("*/checkpoint*")) and time.monotonic() < limit:
        assert doomed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    while _marked(mark) and time.monotonic() < limit:
        time.sleep(0.05)
    assert _marked(mark) == [], "processes outlived the run that started them"
    done = calotype(*words, XDG_STATE_HOME=state)
    assert done.status == 0, done.err
    assert bundle.versions(tmp_path / "ws" / "models", "digits") == [1]
    assert len(list((tmp_path / "ws" / "runs").iterdir())) == 1


def _marked(mark):
    """Commands of the processes that carry a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes())
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    return found


def _one_label(folder):
    (folder / "only").mkdir()
    for number in range(5):
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(folder / "only" / f"{number}.png")


def _fingerprint(folder):
    """Every file's bytes and time of change."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
