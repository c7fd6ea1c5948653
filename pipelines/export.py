"""A trained run to `model.onnx` and a draft of its bundle, past the parity gate.

The gate runs the finished graph through `serving.session`, the code that will serve it, on real images and compares
it with Keras. Importing this module is cheap: TensorFlow is imported when `export_run` runs, in a process of its own.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import dataset, evaluate, judge
from pipelines.dataset import Snapshot
from pipelines.errors import ParityFailed
from pipelines.files import write_atomically
from pipelines.train import HISTORY, load
from serving.bundle import SCHEMA_VERSION, Bundle, Parity, Threshold
from serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipelines.config import Recipe, Task
    from pipelines.judge import Forward

ONNX = "model.onnx"
DRAFT = "bundle-draft.json"
PARITY_ROWS = 256
MAX_ABS_DIFF = 1e-5
LIBRARIES = ("calotype", "tensorflow", "tensorflow-cpu", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export came to.

    Attributes:
        parity: the proof, of the graph in float32.
        model_bytes: the size of `model.onnx`.
        metrics: of the graph that is to be published, on the test part; the bundle's.
        quantized: what became of the wish for int8, in a sentence; None where there was none.
    """

    parity: Parity
    model_bytes: int
    metrics: dict[str, float]
    quantized: str | None = None


def export_run(snapshot_path: Path, recipe: Recipe, folder: Path) -> ExportResult:
    """Write `model.onnx` and, after the parity gate, `bundle-draft.json` into `folder`.

    The run has been trained and evaluated: the draft carries its report's metrics and threshold. It is the bundle
    with an empty name and version 0. A graph in int8 doesn't answer quite as the Keras model does, so where it is the
    one to publish it is judged itself, and report, predictions and metrics are its own.

    Raises:
        ParityFailed: the graph doesn't load, or doesn't answer as the Keras model does.
    """
    model = load(recipe, folder)
    from pipelines import convert, loop  # noqa: PLC0415 - the same

    snapshot = Snapshot.open(snapshot_path)
    data = convert.to_onnx(model, recipe.task)
    session = open_session(data)
    parity = compare(session, loop.forward(model), _pixels(snapshot), task=recipe.task)
    said = made_by()
    if recipe.quantize == "int8":
        data, outcome = _quantized(data, snapshot, recipe)
        said |= {"quantize": outcome}
        if outcome["is_kept"]:
            judge.judge_classifier(snapshot.part("test"), _forward(data), folder, names=snapshot.labels)
    bundle = replace(describe(snapshot, recipe, folder, session=session, parity=parity), made_by=said)
    write_atomically(folder / ONNX, data)
    write_atomically(folder / DRAFT, bundle.to_json().encode())
    told = str(said["quantize"]["reason"]) if "quantize" in said else None
    return ExportResult(parity=parity, model_bytes=len(data), metrics=dict(bundle.metrics), quantized=told)


def _quantized(data: bytes, snapshot: Snapshot, recipe: Recipe) -> tuple[bytes, dict[str, Any]]:
    """The form to publish, chosen on the validation part (the train part where that is empty), and why."""
    from pipelines import quantize  # noqa: PLC0415 - a second of imports that few exports need

    shrunk = quantize.shrink(data) if recipe.task == "classify" else None
    if shrunk is None:
        return data, {"is_kept": False, "reason": "there is no matrix product to quantize in this model"}
    part = next(part for name in ("validation", "train") if (part := snapshot.part(name)).rows)
    trial = quantize.compare(data, shrunk, part, part=part.name)
    return (shrunk if trial.is_kept else data), asdict(trial)


def _forward(data: bytes) -> Forward:
    """A classifier's graph as evaluation takes it."""
    session = open_session(data)
    return lambda pixels: session.run({"image": pixels}, ("probabilities",))["probabilities"]


def open_session(data: bytes) -> Session:
    """The graph, loaded as the server will.

    Raises:
        ParityFailed: onnxruntime doesn't take it.
    """
    try:
        return Session(data)
    except Exception as error:
        raise ParityFailed(f"The exported graph can't be loaded: {error}") from error


def compare(session: Session, forward: Forward, pixels: NDArray[np.uint8], *, task: Task) -> Parity:
    """Hold every output of the exported graph against the Keras model: on all rows at once, and on the first alone.

    Args:
        session: the graph.
        forward: the Keras model.
        pixels: uint8 [rows, height, width, channels], real images.
        task: says which outputs there must be.

    Raises:
        ParityFailed: an output is missing or of another shape, they differ by more than 1e-5 somewhere, or one of them
            isn't finite.
    """
    wanted = _contract(forward(pixels), pixels, task=task)
    difference = 0.0
    for rows in (len(pixels), 1):  # a graph may have learned how many rows it was traced with
        found = session.run({"image": pixels[:rows]})
        difference = max(difference, *(_apart(found, name, answer[:rows]) for name, answer in wanted.items()))
    return Parity(max_abs_diff=difference, rows=len(pixels))


def _contract(answer: NDArray[np.float32], pixels: NDArray[np.uint8], *, task: Task) -> dict[str, NDArray[np.float32]]:
    """What the outputs of a graph must be, by name, where its Keras model gives `answer`."""
    if task == "classify":
        both = np.concatenate([1 - answer, answer], axis=1) if answer.shape[1] == 1 else answer
        return {"probabilities": both}
    error = ((answer - pixels.astype(np.float32) / 255) ** 2).mean(axis=(1, 2, 3))
    return {"reconstruction": answer, "error": error}


def _apart(found: Mapping[str, NDArray[np.float32]], output: str, wanted: NDArray[np.float32]) -> float:
    """The largest difference of an output to what is wanted; refuses what is no such output, and more than 1e-5."""
    got = found.get(output)
    if got is None:
        raise ParityFailed(f"The graph has no output {output!r}. Received: {', '.join(found)}. Nothing was published.")
    if got.shape != wanted.shape:
        raise ParityFailed(f"The graph's {output!r} is {got.shape} and the Keras model's is {wanted.shape}.")
    difference = float(np.abs(got - wanted).max())
    if not difference <= MAX_ABS_DIFF:  # not a number fails too
        images = "one real image alone" if len(wanted) == 1 else f"{len(wanted)} real images"
        raise ParityFailed(
            f"{output!r} of the exported graph and of the Keras model differ by {difference:.3g} on {images}, and "
            f"{MAX_ABS_DIFF:g} is allowed. Nothing was published."
        )
    return difference


def describe(snapshot: Snapshot, recipe: Recipe, folder: Path, *, session: Session, parity: Parity) -> Bundle:
    """The bundle of an evaluated run, without its name and version."""
    report = json.loads((folder / judge.REPORT).read_text(encoding="utf-8"))
    history = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    found = report.get("threshold")
    return Bundle(
        schema_version=SCHEMA_VERSION,
        name="",
        version=0,
        task=recipe.task,
        image=snapshot.image,
        inputs=session.inputs,
        outputs=session.outputs,
        labels=tuple(snapshot.labels) if recipe.task == "classify" else (),
        threshold=Threshold(**found) if found else None,
        metrics=evaluate.metrics(report),
        parity=parity,
        recipe=history["recipe"],
        dataset={
            "name": snapshot.dataset,
            "snapshot": snapshot.id,
            "source": snapshot.source,
            "schema_version": dataset.SCHEMA_VERSION,
        },
        made_by=made_by(),
    )


def made_by() -> dict[str, Any]:
    """Commit, library versions and time: what a person needs to get the same again."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return {"git_commit": _git_commit(), "libraries": libraries, "time": now}


def _git_commit() -> str | None:
    """Of the checkout that this code runs from; None for an installed package."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603 - fixed words
    except OSError:
        return None
    return found.stdout.strip() or None


def _pixels(snapshot: Snapshot) -> NDArray[np.uint8]:
    """Up to a few hundred real images: of the test part, or of what there is."""
    parts = [snapshot.part(name) for name in ("test", "validation", "train")]
    part = next(part for part in parts if part.rows)
    return part.gather(np.arange(min(PARITY_ROWS, part.rows)))
