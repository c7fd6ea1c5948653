"""Ten times more than the server can do: what becomes of the calls it takes, and of those it refuses?

    python benchmarks/serving/overload.py [--seconds 60] [--transport core]

h2load sends the flood; a prober beside it (prober.py) measures a sample of the same calls, because h2load does not know
gRPC's statuses. "At capacity" is as many calls in flight as the queue has rows: as full as it gets without a refusal.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import h2load
import heavy
from calls import CLASSIFY, Side, request, serving
from h2load import Load
from prober import Prober, percentile

_TIMES = 10
_QUEUE_ROWS = 32
_PER_SECOND = 40
_CONNECTIONS = 8


def memory_mb(port: int) -> float:
    """Resident memory of the process that listens on a port of this machine."""
    found = subprocess.run(["ss", "-tlnpH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    pid = found.partition("pid=")[2].partition(",")[0]
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


class Memory(threading.Thread):
    """Looks at a server's memory once a second."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._ending = threading.Event()
        self.seen_mb: list[float] = []

    def run(self) -> None:
        """Until `end`."""
        while not self._ending.wait(1):
            self.seen_mb.append(memory_mb(self._port))

    def end(self) -> None:
        """Look no more."""
        self._ending.set()
        self.join()


def at_capacity(side: Side, seconds: int) -> tuple[float, float]:
    """Calls per second, and the 99th percentile in milliseconds, with the queue full."""
    with Prober(side.port, CLASSIFY, request(1), per_second=_PER_SECOND) as prober:
        load = Load(_CONNECTIONS, (_QUEUE_ROWS - 4) // _CONNECTIONS)
        rate = h2load.run(side.port, CLASSIFY, request(1), load, seconds=seconds).calls_per_second
    return rate + _PER_SECOND * 0.9, percentile(prober.probes(), 0.99, code="OK")


def flooded(side: Side, per_second: float, seconds: int) -> Prober:
    """The sample taken during a flood of so many calls per second."""
    with Prober(side.port, CLASSIFY, request(1), per_second=_PER_SECOND) as prober:
        h2load.run(side.port, CLASSIFY, request(1), Load(_CONNECTIONS, 100), seconds=seconds, per_second=per_second)
    return prober


def verdict(name: str, figure: float, limit: float, unit: str) -> None:
    """One line: measured against what was promised."""
    print(f"{name}: {figure:.2f} {unit} (promised: at most {limit:g}) {'ok' if figure <= limit else 'MISSED'}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--transport", choices=("core", "aio"), default="core")
    chosen: Any = parser.parse_args()
    h2load.require()
    with tempfile.TemporaryDirectory() as folder:
        heavy.publish(Path(folder))
        with serving(
            Path(folder), chosen.transport, ["--max-queue-rows", str(_QUEUE_ROWS)], expected=("UNAVAILABLE",)
        ) as side:
            rate, p99_ms = at_capacity(side, 10)
            memory = Memory(side.port)
            memory.start()
            prober = flooded(side, _TIMES * rate, chosen.seconds)
            memory.end()
            time.sleep(1)
            after, _ = at_capacity(side, 5)
    probes = prober.probes()
    taken = [probe for probe in probes if probe.code == "OK"]
    refused = [probe for probe in probes if probe.code == "UNAVAILABLE"]
    print(f"at capacity: {rate:.0f} calls/s, p99 {p99_ms:.0f} ms; flood of {_TIMES * rate:.0f} calls/s, sample of")
    print(f"{len(probes)}: {len(taken)} taken, {len(refused)} refused, {len(probes) - len(taken) - len(refused)} else")
    verdict("p99 of the calls taken, over that at capacity", percentile(probes, 0.99, code="OK") / p99_ms, 2, "x")
    verdict("p99 of the refusals", percentile(probes, 0.99, code="UNAVAILABLE"), 50, "ms")
    half = len(memory.seen_mb) // 2
    grown = max(memory.seen_mb[half:]) / max(memory.seen_mb[:half])
    verdict(f"memory of the second half ({memory.seen_mb[-1]:.0f} MB) over the first", grown, 1.05, "x")
    verdict("calls/s at capacity over those a second after the flood", rate / after, 1.1, "x")


if __name__ == "__main__":
    main()
