"""What every peer computes: onnxruntime on one file, rows in and rows out. Runs in each peer's own environment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Started:
    """What each program here is told: the file of the model, a folder of its own, the port to listen on."""

    model: Path
    folder: Path
    port: int


def told() -> Started:
    """The command line: MODEL FOLDER PORT."""
    return Started(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))


def load(path: str, *, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The model as a function: uint8 [rows, 28, 28, 1] -> float32 [rows, 10]. Its threads don't spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        answer: Any = session.run(None, {name: images})[0]
        return np.asarray(answer, np.float32)

    return call


def images(data: bytes) -> NDArray[np.uint8]:
    """Pixels as they come over the wire: uint8 [rows, 28, 28, 1]."""
    return np.frombuffer(data, np.uint8).reshape(-1, 28, 28, 1)
