"""`calotype tune`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving import bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_search_ends_in_a_published_model_and_goes_on_where_it_stopped(calotype, digits_folder, tmp_path):
    """Two trials of two epochs: the better one is run, published and described.

    One more trial makes one, not three. Nothing but the final run reads the test part, and what it trained is what the
    best trial promised: the same validation loss.
    """
    space = tmp_path / "space.toml"
    space.write_text(
        "learning_rate = { low = 1e-3, high = 1e-2, log = true }\n[options]\npooling = ['max', 'average']\n"
    )
    state = str(tmp_path / "state")

    def tune(trials):
        words = ["--trials", trials, "--space", space, "--architecture", "lenet5", "--epochs", "2", "--json"]
        where = ["--name", "digits", "--workspace", tmp_path / "ws"]
        return calotype("tune", digits_folder, *where, *words, XDG_STATE_HOME=state)

    done = tune(2)
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    assert "A new study" not in done.err, "Optuna talked"
    result = json.loads(done.out)
    assert result["trials"] == 2
    assert result["best"]["parameters"].keys() == {"learning_rate", "options.pooling"}
    assert (result["version"], result["published"]) == (1, True)
    assert {"ingest", "split", "search", "train", "evaluate", "export", "publish"} <= set(result["seconds"])

    folder = tmp_path / "ws" / "runs" / result["run"]
    history = json.loads((folder / "history.json").read_text())["history"]
    assert min(history["val_loss"]) == pytest.approx(result["best"]["value"], rel=1e-5)
    kept = json.loads((folder / "trials.json").read_text())
    assert [trial["number"] for trial in kept["trials"]] == [0, 1]
    assert result["best"]["value"] == min(trial["value"] for trial in kept["trials"])
    assert len(result["charts"]) == 2
    for chart in result["charts"]:
        assert Path(chart).read_bytes().startswith(b"\x89PNG")
    recipe = bundle.read(tmp_path / "ws" / "models" / "digits" / "1").recipe
    assert recipe["learning_rate"] == result["best"]["parameters"]["learning_rate"]
    assert list((tmp_path / "ws" / "runs").iterdir()) == [folder]

    more = tune(3)
    assert more.status in {0, 3}, more.err  # another winner may lose against the champion
    assert json.loads(more.out)["trials"] == 3
    told = [line.partition(":")[0] for line in more.err.splitlines() if line.startswith("trial ")]
    assert told == ["trial 2"], "one line for the one trial that was made"
    assert "trial 1:" not in more.err
