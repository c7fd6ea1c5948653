"""`calotype evaluate`, on tiny graphs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipelines.commands.evaluate import command
from pipelines.errors import UsageError
from pipelines.runs import RunKey, RunRecord, start_run
from serving.images import ImageSpec
from tests.pipelines.small_contests import bad, good, make_place
from tests.serving import fake_models


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def evaluated(place, *words):
    """The JSON of a successful `calotype evaluate`; errors come through as they are."""
    done = CliRunner().invoke(
        command, [*words, "--workspace", str(place.workspace.root), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_model_being_served_is_judged_unless_another_is_named(place):
    """The newest version by default; an older one by its number."""
    place.publish(place.run(*good()))
    place.publish(place.run(*bad()))
    found = evaluated(place, "lines")
    assert found["metrics"]["accuracy"] == 0.0
    assert found["metrics"]["images"] == found["images"] == 45
    named = {name: found[name] for name in ("task", "model", "version", "dataset", "snapshot", "learned", "left_out")}
    assert named == {
        "task": "classify",
        "model": "lines",
        "version": 2,
        "dataset": "lines",
        "snapshot": place.snapshot.id,
        "learned": 0,
        "left_out": {},
    }
    assert evaluated(place, "lines", "--version", "1")["metrics"]["accuracy"] == 1.0


def test_a_run_is_judged_by_what_it_exported(place):
    """A run needs no publishing to be evaluated."""
    key = RunKey(snapshot=place.snapshot.id, model="lines", recipe="r")
    asked = RunRecord(run="", state="started", key=key, dataset="lines", snapshot_path="", recipe={})
    with start_run(place.workspace, asked) as run:
        for file in place.run(*good()).iterdir():
            (run.folder / file.name).write_bytes(file.read_bytes())
    found = evaluated(place, run.record.run)
    assert found["run"] == run.record.run
    assert "version" not in found
    assert found["metrics"]["accuracy"] == 1.0


def test_the_original_files_are_read_where_the_snapshot_has_another_size(place):
    """The model's own preprocessing makes its pixels, not the snapshot's; what is gone is counted."""
    place.publish(place.run(*good(image=ImageSpec(12, 5, 1))))
    (place.source / place.snapshot.part("test").paths[0]).unlink()
    found = evaluated(place, "lines")
    assert found["images"] == 44
    assert found["left_out"] == {"unreadable": 1}


def test_an_autoencoder_has_its_own_metrics(place):
    """The metrics of a reconstructing model, as its training reported them."""
    place.publish(place.run(*fake_models.reconstructor("")))
    metrics = evaluated(place, "lines")["metrics"]
    assert metrics.keys() == {"binary_crossentropy", "mean_squared_error", "psnr", "ssim", "images"}
    assert 0.02 < metrics["mean_squared_error"] < 0.2


def test_images_that_the_model_learned_are_told(place):
    """Judged on another dataset of the same files, a model meets images that it was trained on."""
    seeded = place.publish(place.run(*good()))
    assert seeded == 1
    place.ingest(dataset="again", seed=3)
    found = evaluated(place, "lines", "--dataset", "again")
    assert found["dataset"] == "again"
    assert 0 < found["learned"] < 45


def test_that_nobody_knows_what_the_model_learned_is_told(place):
    """Its snapshot gone, a figure that may be too good says so."""
    place.publish(place.run(*good(), dataset={"name": "lost", "snapshot": "0" * 16}))
    words = ["lines", "--dataset", "lines", "--workspace", str(place.workspace.root), "--json"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert json.loads(done.stdout)["learned"] is None
    assert "Which images the model learned from is not known any more" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["unheard-of"], "neither a run nor a model 'unheard-of'"),
        (["../lines"], "can't be used"),
        (["lines", "--version", "7"], "has no version 7"),
        (["lines", "--dataset", "unheard-of"], "There is no dataset"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(place, words, sentence):
    """No such run, model, version or dataset."""
    place.publish(place.run(*good()))
    with pytest.raises(UsageError, match=sentence):
        evaluated(place, *words)


def test_a_model_that_knows_none_of_the_labels_is_not_judged(place):
    """An accuracy over no image is no number."""
    place.publish(place.run(*good(labels=("cats", "dogs"))))
    with pytest.raises(UsageError, match="45 have labels that it doesn't know"):
        evaluated(place, "lines")


def test_evaluating_loads_no_tensorflow_and_no_prefect():
    """What takes a second stays that way."""
    code = (
        "import sys, pipelines.commands.evaluate, pipelines.assess, pipelines.contender\n"
        "sys.exit(','.join({'tensorflow', 'keras', 'prefect'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
