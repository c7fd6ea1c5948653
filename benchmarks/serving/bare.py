"""The yardstick: onnxruntime alone, in batches of 32, on all cores that this process may use. Prints images per second.

    python bare.py MODEL SECONDS

The better of two ways to use the cores: one call with a thread per core, or one call per core with one thread each.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.session import Session, available_cpus

_ROWS = 32


def _rate(session: Session, seconds: float, callers: int) -> float:
    spec = session.inputs[0]
    feeds = {spec.name: np.zeros((_ROWS, *(size or 1 for size in spec.shape[1:])), spec.dtype)}
    session.run(feeds)
    end = time.monotonic() + seconds

    def call() -> int:
        done = 0
        while time.monotonic() < end:
            session.run(feeds)
            done += _ROWS
        return done

    with ThreadPoolExecutor(callers) as pool:
        return sum(future.result() for future in [pool.submit(call) for _ in range(callers)]) / seconds


def main() -> None:
    """Measure both ways."""
    model, seconds, cpus = Path(sys.argv[1]), float(sys.argv[2]) / 2, available_cpus()
    print(max(_rate(Session(model, threads=cpus), seconds, 1), _rate(Session(model, threads=1), seconds, cpus)))


if __name__ == "__main__":
    main()
