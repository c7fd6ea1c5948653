"""A process that ingests and kills itself, as kill -9 would, at the nth file it opens to write, renames or links.

Arguments: source, dataset folder, n (0: never), worker processes. Prints how many such moments it passed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipelines.config import DataRecipe
from pipelines.ingest import ingest

WRITING = os.O_WRONLY | os.O_RDWR


def main() -> None:
    source, folder, moment, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    moments = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal moments
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (writes or event in {"os.rename", "os.link", "os.remove"}) and folder in str(arguments[0]):
            moments += 1
            if moments == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    ingest(source, Path(folder), DataRecipe(), workers=workers)
    sys.stdout.write(f"{moments}\n")


if __name__ == "__main__":
    main()
