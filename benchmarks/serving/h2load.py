"""Load from a program that isn't Python: nghttp2's h2load sends one framed gRPC message over and over."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_STATUSES = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")


@dataclass(frozen=True, slots=True)
class Load:
    """How much is in flight.

    Args:
        connections: at once.
        streams: calls at once in each.
    """

    connections: int
    streams: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: calls per second, and the median of their times."""

    calls_per_second: float
    median_ms: float


def require() -> None:
    """Leave with a sentence where h2load is missing."""
    if shutil.which("h2load") is None:
        sys.exit("These benchmarks need h2load: apt-get install nghttp2-client")


def framed(message: bytes) -> bytes:
    """A message as it goes over the wire."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(
    port: int,
    path: str,
    message: bytes,
    load: Load,
    *,
    seconds: int,
    per_second: float | None = None,
    messages: int = 1,
    post: str | None = None,
) -> Measured:
    """Call one method for so long, as fast as it is answered or so many times a second.

    A call sends its message once, or several times, which makes it a stream. h2load counts HTTP statuses, so the caller
    must know that the answers are right. `post` makes it a plain POST of that content type over HTTP/1.1 instead of
    gRPC.
    """
    grpc = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    wire = grpc if post is None else ("--h1", "-H", f"content-type: {post}")
    pace = () if per_second is None else ("--rps", f"{per_second / load.connections:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        frame, log = Path(folder) / "frame", Path(folder) / "log"
        frame.write_bytes(framed(message) * messages if post is None else message)
        done = subprocess.run(
            [
                "h2load",
                *("-D", f"{seconds}", "--warm-up-time", "300ms", "-t", "1"),
                *("-c", str(load.connections), "-m", str(load.streams)),
                *pace,
                *("-d", str(frame), "--log-file", str(log)),
                *wire,
                f"http://127.0.0.1:{port}{path}",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        rate, statuses = _RATE.search(done.stdout), _STATUSES.search(done.stdout)
        if rate is None or statuses is None or any(int(count) for count in statuses.groups()[1:]):
            sys.exit(f"h2load failed:\n{done.stdout}\n{done.stderr}")
        times = [int(line.split("\t")[2]) for line in log.read_text(encoding="utf-8").splitlines()]
    return Measured(float(rate[1]), statistics.median(times) / 1000 if times else float("nan"))
