"""Side by side with the field: the same LeNet-5 in Triton, MLServer, LitServe, BentoML and Ray Serve.

    python benchmarks/serving/peers.py --environments DIR --install     # a virtual environment per peer
    python benchmarks/serving/peers.py --environments DIR --prove       # does each answer rightly?
    python benchmarks/serving/peers.py --environments DIR --rounds 1 --keep FILE    # as often as wanted; adds to FILE
    python benchmarks/serving/peers.py --environments DIR --table FILE

h2load is the load for all. A round starts each server in turn, times its start until the first right answer, loads it,
looks at its memory and ends it. How each is set up is said in peers/run_NAME.py.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import h2load
import lenet5
import numpy as np
import wires
from h2load import Load
from running import memory, running

from serving.session import Session

_HERE = Path(__file__).resolve().parent
_PROVED_ROWS = 32
_TOLERANCE = 1e-5
_PATIENCE_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Peer:
    """A server: where it lives, how it is asked, what is installed there, and what its command is told besides."""

    program: str
    wire: wires.Wire
    packages: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A load: images per request, and what is in flight over gRPC; over HTTP/1.1 it is a connection per request."""

    rows: int
    load: Load

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.rows} x {self.load.connections * self.load.streams}"


CELLS = (Cell(1, Load(8, 8)), Cell(1, Load(4, 4)), Cell(32, Load(8, 1)))
OURS = (str(_HERE.parents[1]) + "[serving]",)
PEERS = {
    "calotype, Classify": Peer("calotype", wires.CLASSIFY, OURS),
    "calotype, ModelInfer": Peer("calotype", wires.TENSOR, OURS),
    "calotype, two workers": Peer("calotype", wires.TENSOR, OURS, ("--workers", "2")),
    "Triton": Peer("triton", wires.TENSOR, ("nvidia-pytriton", "onnxruntime")),
    "MLServer": Peer("mlserver", wires.ELEMENTS, ("mlserver", "onnxruntime")),
    "LitServe": Peer("litserve", wires.JSON_BLOCK, ("litserve", "onnxruntime")),
    "BentoML": Peer("bentoml", wires.JSON_LIST, ("bentoml", "onnxruntime", "uvloop", "httptools")),
    "Ray Serve": Peer("ray", wires.BODY, ("ray[serve]", "onnxruntime")),
}


def install(environments: Path, peer: Peer) -> None:
    """An environment with the newest of its packages, by pip."""
    folder = environments / peer.program
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *peer.packages], check=True)


def size_mb(environments: Path, peer: Peer) -> float:
    """What is installed, pip and setuptools left out."""
    (packages,) = (environments / peer.program / "lib").glob("python*/site-packages")
    parts = [each for each in packages.iterdir() if each.name.partition("-")[0] not in {"pip", "setuptools"}]
    total = subprocess.run(["du", "-scm", *map(str, parts)], capture_output=True, text=True, check=True).stdout
    return float(total.splitlines()[-1].split()[0])


def free_port() -> int:
    """A port that is free, with two more above it, one hopes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_answer(peer: Peer, port: int, right: Any) -> None:
    """Wait until it answers, which it must do rightly."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                pass
            got = peer.wire.ask(port, _PROVED_ROWS)
            break
        except (OSError, grpc.RpcError) as error:
            if time.monotonic() > end:
                sys.exit(f"{peer.program} did not answer within {_PATIENCE_SECONDS} s: {error}")
            time.sleep(0.02)
    if got.shape != right.shape or not np.allclose(got, right, rtol=0, atol=_TOLERANCE):
        sys.exit(f"{peer.program} answered nonsense: {got}")


def measured(environments: Path, peer: Peer, model: Path, seconds: int) -> dict[str, float]:
    """Start it, load it (0 seconds: don't), end it: start_s, memory, and images per second by cell."""
    right = Session(model, threads=1).run({"image": lenet5.pixels(_PROVED_ROWS)})["probabilities"]
    with tempfile.TemporaryDirectory() as folder:
        port, log = free_port(), environments / f"{peer.program}.log"
        program = [str(environments / peer.program / "bin" / "python"), str(_HERE / "peers" / f"run_{peer.program}.py")]
        started = time.monotonic()
        with running([*program, str(model), folder, str(port), *peer.flags], log) as pid:
            first_answer(peer, port, right)
            figures = {"start_s": time.monotonic() - started}
            if seconds:
                time.sleep(1)
            for cell in CELLS if seconds else ():
                message = peer.wire.message(cell.rows)
                in_flight = cell.load.connections * cell.load.streams
                load = cell.load if peer.wire.http is None else Load(in_flight, 1)
                got = h2load.run(port, peer.wire.path, message, load, seconds=seconds, post=peer.wire.http)
                figures[cell.name] = got.calls_per_second * cell.rows
            first_answer(peer, port, right)
            held = memory(pid)
            figures |= {"resident_mb": held.resident_mb, "proportional_mb": held.proportional_mb}
    return figures


def table(environments: Path, rounds: list[dict[str, Any]]) -> None:
    """Medians over the rounds, as Markdown."""
    print(
        "| images/s | "
        + " | ".join(cell.name for cell in CELLS)
        + " | memory, MB (shared once) | start, s | size, MB |"
    )
    print("|---|" + "---|" * (len(CELLS) + 3))
    for name, peer in PEERS.items():
        found = [each for each in rounds if each["peer"] == name]
        if found:
            middle = {key: statistics.median(each[key] for each in found) for key in found[0] if key != "peer"}
            words = [f"{middle[cell.name]:,.0f}" for cell in CELLS]
            words.append(f"{middle['resident_mb']:.0f} ({middle['proportional_mb']:.0f})")
            words += [f"{middle['start_s']:.1f}", f"{size_mb(environments, peer):.0f}"]
            print(f"| {name} ({len(found)} rounds) | " + " | ".join(words) + " |")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--prove", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--table", type=Path)
    chosen: Any = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its time"))  # the servers end as well
    h2load.require()
    rounds: list[dict[str, Any]] = []
    if chosen.install:
        for name in chosen.only:
            install(chosen.environments, PEERS[name])
    elif chosen.table:
        rounds = [json.loads(line) for line in chosen.table.read_text(encoding="utf-8").splitlines()]
    else:
        with tempfile.TemporaryDirectory() as folder:
            lenet5.publish(Path(folder))
            model = Path(folder) / lenet5.NAME / "1" / "model.onnx"
            for name in chosen.only * (1 if chosen.prove else chosen.rounds):
                figures = measured(chosen.environments, PEERS[name], model, 0 if chosen.prove else chosen.seconds)
                rounds.append({"peer": name, **figures})
                print(json.dumps(rounds[-1]), flush=True)
                if chosen.keep:
                    with chosen.keep.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rounds[-1]) + "\n")
    if not chosen.prove and rounds:
        table(chosen.environments, rounds)


if __name__ == "__main__":
    main()
