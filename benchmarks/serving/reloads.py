"""Two hundred new versions under full load: is any call failed by it, or answered by a model that it doesn't name?

    python benchmarks/serving/reloads.py [--reloads 200] [--transport core]

Odd versions and even ones have different weights, so that an answer tells which model it came from; each of the
prober's answers is compared with what that version answers alone. h2load keeps the server busy meanwhile, and the
server's own count must know of no status but OK. Then it is killed and started again, five times: how long until it
answers?
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import h2load
import lenet5
import numpy as np
from calls import CLASSIFY, request, serving
from h2load import Load
from prober import Prober, percentile

from serving.session import Session
from serving.v1 import prediction_pb2 as v1

_TOLERANCE = 1e-5
_KEPT = 3


class Judge:
    """Knows what each version must answer; remembers which versions did."""

    def __init__(self, models: list[bytes]) -> None:
        feeds = {"image": lenet5.pixels(1)}
        self._right = [Session(model, threads=1).run(feeds)["probabilities"][0] for model in models]
        self.versions: set[int] = set()

    def __call__(self, answer: bytes) -> None:
        """Raise where the answer is not that version's."""
        response = v1.ClassifyResponse.FromString(answer)
        labels = {label.label: label.probability for label in response.results[0].labels}
        got = np.array([labels[label] for label in lenet5.LABELS])
        right = self._right[response.version % len(self._right)]
        if not np.allclose(got, right, rtol=0, atol=_TOLERANCE):
            raise SystemExit(f"Version {response.version} answered {got}, and alone it answers {right}.")
        self.versions.add(response.version)


def publish(models: Path, bodies: list[bytes], judge: Judge, reloads: int) -> float:
    """Publish versions, each when the one before is served; returns the seconds that it took."""
    started = time.monotonic()
    for expected in range(2, reloads + 2):
        number = lenet5.publish(models, bodies[expected % len(bodies)])
        assert number == expected, (number, expected)  # noqa: S101 nobody else publishes here
        while number not in judge.versions:
            time.sleep(0.01)
        if number > _KEPT:
            shutil.rmtree(models / lenet5.NAME / str(number - _KEPT))
    return time.monotonic() - started


def restarted(models: Path, form: str) -> float:
    """Seconds from the start of a server, the last one having been killed, until its first answer."""
    started = time.monotonic()
    with serving(models, form, [], kill=True) as side, grpc.insecure_channel(f"127.0.0.1:{side.port}") as channel:
        call: Any = channel.unary_unary(CLASSIFY)
        call(request(1), wait_for_ready=True, timeout=20)
        return time.monotonic() - started


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--transport", choices=("core", "aio"), default="core")
    chosen: Any = parser.parse_args()
    h2load.require()
    bodies = [lenet5.model(seed) for seed in (0, 1)]
    judge = Judge(bodies)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        lenet5.publish(models, bodies[1])
        with serving(models, chosen.transport, ["--poll-seconds", "0.1"]) as side:
            ending = threading.Event()

            def load() -> None:
                while not ending.is_set():
                    h2load.run(side.port, CLASSIFY, request(1), Load(8, 4), seconds=2)

            flood = threading.Thread(target=load)
            with Prober(side.port, CLASSIFY, request(1), per_second=100, judge=judge) as prober:
                flood.start()
                seconds = publish(models, bodies, judge, chosen.reloads)
                ending.set()
                flood.join()
        probes = prober.probes()
        wrong = [probe for probe in probes if probe.code != "OK"]
        print(f"{chosen.reloads} reloads in {seconds:.0f} s under load; {len(wrong)} of {len(probes)} answers failed")
        p50_ms, p99_ms = (percentile(probes, quantile, code="OK") for quantile in (0.5, 0.99))
        print(f"their times: p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms")
        print(f"versions seen: {len(judge.versions)}; every status that the server counted was OK")
        times = [restarted(models, chosen.transport) for _ in range(5)]
        print(f"killed and started again: answers after {statistics.median(times):.2f} s (median of 5; promised: 2)")


if __name__ == "__main__":
    main()
