"""The search, with trials that cost nothing."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from pipelines import tune
from pipelines.errors import PipelineError, UsageError
from pipelines.space import Choice, Range
from tests.pipelines.bowl import SPACE, asked, bowl


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'studies.db'}"


def test_it_finds_the_bottom_of_a_bowl(storage):
    """The search does better than the start, and the best trial is the one of the smallest value."""
    study = tune.search(asked(storage, trials=12, start={"learning_rate": 0.5, "hidden": "relu"}), bowl)
    assert len(study.trials) == 12
    assert study.trials[0].parameters == {
        "learning_rate": 0.5,
        "hidden": "relu",
        "dense": study.trials[0].parameters["dense"],
    }
    assert study.best.value == min(trial.value for trial in study.trials)
    assert study.best.value < study.trials[0].value
    assert study.importance.keys() == SPACE.keys()
    assert sum(study.importance.values()) == pytest.approx(1)


def test_the_same_seed_gives_the_same_trials(tmp_path):
    """Two searches of one seed make the same trials in the same order; another seed makes others."""
    first, second, other = (
        tune.search(asked(f"sqlite:///{tmp_path / name}", trials=3, seed=seed), bowl)
        for name, seed in (("a.db", 1), ("b.db", 1), ("c.db", 2))
    )
    assert _parameters(first) == _parameters(second)
    assert _parameters(first) != _parameters(other)


def test_a_resumed_study_ends_where_an_undisturbed_one_does(tmp_path):
    """Searching 3 and then up to 6 makes the trials that 6 at once make; what is there counts, and isn't repeated."""
    storage = f"sqlite:///{tmp_path / 'resumed.db'}"
    made = []

    def counted(number, parameters, report):
        made.append(number)
        return bowl(number, parameters, report)

    tune.search(asked(storage, trials=3), counted)
    resumed = tune.search(asked(storage, trials=6), counted)
    again = tune.search(asked(storage, trials=6), counted)
    undisturbed = tune.search(asked(f"sqlite:///{tmp_path / 'other.db'}", trials=6), bowl)
    assert made == list(range(6))
    assert _parameters(resumed) == _parameters(undisturbed)
    assert _parameters(again) == _parameters(resumed)


def test_a_failed_trial_is_written_down_and_the_search_goes_on(storage):
    """A trial that crashes, or comes to no number, is one that failed with its reason; the others decide."""

    def fragile(number, parameters, report):
        if number == 0:
            raise PipelineError("The training process ended without a word.")
        if number == 1:
            report(1, math.nan)
        return math.inf if number == 2 else bowl(number, parameters, report)

    study = tune.search(asked(storage, trials=5), fragile)
    assert [trial.end for trial in study.trials] == ["failed", "failed", "failed", "complete", "complete"]
    assert "without a word" in study.trials[0].reason
    assert "diverged" in study.trials[1].reason
    assert "diverged" in study.trials[2].reason
    assert study.best.number in {3, 4}


def test_a_search_without_a_whole_trial_says_why(storage):
    """When every trial failed there is no best one, and the last reason is told."""

    def broken(number, parameters, report):
        raise ValueError("no such layer")

    study = tune.search(asked(storage, trials=2), broken)
    with pytest.raises(PipelineError, match=r"None of the 2 trials .* no such layer"):
        study.best  # noqa: B018 - asking is the point


def test_a_hopeless_trial_is_stopped_early(storage):
    """Once there are others to compare with, a trial worse than their median ends at its report, not at its end."""
    epochs = []

    def run(number, parameters, report):
        loss = 10.0 if number == 6 else 1.0 - number / 100
        for epoch in range(1, 6):
            report(epoch, loss)
            epochs.append((number, epoch))
        return loss

    study = tune.search(asked(storage, trials=7, warm_up_epochs=2), run)
    assert study.trials[6].end == "pruned"
    assert study.trials[6].value == 10.0
    assert [epoch for number, epoch in epochs if number == 6] == [1], "the second report was to be the last"
    assert study.count("pruned") == 1
    assert study.best.number == 5


def test_an_interrupted_trial_does_not_count(storage):
    """Ctrl-C ends the search at once, and the trial that it hit is not one of the N."""

    def interrupted(number, parameters, report):
        if number == 1:
            raise KeyboardInterrupt
        return bowl(number, parameters, report)

    with pytest.raises(KeyboardInterrupt):
        tune.search(asked(storage, trials=3), interrupted)
    study = tune.search(asked(storage, trials=3), bowl)
    assert [trial.number for trial in study.trials] == [0, 2, 3]


def test_each_trial_is_told_when_it_has_ended(storage):
    """The caller hears what was there before, and then of every trial, one more each time."""
    heard = []
    tune.search(asked(storage, trials=3), bowl, after_trial=lambda study: heard.append(len(study.trials)))
    tune.search(asked(storage, trials=4), bowl, after_trial=lambda study: heard.append(len(study.trials)))
    assert heard == [0, 1, 2, 3, 3, 4]


@pytest.mark.slow
def test_processes_share_a_study(storage):
    """Two processes on one storage make one study: no trial is made twice, and together they make as many as asked."""
    words = [sys.executable, "-W", "error", "-m", "tests.pipelines.bowl", storage, "8"]
    both = [subprocess.Popen(words, env={**os.environ, "PYTHONPATH": "."}, text=True) for _ in range(2)]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    study = tune.search(asked(storage, trials=8), bowl)
    assert len(study.trials) in {8, 9}  # the other one may have begun its last when the eighth ended
    assert len({tuple(trial.parameters.items()) for trial in study.trials}) == len(study.trials)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/x.db", "nosuchdatabase://host/name"])
def test_a_storage_that_cannot_be_opened_is_refused_in_words(url):
    """A wrong URL is the user's to mend: one sentence that says what was expected."""
    with pytest.raises(UsageError, match="storage of the trials"):
        tune.search(asked(url, trials=1), bowl)


def test_it_says_nothing_of_its_own(storage, capfd):
    """Optuna's log lines are not for our user; the caller tells what there is to tell."""
    tune.search(asked(storage, trials=2), bowl)
    assert capfd.readouterr() == ("", "")


def test_every_form_of_parameter_arrives_as_it_was_meant(storage):
    """Whole numbers arrive whole and on their steps, floats in their bounds, choices as they were given."""
    searched = {
        "whole": Range(10, 30, step=10),
        "log": Range(1, 100, log=True),
        "rate": Range(1e-4, 1e-2, log=True),
        "stepped": Range(0.0, 0.5, step=0.2),
        "mixed": Choice((True, 3, "x")),
    }
    seen = []

    def run(number, parameters, report):
        seen.append(parameters)
        return float(parameters["rate"])

    tune.search(asked(storage, trials=6, space=searched), run)
    for parameters in seen:
        assert parameters["whole"] in {10, 20, 30}
        assert isinstance(parameters["log"], int)
        assert 1e-4 <= parameters["rate"] <= 1e-2
        assert round(parameters["stepped"], 9) in {0.0, 0.2, 0.4}
        assert parameters["mixed"] in {True, 3, "x"}


def _parameters(study):
    return [(trial.number, trial.parameters, trial.value) for trial in study.trials]


def _interrupted(*_):
    raise KeyboardInterrupt


START = {"learning_rate": 0.5, "hidden": "relu"}


@pytest.mark.parametrize("how", ["interrupted", pytest.param("killed", marks=pytest.mark.slow)])
def test_the_familys_recipe_is_tried_though_its_trial_was_interrupted(storage, how):
    """By kill -9 or by Ctrl-C; once it has ended, or while somebody is at it, it is not tried again."""
    if how == "killed":
        code = (
            "import os, sys\nfrom pipelines import tune\nfrom tests.pipelines.bowl import asked\n"
            f"tune.search(asked(sys.argv[1], trials=3, start={START}), lambda *_: os.kill(os.getpid(), 9))\n"
        )
        subprocess.run([sys.executable, "-c", code, storage], check=False)
    else:
        with pytest.raises(KeyboardInterrupt):
            tune.search(asked(storage, trials=3, start=START), _interrupted)
    tried = []

    def run(number, parameters, report):
        tried.append({key: parameters[key] for key in START})
        if len(tried) == 1:
            tune.search(asked(storage, trials=0, start=START), bowl)  # somebody else's, while this one is at it
        return bowl(number, parameters, report)

    tune.search(asked(storage, trials=3, start=START), run)
    tune.search(asked(storage, trials=4, start=START), run)
    assert tried[0] == START
    assert tried.count(START) == 1
