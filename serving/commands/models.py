"""`calotype models`: what is in a repository, whether it is whole, and back to the version before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from serving.repository import Scan, Version

_MODELS = click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    help="The repository.  [default: models/ in the workspace]",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
_NAME = click.argument("name", required=False)


@click.group("models")
def command() -> None:
    """See, check and roll back what is published in a repository."""


@command.command("list")
@_NAME
@_MODELS
@_JSON
def list_models(name: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Every model with its versions, newest last, and which one serves."""
    models = _repository(folder)
    scan = _scan(models, name)
    rows = [
        {
            "name": model.name,
            "serving": model.newest.number if model.newest else None,
            "versions": [_row(version) for version in model.versions],
        }
        for model in scan.models.values()
    ]
    if as_json:
        _print_json({"repository": str(models), "models": rows})
        return
    cells = [
        (model.name, str(version.number), *_summary(version, serving=version == model.newest))
        for model in scan.models.values()
        for version in model.versions
    ]
    _print_table(("model", "version", "kind", "task", "remark"), cells)


@command.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), help="Another than the newest.")
@_MODELS
@_JSON
def show_model(name: str, version: int | None, folder: Path | None, *, as_json: bool) -> None:
    """Everything that a version's bundle says of itself."""
    from serving import bundle as bundles

    chosen = _choose(_scan(_repository(folder), name), name, version)
    if chosen.kind == "plain":
        values: dict[str, Any] = {"name": name, "version": chosen.number, "kind": "plain"}
    else:
        values = {**json.loads(bundles.read(chosen.path).to_json()), "kind": "bundle"}
    values["path"] = str(chosen.path)
    if as_json:
        _print_json(values)
        return
    _print_table(("field", "value"), [(key, _short(value)) for key, value in values.items()])


@command.command("verify")
@_NAME
@_MODELS
@_JSON
@click.pass_context
def verify_models(context: click.Context, name: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Read every byte of every version and compare it with its checksums; exit status 1 on damage."""
    models = _repository(folder)
    scan = _scan(models, name)
    rows = [
        {"name": version.name, "version": version.number, "kind": version.kind, "damage": _damage(version)}
        for model in scan.models.values()
        for version in model.versions
    ]
    damaged = [row for row in rows if row["damage"] is not None]
    if as_json:
        _print_json({"repository": str(models), "whole": not damaged, "versions": rows})
    else:
        cells = [(str(r["name"]), str(r["version"]), str(r["kind"]), str(r["damage"] or "whole")) for r in rows]
        _print_table(("model", "version", "kind", "finding"), cells)
    if damaged:
        context.exit(1)


@command.command("rollback")
@click.argument("name")
@_MODELS
@_JSON
def rollback_model(name: str, folder: Path | None, *, as_json: bool) -> None:
    """Withdraw the newest version, so that the one before it serves; servers notice by themselves."""
    from serving import bundle as bundles

    models = _repository(folder)
    withdrawn = _choose(_scan(models, name), name, None).number
    serving = bundles.withdraw(models, name, withdrawn)
    if as_json:
        _print_json({"model": name, "withdrawn": withdrawn, "version": serving})
        return
    click.echo(f"{name}: version {withdrawn} is withdrawn, version {serving} serves.", err=True)


# ---- repository ---------------------------------------------------------------------------------


def _repository(folder: Path | None) -> Path:
    return folder or Path(os.environ.get("CALOTYPE_WORKSPACE", "workspace")) / "models"


def _scan(models: Path, name: str | None) -> Scan:
    """One look, at one model only where a name is given."""
    from serving import repository
    from serving.errors import ModelNotFound

    scan = repository.scan(models)
    if name is None:
        return scan
    if name not in scan.models:
        have = ", ".join(scan.models) or "none"
        raise ModelNotFound(f"There is no model {name!r} in {models}; it has {have}.")
    return repository.Scan(models={name: scan.models[name]}, ignored=scan.ignored)


def _choose(scan: Scan, name: str, number: int | None) -> Version:
    from serving.errors import ModelNotFound

    model = scan.models[name]
    if number is None:
        if model.newest is None:
            raise ModelNotFound(f"The model {name!r} has no version that can be used.")
        return model.newest
    for version in model.versions:
        if version.number == number:
            return version
    have = ", ".join(str(version.number) for version in model.versions) or "none"
    raise ModelNotFound(f"The model {name!r} has no version {number}; it has {have}.")


def _damage(version: Version) -> str | None:
    """What is wrong with a version, a sentence; None: nothing."""
    from serving import bundle as bundles
    from serving.errors import BadBundle
    from serving.session import Session

    if version.kind == "broken":
        return version.reason
    try:
        if version.kind == "bundle":
            bundles.verify(version.path)
        else:
            Session(version.path / bundles.MODEL, threads=1)  # no checksums: that it loads is all there is
    except BadBundle as error:
        return str(error)
    return None


# ---- output -------------------------------------------------------------------------------------


def _row(version: Version) -> dict[str, Any]:
    from serving import bundle as bundles
    from serving.errors import BadBundle

    row: dict[str, Any] = {"version": version.number, "kind": version.kind, "task": None, "metrics": None}
    try:
        if version.kind == "bundle":
            bundle = bundles.read(version.path)
            row |= {"task": bundle.task, "metrics": dict(bundle.metrics)}
    except BadBundle as error:
        return {**row, "kind": "broken", "reason": str(error)}
    return {**row, "reason": version.reason or None}


def _summary(version: Version, *, serving: bool) -> tuple[str, str, str]:
    row = _row(version)
    return row["kind"], row["task"] or "-", row["reason"] or ("serves" if serving else "")


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print_json(values: dict[str, Any]) -> None:
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip(), err=True)
