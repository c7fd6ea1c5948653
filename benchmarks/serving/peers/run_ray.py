"""Ray Serve, HTTP, raw bytes as bodies.

Settings: two replicas with one onnxruntime thread each, `serve.batch` of up to 64 requests within 1 ms, up to 256
requests in a replica, no access log, no dashboard.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import numpy as np
import onnx_model
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request  # noqa: TC002 Serve looks at it
from starlette.responses import Response


@serve.deployment(num_replicas=2, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Digits:
    """A replica."""

    def __init__(self, file: str) -> None:
        self._run = onnx_model.load(file, threads=1)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def _predict(self, bodies: list[bytes]) -> list[bytes]:
        blocks = [onnx_model.images(body) for body in bodies]
        scores = self._run(np.concatenate(blocks))
        return [part.tobytes() for part in np.split(scores, np.cumsum([len(block) for block in blocks])[:-1])]

    async def __call__(self, request: Request) -> Response:
        """Floats, little-endian."""
        answer: Any = await self._predict(await request.body())
        return Response(answer)


def main() -> None:
    """Serve until told to end."""
    started, ending = onnx_model.told(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": started.port})
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    serve.run(Digits.bind(str(started.model)), logging_config=quiet)  # type: ignore[attr-defined]  # by the decorator
    ending.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
