"""BentoML, HTTP; it takes JSON from outside, so images are base64 in a list.

Settings: two worker processes with one onnxruntime thread each, adaptive batching of up to 64 images, uvloop and
httptools installed beside it, access log, metrics and traces off.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnx_model


@bentoml.service(workers=2, traffic={"timeout": 30}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Digits:
    """The service."""

    def __init__(self) -> None:
        self._run = onnx_model.load(os.environ["PEER_MODEL"], threads=1)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)  # type: ignore[untyped-decorator]
    def predict(self, images: list[str]) -> list[str]:
        """A base64 string of floats per image."""
        block = onnx_model.images(b"".join(map(base64.b64decode, images)))
        return [base64.b64encode(row.tobytes()).decode() for row in np.asarray(self._run(block))]


def main() -> None:
    """Become the command that serves this file."""
    started = onnx_model.told()
    environment = {
        **os.environ,
        "PEER_MODEL": str(started.model),
        "BENTOML_HOME": str(started.folder),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    here = Path(__file__).resolve()
    program = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Digits", "--working-dir", str(here.parent)]
    flags = ["--host", "127.0.0.1", "--port", str(started.port), "-q"]
    os.execve(sys.executable, [*program, *flags], environment)  # noqa: S606 no shell is wanted


if __name__ == "__main__":
    main()
