"""The folder that a bucket's repository is mirrored into, and what it remembers of where its files came from.

Every change of it is one rename; where the bucket has other bytes under a number than before, two. Knows no bucket. One
process keeps a folder, any number may read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, Final

from serving import bundle as bundles
from serving.errors import BadBundle, BadSetting
from serving.mirror_plan import Listing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serving.mirror_plan import Files, Key, Stamp

_RECORD: Final = ".mirror.json"
_LOCK: Final = ".mirror.lock"
_FETCHING: Final = ".fetching-"
_GOING: Final = ".going-"


class MirrorFolder:
    """One folder.

    Args:
        folder: made by `adopt` when missing.
        url: of what is mirrored, without secrets: the folder is for no other.
    """

    # Mutable: `mirrored`, what of the bucket the folder holds; `changes`, how many there were; `_lock`.

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._lock: int | None = None
        self.mirrored = Listing()
        self.changes = 0

    def adopt(self) -> None:
        """Make the folder, or see what an earlier process left in it.

        Raises:
            BadSetting: it is something else, or can't be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            known = self._remembered()
            if known is None and any(entry.name != _LOCK for entry in self._folder.iterdir()):
                raise BadSetting(
                    f"--cache {self._folder} holds something else than a copy of a bucket. Give a folder that is empty "
                    "or not there yet."
                )
            if known is not None and known["url"] != self._url:
                raise BadSetting(
                    f"--cache {self._folder} is a copy of {known['url']}. Give each bucket a folder of its own."
                )
            self.hold()
            self.mirrored = self._found(known or {})
        except OSError as error:
            raise BadSetting(f"--cache {self._folder} can't be used: {error.strerror or error}.") from error

    def hold(self) -> bool:
        """Whether this process keeps the folder; if nobody does, from now on it does.

        Raises:
            OSError: the folder can't be written.
        """
        if self._lock is not None:
            return True
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        self.mirrored = self._found(self._remembered() or {})
        self._sweep()
        self._remember()
        return True

    def close(self) -> None:
        """Let go of the folder; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- changes, for whoever holds it ------------------------------------------------------------

    @contextlib.contextmanager
    def staged(self, name: str, number: int) -> Iterator[Path]:
        """A new folder beside a version's place; removed unless it was put there."""
        staging = self._folder / name / f"{_FETCHING}{number}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def accept(self, staging: Path, files: Files) -> None:
        """See that what was fetched is what was listed, and of a bundle every byte as its checksums say.

        Raises:
            BadBundle: it isn't.
        """
        for file, (size, _) in files.items():
            found = (staging / file).stat().st_size
            if found != size:
                raise BadBundle(f"{file} has {found} bytes where {size} were listed: it is being changed.")
        if bundles.CHECKSUMS in files:
            bundles.verify(staging)

    def put_version(self, staging: Path, key: Key, files: Files) -> None:
        """Make a staged folder a version."""
        for file in files:
            _through_to_disk(staging / file)
        _through_to_disk(staging)
        place = self._folder / key[0] / str(key[1])
        going = self._set_aside(place)  # where the bucket has other bytes under a number that it had before
        staging.rename(place)
        _through_to_disk(place.parent)
        shutil.rmtree(going, ignore_errors=True)
        self.mirrored.versions[key] = files
        self._changed()

    def put_config(self, name: str, content: bytes, stamp: Stamp) -> None:
        """Make a text the configuration of a model."""
        place = self._folder / name / bundles.CONFIG
        place.parent.mkdir(exist_ok=True)
        _write(place, content)
        self.mirrored.configs[name] = stamp
        self._changed()

    def drop_version(self, name: str, number: int) -> None:
        """Remove a version."""
        shutil.rmtree(self._set_aside(self._folder / name / str(number)), ignore_errors=True)
        self.mirrored.versions.pop((name, number), None)
        self._forget_empty(name)
        self._changed()

    def drop_config(self, name: str) -> None:
        """Remove a model's configuration."""
        (self._folder / name / bundles.CONFIG).unlink(missing_ok=True)
        self.mirrored.configs.pop(name, None)
        self._forget_empty(name)
        self._changed()

    def _set_aside(self, place: Path) -> Path:
        """Rename a version so that nobody sees it, if it is there; where it is now, to be removed."""
        going = place.with_name(f"{_GOING}{place.name}")
        shutil.rmtree(going, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(going)
        return going

    def _forget_empty(self, name: str) -> None:
        if name not in self.mirrored.names:
            with contextlib.suppress(OSError):
                (self._folder / name).rmdir()

    def _sweep(self) -> None:
        """Remove what a process that died was fetching or removing."""
        for pattern in (f"{_FETCHING}*", f"*/{_FETCHING}*", f"*/{_GOING}*"):
            for left in self._folder.glob(pattern):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    # ---- memory -----------------------------------------------------------------------------------

    def _changed(self) -> None:
        self.changes += 1
        self._remember()

    def _remember(self) -> None:
        said = {
            "url": self._url,
            "versions": {f"{name}/{number}": files for (name, number), files in self.mirrored.versions.items()},
            "configs": self.mirrored.configs,
        }
        _write(self._folder / _RECORD, json.dumps(said, indent=1).encode())

    def _remembered(self) -> dict[str, Any] | None:
        try:
            said = json.loads((self._folder / _RECORD).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {"url": self._url}  # ours by its name; what it holds is fetched anew
        return said if isinstance(said, dict) and "url" in said else {"url": self._url}

    def _found(self, said: dict[str, Any]) -> Listing:
        """What is in the folder, and where it came from as far as that was remembered; else it is fetched anew."""
        versions, configs = said.get("versions", {}), said.get("configs", {})
        found = Listing()
        for model in (entry for entry in self._folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            for number, _ in bundles.numbered(model):
                files = versions.get(f"{model.name}/{number}", {})
                found.versions[model.name, number] = {file: (size, tag) for file, (size, tag) in files.items()}
            if (model / bundles.CONFIG).exists():
                size, tag = configs.get(model.name, (0, "unknown"))
                found.configs[model.name] = (size, tag)
        return found


def _write(place: Path, content: bytes) -> None:
    """Replace a file in one step, for good."""
    beside = place.with_name(f"{_FETCHING}{place.name}")
    beside.write_bytes(content)
    _through_to_disk(beside)
    beside.replace(place)
    _through_to_disk(place.parent)


def _through_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
