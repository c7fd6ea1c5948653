"""The record that each run keeps of itself.

A run is one folder: `run.json` says what it was asked and how it ended, and is replaced in one step, so that a
reader sees the old record or the new one. Paths in it are relative to the workspace, which may be moved as a whole;
in memory they are whole. Knows nothing of what a run does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pipelines.errors import UsageError
from pipelines.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper

    from pipelines.workspace import Workspace

RunState = Literal["started", "trained", "published", "refused", "failed"]

ENDED = ("published", "refused")

RECORD = "run.json"
RECIPE = "recipe.json"
PLACES = ("snapshot_path", "report")  # of a record: paths


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """What two runs must share for the second to have nothing to do.

    Args:
        snapshot: content id of the data.
        model: the name it is published under.
        recipe: digest of the settled recipe and of the model's code, `train.work_digest`.
    """

    snapshot: str
    model: str
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run says of itself.

    Args:
        run: the run's id, its folder's name.
        state: where it stands; `started` of a run that no process holds means that it was interrupted.
        key: what it was asked to do.
        dataset: the dataset's name.
        snapshot_path: the snapshot's folder.
        recipe: the whole recipe, settled, as plain values.
        metrics: of the test part.
        images: counts by part and fate.
        seconds: by stage.
        version: the published version.
        reason: why it was not published, in words.
        report: the page's path.
        untold: it was done for a schedule, which has told nobody yet how it ended.
    """

    run: str
    state: RunState
    key: RunKey
    dataset: str
    snapshot_path: str
    recipe: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    version: int | None = None
    reason: str | None = None
    report: str | None = None
    untold: bool = False

    @property
    def was_turned_down(self) -> bool:
        """Whether a gate said no: the one before publishing, or that of parity, after which a run has failed."""
        return self.state in {"refused", "failed"}

    @classmethod
    def from_json(cls, text: str, *, root: Path) -> Self:
        """The record that `to_json` wrote; fields that this version doesn't know are left out.

        Args:
            text: of `run.json`.
            root: the workspace's folder.
        """
        values = json.loads(text)
        known = {spec.name for spec in dataclasses.fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        values |= {name: _whole(values[name], root) for name in PLACES if values.get(name)}
        return cls(**{**values, "key": RunKey(**values["key"])})

    def to_json(self, *, root: Path) -> str:
        """This record as indented JSON, for a workspace in the folder `root`."""
        values = dataclasses.asdict(self)
        values |= {name: _relative(values[name], root) for name in PLACES if values[name]}
        return json.dumps(values, indent=2) + "\n"


def _relative(place: str, root: Path) -> str:
    """A path below the workspace as one in it."""
    path, root = Path(place), root.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else place


def _whole(place: str, root: Path) -> str:
    """A path of a record, wherever the workspace lies now; older records hold the paths of where it lay then."""
    path, root = Path(place), root.absolute()
    if not path.is_absolute():
        return str(root / path)
    for at in range(len(path.parts) - 1, 0, -1):
        if path.parts[at] in {"datasets", "runs"} and (here := root.joinpath(*path.parts[at:])).exists():
            return str(here)
    return place


@dataclass(slots=True)
class Run:
    """A run's folder while this process works in it; a context manager that lets go of it.

    Two processes never work in one run: the folder is locked as long as this object is open, and the
    system lets go of the lock when a process dies.
    """

    folder: Path
    record: RunRecord
    _lock: TextIOWrapper

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def update(self, **changes: Any) -> None:
        """Put `changes` into the record, in memory and on disk."""
        self.record = dataclasses.replace(self.record, **changes)
        write_atomically(self.folder / RECORD, self.record.to_json(root=self.folder.parents[1]).encode())


def start_run(workspace: Workspace, record: RunRecord) -> Run:
    """A run for `record`: one of the same key that came to no end, when there is one, else a new folder.

    Args:
        workspace: where runs lie.
        record: what is asked; its `run` is ignored and chosen here.
    """
    for known in _records(workspace):
        if known.key == record.key and known.state not in ENDED:
            run = _hold(workspace, known.run)
            if run is not None and run.record.state not in ENDED:
                run.update(state="started", reason=None)
                return run
            if run is not None:  # it ended while its lock was waited for
                run.close()
    return _new_run(workspace, record)


def finished_run(workspace: Workspace, key: RunKey) -> RunRecord | None:
    """The newest run of `key` that came to an end, published or refused."""
    ended = [known for known in _records(workspace) if known.key == key and known.state in ENDED]
    return ended[-1] if ended else None


def mark_told(workspace: Workspace, run: str) -> None:
    """Note that a schedule told how a run of its ended; a run that somebody works in is left alone."""
    held = _hold(workspace, run)
    if held is not None:
        with held:
            held.update(untold=False)


def was_finished(workspace: Workspace, *, model: str, recipe: str) -> bool:
    """Whether a run of this model and recipe came to an end, on whatever images."""
    return any(
        known.key.model == model and known.key.recipe == recipe and known.state in ENDED
        for known in _records(workspace)
    )


def interrupted_runs(workspace: Workspace, model: str) -> list[str]:
    """The runs of a model that began, came to no end, and that no process works in; oldest first."""
    found = []
    for known in _records(workspace):
        if known.key.model == model and known.state == "started":
            run = _hold(workspace, known.run)
            if run is not None:
                with run:
                    found += [known.run] if run.record.state == "started" else []
    return found


def find_run(workspace: Workspace, run: str) -> RunRecord:
    """The record of a run by its id.

    Raises:
        UsageError: there is no such run.
    """
    path = workspace.runs / run / RECORD
    try:
        return RunRecord.from_json(path.read_text(encoding="utf-8"), root=workspace.root)
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(record.run for record in _records(workspace)[-5:]) or "none"
        raise UsageError(f"There is no run {run!r} in {workspace.runs}. The latest ones: {known}.") from error


@contextlib.contextmanager
def reopen_run(workspace: Workspace, run: str) -> Iterator[Run]:
    """A finished or interrupted run, held by this process.

    Raises:
        UsageError: there is no such run, or another process works in it.
    """
    find_run(workspace, run)
    held = _hold(workspace, run)
    if held is None:
        raise UsageError(f"Another process works in the run {run}; wait for it to end.")
    with held:
        yield held


def _new_run(workspace: Workspace, record: RunRecord) -> Run:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1_000):
        name = f"{stamp}-{record.key.model}" + (f"-{attempt}" if attempt > 1 else "")
        folder = workspace.runs / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        lock = _take(folder)
        if lock is not None:
            run = Run(folder, record, lock)
            run.update(run=name, state="started")
            write_atomically(folder / RECIPE, json.dumps(record.recipe, indent=2).encode())
            return run
    raise AssertionError("a thousand runs of one model began within one second")


def _hold(workspace: Workspace, run: str) -> Run | None:
    """A run with its record as it is now that nobody else can change it, or None when another process holds it."""
    folder = workspace.runs / run
    lock = _take(folder)
    return None if lock is None else Run(folder, find_run(workspace, run), lock)


def _take(folder: Path) -> TextIOWrapper | None:
    """The folder's lock, or None when another process holds it."""
    file = (folder / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _records(workspace: Workspace) -> list[RunRecord]:
    """All readable records, oldest first; a folder without one died at birth and is passed over."""
    records = []
    for path in sorted(workspace.runs.glob(f"*/{RECORD}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            records.append(RunRecord.from_json(path.read_text(encoding="utf-8"), root=workspace.root))
    return records
