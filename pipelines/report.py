"""One run as one page that a person looks at: `report.html`, with every picture inside it.

Reads what training, judging, export and the gate left in the run's folder; computes nothing anew and needs no
TensorFlow. The page is made as soon as there is a model to show, and made again when it is known what came of it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from pipelines import charts, features, judge, train
from pipelines.dataset import Snapshot
from pipelines.export import DRAFT
from pipelines.files import write_atomically
from pipelines.gate import GATE
from pipelines.paired import LEVEL
from pipelines.pictures import data_url, feature_maps, thumbnail, weights
from pipelines.runs import RECIPE
from pipelines.sources import KNOWN_PREFIX

if TYPE_CHECKING:
    from pipelines.dataset import Part
    from pipelines.runs import RunRecord

PAGE = "report.html"
CURVE = "curve.png"
GALLERY_IMAGES = 24
AGAIN = "again"


def write(folder: Path, record: RunRecord) -> Path:
    """Make the page and the curve of a trained, judged and exported run, each in one step.

    Args:
        folder: the run's.
        record: of the run, as far as it has come.

    Returns:
        the page's path.

    Raises:
        BadSource: the run's snapshot is gone, and with it the pictures.
    """
    history = _json(folder / train.HISTORY)
    report = _json(folder / judge.REPORT)
    bundle = _json(folder / DRAFT)
    test = Snapshot.open(Path(record.snapshot_path)).part("test")
    curve = charts.curve(history["history"], best_epoch=history["best_epoch"])
    write_atomically(folder / CURVE, curve.light)
    values = {
        "record": record,
        "history": history,
        "report": report,
        "bundle": bundle,
        "gate": {"warning": None} | _json(folder / GATE) if (folder / GATE).exists() else None,
        "level": LEVEL,
        "quantize": bundle["made_by"].get("quantize"),
        "curve": _both(curve),
        "layers": _layers(folder, test),
        "command": again(record, folder, source=bundle["dataset"]["source"]),
    }
    values |= _classify(report, test) if report["task"] == "classify" else _reconstruct(report, folder)
    write_atomically(folder / PAGE, _template().render(values).encode())
    return folder / PAGE


def again(record: RunRecord, folder: Path, *, source: str) -> str:
    """The command that makes the same model again, in a workspace of its own: in this one it would be nothing new."""
    words = ["calotype", "run", source.removeprefix(KNOWN_PREFIX), "--name", record.key.model]
    words += ["--dataset", record.dataset, "--recipe", str(folder / RECIPE), "--workspace", AGAIN]
    return shlex.join(words)


def markdown(record: RunRecord) -> str:
    """The run in a few lines, for Prefect's page."""
    came_of_it = f"published as version {record.version}" if record.version else f"{record.state}: {record.reason}"
    lines = [
        f"# {record.key.model}: {came_of_it}",
        f"Run `{record.run}` on dataset `{record.dataset}`, snapshot `{record.key.snapshot}`.",
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {count} |" for name, count in record.images.items()),
        f"The page: `{record.report}`",
    ]
    return "\n\n".join(lines)


def curve(folder: Path) -> bytes | None:
    """The learning curve as PNG, or None where the run has not come so far."""
    try:
        return (folder / CURVE).read_bytes()
    except FileNotFoundError:
        return None


def _both(chart: charts.Chart) -> dict[str, str]:
    return {"light": data_url(chart.light), "dark": data_url(chart.dark)}


def _classify(report: dict[str, Any], test: Part) -> dict[str, Any]:
    matrix = np.array(report["confusion"]["matrix"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mistakes = report["mistakes"][:GALLERY_IMAGES]
    pictures = _thumbnails(test, [mistake["path"] for mistake in mistakes])
    return {
        "calibration": _both(charts.calibration(report["calibration"])),
        "shares": shares.round(3).tolist(),
        "mistakes": [mistake | {"picture": pictures[mistake["path"]]} for mistake in mistakes],
    }


def _reconstruct(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    found, limit = report["error"]["histogram"], report["threshold"]["error"]
    with np.load(folder / judge.GALLERY) as gallery:
        pairs = zip(gallery["images"], gallery["reconstructions"], report["worst"], strict=False)
        worst = [
            one | {"picture": data_url(thumbnail(image)), "answer": data_url(thumbnail(answer))}
            for image, answer, one in pairs
        ]
    histogram = charts.histogram(found["edges"], found["counts"], threshold=limit)
    return {"histogram": _both(histogram), "worst": worst}


def _thumbnails(test: Part, paths: list[str]) -> dict[str, str]:
    """Pictures of test images by their paths, as the model saw them."""
    places = {path: row for row, path in enumerate(test.paths)}
    pixels = test.gather(np.array([places[path] for path in paths], dtype=np.int64))
    return {path: data_url(thumbnail(image)) for path, image in zip(paths, pixels, strict=True)}


def _layers(folder: Path, test: Part) -> list[dict[str, Any]]:
    """The first layers as pictures: their filters, and each sample beside what they make of it."""
    found = features.load(folder)
    if found is None:
        return []
    paths = [test.paths[row] for row in found.rows]
    originals = [data_url(thumbnail(image)) for image in test.gather(found.rows)]
    layers = []
    for one in found.layers:
        by_unit = [feature_maps(one.maps[:, unit]) for unit in range(one.maps.shape[1])] if one.maps.size else []
        samples = [
            {"path": path, "picture": original, "maps": [data_url(unit[row]) for unit in by_unit]}
            for row, (path, original) in enumerate(zip(paths, originals, strict=True))
        ]
        about = {"name": one.name, "kind": one.kind, "units": one.units, "signed": bool((one.maps < 0).any())}
        filters = [data_url(weights(kernel)) for kernel in one.filters]
        colours = one.filters.shape[-1] if filters else 0
        layers.append(about | {"filters": filters, "colours": colours, "samples": samples if by_unit else []})
    return layers


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("pipelines", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html")


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
