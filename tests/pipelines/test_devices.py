"""Several devices learn what one learns: two logical CPUs, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import train
from pipelines.config import Recipe
from tests.pipelines.small_snapshots import digits, make_snapshot

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = """
import sys
from pathlib import Path
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from pipelines import backend, train
from pipelines.config import Recipe

backend.start()
assert backend.strategy("all").num_replicas_in_sync == 2
snapshot, folder = Path(sys.argv[1]), Path(sys.argv[2])
recipe = Recipe.from_dict(eval(sys.argv[3]))
train.fit(snapshot, recipe, folder)
other = folder / "resnet_small"
other.mkdir()
train.fit(snapshot, recipe.model_copy(update={"architecture": "resnet_small", "epochs": 1}), other)
"""


@pytest.mark.slow
def test_two_devices_learn_what_one_learns(tmp_path):
    """The same figures and weights up to rounding, though the last step has fewer rows than there are devices.

    Batch normalisation and dropout, which see other rows on each device, train too.
    """
    pixels, labels = digits(296, side=16)
    snapshot = make_snapshot(tmp_path / "digits", pixels, labels, parts=(196, 50, 50))
    values = {"architecture": "lenet5", "epochs": 2, "batch_size": 13, "augment": "affine", "devices": "all"}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(snapshot.path), str(two), repr(values)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = Recipe.from_dict(values | {"devices": "one"})
    train.fit(snapshot.path, alone, one)
    history = [json.loads((folder / train.HISTORY).read_text())["history"] for folder in (one, two)]
    assert history[1]["loss"] == pytest.approx(history[0]["loss"], rel=1e-3)
    assert history[1]["accuracy"] == pytest.approx(history[0]["accuracy"], abs=0.02)
    weights = [train.load(alone, folder).get_weights() for folder in (one, two)]
    for mine, other in zip(*weights, strict=True):
        np.testing.assert_allclose(other, mine, atol=2e-3)
    model = train.load(Recipe(architecture="resnet_small"), two / "resnet_small")
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
