"""MLServer, a custom runtime, gRPC.

Settings: no worker processes (they pickle every request), adaptive batching of up to 64 requests within 1 ms, metrics
off as far as it lets; images as BYTES, an element each: UINT8 would be unpacked into a Python int per pixel.
"""

from __future__ import annotations

import asyncio

import numpy as np
import onnx_model
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):  # type: ignore[misc]  # untyped
    """The runtime."""

    async def load(self) -> bool:
        """Load the file."""
        self._run = onnx_model.load(self.settings.parameters.uri, threads=2)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One call for what the batcher brings."""
        block = onnx_model.images(b"".join(payload.inputs[0].data))
        scores = await asyncio.get_running_loop().run_in_executor(None, self._run, np.ascontiguousarray(block))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", scores)])


async def main() -> None:
    """Serve."""
    started = onnx_model.told()
    settings = Settings(
        debug=False,
        parallel_workers=0,
        host="127.0.0.1",
        grpc_port=started.port,
        http_port=started.port + 1,
        metrics_port=started.port + 2,
        metrics_dir=str(started.folder),
        metrics_endpoint=None,
    )
    model = ModelSettings(
        name="digits",
        implementation=Digits,
        max_batch_size=64,
        max_batch_time=0.001,
        parameters=ModelParameters(uri=str(started.model)),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
