"""LitServe, HTTP; it takes JSON or forms, so images are base64 in JSON.

Settings: two workers with one onnxruntime thread each, two HTTP processes, ZeroMQ queues (`fast_queue`), batches of up
to 64 requests within 1 ms, no access log.
"""

from __future__ import annotations

import base64
from typing import Any

import litserve
import numpy as np
import onnx_model


class Digits(litserve.LitAPI):  # type: ignore[misc]  # untyped
    """The service."""

    def setup(self, device: str) -> None:
        """Load the file."""
        del device
        self._run = onnx_model.load(str(onnx_model.told().model), threads=1)

    def decode_request(self, request: dict[str, str]) -> Any:
        """Pixels."""
        return onnx_model.images(base64.b64decode(request["images"]))

    def batch(self, inputs: list[Any]) -> Any:
        """The blocks of several requests, and how they were."""
        return np.concatenate(inputs), [len(block) for block in inputs]

    def predict(self, x: Any) -> Any:
        """One call for all."""
        block, rows = x
        return np.split(self._run(block), np.cumsum(rows)[:-1])

    def unbatch(self, output: Any) -> Any:
        """Split already."""
        return output

    def encode_response(self, output: Any) -> dict[str, str]:
        """Floats, little-endian."""
        return {"scores": base64.b64encode(output.tobytes()).decode()}


def main() -> None:
    """Serve."""
    api = Digits(max_batch_size=64, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=onnx_model.told().port,
        num_api_servers=2,
        log_level="error",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
