"""An hour of mixed, moderate load with a reload every minute: does the server's memory stay where it was?

    nice python benchmarks/serving/soak.py [--minutes 60] [--per-second 200] [--transport core]

Single raw images from h2load, and every second of a client in Python: encoded images, one of them broken; a stream; a
reconstruction that the model doesn't do; a call that hangs up. Prints resident memory and calls once a minute; the
growth after the first ten minutes is the result.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import h2load
import lenet5
from calls import CLASSIFY, Side, request, serving
from h2load import Load
from overload import memory_mb
from PIL import Image

from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc

_SETTLED_MINUTES = 10


def encoded() -> list[bytes]:
    """A PNG, a JPEG that must be resized, and half of it."""
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(lenet5.pixels(1)[0, :, :, 0]).save(small, "PNG")
    Image.fromarray(lenet5.pixels(1)[0, :, :, 0]).resize((224, 224)).save(large, "JPEG")
    return [small.getvalue(), large.getvalue(), large.getvalue()[: len(large.getvalue()) // 2]]


def everything(stub: Any, files: list[bytes]) -> None:
    """One of each kind of call; what a server must refuse is refused, what it must answer is answered."""
    images = v1.Images(encoded=v1.EncodedImages(files=files))
    answer = stub.Classify(v1.ClassifyRequest(model=lenet5.NAME, images=images), timeout=30)
    failed = [bool(result.error.code) for result in answer.results]
    if failed != [False, False, True]:
        raise SystemExit(f"Wrong answer: {answer}")
    messages = [v1.ClassifyRequest.FromString(request(4)) for _ in range(8)]
    if sum(len(message.results) for message in stub.StreamClassify(iter(messages), timeout=30)) != 4 * len(messages):
        raise SystemExit("A stream lost images.")
    with contextlib.suppress(grpc.RpcError):
        stub.Reconstruct(v1.ReconstructRequest(model=lenet5.NAME, images=images), timeout=30)
    stub.Classify.future(messages[0]).cancel()


def keep_busy(side: Side, models: Path, per_second: float, ending: threading.Event) -> None:
    """Until the end: h2load in a thread, all kinds of calls and reloads in this one."""

    def load() -> None:
        while not ending.is_set():
            h2load.run(side.port, CLASSIFY, request(1), Load(8, 8), seconds=20, per_second=per_second)

    thread = threading.Thread(target=load)
    thread.start()
    files, reload_due, version = encoded(), time.monotonic() + 60, 1
    while not ending.wait(1):
        with grpc.insecure_channel(f"127.0.0.1:{side.port}") as channel:  # a connection of its own each time
            everything(v1_grpc.PredictionServiceStub(channel), files)  # type: ignore[no-untyped-call]  # generated
        if time.monotonic() >= reload_due:
            reload_due += 60
            version = lenet5.publish(models, lenet5.model(version % 2))
            shutil.rmtree(models / lenet5.NAME / str(version - 2), ignore_errors=True)
    thread.join()


def calls(side: Side) -> int:
    """That the server has answered so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{side.http_port}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("calotype_requests_total")))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--per-second", type=float, default=200)
    parser.add_argument("--transport", choices=("core", "aio"), default="core")
    chosen: Any = parser.parse_args()
    h2load.require()
    with tempfile.TemporaryDirectory() as folder:
        lenet5.publish(Path(folder))
        with serving(Path(folder), chosen.transport, [], expected=("INVALID_ARGUMENT",)) as side:
            ending, seen = threading.Event(), []
            busy = threading.Thread(target=keep_busy, args=(side, Path(folder), chosen.per_second, ending))
            busy.start()
            for minute in range(1, chosen.minutes + 1):
                time.sleep(60)
                if not busy.is_alive():
                    raise SystemExit("The load ended early; its words are above.")
                seen.append(memory_mb(side.port))
                print(f"minute {minute}: {seen[-1]:.1f} MB, {calls(side)} calls", flush=True)
            ending.set()
            busy.join()
    settled = seen[min(_SETTLED_MINUTES, len(seen)) - 1 :]
    print(
        f"after {_SETTLED_MINUTES} minutes {settled[0]:.1f} MB, at the end {settled[-1]:.1f}, most {max(settled):.1f}"
    )


if __name__ == "__main__":
    main()
