"""`calotype predict`: files or folders to predictions, through a server or in this process."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving import settings
from serving.errors import BadInput
from serving.predictions import Classification, Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from serving.predictions import Answered

_FORMATS = (".parquet", ".csv", ".jsonl")


@click.command("predict")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--model", required=True, help="Name of the model.")
@click.option("--version", type=click.IntRange(min=0), default=0, help="Version; 0 is the one being served.")
@click.option("--top", "top_k", type=click.IntRange(min=0), default=0, help="Best labels per image; 0 is all.")
@click.option("--server", metavar="HOST:PORT", help="Predict through this server; grpcs://HOST:PORT with TLS.")
@click.option("--token", envvar="CALOTYPE_TOKEN", help="For a server with --tokens; better in CALOTYPE_TOKEN.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of who signed the server's certificate: TLS.")
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file of the own certificate.")
@click.option("--key", type=click.Path(path_type=Path), help="PEM file of its private key.")
@click.option("--models", type=click.Path(path_type=Path), help="Predict in this process, from this repository.")
@click.option(
    "--max-image-pixels",
    type=click.IntRange(min=1),
    default=settings.defaults()["max_image_pixels"],
    envvar=settings.variable("max_image_pixels"),
    show_default=True,
    help="The largest image, width times height, that is read in this process.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write the predictions to FILE.parquet, .csv or .jsonl."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(  # noqa: PLR0913  an argument per option
    paths: tuple[Path, ...],
    *,
    model: str,
    version: int,
    top_k: int,
    server: str | None,
    models: Path | None,
    max_image_pixels: int,
    output: Path | None,
    as_json: bool,
    **access: Any,
) -> None:
    """Predict for image files, or for all files below folders; every row carries its path.

    The exit status is 0 when some images failed (they are counted), 1 when all did or the server can't be reached, and
    2 when asked for what can't be, such as an unknown model.
    """
    if (server is None) == (models is None):
        raise BadInput("Give either --server HOST:PORT or --models DIR: where is the model?")
    _check_output(output)
    files = list(_files(paths))
    if server is not None:
        answers = _through_server(files, server, access, model=model, version=version, top_k=top_k)
    else:
        from serving.local import LocalModel

        assert models is not None  # noqa: S101 one of the two is given
        local = LocalModel(models, model, version, max_pixels=max_image_pixels)
        for reason in local.skipped:
            click.echo(f"Version {local.version} answers, as a newer one can't be loaded: {reason}", err=True)
        answers = local.predict(files, top_k=top_k)
    rows: list[dict[str, Any]] = []
    served, began = version, time.perf_counter()
    for answer in answers:
        served = answer.version or served
        rows += [_row(path, result) for path, result in zip(files[len(rows) :], answer.results, strict=False)]
    seconds = time.perf_counter() - began
    failed = sum("failure" in row for row in rows)
    if output is not None:
        _write(rows, output)
    result = {
        "model": model,
        "version": served,
        "images": len(rows),
        "failed": failed,
        "seconds": round(seconds, 3),
        "predictions": rows,
    }
    _show(result, output, as_json=as_json)
    if failed == len(rows):
        sys.exit(1)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as given, and the files below folders in order, without those whose name starts with a dot."""
    for path in paths:
        if path.is_dir():
            found = sorted(_below(path))
            if not found:
                raise BadInput(f"{path} has no files in it.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise BadInput(f"{path} does not exist; expected an image file or a folder of them.")


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(where) / name for name in names if not name.startswith("."))


def _through_server(
    files: Sequence[Path], address: str, access: dict[str, Any], *, model: str, version: int, top_k: int
) -> Iterator[Answered]:
    # What goes wrong is told in one sentence, without the core's own lines. It looks at this when grpc is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from serving.client import Client
    except ModuleNotFoundError as error:
        raise BadInput(
            f"--server needs {error.name}: pip install 'calotype[serving]'. --models predicts without it."
        ) from error
    with Client(address, **access) as client:
        known = [info for info in client.models() if info.name == model]
        if any(info.task == "reconstruct" for info in known):
            yield from client.reconstruct_each(files, model=model, version=version)
        else:
            yield from client.classify_each(files, model=model, version=version, top_k=top_k)


def _row(path: Path, result: Any) -> dict[str, Any]:
    written: dict[str, Any] = {"path": os.fsencode(path).decode("utf-8", "backslashreplace")}
    if isinstance(result, Failure):
        return written | {"failure": {"code": result.code, "message": result.message}}
    if isinstance(result, Classification):
        labels = [{"label": score.label, "probability": score.probability} for score in result.labels]
        return written | {"label": result.label, "probability": result.probability, "labels": labels}
    return written | {"error": result.error, "anomalous": result.anomalous}


def _check_output(output: Path | None) -> None:
    """Find out before the work whether its result can be written."""
    if output is None:
        return
    if output.suffix not in _FORMATS:
        raise BadInput(f"--output must end in {', '.join(_FORMATS)}. Received: {output}")
    if not output.parent.is_dir():
        raise BadInput(f"--output {output}: the folder {output.parent} does not exist.")
    if output.suffix == ".parquet":
        try:
            import pyarrow as pa  # noqa: F401
        except ModuleNotFoundError as error:
            raise BadInput("--output FILE.parquet needs pyarrow: pip install pyarrow") from error


def _write(rows: Sequence[dict[str, Any]], output: Path) -> None:
    if output.suffix == ".jsonl":
        output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    if output.suffix == ".csv":
        with output.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(flat)
        return
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: [row.get(name) for row in flat] for name in names}
    parquet.write_table(pa.table(columns), output)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table: labels as JSON, a failure as two columns."""
    flat = {name: value for name, value in row.items() if name not in ("labels", "failure")}
    if "labels" in row:
        flat["labels"] = json.dumps(row["labels"])
    if "failure" in row:
        flat |= {"failure_code": row["failure"]["code"], "failure_message": row["failure"]["message"]}
    return flat


def _show(result: dict[str, Any], output: Path | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    if output is None:
        for row in result["predictions"]:
            click.echo(f"{row['path']}\t{_summary(row)}")
    speed = f"{result['images'] / max(result['seconds'], 1e-3):,.0f} images/s"
    where = f", written to {output}" if output is not None else ""
    by = f"{result['model']} version {result['version']}"
    click.echo(f"{result['images']} images by {by}, {result['failed']} failed, {speed}{where}", err=True)


def _summary(row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"failed: {row['failure']['message']}"
    if "label" in row:
        return f"{row['label']}\t{row['probability']:.4f}"
    return f"{row['error']:.6f}\t{'anomalous' if row['anomalous'] else 'normal'}"
