"""`calotype models`: what is in a repository, whether it is whole, and back to the version before."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.errors import BadInput
from serving.urls import is_url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from serving.repository import Model, Scan, Version

_MODELS = click.option(
    "--models",
    "place",
    metavar="DIR|URL",
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
def list_models(name: str | None, place: str | None, *, as_json: bool) -> None:
    """Every model with its versions, newest last, and which one a server would take.

    No model is loaded here, and no file compared with its checksum: that is `calotype models verify`.
    """
    models = _repository(place, name)
    scan = _scan(models, name)
    taken = {model.name: _taken(model, models) for model in scan.models.values()}
    rows = [
        {
            "name": model.name,
            "serving": taken[model.name],
            "versions": [_row(version, models) for version in model.versions],
        }
        for model in scan.models.values()
    ]
    if as_json:
        _print_json({"repository": models.shown, "models": rows})
        return
    cells = [
        (model.name, str(version.number), *_summary(version, models, taken=version.number == taken[model.name]))
        for model in scan.models.values()
        for version in model.versions
    ]
    _print_table(("model", "version", "kind", "task", "remark"), cells)
    if cells:
        click.echo("Whether a server can load what it would take, `calotype models verify` tells.", err=True)


@command.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), help="Another than the newest.")
@_MODELS
@_JSON
def show_model(name: str, version: int | None, place: str | None, *, as_json: bool) -> None:
    """Everything that a version's bundle says of itself."""
    from serving import bundle as bundles

    models = _repository(place, name)
    chosen = _choose(_scan(models, name), name, version)
    if chosen.kind == "plain":
        values: dict[str, Any] = {"name": name, "version": chosen.number, "kind": "plain"}
    else:
        values = {**json.loads(bundles.read(chosen.path).to_json()), "kind": "bundle"}
    values["path"] = models.told(str(chosen.path))
    if as_json:
        _print_json(values)
        return
    _print_table(("field", "value"), [(key, _short(value)) for key, value in values.items()])


@command.command("verify")
@_NAME
@_MODELS
@_JSON
@click.pass_context
def verify_models(context: click.Context, name: str | None, place: str | None, *, as_json: bool) -> None:
    """Read every byte of every version and compare it with its checksums; exit status 1 on damage."""
    models = _repository(place, name, whole=True)
    scan = _scan(models, name)
    rows = [
        {"name": version.name, "version": version.number, "kind": version.kind, "damage": _damage(version, models)}
        for model in scan.models.values()
        for version in model.versions
    ]
    damaged = [row for row in rows if row["damage"] is not None]
    if as_json:
        _print_json({"repository": models.shown, "whole": not damaged, "versions": rows})
    else:
        cells = [(str(r["name"]), str(r["version"]), str(r["kind"]), str(r["damage"] or "whole")) for r in rows]
        _print_table(("model", "version", "kind", "finding"), cells)
    if damaged:
        context.exit(1)


@command.command("rollback")
@click.argument("name")
@_MODELS
@_JSON
def rollback_model(name: str, place: str | None, *, as_json: bool) -> None:
    """Withdraw the newest version, so that the one before it serves; servers notice by themselves."""
    from serving import bundle as bundles

    if place is not None and is_url(place):
        raise BadInput(
            "A version is withdrawn in the folder that was published into, which is then brought into the bucket "
            f"anew (docs/formats.md); or its folder is removed from the bucket. Received: {without_secrets(place)}"
        )
    models = _repository(place, name)
    withdrawn = _choose(_scan(models, name), name, None).number
    serving = bundles.withdraw(models.folder, name, withdrawn)
    if as_json:
        _print_json({"model": name, "withdrawn": withdrawn, "version": serving})
        return
    click.echo(f"{name}: version {withdrawn} is withdrawn, version {serving} serves.", err=True)


# ---- repository ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Repository:
    """Where a repository is looked at, and what it is called."""

    folder: Path
    shown: str

    def told(self, text: str) -> str:
        """A sentence about it as its reader knows it."""
        return text.replace(str(self.folder), self.shown)


def _repository(place: str | None, name: str | None, *, whole: bool = False) -> _Repository:
    """A folder, or a copy of a bucket that is there as long as this command."""
    if place is not None and is_url(place):
        from serving.bucket_copy import copied

        folder = click.get_current_context().with_resource(copied(place, name=name, with_models=whole))
        return _Repository(folder, without_secrets(place).rstrip("/"))
    chosen = Path(place) if place else Path(os.environ.get("CALOTYPE_WORKSPACE", "workspace")) / "models"
    return _Repository(chosen, str(chosen))


def _scan(models: _Repository, name: str | None) -> Scan:
    """One look, at one model only where a name is given."""
    from serving import repository
    from serving.errors import ModelNotFound

    scan = repository.scan(models.folder)
    if name is None:
        return scan
    if name not in scan.models:
        have = ", ".join(scan.models) or "none"
        raise ModelNotFound(f"There is no model {name!r} in {models.shown}; it has {have}.")
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


def _damage(version: Version, models: _Repository) -> str | None:
    """What is wrong with a version, a sentence; None: nothing."""
    from serving import bundle as bundles
    from serving.errors import BadBundle
    from serving.session import Session

    if version.kind == "broken":
        return models.told(version.reason)
    try:
        if version.kind == "bundle":
            bundles.verify(version.path)
        else:
            Session(version.path / bundles.MODEL, threads=1)  # no checksums: that it loads is all there is
    except BadBundle as error:
        return models.told(str(error))
    return None


# ---- output -------------------------------------------------------------------------------------


def _row(version: Version, models: _Repository) -> dict[str, Any]:
    from serving import bundle as bundles
    from serving.errors import BadBundle

    row: dict[str, Any] = {"version": version.number, "kind": version.kind, "task": None, "metrics": None}
    try:
        if version.kind == "bundle":
            bundle = bundles.read(version.path)
            row |= {"task": bundle.task, "metrics": dict(bundle.metrics)}
    except BadBundle as error:
        return {**row, "kind": "broken", "reason": models.told(str(error))}
    return {**row, "reason": models.told(version.reason) or None}


def _taken(model: Model, models: _Repository) -> int | None:
    """The number of the version that a server would take for a call of version 0, if it loads."""
    from serving import repository
    from serving.errors import CalotypeError

    try:
        if model.reason:
            raise BadInput(model.reason)
        only = repository.wanted(model)
    except CalotypeError as error:  # a server would take none
        click.echo(models.told(str(error)), err=True)
        return None
    numbers = [version.number for version in model.usable if only is None or version.number in only]
    return numbers[-1] if numbers else None


def _summary(version: Version, models: _Repository, *, taken: bool) -> tuple[str, str, str]:
    row = _row(version, models)
    return row["kind"], row["task"] or "-", row["reason"] or ("a server takes it" if taken else "")


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
