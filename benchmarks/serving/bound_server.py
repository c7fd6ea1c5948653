"""The bound: gRPC's completion queue, a join and onnxruntime with nothing around them. Prints its port.

    python bound_server.py MODEL

What one Python process can do at most with single images. It takes the last bytes of any message for pixels, answers
with bare probabilities, and knows no limits, deadlines, cancellation, versions, errors, metrics or log: a yardstick,
fit for nothing else.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it is compiled

from serving.session import Session

_CALLS_ASKED_FOR = 32
_EVENTS_BEFORE_WORK = 48
_EMPTY_LOOKS_BEFORE_WORK = 2
_LONG_AGO = 0.0
_BEGIN = cygrpc.SendInitialMetadataOperation(None, 0)
_END = cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", 0)


class Server:
    """One thread, one queue; mutable: `_waiting`, calls with their messages.

    Args:
        model: with one input of uint8, rows first.
    """

    def __init__(self, model: Path) -> None:
        self._session = Session(model, threads=1)
        (self._input,) = self._session.inputs
        self._shape = (-1, *(size or 1 for size in self._input.shape[1:]))
        self._row_bytes = math.prod(self._shape[1:])
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server((), False)
        self._server.register_completion_queue(self._queue)
        self.port = self._server.add_http2_port(b"127.0.0.1:0")
        self._waiting: list[tuple[Any, bytes]] = []

    def serve(self) -> None:
        """Until killed."""
        self._server.start()
        for _ in range(_CALLS_ASKED_FOR):
            self._ask()
        while True:
            if self._waiting:
                self._look_around()
                self._work()
            self._take(self._queue.poll())

    def _ask(self) -> None:
        self._server.request_call(self._queue, self._queue, self._called)

    def _take(self, event: Any) -> bool:
        if event.tag is None:
            return False
        event.tag(event)
        return True

    def _look_around(self) -> None:
        events, looks = _EVENTS_BEFORE_WORK, _EMPTY_LOOKS_BEFORE_WORK
        while events and looks:
            if self._take(self._queue.poll(_LONG_AGO)):
                events, looks = events - 1, _EMPTY_LOOKS_BEFORE_WORK
            else:
                looks -= 1

    def _called(self, event: Any) -> None:
        self._ask()
        call = event.call
        call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), lambda done: self._received(call, done))

    def _received(self, call: Any, event: Any) -> None:
        message = event.batch_operations[0].message()
        if message is not None:
            self._waiting.append((call, message))

    def _work(self) -> None:
        taken, self._waiting = self._waiting, []
        pixels = b"".join([message[-self._row_bytes :] for _, message in taken])
        rows = np.frombuffer(pixels, np.uint8).reshape(self._shape)
        (answers,) = self._session.run({self._input.name: rows}).values()
        for (call, _), answer in zip(taken, answers, strict=True):
            message = cygrpc.SendMessageOperation(answer.tobytes(), 0)
            call.start_server_batch((_BEGIN, message, _END), _nothing)


def _nothing(_event: Any) -> None:
    pass


def main() -> None:
    """Serve the model that the first argument names."""
    server = Server(Path(sys.argv[1]))
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
