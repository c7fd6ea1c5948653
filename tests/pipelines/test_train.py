"""A training learns, repeats itself to the bit, and loses nothing when it is killed."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import checkpoint, train
from pipelines.config import Recipe
from pipelines.errors import BadRecipe, BadSource
from tests.pipelines.small_snapshots import digits, make_snapshot

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = {"architecture": "lenet5", "epochs": 6, "batch_size": 16, "seed": 3}
CHILD = """
import os, signal, sys
from pathlib import Path
from pipelines import train
from pipelines.config import Recipe

def progress(message):
    if message.get("loss") and message["epoch"] == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

train.fit(Path(sys.argv[1]), Recipe.from_dict(eval(sys.argv[2])), Path(sys.argv[3]), progress)
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """300 real digits."""
    pixels, labels = digits(300, side=16)
    return make_snapshot(tmp_path_factory.mktemp("digits"), pixels, labels, parts=(200, 50, 50))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


def _train_in_child(snapshot, recipe, folder, *, kill_at_epoch=0):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CHILD, str(snapshot.path), repr(recipe), str(folder), str(kill_at_epoch)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _weights(folder):
    import keras

    return keras.models.load_model(folder / train.MODEL).get_weights()


def _assert_equal_to_the_bit(left, right):
    for one, other in zip(_weights(left), _weights(right), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_training_learns_and_writes_down_what_it_did(snapshot, folder):
    """The loss falls, every epoch is told once, and history holds the recipe as it was carried out."""
    told = []
    result = train.fit(snapshot.path, Recipe.from_dict(RECIPE), folder, told.append)
    epochs = [message for message in told if "loss" in message]
    assert [message["epoch"] for message in epochs] == [1, 2, 3, 4, 5, 6]
    assert result.history["loss"][-1] < 0.7 * result.history["loss"][0]
    assert result.epochs == 6
    assert len(result.history["val_accuracy"]) == 6
    history = json.loads((folder / train.HISTORY).read_text())
    assert history["recipe"]["loss"] == "sparse_categorical_crossentropy"
    assert history["recipe"]["epochs"] == 6
    assert sorted(path.name for path in folder.iterdir()) == [train.HISTORY, train.MODEL]


@pytest.mark.slow
def test_the_best_epoch_of_validation_is_kept(snapshot, folder):
    """Its number is the lowest validation loss's, and the saved weights give that loss again."""
    recipe = Recipe.from_dict({**RECIPE, "learning_rate": 0.03, "schedule": "constant"})  # too fast: it gets worse
    result = train.fit(snapshot.path, recipe, folder)
    losses = result.history["val_loss"]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    import keras

    model = keras.models.load_model(folder / train.MODEL)
    part = snapshot.part("validation")
    loss, _ = model.evaluate(part.pixels.astype("float32") / 255, part.labels, verbose=0)
    assert loss == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.slow
def test_patience_ends_a_training_that_gets_no_better(snapshot, folder):
    """With a rate at which nothing is learned, it stops after one epoch and as many more as patience has."""
    recipe = Recipe.from_dict({**RECIPE, "epochs": 50, "learning_rate": 100.0, "schedule": "constant", "patience": 2})
    result = train.fit(snapshot.path, recipe, folder)
    assert result.epochs == result.best_epoch + 2


@pytest.mark.slow
def test_a_killed_training_ends_where_an_undisturbed_one_ends(snapshot, tmp_path):
    """A kill -9 costs time and not one bit: dropout, augmentation, optimizer and best weights go on."""
    recipe = {
        **RECIPE,
        "architecture": "cnn_dropout",
        "options": {"dense": 16},
        "augment": "affine",
        "optimizer": "adamw",
    }
    recipe["epochs"] = 4
    killed = _train_in_child(snapshot, recipe, tmp_path / "killed", kill_at_epoch=2)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / train.MODEL).exists()
    (tmp_path / "undisturbed").mkdir()
    told = {name: [] for name in ("killed", "undisturbed")}
    for name, messages in told.items():
        train.fit(snapshot.path, Recipe.from_dict(recipe), tmp_path / name, messages.append)
    assert next(message["epoch"] for message in told["killed"] if "loss" in message) == 3
    _assert_equal_to_the_bit(tmp_path / "killed", tmp_path / "undisturbed")
    histories = [json.loads((tmp_path / name / train.HISTORY).read_text())["history"] for name in told]
    assert histories[0]["val_loss"] == histories[1]["val_loss"]


@pytest.mark.slow
def test_training_says_nothing_of_its_own(snapshot, tmp_path):
    """TensorFlow's, Keras' and absl's noise stays off stdout and stderr."""
    done = _train_in_child(snapshot, {**RECIPE, "epochs": 1}, tmp_path / "run")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(snapshot, folder):
    """The same call again returns the same result and touches nothing."""
    recipe = Recipe.from_dict({**RECIPE, "epochs": 1})
    first = train.fit(snapshot.path, recipe, folder)
    written = (folder / train.MODEL).stat().st_mtime_ns
    again = train.fit(snapshot.path, recipe, folder)
    assert again.history == first.history
    assert again.fit_seconds == 0
    assert (folder / train.MODEL).stat().st_mtime_ns == written
    train.fit(snapshot.path, Recipe.from_dict({**RECIPE, "epochs": 1, "seed": 4}), folder)
    assert (folder / train.MODEL).stat().st_mtime_ns > written


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", ["adam", "sgd", "adadelta", "adamw", "rmsprop", "nadam", "lion", "adagrad", "adamax"]
)
def test_every_optimizer_learns_at_its_own_rate(snapshot, folder, optimizer):
    """Without a rate given, no optimizer stands still (Keras' own default for adadelta does)."""
    recipe = Recipe.from_dict({**RECIPE, "architecture": "dense", "epochs": 4, "optimizer": optimizer})
    result = train.fit(snapshot.path, recipe, folder)
    assert result.history["loss"][-1] < 0.85 * result.history["loss"][0]


def test_an_image_too_small_is_refused_before_tensorflow(tmp_path):
    """With the smallest size in the sentence, and nothing in the folder."""
    pixels, labels = digits(30, side=8)
    small = make_snapshot(tmp_path / "small", pixels, labels, parts=(20, 5, 5))
    with pytest.raises(BadRecipe, match=r"'lenet5' takes images of 12x12 pixels or more, and these are 8x8"):
        train.fit(small.path, Recipe(architecture="lenet5"), tmp_path)


def test_an_empty_train_part_is_told(tmp_path):
    """There is nothing to learn from."""
    pixels, labels = digits(20, side=16)
    empty = make_snapshot(tmp_path / "empty", pixels, labels, parts=(0, 10, 10))
    with pytest.raises(BadSource, match="train part"):
        train.fit(empty.path, Recipe(architecture="lenet5"), tmp_path)


def test_balanced_classes_weigh_the_same_together():
    """Nine cats and a dog: the dog weighs nine times a cat, and the mean row weighs 1."""
    labels = np.array([0] * 9 + [1], np.int32)
    weights = train.class_weights(labels, 2, balanced=True)
    assert weights[1] == pytest.approx(9 * weights[0])
    assert weights[labels].mean() == pytest.approx(1)
    assert train.class_weights(labels, 3, balanced=True)[2] == 0


def _own(folder, monkeypatch, *, width):
    """The recipe of a model whose module is written here, in a folder that Python looks into."""
    monkeypatch.syspath_prepend(str(folder))
    (folder / "edited_model.py").write_text(
        "from tests.pipelines.own_models import good\n"
        f"def build(shape, *, units, activation):\n    return good(shape, units={width}, activation=activation)\n"
    )
    return {**RECIPE, "architecture": "edited_model:build"}


def test_another_code_of_ones_own_model_is_another_work(snapshot, tmp_path, monkeypatch):
    """So is a habit that the family changed, but not the same habit given by hand; a module that is missing is told."""
    recipe = train.settle(Recipe.from_dict(_own(tmp_path, monkeypatch, width=10)), snapshot)
    before = train.work_digest(recipe)
    assert train.work_digest(recipe) == before
    _own(tmp_path, monkeypatch, width=20)
    assert train.work_digest(recipe) != before

    usual = train.settle(Recipe(architecture="lenet5"), snapshot)
    given = train.settle(Recipe(architecture="lenet5", epochs=usual.epochs, loss=usual.loss), snapshot)
    other = train.settle(Recipe(architecture="lenet5", epochs=usual.epochs + 1), snapshot)
    assert train.work_digest(given) == train.work_digest(usual) != train.work_digest(other)
    with pytest.raises(BadRecipe, match=r"'no_such_module:build' can't be imported: No module named"):
        train.work_digest(usual.model_copy(update={"architecture": "no_such_module:build"}))


@pytest.mark.slow
def test_an_edited_model_does_not_go_on_with_the_old_weights(snapshot, tmp_path, monkeypatch):
    """Of equal shapes or not, the state of the code before is left alone, and the training begins at its beginning."""
    recipe = Recipe.from_dict(_own(tmp_path, monkeypatch, width=10))
    training, _ = train.prepare(snapshot, train.settle(recipe, snapshot))
    training.standing.epoch = 5
    stored = training.state(f"{train.work_digest(train.settle(recipe, snapshot))}-{snapshot.id}")
    assert training.takes(stored)
    assert not training.takes(dataclasses.replace(stored, variables=stored.variables[:-1]))
    for name in ("same", "edited"):
        (tmp_path / name).mkdir()
        checkpoint.save(tmp_path / name, stored)
    told = {"same": [], "edited": []}
    train.fit(snapshot.path, recipe, tmp_path / "same", told["same"].append)
    with (tmp_path / "edited_model.py").open("a") as module:
        module.write("# better\n")
    train.fit(snapshot.path, recipe, tmp_path / "edited", told["edited"].append)
    begun = {
        name: next(message["epoch"] for message in messages if "loss" in message) for name, messages in told.items()
    }
    assert begun == {"same": 6, "edited": 1}
