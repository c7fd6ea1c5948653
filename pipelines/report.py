"""One run as one page that a person looks at: `report.html`, with every picture inside it.

Reads what training, judging and export left in the run's folder; computes nothing anew and needs no TensorFlow.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image

from pipelines import charts, judge, train
from pipelines.dataset import Snapshot
from pipelines.export import DRAFT
from pipelines.files import write_atomically
from pipelines.runs import RECIPE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.runs import RunRecord

PAGE = "report.html"
CURVE = "curve.png"
GALLERY_IMAGES = 24
THUMBNAIL_SIDE = 96


def write(folder: Path, record: RunRecord) -> Path:
    """Make the page and the curve of a trained, judged and exported run.

    Args:
        folder: the run's.
        record: of the run.

    Returns:
        the page's path.
    """
    history = _json(folder / train.HISTORY)
    report = _json(folder / judge.REPORT)
    curve = charts.curve(history["history"], best_epoch=history["best_epoch"])
    write_atomically(folder / CURVE, curve)
    values = {
        "record": record,
        "history": history,
        "report": report,
        "bundle": _json(folder / DRAFT),
        "curve": data_url(curve),
        "recipe_path": folder / RECIPE,
    }
    values |= _classify(report, record) if report["task"] == "classify" else _reconstruct(report, folder)
    write_atomically(folder / PAGE, _template().render(values).encode())
    return folder / PAGE


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


def data_url(png: bytes) -> str:
    """A picture inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _classify(report: dict[str, Any], record: RunRecord) -> dict[str, Any]:
    matrix = np.array(report["confusion"]["matrix"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mistakes = report["mistakes"][:GALLERY_IMAGES]
    pictures = _thumbnails(record, [mistake["path"] for mistake in mistakes])
    return {
        "calibration": data_url(charts.calibration(report["calibration"])),
        "shares": shares.round(3).tolist(),
        "mistakes": [mistake | {"picture": pictures[mistake["path"]]} for mistake in mistakes],
    }


def _reconstruct(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    found, limit = report["error"]["histogram"], report["threshold"]["error"]
    with np.load(folder / judge.GALLERY) as gallery:
        pairs = zip(gallery["images"], gallery["reconstructions"], report["worst"], strict=False)
        worst = [
            one | {"picture": data_url(_thumbnail(image)), "answer": data_url(_thumbnail(answer))}
            for image, answer, one in pairs
        ]
    histogram = charts.histogram(found["edges"], found["counts"], threshold=limit)
    return {"histogram": data_url(histogram), "worst": worst}


def _thumbnails(record: RunRecord, paths: list[str]) -> dict[str, str]:
    """Pictures of test images by their paths, as the model saw them."""
    part = Snapshot.open(Path(record.snapshot_path)).part("test")
    places = {path: row for row, path in enumerate(part.paths)}
    pixels = part.gather(np.array([places[path] for path in paths], dtype=np.int64))
    return {path: data_url(_thumbnail(image)) for path, image in zip(paths, pixels, strict=True)}


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 [height, width, channels], no larger than a thumbnail; small ones are enlarged by the page."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("pipelines", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html")


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
