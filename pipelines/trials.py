"""The trials of a search as people see them: lines and a bar while it runs, charts and a file when it is over.

Knows no Optuna and no flow.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipelines import charts, space
from pipelines.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.progress import ProgressBars
    from pipelines.space import Space, Value
    from pipelines.tune import Study, Trial

TRIALS = "trials.json"
HISTORY_CHART = "trials.png"
IMPORTANCE_CHART = "importance.png"


class Screen:
    """The search as a person sees it: a bar, and a line for each trial that ends.

    Mutable: the numbers of the trials that were told, and the words about the best one.
    """

    def __init__(self, bars: ProgressBars, trials: int) -> None:
        self._bars = bars
        self._trials = trials
        self._told: set[int] | None = None
        self._best = ""

    def ended(self, study: Study) -> None:
        """Tell the trials that ended since the last call; those of earlier searches only by their count."""
        if self._told is None:
            if study.trials:
                self._bars.console.print(f"going on with {study.name}; trials that ended before: {len(study.trials)}")
            self._told = {trial.number for trial in study.trials}
        for trial in study.trials:
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._bars.console.print(in_words(trial), highlight=False, soft_wrap=True)
        if study.count("complete"):
            self._best = f"best {study.best.value:.4f} of trial {study.best.number}"
        self._show(self._best)

    def epoch(self, number: int, news: dict[str, Any]) -> None:
        """Tell how far a trial is."""
        loss = f", {news['val_loss']:.4f}" if "val_loss" in news else ""
        self._show(f"trial {number}: epoch {news['epoch']} of {news['epochs']}{loss}; {self._best}".rstrip("; "))

    def _show(self, note: str) -> None:
        done = min(len(self._told or ()), self._trials)
        self._bars.report("search", done, self._trials, note=note)


def in_words(trial: Trial) -> str:
    """One trial in one line."""
    ends = {"complete": "", "pruned": ", stopped early", "failed": f", failed: {trial.reason}"}
    value = "no loss" if trial.value is None else f"{trial.value:.4f}"
    parameters = ", ".join(f"{name} {_short(value)}" for name, value in trial.parameters.items())
    return f"trial {trial.number}: {value}{ends[trial.end]} ({parameters}) in {trial.seconds:.1f} s"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def keep(study: Study, searched: Space, folder: Path) -> tuple[Path, ...]:
    """Write the trials and their charts into a run's folder.

    Returns:
        the charts: the trials, and the parameters' importance where it is known.
    """
    values = {
        "study": study.name,
        "space": space.to_dict(searched),
        "importance": study.importance,
        "trials": [asdict(trial) for trial in study.trials],
    }
    write_atomically(folder / TRIALS, json.dumps(values, indent=1).encode())
    ended = [(trial.number, trial.value, trial.end == "complete") for trial in study.trials if trial.value is not None]
    charted = {HISTORY_CHART: charts.trials(ended).light}
    if study.importance:
        charted[IMPORTANCE_CHART] = charts.importance(study.importance, trials=study.count("complete")).light
    for name, picture in charted.items():
        write_atomically(folder / name, picture)
    return tuple(folder / name for name in charted)
