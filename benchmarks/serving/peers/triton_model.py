"""The model in Triton's Python backend: what the batcher brings is one call of onnxruntime."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_model
import triton_python_backend_utils as backend


class TritonPythonModel:
    """What the backend looks for by this name."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Load the file that the configuration names."""
        file = json.loads(arguments["model_config"])["parameters"]["file"]["string_value"]
        self._run = onnx_model.load(file, threads=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request."""
        blocks = [backend.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        scores = self._run(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
        answers, start = [], 0
        for block in blocks:
            tensor = backend.Tensor("probabilities", scores[start : start + len(block)])
            answers.append(backend.InferenceResponse([tensor]))
            start += len(block)
        return answers
