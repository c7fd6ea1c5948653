"""Work that never ends, for tests of what becomes of workers; as a program, chunks that go through two of them.

Every worker prints its process id when it begins.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipelines.journal import Canvas, Chunk
from pipelines.pool import run_chunks


def linger(chunk: Chunk) -> Path:
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    signal.pause()
    return chunk.journal


def main() -> None:
    canvas = Canvas(1, 1, None, "stretch", 1)
    chunks = [Chunk(".", (name,), (name,), ((1, 1),), canvas, Path(sys.argv[1])) for name in "abcd"]
    list(run_chunks(chunks, workers=2, work=linger))


if __name__ == "__main__":
    main()
