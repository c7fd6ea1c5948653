"""The state of a training between two epochs, on disk in one piece; knows arrays and numbers, no Keras.

Written beside its place, synced and renamed: a reader finds the state after some whole epoch, whenever the
writer was killed.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = list[NDArray[np.generic]]

FILE = "checkpoint.npz"


@dataclass(slots=True)
class Standing:
    """Where a training stands after `epoch` epochs: what callbacks would remember."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float | None = None
    waited: int = 0
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that decides how a training goes on.

    Attributes:
        identity: of recipe and snapshot; another training's state is never taken for this one's.
        standing: numbers.
        variables: of the model (seed generators included) and the optimizer, in their order.
        best: the model's weights after the best epoch; empty before there is one.
    """

    identity: str
    standing: Standing
    variables: Arrays
    best: Arrays


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint in one step."""
    head = json.dumps({"identity": checkpoint.identity, **asdict(checkpoint.standing)})
    arrays: dict[str, Any] = {f"variable_{i}": array for i, array in enumerate(checkpoint.variables)}
    arrays |= {f"best_{i}": array for i, array in enumerate(checkpoint.best)}
    buffer = io.BytesIO()
    np.savez(buffer, head=np.frombuffer(head.encode(), np.uint8), **arrays)
    write_atomically(folder / FILE, buffer.getvalue())


def load(folder: Path, *, identity: str) -> Checkpoint | None:
    """The folder's checkpoint, or None when there is none of this identity."""
    try:
        data = io.BytesIO((folder / FILE).read_bytes())
        with np.load(data, allow_pickle=False) as stored:
            head = json.loads(stored["head"].tobytes())
            if head.pop("identity") != identity:
                return None
            variables = [stored[f"variable_{i}"] for i in range(_count(stored.files, "variable_"))]
            best = [stored[f"best_{i}"] for i in range(_count(stored.files, "best_"))]
            return Checkpoint(identity, Standing(**head), variables, best)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None  # nothing there, or not ours: the training starts at its beginning


def remove(folder: Path) -> None:
    """Forget the state of a training that is done."""
    (folder / FILE).unlink(missing_ok=True)


def _count(names: list[str], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in names)
