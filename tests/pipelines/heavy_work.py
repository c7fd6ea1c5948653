"""Functions for the process tests to run elsewhere; as a module, a parent that waits to be killed."""

from __future__ import annotations

import os
import signal
import sys

from pipelines.errors import BadRecipe
from pipelines.process import HeavyProcess


def nothing() -> None:
    """Loads as quickly as nothing does."""


def here() -> int:
    return os.getpid()


def count_to(number: int, progress) -> int:
    for at in range(number):
        progress({"at": at + 1})
    return os.getpid()


def report_and_wait(progress) -> None:
    progress({"pid": os.getpid()})
    signal.pause()


def refuse(sentence: str) -> None:
    raise BadRecipe(sentence)


class ResourceExhaustedError(Exception):
    """As TensorFlow names it; of a library that the parent should not have to load."""


class Foreign(Exception):
    """Another one of such a library, with words that go on and on."""


def exhaust() -> None:
    raise ResourceExhaustedError("OOM when allocating tensor with shape[64,28]\n\nCall arguments …")


def fail_foreign(progress) -> None:
    raise Foreign("\nShapes differ.\n\nStack trace …")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_wait(pid: int) -> None:
    signal.pause()


def main() -> None:
    with HeavyProcess(preload=nothing) as process:
        sys.stdout.write(f"{process.call(here)}\n")
        sys.stdout.flush()
        process.call(say_and_wait, 0)


if __name__ == "__main__":
    main()
