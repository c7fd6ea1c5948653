"""A trial function that costs nothing; as a module, one of several processes that search its bottom."""

from __future__ import annotations

import math
import sys

from pipelines import tune
from pipelines.space import Choice, Range

SPACE = {"learning_rate": Range(1e-4, 1.0, log=True), "hidden": Choice(("relu", "swish")), "dense": Range(8, 128)}


def bowl(number, parameters, report) -> float:
    """Smallest at a learning rate of 0.01 and swish; the width matters little."""
    away = math.log10(parameters["learning_rate"]) + 2
    return away**2 + (parameters["hidden"] == "relu") / 2 + parameters["dense"] / 10_000


def asked(storage, *, trials, seed=0, start=None, space=None, warm_up_epochs=1) -> tune.Search:
    return tune.Search(
        name="bowl",
        storage=storage,
        space=space or SPACE,
        start=start or {},
        trials=trials,
        warm_up_epochs=warm_up_epochs,
        seed=seed,
    )


if __name__ == "__main__":
    tune.search(asked(sys.argv[1], trials=int(sys.argv[2])), bowl)
