"""The gate in its place between export and publish, as a user meets it: real trainings, real commands."""

from __future__ import annotations

import json

import pytest

from serving import bundle
from serving.images import ImageSpec
from tests.serving import fake_models

pytestmark = pytest.mark.slow


def test_a_worse_model_is_refused_kept_and_told(calotype, digits_folder, tmp_path):
    """A run that learned nothing ends with status 3 and publishes nothing; again, there is nothing new to refuse.

    What the run exported stays, to be judged by `evaluate`, and is refused by `publish` as well. After a rollback
    the version before is the champion, and a finished run does not publish its withdrawn version again.
    """
    where = ("--workspace", tmp_path / "ws", "--json")
    models = tmp_path / "ws" / "models"

    def run(*options):
        source = (digits_folder, "--name", "digits", "--batch-size", 16, *options)
        done = calotype("run", *source, *where, XDG_STATE_HOME=str(tmp_path / "state"))
        assert done.out, done.err
        return done, json.loads(done.out)

    def publish(run_id, *options):
        return calotype("publish", run_id, *options, *where, XDG_STATE_HOME=str(tmp_path / "state"))

    plain, model = fake_models.classifier("digits", labels=tuple("0123456789"), image=ImageSpec(16, 16, 1))
    assert bundle.publish(models, plain, model) == 1
    good = ("--epochs", 6)
    done, better = run(*good)
    assert done.status == 0, done.err
    assert better["version"] == 2
    assert better["seconds"]["gate"] >= 0

    poor = ("--epochs", 1, "--learning-rate", 1e-6)
    done, refused = run(*poor)
    assert done.status == 3
    assert "Traceback" not in done.err
    assert (refused["published"], refused["version"]) == (False, None)
    assert "Worse than version 2, beyond chance" in refused["reason"]
    assert "Worse than version 2" in done.err.splitlines()[-1]
    folder = tmp_path / "ws" / "runs" / refused["run"]
    found = json.loads((folder / "gate.json").read_text())
    assert found["champion"] == 2
    assert found["comparison"]["challenger"] == pytest.approx(refused["metrics"]["accuracy"])
    assert (folder / "model.keras").is_file()
    assert "Worse than version 2, beyond chance" in (folder / "report.html").read_text()

    done, again = run(*poor)
    assert done.status == 0
    assert again["run"] == refused["run"]
    assert "nothing new" in again["reason"]
    done = publish(refused["run"], "--force")
    assert done.status == 3, done.err
    assert json.loads(done.out)["version"] is None
    assert bundle.versions(models, "digits") == [1, 2]

    judged = calotype("evaluate", refused["run"], *where)
    assert json.loads(judged.out)["metrics"]["accuracy"] == pytest.approx(refused["metrics"]["accuracy"])

    assert calotype("models", "rollback", "digits", "--models", models).status == 0
    done, same = run(*good)
    assert (done.status, same["run"], same["published"]) == (0, better["run"], False)
    assert bundle.versions(models, "digits") == [1]
