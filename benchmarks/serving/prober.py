"""A few calls a second beside the load: h2load counts HTTP statuses, this looks at what was answered, and how late."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Probe:
    """One call: its status, its time in milliseconds, its answer's bytes (none where it failed)."""

    code: str
    ms: float
    answer: bytes


class Prober:
    """Sends the same call so many times a second, whatever becomes of the earlier ones; a context manager.

    Args:
        port: of the server.
        path: of the method.
        message: serialized.
        per_second: calls.
        judge: looks at each answer on its thread; what it raises, `probes` raises again.
    """

    def __init__(
        self, port: int, path: str, message: bytes, *, per_second: float, judge: Callable[[bytes], None] | None = None
    ) -> None:
        self._target, self._path, self._message = f"127.0.0.1:{port}", path, message
        self._pause = 1 / per_second
        self._judge = judge
        self._probes: list[Probe] = []
        self._failure: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def probes(self) -> list[Probe]:
        """What was seen; after the end."""
        if self._failure is not None:
            raise self._failure
        return self._probes

    def _run(self) -> None:
        try:
            asyncio.run(self._probe())
        except BaseException as error:  # noqa: BLE001 raised again in the caller's thread
            self._failure = error

    async def _probe(self) -> None:
        async with grpc.aio.insecure_channel(self._target) as channel, asyncio.TaskGroup() as calls:
            call: Any = channel.unary_unary(self._path)
            due = time.monotonic()
            while not self._ending.is_set():
                calls.create_task(self._one(call))
                due += self._pause
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _one(self, call: Any) -> None:
        start = time.perf_counter()
        try:
            answer, code = await call(self._message, timeout=30), "OK"
        except grpc.aio.AioRpcError as error:
            answer, code = b"", error.code().name
        self._probes.append(Probe(code, 1000 * (time.perf_counter() - start), answer))
        if answer and self._judge is not None:
            self._judge(answer)


def percentile(probes: Sequence[Probe], quantile: float, *, code: str) -> float:
    """Of the times of calls with this status, in milliseconds; NaN without any."""
    times = [probe.ms for probe in probes if probe.code == code]
    return float(np.quantile(times, quantile)) if times else float("nan")
