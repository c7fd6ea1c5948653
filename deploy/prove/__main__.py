"""Proves the deployment: builds the images, starts docker-compose.yml, trains on schedule, serves, hits it, looks.

`python3 deploy/prove` (or `make containers`) needs Docker with compose, or Podman with podman-compose, and the standard
library. Exit status 0: every check was good. Whatever happens, the deployment is taken down, volumes included; the two
images stay. `--build-only` stops once they are built; `--kills` takes some minutes more, and kills the trainer,
Prefect's server and PostgreSQL in the middle of a run each.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import engine as engines
import images
from deployment import Proof
from report import Report
from stack import SERVICES, NotInTime, Stack

if TYPE_CHECKING:
    from engine import Engine


def main() -> int:
    """Run the proof and return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    try:
        engine = engines.find()
    except engines.NoEngine as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    report.title(f"The images, by {engine.name}")
    folder = Path(tempfile.mkdtemp(prefix="calotype-proof-"))
    folder.chmod(0o755)  # the containers' users read the inbox below it
    try:
        images.build(engine, report)
        if "--build-only" in sys.argv[1:]:
            return 0
        images.look(engine, report)
        _prove(engine, report, folder)
    except (engines.CommandFailed, NotInTime) as error:
        report.check("the proof comes to its end", error, good=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if report.end() else 1


def _prove(engine: Engine, report: Report, folder: Path) -> None:
    stack = Stack(engine, folder)
    try:
        stack.remove()  # what an earlier proof left that was killed
        Proof(engine, stack, report, kills="--kills" in sys.argv[1:]).run()
    except (engines.CommandFailed, NotInTime, OSError, json.JSONDecodeError) as error:
        report.check("the deployment does what was waited for", error, good=False)
        _tell_logs(stack, report)
    finally:
        stack.remove()
    report.title("Taken down")
    left = stack.left_over()
    report.check("containers and volumes left over", left or "none", good=not left)


def _tell_logs(stack: Stack, report: Report) -> None:
    for service in SERVICES:
        try:
            told = stack.logs(service)
        except (engines.CommandFailed, NotInTime) as error:
            told = str(error)
        report.note(f"the last lines of {service}:\n{told}")


if __name__ == "__main__":
    sys.exit(main())
