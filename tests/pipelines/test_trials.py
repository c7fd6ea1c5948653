"""The trials of a search as people see them."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pipelines import trials
from pipelines.progress import ProgressBars
from pipelines.space import Choice
from pipelines.tune import Study, Trial

SPACE = {"batch_size": Choice((16, 32))}
WHOLE = Trial(0, "complete", 0.25, {"batch_size": 16}, 3.0)
PRUNED = Trial(1, "pruned", 0.75, {"batch_size": 32}, 1.0)
FAILED = Trial(2, "failed", None, {"batch_size": 16}, 0.5, "memory ran out")


@pytest.fixture
def said():
    return io.StringIO()


def test_each_trial_is_told_once_in_one_line(said):
    """A trial's line says how it ended; one that another process or an earlier search made is not told as new."""
    screen = trials.Screen(ProgressBars(Console(file=said)), 3)
    screen.ended(Study("digits-1", (WHOLE,), {}))
    screen.ended(Study("digits-1", (WHOLE, PRUNED), {}))
    screen.ended(Study("digits-1", (WHOLE, PRUNED, FAILED), {}))
    lines = said.getvalue().splitlines()
    assert lines[0] == "going on with digits-1; trials that ended before: 1"
    assert lines[1] == "trial 1: 0.7500, stopped early (batch_size 32) in 1.0 s"
    assert lines[2] == "trial 2: no loss, failed: memory ran out (batch_size 16) in 0.5 s"
    assert lines[3].startswith("search: 3")
    assert "best 0.2500 of trial 0" in lines[3]


def test_what_is_kept_can_be_read_and_looked_at(tmp_path):
    """The file holds every trial and the space as a file would say it; the charts are pictures."""
    charts = trials.keep(Study("digits-1", (WHOLE, PRUNED, FAILED), {"batch_size": 1.0}), SPACE, tmp_path)
    kept = json.loads((tmp_path / "trials.json").read_text())
    assert kept["space"] == {"batch_size": [16, 32]}
    assert [trial["end"] for trial in kept["trials"]] == ["complete", "pruned", "failed"]
    assert kept["trials"][2]["reason"] == "memory ran out"
    assert [chart.name for chart in charts] == ["trials.png", "importance.png"]
    assert all(chart.read_bytes().startswith(b"\x89PNG") for chart in charts)


def test_an_importance_that_nobody_knows_is_not_drawn(tmp_path):
    """With too few whole trials there is a chart of them, and none of what mattered."""
    assert [chart.name for chart in trials.keep(Study("digits-1", (WHOLE,), {}), SPACE, tmp_path)] == ["trials.png"]
