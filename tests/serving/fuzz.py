"""Damaged messages, images and frames against a running server: it must answer each by the caller's fault, and live.

    python -m tests.serving.fuzz --count 20000 --transport core

The same seed makes the same damage. What counts as a fault of the server: no answer in 20 s, a status that no damage of
a caller's explains (UNKNOWN and INTERNAL above all), a stream with an answer too few, another answer than before to a
good call, a traceback in the log, a socket that stays open, or the end of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from serving import tensors
from serving.v1 import prediction_pb2 as v1
from serving.v2 import open_inference_pb2 as v2
from tests.conformance import models as plain_models
from tests.serving import fake_models
from tests.serving.http2_frames import GREETING, HEADERS, MESSAGE, frame
from tests.serving.server_process import Running, running

OURS, OPEN = "calotype.v1.PredictionService", "inference.GRPCInferenceService"
PATIENCE_SECONDS = 20.0
IN_FLIGHT = 16
GOOD_EVERY = 250
MOST_FAULTS = 50
ALLOWED = frozenset(
    ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNIMPLEMENTED")
)  # UNAVAILABLE: the queue is full, or the model not loaded
WHOLE = 2**31 - 1
SIZES = (0, 1, 2, 3, 16, 255, -1, -(2**63), 2**31, 2**32, 2**62, 2**63 - 1)
DATATYPES = ("UINT8", "FP32", "INT64", "BYTES", "BOOL", "FP16", "BF16", "INT33", "", "\0")


class Damage:
    """Makes damaged things; the same of the same seed.

    Args:
        seed: of the dice.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.images = _images()

    def data(self, whole: bytes) -> bytes:
        """`whole`, with one to five things done to it."""
        damaged = bytearray(whole)
        for _ in range(self.dice.choice((1, 1, 2, 5))):
            self._hurt(damaged)
        return bytes(damaged)

    def _hurt(self, data: bytearray) -> None:
        dice = self.dice
        at = dice.randrange(len(data) + 1)
        to = min(len(data), at + dice.choice((1, 2, 4, 16, 1000)))
        match dice.randrange(7):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = dice.randbytes(dice.choice((1, 3, 10, 300)))
            case 4:
                data[at:at] = data[at:to]
            case 5:
                data[at:to] = dice.choice((b"\0", b"\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff")) * (to - at)
            case _:
                data[at:at] = b"\x80" * dice.choice((1, 9, 20))

    def image(self) -> bytes:
        """A damaged image file; one in ten is whole."""
        whole = self.dice.choice(self.images)
        return whole if self.dice.random() < 0.1 else self.data(whole)

    def classify(self) -> v1.ClassifyRequest:
        """A classification of images, of pixels, or of pixels that can't be."""
        dice = self.dice
        request = v1.ClassifyRequest(
            model=dice.choice((*("digits",) * 20, "digits-ae", "", "../digits", "x" * 70_000, "\0")),
            version=dice.choice((*(0,) * 20, 1, 2, -1, 2**63 - 1)),
            top_k=dice.choice((0, 0, 1, 2**32 - 1)),
            request_id=dice.choice(("", "a", "é" * 9000)),
        )
        if dice.random() < 0.6:
            request.images.encoded.files.extend(self.image() for _ in range(dice.choice((0, 1, 1, 3))))
        else:
            sizes = [dice.choice((1, 5, 6, 1, 0, 2**32 - 1, 65536)) for _ in range(4)]
            rows, height, width, channels = sizes if dice.random() < 0.5 else (2, 6, 5, 1)
            data = dice.randbytes(dice.choice((60, 60, 60, 30, 0, 61)))
            request.images.pixels.CopyFrom(
                v1.PixelBlock(rows=rows, height=height, width=width, channels=channels, data=data)
            )
        return request

    def reconstruct(self) -> v1.ReconstructRequest:
        """A reconstruction, of the same images."""
        told = self.classify()
        model = self.dice.choice(("digits-ae", "digits-ae", told.model))
        form = self.dice.choice((0, 1, 2, 7, -1))
        return v1.ReconstructRequest(model=model, version=told.version, images=told.images, form=form)

    def infer(self) -> v2.ModelInferRequest:
        """An inference with absurd names, shapes, datatypes, contents, parameters or outputs; or nearly a good one."""
        dice = self.dice
        kind = dice.choice(sorted(plain_models.KINDS))
        model, given = dice.choice(
            (
                *((f"identity_{kind}", "INPUT0"),) * 6,
                *(("digits", "image"),) * 4,
                ("simple", "INPUT0"),
                ("nobody", "\0"),
                ("", ""),
            )
        )
        likely_type = "BYTES" if given == "image" else kind.upper()
        datatype = likely_type if dice.random() < 0.8 else dice.choice(DATATYPES)
        request = v2.ModelInferRequest(model_name=model, id=dice.choice(("", "a", "x" * 100_000)))
        request.model_version = dice.choice((*("",) * 20, "1", "-1", "1e9", "9" * 40, "\0"))
        for _ in range(dice.choice((1, 1, 1, 1, 1, 1, 2, 0, 40))):
            shape = [dice.choice(SIZES) for _ in range(dice.choice((0, 1, 2, 2, 2, 5, 40)))]
            likely = [6] if given == "image" else [2, 3]
            tensor = request.inputs.add(name=given, datatype=datatype, shape=likely if dice.random() < 0.7 else shape)
            form = dice.random()
            if form < 0.6:
                request.raw_input_contents.append(self._raw(datatype))
            if form > 0.55:
                self._type(tensor.contents)
        if dice.random() < 0.3:
            wanted = request.outputs.add(name=dice.choice(("OUTPUT0", "probabilities", "", "\0" * 1000)))
            choice = dice.choice(({"int64_param": 2**62}, {"int64_param": -1}, {"string_param": "x"}, {}))
            wanted.parameters["classification"].CopyFrom(v2.InferParameter(**choice))
        if dice.random() < 0.1:
            request.parameters["timeout"].double_param = dice.choice((float("nan"), float("inf"), -1.0))
        return request

    def _raw(self, datatype: str) -> bytes:
        dice = self.dice
        if datatype == "BYTES":
            packed = tensors.packed([self.image() for _ in range(dice.choice((1, 6)))])
            return dice.choice((packed, self.data(packed), struct.pack("<I", 2**32 - 1) * 6, b"\xff\0\xff" * 6))
        size = dice.choice((6, 12, 24, 48, 0, 5, 60))
        return dice.choice((bytes(size), dice.randbytes(size), b"\xff" * size))

    def _type(self, contents: Any) -> None:
        name = self.dice.choice(("bool_contents", "int_contents", "int64_contents", "uint_contents", "fp32_contents"))
        values = {"int_contents": -(2**31), "int64_contents": -(2**63), "uint_contents": 2**32 - 1}
        getattr(contents, name).extend([values.get(name, 1)] * self.dice.choice((6, 5, 0)))

    def question(self) -> tuple[str, Any]:
        """A call of a method about a model, by any name."""
        name = self.dice.choice(("digits", "", "nobody", "../..", "a/b", "\0", "x" * 50_000, "é"))
        version = self.dice.choice(("", "1", "-1", "9" * 30, "\0"))
        kind = self.dice.choice(("ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics"))
        if self.dice.random() < 0.2:
            return f"/{OPEN}/RepositoryModelLoad", v2.RepositoryModelLoadRequest(model_name=f"no{name}")
        return f"/{OPEN}/{kind}", getattr(v2, f"{kind}Request")(name=name, version=version)

    def call(self) -> tuple[str, bytes]:
        """The path and the bytes of a unary call."""
        dice = self.dice
        path, message = dice.choice(
            (
                lambda: (f"/{OURS}/Classify", self.classify()),
                lambda: (f"/{OURS}/Classify", self.classify()),
                lambda: (f"/{OURS}/Reconstruct", self.reconstruct()),
                lambda: (f"/{OPEN}/ModelInfer", self.infer()),
                lambda: (f"/{OPEN}/ModelInfer", self.infer()),
                self.question,
                lambda: (f"/{OURS}/ListModels", v1.ListModelsRequest()),
                lambda: ("/grpc.health.v1.Health/Check", v1.ListModelsRequest()),
            )
        )()
        data: bytes = message.SerializeToString()
        if dice.random() < 0.3 and not path.endswith("Load"):
            data = self.data(data)
        if dice.random() < 0.02:
            data = dice.randbytes(dice.choice((1, 100, 10_000)))
        return path, data

    def stream(self) -> tuple[str, list[bytes]]:
        """The path and the messages of a stream."""
        count = self.dice.choice((0, 1, 5, 20))
        method, make = self.dice.choice(
            ((f"/{OURS}/StreamClassify", self.classify), (f"/{OPEN}/ModelStreamInfer", self.infer))
        )
        whole = [make().SerializeToString() for _ in range(count)]
        return method, [self.data(data) if self.dice.random() < 0.3 else data for data in whole]

    def frames(self) -> bytes:
        """What a damaged client writes on its connection: the greeting, and frames of HTTP/2, hurt or made up."""
        dice = self.dice
        sent = bytearray(GREETING)
        for _ in range(dice.choice((1, 3, 20))):
            kind, flags, stream = dice.randrange(12), dice.randrange(256), dice.choice((0, 1, 2, 3, 2**31 - 1))
            if dice.random() < 0.5:
                sent += frame(1, 4, 1, HEADERS) + frame(0, 1, 1, self.data(MESSAGE))
            else:
                sent += frame(kind, flags, stream, dice.randbytes(dice.choice((0, 4, 5, 8, 100))))
        return self.data(bytes(sent)) if dice.random() < 0.7 else bytes(sent)


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    found = []
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000"):
        for mode in ("RGB", "L", "P"):
            with io.BytesIO() as file:
                try:
                    Image.fromarray(pixels).convert(mode).save(file, form)
                except (OSError, ValueError):
                    continue  # not every format has every mode
                found.append(file.getvalue())
    return found


@dataclass
class Found:
    """What a run found.

    Attributes:
        codes: how often each status came, by kind of damage.
        faults: of the server, sentences.
        rss_mib: of the server, first and last.
        seconds: of the run.
    """

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rss_mib: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0


class Run:
    """One run against one server."""

    def __init__(self, server: Running, seed: int) -> None:
        options = [("grpc.max_receive_message_length", WHOLE), ("grpc.max_send_message_length", WHOLE)]
        self._server = server
        self._channel = grpc.insecure_channel(server.address, options=options)
        self._damage = Damage(seed)
        self._open: deque[tuple[str, bytes, Any]] = deque()
        self._good = b""
        self.found = Found()

    def go(self, count: int) -> Found:
        """Send so many damaged things, and look at the server afterwards."""
        began, dice = time.monotonic(), self._damage.dice
        self._answer_well()
        first, files = self._server.resident_mib, self._server.files
        for number in range(count):
            if len(self.found.faults) > MOST_FAULTS:
                break
            if number % GOOD_EVERY == GOOD_EVERY - 1:
                self._drain(0)
                self._answer_well()
            what = dice.random()
            if what < 0.80:
                self._call()
            elif what < 0.90:
                self._stream()
            else:
                self._connect()
        self._drain(0)
        self._answer_well()
        self._channel.close()
        self._look(files)
        self.found.rss_mib = (first, self._server.resident_mib)
        self.found.seconds = time.monotonic() - began
        return self.found

    def _fault(self, what: str, data: bytes) -> None:
        self.found.faults.append(f"{what}; sent {len(data)} bytes: {data[:300].hex()}")

    def _call(self) -> None:
        path, data = self._damage.call()
        self._open.append((path, data, self._channel.unary_unary(path).future(data, timeout=PATIENCE_SECONDS)))
        self._drain(IN_FLIGHT)

    def _drain(self, most: int) -> None:
        while len(self._open) > most:
            path, data, call = self._open.popleft()
            code = call.code().name
            self.found.codes[f"{path.rpartition('/')[2]} {code}"] += 1
            if code not in ALLOWED:
                self._fault(f"{path} answered {code}: {call.details()}", data)

    def _stream(self) -> None:
        path, messages = self._damage.stream()
        call = self._channel.stream_stream(path)(iter(messages), timeout=PATIENCE_SECONDS)
        answers, code = [], "OK"
        try:
            answers.extend(call)
        except grpc.RpcError as error:
            code = error.code().name
        self.found.codes[f"{path.rpartition('/')[2]} {code}"] += 1
        whole = b"".join(messages)
        if code != "OK":
            self._fault(f"{path} ended with {code}", whole)
        elif len(answers) != len(messages):
            self._fault(f"{path} gave {len(answers)} answers to {len(messages)} requests", whole)
        for answer in answers:
            if path.endswith("Classify"):
                failed = v1.ClassifyResponse.FromString(answer).error.code or "OK"
                self.found.codes[f"message {failed}"] += 1
                if failed not in ALLOWED:
                    self._fault(f"{path} answered a message with {failed}", whole)
            elif "its log tells more" in v2.ModelStreamInferResponse.FromString(answer).error_message:
                self._fault(f"{path} answered a message with an internal error", whole)

    def _connect(self) -> None:
        self._drain(0)
        data = self._damage.frames()
        host, port = self._server.address.rsplit(":", 1)
        try:
            plain = socket.create_connection((host, int(port)), PATIENCE_SECONDS)
        except OSError as error:
            self._fault(f"the server takes no connection: {error}", data)
            return
        with plain:
            try:
                plain.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(65536):
                    pass
            except TimeoutError:
                self._fault("a connection stayed open after its client had gone", data)
            except OSError:
                pass  # the server hung up first
        self.found.codes["connection closed"] += 1
        self._settle()

    def _settle(self) -> None:
        """Wait for the next server where grpc.aio's broke: a path that is no text is enough for that."""
        path, until = "/grpc.health.v1.Health/Check", time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(grpc.RpcError):
                self._channel.unary_unary(path)(b"", timeout=1.0, wait_for_ready=True)
                return

    def _answer_well(self) -> None:
        block = fake_models.pixels(3)
        images = v1.Images(pixels=v1.PixelBlock(rows=3, height=6, width=5, channels=1, data=block.tobytes()))
        data = v1.ClassifyRequest(model="digits", images=images).SerializeToString()
        try:
            answer = self._channel.unary_unary(f"/{OURS}/Classify")(data, timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            self._fault(f"a good call was answered {error.code().name}: {error.details()}", data)
            return
        if answer != (self._good or answer):
            self._fault("a good call was answered in another way than before", data)
        self._good = answer

    def _look(self, files: int) -> None:
        server, until = self._server, time.monotonic() + PATIENCE_SECONDS
        if server.process.poll() is not None:
            log = server.log.read_text(errors="replace")[-3000:]
            self.found.faults.insert(0, f"the server ended by itself, status {server.process.returncode}: {log}")
            return
        while server.files > files and time.monotonic() < until:
            time.sleep(0.1)
        if server.files > files:
            self.found.faults.append(f"{server.files - files} sockets or files stayed open")
        for line in server.log.read_text(errors="replace").splitlines():
            if any(word in line for word in ("Traceback", "internal_error", "transport_event_failed")):
                self.found.faults.append(line[:2000])


def fuzz(folder: Path, *, transport: str, count: int, seed: int) -> Found:
    """Start a server with models in `folder`, and send it so many damaged things."""
    models = folder / "models"
    plain_models.write(models)
    fake_models.publish_classifier(models)
    fake_models.publish_reconstructor(models)
    flags = ("--transport", transport, "--log-level", "warning", "--max-message-bytes", 4 * 2**20)
    found = Found()
    with (
        contextlib.suppress(AssertionError),
        running(models, folder / "log", *flags) as server,
    ):  # that it ended is found
        found = Run(server, seed).go(count)
    return found


def main() -> int:
    """The command; exit status 1 if the server did wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transport", choices=("core", "aio"), default="core")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), transport=chosen.transport, count=chosen.count, seed=chosen.seed)
    for name, count in sorted(found.codes.items()):
        print(f"{count:7} {name}")
    first, last = found.rss_mib
    print(f"{found.seconds:.0f} s, resident {first:.0f} MiB before and {last:.0f} MiB after")
    print(*found.faults[:20], f"{len(found.faults)} faults", sep="\n")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
