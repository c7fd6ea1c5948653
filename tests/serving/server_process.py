"""A server in a process of its own, as somebody starts it, for tests of what a process does to itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVE = "import sys; from serving import cli; sys.exit(cli.run(cli.load('serve')))"
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass
class Running:
    """A server that said it is ready.

    Attributes:
        address: host:port of gRPC.
        http: URL of the HTTP port.
        process: of the server.
        log: where its stderr goes.
    """

    address: str
    http: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def resident_mib(self) -> float:
        """The memory that it has now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_KIB / 1024

    @property
    def files(self) -> int:
        """The files and sockets that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextmanager
def running(models: Path, log: Path, *flags: object, **variables: str) -> Iterator[Running]:
    """A server of `models` on free ports, stopped by SIGTERM at the end; that it ends well is asserted.

    Args:
        models: the repository.
        log: a file for its stderr.
        flags: of `serve`.
        variables: of its environment.
    """
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "--models", models, "--port", "0", "--http-port", "0", *map(str, flags)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **variables},
        )
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"calotype serving on grpc://(\S+) (http://\S+)\n", line)
        assert found is not None, log.read_text()
        yield Running(found[1], found[2], process, log)
        assert process.poll() is None, f"it ended by itself: {log.read_text()[-5000:]}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, log.read_text()[-5000:]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
