"""Image files to a model's rows in threads of its own, so that no transport's thread ever decodes; knows no model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from serving import images
from serving.errors import BadInput, DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from serving.calls import Call
    from serving.images import ImageSpec
    from serving.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Rows:
    """The readable images of a request, and why the others are none.

    Args:
        pixels: uint8 [readable, height, width, channels], in the request's order.
        failures: sentence by position in the request.
    """

    pixels: NDArray[np.uint8]
    failures: Mapping[int, str] = field(default_factory=dict)


class Decoder:
    """Reads encoded images as the pipelines do.

    Mutable, under `_lock`: `_waiting`, the images accepted and not yet decoded.

    Args:
        threads: how many requests are decoded at once.
        max_image_pixels: larger images are refused by their header.
        max_queue_rows: images that may wait; more are refused at once.
        telemetry: told how long each request took.
    """

    def __init__(self, *, threads: int, max_image_pixels: int, max_queue_rows: int, telemetry: Telemetry) -> None:
        self._pool = ThreadPoolExecutor(threads, "decoder")
        self._max_pixels = max_image_pixels
        self._max_rows = max_queue_rows
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._waiting = 0

    def read(self, files: Sequence[bytes], spec: ImageSpec, call: Call) -> Future[Rows]:
        """Decode and fit each file; an unreadable one is a failure of the result, not of the future.

        Raises:
            Overloaded: too many images are waiting.
            BadInput: more images than may ever wait.
        """
        return self._submit(len(files), call, lambda: self._read(files, spec, call))

    def fit(self, block: NDArray[np.uint8], spec: ImageSpec, call: Call) -> Future[Rows]:
        """Give each row of uint8 [rows, height, width, 1 or 3] the model's size and channels.

        Raises:
            Overloaded: too many images are waiting.
            BadInput: more images than may ever wait.
        """

        def fit() -> Rows:
            return Rows(np.stack([images.fit(row, spec) for row in block]))

        return self._submit(len(block), call, fit)

    def _submit(self, rows: int, call: Call, work: Callable[[], Rows]) -> Future[Rows]:
        if rows > self._max_rows:
            raise BadInput(f"A request may have at most --max-queue-rows = {self._max_rows} images. Received: {rows}")
        with self._lock:
            if self._waiting + rows > self._max_rows:
                self._telemetry.rejected(model=call.model, version=call.version, reason="queue_full")
                raise Overloaded(
                    f"{self._waiting} images are waiting to be decoded, and --max-queue-rows is "
                    f"{self._max_rows}: try again shortly."
                )
            self._waiting += rows
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._left(rows))
        return future

    def _left(self, rows: int) -> None:
        with self._lock:
            self._waiting -= rows

    def close(self) -> None:
        """Finish what is being decoded and take nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, files: Sequence[bytes], spec: ImageSpec, call: Call) -> Rows:
        started = time.monotonic()
        readable: list[NDArray[np.uint8]] = []
        failures: dict[int, str] = {}
        for position, data in enumerate(files):
            if call.deadline is not None and time.monotonic() > call.deadline:
                raise DeadlineExceeded("The deadline passed while the images were being decoded.")
            try:
                readable.append(images.read(data, spec, max_pixels=self._max_pixels))
            except BadInput as error:
                failures[position] = str(error)
        pixels = np.stack(readable) if readable else np.empty((0, *spec.shape), np.uint8)
        seconds = time.monotonic() - started
        self._telemetry.decode_done(model=call.model, version=call.version, seconds=seconds)
        return Rows(pixels, failures)
