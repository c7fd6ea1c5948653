"""Image files to a model's rows in threads of its own, so that no transport's thread ever decodes; knows no model."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from serving import images
from serving.errors import BadInput, DeadlineExceeded, Overloaded
from serving.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from serving.calls import Call
    from serving.images import ImageSpec
    from serving.telemetry import Telemetry

    Steps = Generator[None, None, "Made"]

Made = TypeVar("Made")

# The images of one request together may have so many times the pixels of the largest one: some seconds of decoding.
REQUEST_IMAGES: Final = 16


@dataclass(slots=True)  # one per call: a frozen one takes five times as long to make
class Rows:
    """The readable images of a request, and why the others are none.

    Args:
        pixels: uint8 [readable, height, width, channels], in the request's order.
        failures: sentence by position in the request.
    """

    pixels: NDArray[np.uint8]
    failures: Mapping[int, str] = field(default_factory=dict)


class Decoder:
    """Reads encoded images as the pipelines do; requests take turns, image by image.

    Mutable, under `_lock`: `_rows` and `_bytes`, what was accepted and is not done.

    Args:
        threads: how many images are decoded at once.
        max_image_pixels: larger images are refused by their header; a request has `REQUEST_IMAGES` times as many.
        max_queue_rows: images that may wait; more are refused at once.
        max_queue_bytes: bytes that may wait, of files and of the rows that they become; likewise.
        telemetry: told how long each request took.
    """

    def __init__(
        self, *, threads: int, max_image_pixels: int, max_queue_rows: int, max_queue_bytes: int, telemetry: Telemetry
    ) -> None:
        self._turns = Turns(threads, name="decoder")
        self._max_pixels = max_image_pixels
        self._max_rows = max_queue_rows
        self._max_bytes = max_queue_bytes
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._rows = 0
        self._bytes = 0

    def read(self, files: Sequence[bytes], spec: ImageSpec, call: Call) -> Future[Rows]:
        """Decode and fit each file; an unreadable one is a failure of the result, not of the future.

        Raises:
            Overloaded: too many images or bytes are waiting.
            BadInput: more of either than may ever wait. The future has it for too many pixels in one request.
        """
        # Before each is looked at: a message has room for millions of empty ones.
        self.check(rows=len(files), size_bytes=0)
        size_bytes = sum(map(len, files)) + _bytes_of(len(files), spec)
        return self.work(self._read(files, spec, call), call, rows=len(files), size_bytes=size_bytes)

    def fit(self, block: NDArray[np.uint8], spec: ImageSpec, call: Call) -> Future[Rows]:
        """Give each row of uint8 [rows, height, width, 1 or 3] the model's size and channels.

        Raises:
            Overloaded: too many images or bytes are waiting.
            BadInput: more of either than may ever wait.
        """
        size_bytes = block.nbytes + _bytes_of(len(block), spec)
        return self.work(_fit(block, spec, call), call, rows=len(block), size_bytes=size_bytes)

    def work(self, steps: Steps[Made], call: Call, *, rows: int, size_bytes: int) -> Future[Made]:
        """Do other long work on a request in the same threads, under the same limits; its steps had better be short.

        Raises:
            Overloaded: too many images or bytes are waiting.
            BadInput: more of either than may ever wait.
        """
        self.check(rows=rows, size_bytes=size_bytes)
        with self._lock:
            full = self._rows + rows > self._max_rows or self._bytes + size_bytes > self._max_bytes
            if not full:
                self._rows += rows
                self._bytes += size_bytes
            waiting = f"{self._rows} images of {self._bytes} bytes"
        if full:
            self._telemetry.rejected(model=call.model, version=call.version, reason="queue_full")
            raise Overloaded(
                f"{waiting} are waiting to be decoded; --max-queue-rows is {self._max_rows} and --max-queue-bytes "
                f"{self._max_bytes}: try again shortly."
            )
        try:
            future = self._turns.add(steps)
        except BaseException:
            self._left(rows, size_bytes)
            raise
        if call.trace is not None:
            call.trace.reading(future)
        future.add_done_callback(lambda _: self._left(rows, size_bytes))
        return future

    def close(self, wait_seconds: float = 1.0) -> None:
        """Take nothing more, fail what waits, and wait so long for the images in work. May be called twice."""
        self._turns.close(wait_seconds)

    def check(self, *, rows: int, size_bytes: int) -> None:
        """Refuse what has no room here even when nothing waits.

        Raises:
            BadInput: more images or bytes than may ever wait.
        """
        if rows > self._max_rows:
            raise BadInput(f"A request may have at most --max-queue-rows = {self._max_rows} images. Received: {rows}")
        if size_bytes > self._max_bytes:
            raise BadInput(
                f"A request may have at most --max-queue-bytes = {self._max_bytes} bytes, as sent and as the model "
                f"takes them. Received: {size_bytes}"
            )

    def _left(self, rows: int, size_bytes: int) -> None:
        with self._lock:
            self._rows -= rows
            self._bytes -= size_bytes

    def _read(self, files: Sequence[bytes], spec: ImageSpec, call: Call) -> Steps[Rows]:
        readable: list[NDArray[np.uint8]] = []
        failures: dict[int, str] = {}
        seconds, pixels = 0.0, 0
        for position, data in enumerate(files):
            _in_time(call)
            started = time.monotonic()
            try:
                decoded = images.decode(data, max_pixels=self._max_pixels)
                pixels += decoded.width * decoded.height
                readable.append(images.fit(decoded.pixels, spec))
            except BadInput as error:
                pixels += images.claimed_pixels(data, max_pixels=self._max_pixels)
                failures[position] = str(error)
            seconds += time.monotonic() - started
            self._check_pixels(pixels)
            yield
        block = np.stack(readable) if readable else np.empty((0, *spec.shape), np.uint8)
        self._telemetry.decode_done(model=call.model, version=call.version, seconds=seconds)
        return Rows(block, failures)

    def _check_pixels(self, pixels: int) -> None:
        most = REQUEST_IMAGES * self._max_pixels
        if pixels > most:
            raise BadInput(
                f"The images of one request may have {most} pixels together, {REQUEST_IMAGES} times "
                f"--max-image-pixels = {self._max_pixels}: send fewer of them in one request. "
                f"Received: at least {pixels}"
            )


def _bytes_of(rows: int, spec: ImageSpec) -> int:
    return rows * spec.height * spec.width * spec.channels


def _fit(block: NDArray[np.uint8], spec: ImageSpec, call: Call) -> Steps[Rows]:
    fitted = np.empty((len(block), *spec.shape), np.uint8)
    for position, row in enumerate(block):
        _in_time(call)
        fitted[position] = images.fit(row, spec)
        yield
    return Rows(fitted)


def _in_time(call: Call) -> None:
    if call.deadline is not None and time.monotonic() > call.deadline:
        raise DeadlineExceeded("The deadline passed while the images were being decoded.")
