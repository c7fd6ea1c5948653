"""The contract: what a bundle is; publish, verify, read and withdraw one.

A bundle is a folder `<models>/<name>/<version>` with `model.onnx`, `bundle.json` and `checksums`. It appears in one
step and never changes afterwards. Knows no TensorFlow, no onnxruntime, and nothing of what is loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from serving import onnx_metadata
from serving.bundle_config import config_text
from serving.bundle_json import SCHEMA_VERSION, Bundle, Parity, Task, TensorSpec, Threshold, from_json
from serving.errors import BadBundle, BadInput, BadRepository, VersionsChanged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = [
    "CHECKSUMS", "CONFIG", "JSON", "METADATA_KEY", "MODEL", "SCHEMA_VERSION",
    "Bundle", "Parity", "Task", "TensorSpec", "Threshold",
    "check_name", "numbered", "publish", "read", "verify", "version_number", "versions", "withdraw", "withdrawn",
]  # fmt: skip

MODEL: Final = "model.onnx"
JSON: Final = "bundle.json"
CHECKSUMS: Final = "checksums"
CONFIG: Final = "config.pbtxt"
METADATA_KEY: Final = "calotype"

_LOCK: Final = ".lock"
_LAST_VERSION: Final = ".last-version"
_STAGING: Final = ".publishing-"
_WITHDRAWN: Final = ".withdrawn-"
_READ_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")
_CHECKSUM_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")


def check_name(name: str) -> str:
    """`name`, if it may name a model.

    Raises:
        BadInput: empty, too long, beginning with a dot, or with characters that paths and metrics stumble over.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            "A model's name has 1 to 128 letters, digits, '_', '-' and '.', and begins with none of the last two."
            f" Received: {name!r}"
        )
    return name


def version_number(text: str) -> int | None:
    """The version that a folder's name means, or None: only 1, 2, 3 … without leading zeros are versions."""
    return int(text) if _VERSION.fullmatch(text) else None


def versions(models: Path, name: str) -> list[int]:
    """The whole versions of a bundle, oldest first: those with their `checksums`."""
    return [number for number, folder in numbered(models / check_name(name)) if (folder / CHECKSUMS).is_file()]


def withdrawn(models: Path, name: str) -> list[tuple[int, Path]]:
    """The folders of the versions that were taken out of use, by number; newest first."""
    folders = [
        (version_number(path.name.removeprefix(_WITHDRAWN)), path)
        for path in (models / check_name(name)).glob(f"{_WITHDRAWN}*")
    ]
    return sorted(((number, path) for number, path in folders if number is not None), reverse=True)


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The version folders of a model, whole or not, oldest first; none where there is no such model."""
    try:
        with os.scandir(folder) as entries:
            found = [(version_number(entry.name), folder / entry.name) for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((number, path) for number, path in found if number is not None)


def plain(name: str, number: int) -> BadInput:
    """Why a version that is a model.onnx alone answers no images, for whoever sent some."""
    return BadInput(
        f"Model {name!r} version {number} is plain ONNX without a bundle.json: it answers "
        "inference.GRPCInferenceService/ModelInfer only."
    )


def read(folder: Path) -> Bundle:
    """The bundle in a version folder. Its model file is looked for, not read: that is for `verify`.

    Raises:
        BadBundle: a file is missing, was changed, or says nothing that can be understood; with the file's path.
    """
    sums = _checksums(folder)
    text = _content(folder / JSON)
    if hashlib.sha256(text).hexdigest() != sums[JSON]:
        raise BadBundle(_changed(folder / JSON))
    if not (folder / MODEL).is_file():
        raise BadBundle(f"{folder / MODEL} is missing.")
    try:
        return from_json(text)
    except BadBundle as error:
        raise BadBundle(f"{folder / JSON} can't be used: {error}") from error


def verify(folder: Path) -> None:
    """Read every byte of a bundle and compare it with its checksums.

    Raises:
        BadBundle: as `read`, and for any file that was changed.
    """
    for name, expected in _checksums(folder).items():
        if _digest(folder / name) != expected:
            raise BadBundle(_changed(folder / name))
    read(folder)


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    if not path.exists():
        raise BadBundle(f"{path} is missing: the folder is not whole, or is no bundle.")
    try:
        lines = _content(path).decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadBundle(f"{path} is damaged: it is not plain text.") from error
    matches = [_CHECKSUM_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in matches if match is not None}
    if None in matches or not sums.keys() >= {MODEL, JSON}:
        raise BadBundle(f"{path} is damaged: expected a line of sha256sum for each of {MODEL} and {JSON}.")
    return sums


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadBundle(_unreadable(path, error)) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadBundle(_unreadable(path, error)) from error


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} is missing." if isinstance(error, FileNotFoundError) else f"{path} can't be read: {_why(error)}."


def _changed(path: Path) -> str:
    return f"{path} was changed or damaged: its sha256 is not the one in {CHECKSUMS}; publish the bundle again."


# ---- publish ------------------------------------------------------------------------------------


def publish(models: Path, bundle: Bundle, model: bytes, *, expected: Sequence[int] | None = None) -> int:
    """Make a bundle the newest version of its name. Any number of publishers may try at once; it waits for them.

    The folder is written beside its place, synced, and renamed: whoever looks at any moment, after a crash or on a
    full disk too, sees it whole or not at all. A number once given is never given again.

    Args:
        models: the repository; made when missing.
        bundle: its `version` is ignored.
        model: the ONNX file; the bundle's JSON is added to its metadata.
        expected: the `versions` that the publisher looked at when it decided to publish; None: whatever there are.

    Returns:
        The version.

    Raises:
        BadInput: a name that can't be one.
        BadBundle: something in the bundle that JSON can't hold.
        VersionsChanged: the versions are not the expected ones any more; nothing was published.
        BadRepository: the repository can't be written; nothing was published.
    """
    folder = models / check_name(bundle.name)
    bundle.to_json(), config_text(bundle)  # refuse what can't be written before anything is touched
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            found = versions(models, bundle.name)
            if expected is not None and found != list(expected):
                raise VersionsChanged(
                    f"The versions of {bundle.name!r} were to be {list(expected)} and are {found}: somebody published"
                    " or withdrew one meanwhile. Nothing was published; look again and decide anew."
                )
            return _publish(folder, bundle, model)
    except OSError as error:
        raise BadRepository(f"{folder} can't be written ({_why(error)}); nothing was published.") from error


def withdraw(models: Path, name: str, version: int) -> int:
    """Take a version out of use, so that another one serves: renamed to `.withdrawn-<version>` and kept.

    Returns:
        The newest version that is left.

    Raises:
        BadInput: no such version, no other whole one, or a name that can't be one.
        BadRepository: the repository can't be written; nothing was withdrawn.
    """
    folder = models / check_name(name)
    if not folder.is_dir():
        raise BadInput(f"There is no model {name!r} in {models}.")
    try:
        with _locked(folder):
            usable = [number for number, path in numbered(folder) if _usable(path)]
            others = [number for number in usable if number != version]
            if version not in usable:
                raise BadInput(f"The model {name!r} has no version {version}; it has {usable}.")
            if not others:
                raise BadInput(f"Version {version} is the only one of {name!r}; there is none to go back to.")
            (folder / str(version)).rename(folder / f"{_WITHDRAWN}{version}")
            _sync_if_possible(folder)
            return others[-1]
    except OSError as error:
        raise BadRepository(f"{folder} can't be changed ({_why(error)}); nothing was withdrawn.") from error


def _usable(folder: Path) -> bool:
    """Whether a version may serve: a whole bundle, or a plain model."""
    return (folder / MODEL).is_file() and ((folder / CHECKSUMS).is_file() or not (folder / JSON).exists())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(folder: Path, bundle: Bundle, model: bytes) -> int:
    for leftover in folder.glob(f"{_STAGING}*"):  # we hold the lock, so whoever made it is dead
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    number = 1 + _last_version(folder)
    staging, config = folder / f"{_STAGING}{number}", folder / CONFIG
    makes_config = not config.exists()
    try:
        _write_version(staging, replace(bundle, version=number), model)
        if makes_config:
            _write_at_once(config, config_text(bundle))
        _write_at_once(folder / _LAST_VERSION, f"{number}\n")
        staging.rename(folder / str(number))
    except BaseException:
        if not (folder / str(number)).exists():  # else the interruption came after the rename: it is published
            shutil.rmtree(staging, ignore_errors=True)
            if makes_config:
                config.unlink(missing_ok=True)
        raise
    _sync_if_possible(folder, folder.parent)
    return number


def _last_version(folder: Path) -> int:
    """The highest number ever given: remembered, in place, or withdrawn."""
    gone = [number for number, _ in withdrawn(folder.parent, folder.name)]
    try:
        remembered = version_number((folder / _LAST_VERSION).read_text(encoding="ascii").strip()) or 0
    except (FileNotFoundError, UnicodeDecodeError):
        remembered = 0
    return max([0, remembered, *gone, *(number for number, _ in numbered(folder))])


def _write_version(folder: Path, bundle: Bundle, model: bytes) -> None:
    text = bundle.to_json().encode()
    folder.mkdir()
    lines = [
        f"{_write(folder / MODEL, onnx_metadata.replaced(model, METADATA_KEY, text))}  {MODEL}\n",
        f"{_write(folder / JSON, text)}  {JSON}\n",
    ]
    _sync(folder)
    _write(folder / CHECKSUMS, "".join(lines).encode())
    _sync(folder)


def _write(path: Path, content: bytes) -> str:
    """Write a new file through to the disk; returns its sha256."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _write_at_once(path: Path, text: str) -> None:
    beside = path.with_name(f"{_STAGING}{path.name}")
    _write(beside, text.encode())
    beside.replace(path)


def _sync_if_possible(*folders: Path) -> None:
    """After a rename: it has happened, whatever becomes of this; a crash soon after might undo it, and nothing else."""
    for folder in folders:
        with contextlib.suppress(OSError):
            _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
