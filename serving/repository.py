"""What exists on disk: one look at a repository, and what is new or gone between two looks.

Pure but for the look itself; knows nothing of what is loaded. A look reads names, sizes and times, and the small
`config.pbtxt`, never a model: it may be taken every second. Whether a version may be loaded is decided here by which
files are there; whether their bytes are right is for `bundle.verify`, once, before loading.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from serving import bundle as bundles
from serving.errors import BadInput, BadRepository

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Kind = Literal["bundle", "plain", "broken"]

_CONFIG_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Version:
    """A version folder.

    Args:
        name: of the model.
        number: of the version.
        path: of the folder.
        kind: `bundle`: whole; `plain`: only a model.onnx, made by anybody; `broken`: never to be loaded as it is.
        reason: why it is broken, a sentence; else empty.
        files: name, size in bytes, time of change in ns and inode of each file: equal means untouched.
    """

    name: str
    number: int
    path: Path
    kind: Kind
    reason: str
    files: tuple[tuple[str, int, int, int], ...]

    @property
    def usable(self) -> bool:
        """Whether it may be loaded."""
        return self.kind != "broken"


@dataclass(frozen=True, slots=True)
class Model:
    """A model's folder.

    Args:
        name: of the model, and of the folder.
        path: of the folder.
        versions: oldest first, broken ones too; none while its first one is being published.
        config: the text of `config.pbtxt`, or None where there is none.
        reason: why the config can't be read, a sentence; else empty.
    """

    name: str
    path: Path
    versions: tuple[Version, ...]
    config: str | None
    reason: str

    @property
    def usable(self) -> tuple[Version, ...]:
        """The versions that may be loaded, oldest first."""
        return tuple(version for version in self.versions if version.usable)

    @property
    def newest(self) -> Version | None:
        """The version to serve when nobody says otherwise."""
        usable = self.usable
        return usable[-1] if usable else None


@dataclass(frozen=True, slots=True)
class Scan:
    """One look at a repository.

    Args:
        models: by name, in order of name.
        ignored: what looks like a model or a version and can't be one: its path, and why, a sentence.
    """

    models: Mapping[str, Model]
    ignored: tuple[tuple[Path, str], ...]

    @property
    def usable(self) -> dict[tuple[str, int], Version]:
        """Every version that may be loaded, by name and number."""
        return {(v.name, v.number): v for model in self.models.values() for v in model.usable}


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened between two looks.

    Args:
        new: versions that may be loaded now and could not before.
        gone: versions that may not be loaded any more: removed, withdrawn, or broken now.
        touched: versions whose files changed in place: a copy that went on, or somebody breaking the rules.
        configs: names of the models whose `config.pbtxt` appeared, changed or went, newcomers not counted.
    """

    new: tuple[Version, ...]
    gone: tuple[Version, ...]
    touched: tuple[Version, ...]
    configs: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.touched or self.configs)


EMPTY: Final = Scan(models={}, ignored=())


def scan(models: Path) -> Scan:
    """Take one look at a repository. Folders whose name starts with a dot are nobody's.

    Raises:
        BadRepository: the path is missing, is no folder, or can't be read.
    """
    try:
        names = _folders(os.fspath(models))
    except FileNotFoundError as error:
        raise BadRepository(f"There is no model repository at {models}; make the folder or give another.") from error
    except NotADirectoryError as error:
        raise BadRepository(f"{models} is a file; a model repository is a folder.") from error
    except OSError as error:
        raise BadRepository(f"The model repository {models} can't be read: {error.strerror}.") from error
    found: dict[str, Model] = {}
    ignored: list[tuple[Path, str]] = []
    for name in names:
        path = models / name
        try:
            bundles.check_name(name)
            found[name] = _model(name, path, ignored)
        except BadInput as error:
            ignored.append((path, str(error)))
        except FileNotFoundError:
            continue  # went away while we looked
        except OSError as error:
            ignored.append((path, f"{path} can't be read: {error.strerror}."))
    return Scan(models=found, ignored=tuple(ignored))


def hint(models: Path) -> str:
    """What a folder without a single version was most likely meant to be, a sentence; empty: no idea."""
    if _holds_version(models):
        around = models.absolute().parent
        return f"{models} is the folder of one model; the repository is the folder that it is in: {around}."
    inner = models / "models"
    try:
        is_repository = any(_holds_version(inner / name) for name in _folders(os.fspath(inner)))
    except OSError:
        is_repository = False
    return f"{inner} looks like the repository." if is_repository else ""


def _holds_version(path: Path) -> bool:
    """Whether a folder is a model's, with a model.onnx in one of its versions."""
    try:
        folders = _folders(os.fspath(path))
    except OSError:
        return False
    return any(bundles.version_number(name) and (path / name / bundles.MODEL).is_file() for name in folders)


def wanted(model: Model) -> frozenset[int] | None:
    """The numbers that the model's `config.pbtxt` has served; None: any.

    Only where one speaks of versions, which those that publishing writes don't: to read it takes protobuf.

    Raises:
        BadConfig: that file can't be read.
        BadInput: protobuf isn't installed.
    """
    if model.config is None or "version_policy" not in model.config:
        return None
    try:
        from serving import model_config  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{model.path / bundles.CONFIG} says which versions are served, and to read it needs {error.name}: "
            "pip install 'calotype[serving]', or choose one by --version."
        ) from error
    from serving.row_queue import BatchLimits  # noqa: PLC0415

    default = model_config.Tuning(limits=BatchLimits())
    where = str(model.path / bundles.CONFIG)
    return model_config.read(model.config, default, model=model.name, where=where).policy.only


def changes(before: Scan, after: Scan) -> Changes:
    """What is new, gone or touched between two looks; the first look is compared with `EMPTY`."""
    old, new = before.usable, after.usable
    both_names = before.models.keys() & after.models.keys()
    return Changes(
        new=tuple(version for key, version in new.items() if key not in old),
        gone=tuple(version for key, version in old.items() if key not in new),
        touched=tuple(version for key, version in new.items() if key in old and old[key].files != version.files),
        configs=tuple(sorted(name for name in both_names if before.models[name].config != after.models[name].config)),
    )


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _model(name: str, path: Path, ignored: list[tuple[Path, str]]) -> Model:
    versions: list[Version] = []
    for folder in _folders(os.fspath(path)):
        number = bundles.version_number(folder)
        if number is None:
            ignored.append((path / folder, f"{path / folder} is no version: those are 1, 2, 3 …"))
        elif (version := _version(name, number, path / folder)) is not None:
            versions.append(version)
    versions.sort(key=lambda version: version.number)
    config, reason = _config(path / bundles.CONFIG)
    return Model(name=name, path=path, versions=tuple(versions), config=config, reason=reason)


def _version(name: str, number: int, path: Path) -> Version | None:
    """A look into a version folder; None where it went away meanwhile."""
    try:
        files = _files(os.fspath(path))
        reason = _fault(path, {file for file, *_ in files})
    except FileNotFoundError:
        return None
    except OSError as error:
        files, reason = (), f"{path} can't be read: {error.strerror}."
    kind: Kind = "broken" if reason else "plain"
    if not reason and any(file == bundles.CHECKSUMS for file, *_ in files):
        kind = "bundle"
    return Version(name=name, number=number, path=path, kind=kind, reason=reason, files=files)


def _files(path: str) -> tuple[tuple[str, int, int, int], ...]:
    with os.scandir(path) as entries:
        stats = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


def _fault(path: Path, files: set[str]) -> str:
    if bundles.MODEL not in files:
        return f"{path / bundles.MODEL} is missing."
    has_json, has_checksums = bundles.JSON in files, bundles.CHECKSUMS in files
    if has_json and not has_checksums:
        return f"{path} is not whole: {bundles.CHECKSUMS}, which is written last, is missing."
    if has_checksums and not has_json:
        return f"{path / bundles.JSON} is missing."
    return ""


def _config(path: Path) -> tuple[str | None, str]:
    """The text of a config.pbtxt, or why it can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_CONFIG_LIMIT_BYTES + 1)
        if len(content) > _CONFIG_LIMIT_BYTES:
            return None, f"{path} is larger than {_CONFIG_LIMIT_BYTES} bytes."
        return content.decode(), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, UnicodeDecodeError) as error:
        return None, f"{path} can't be read: {error}."
