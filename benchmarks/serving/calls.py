"""What a call costs: both transports beside an empty grpc.aio server and bare onnxruntime, sides alternating, ratios.

    python benchmarks/serving/calls.py [--rounds 3] [--seconds 1] [--only core] [--bound] [--serve FLAG VALUE …]

Needs h2load. Prints the medians over the rounds; single figures mean little on a shared machine, ratios of one run do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import h2load
import lenet5
from h2load import Load

from serving.codec import pixel_block
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

CLASSIFY = "/calotype.v1.PredictionService/Classify"
FORMS = ("core", "aio")
SINGLE = {"64 in flight": Load(8, 8), "16 in flight": Load(4, 4), "1 in flight": Load(1, 1)}
BATCHED = Load(8, 1)
ROWS = 32
ONE_IN_FLIGHT = "1 in flight"
STREAM_CLASSIFY = "/calotype.v1.PredictionService/StreamClassify"
STREAMED = Load(8, 1)
MESSAGES = 256

_ROOT = Path(__file__).parents[2]
_SERVE = "import sys; from serving import cli; sys.exit(cli.run(cli.load('serve'), sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class Side:
    """A server under load."""

    port: int
    http_port: int = 0


def request(rows: int) -> bytes:
    """The message of a call with so many raw images."""
    block = pixel_block(lenet5.pixels(rows))
    return v1.ClassifyRequest(model=lenet5.NAME, images=v1.Images(pixels=block)).SerializeToString()


@contextlib.contextmanager
def started(*arguments: str, kill: bool = False) -> Iterator[str]:
    """A program of this folder's environment; gives its first line, and ends it, by SIGKILL if asked to."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "CALOTYPE_LOG_LEVEL": "warning"}
    program = [sys.executable, *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None  # noqa: S101 it is a pipe
            yield process.stdout.readline()
        finally:
            (process.kill if kill else process.terminate)()


@contextlib.contextmanager
def serving(
    models: Path, form: str, flags: Sequence[str], *, expected: Collection[str] = (), kill: bool = False
) -> Iterator[Side]:
    """Our server of the LeNet-5; otherwise as `listening`."""
    with listening(models, form, flags, expected=expected, kill=kill) as side:
        with grpc.insecure_channel(f"127.0.0.1:{side.port}") as channel:
            classify: Any = channel.unary_unary(CLASSIFY)
            answer = v1.ClassifyResponse.FromString(classify(request(ROWS), timeout=20))
            if len(answer.results) != ROWS or len(answer.results[0].labels) != len(lenet5.LABELS):
                sys.exit(f"The server answered nonsense: {answer}")
        yield side


@contextlib.contextmanager
def listening(
    models: Path, form: str, flags: Sequence[str], *, expected: Collection[str] = (), kill: bool = False
) -> Iterator[Side]:
    """Our server with one transport; any status from it but OK and what is expected ends the program."""
    options = ("--models", str(models), "--port", "0", "--http-port", "0", "--transport", form, *flags)
    with started("-c", _SERVE, *options, kill=kill) as line:
        addresses = [word.rpartition(":")[2] for word in line.split() if "://" in word]
        side = Side(int(addresses[0]), int(addresses[1]))
        yield side
        refused = codes(side) - {"OK", "CANCELLED", *expected}  # h2load hangs up at its end
        if refused:
            sys.exit(f"The server answered {refused}: these figures are worth nothing.")


def codes(side: Side) -> set[str]:
    """The statuses that a server gave."""
    with urllib.request.urlopen(f"http://127.0.0.1:{side.http_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {
        line.partition('code="')[2].partition('"')[0] for line in lines if line.startswith("calotype_requests_total")
    }


def bare(model: Path, seconds: float) -> float:
    """Images per second of onnxruntime alone."""
    program = [sys.executable, str(Path(__file__).with_name("bare.py")), str(model), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    return float(subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout)


def measure(
    sides: dict[str, Side], yardsticks: dict[str, Side], model: Path, seconds: int
) -> dict[tuple[str, str], float]:
    """One round: every cell of every side once, (side, cell) -> figure."""
    figures: dict[tuple[str, str], float] = {}
    one, many = request(1), request(ROWS)
    for cell, load in SINGLE.items():
        for name, side in {**yardsticks, **sides}.items():
            got = h2load.run(side.port, CLASSIFY, one, load, seconds=seconds)
            figures[name, cell] = got.median_ms if cell == ONE_IN_FLIGHT else got.calls_per_second
    for name, side in sides.items():
        got = h2load.run(side.port, STREAM_CLASSIFY, one, STREAMED, seconds=seconds, messages=MESSAGES)
        figures[name, "streamed"] = got.calls_per_second * MESSAGES
    figures["bare", "32 images"] = bare(model, seconds)
    for name, side in sides.items():
        got = h2load.run(side.port, CLASSIFY, many, BATCHED, seconds=seconds)
        figures[name, "32 images"] = got.calls_per_second * ROWS
    return figures


def report(rounds: list[dict[tuple[str, str], float]], forms: Sequence[str], *, bound: bool) -> None:
    """Medians of figures, and of the ratios within a round."""

    def median(side: str, cell: str) -> float:
        return statistics.median(figures[side, cell] for figures in rounds)

    def ratio(side: str, other: str, cell: str) -> float:
        return statistics.median(figures[side, cell] / figures[other, cell] for figures in rounds)

    for cell in SINGLE:
        unit, form = ("ms (p50)", ".3f") if cell == ONE_IN_FLIGHT else ("calls/s", ".0f")
        words = [f"echo {median('echo', cell):{form}}"]
        compared = ("bound", *forms) if bound else forms
        words += [f"{side} {median(side, cell):{form}} ({ratio(side, 'echo', cell):.2f}x)" for side in compared]
        print(f"1 image, {cell}, {unit}: " + ", ".join(words))
    against = {side: statistics.median(f[side, "streamed"] / f[side, "64 in flight"] for f in rounds) for side in forms}
    words = [f"{side} {median(side, 'streamed'):.0f} ({against[side]:.2f}x its unary)" for side in forms]
    print(f"1 image per message, {STREAMED.connections} streams of {MESSAGES}, messages/s: " + ", ".join(words))
    words = [f"bare {median('bare', '32 images'):.0f}"]
    words += [f"{side} {median(side, '32 images'):.0f} ({ratio(side, 'bare', '32 images'):.2f}x)" for side in forms]
    print(f"{ROWS} images, {BATCHED.connections} in flight, images/s: " + ", ".join(words))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--only", choices=FORMS)
    parser.add_argument("--bound", action="store_true", help="also the most that one Python process can do")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[])
    chosen: Any = parser.parse_args()
    h2load.require()
    forms = (chosen.only,) if chosen.only else FORMS
    with contextlib.ExitStack() as held:
        models = Path(held.enter_context(tempfile.TemporaryDirectory()))
        lenet5.publish(models)
        model = models / lenet5.NAME / "1" / "model.onnx"
        here = Path(__file__).parent
        yardsticks = {"echo": Side(int(held.enter_context(started(str(here / "echo_server.py")))))}
        if chosen.bound:
            program = str(here / "bound_server.py")
            yardsticks["bound"] = Side(int(held.enter_context(started(program, str(model), kill=True))))
        sides = {form: held.enter_context(serving(models, form, chosen.serve)) for form in forms}
        rounds = [measure(sides, yardsticks, model, chosen.seconds) for _ in range(chosen.rounds)]
    report(rounds, forms, bound=chosen.bound)


if __name__ == "__main__":
    main()
