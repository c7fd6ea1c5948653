"""Writes the suite's models for MLServer: a runtime of a few lines, and a folder of settings for each model.

python tests/conformance/mlserver_models.py FOLDER && cd FOLDER && mlserver start .
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RUNTIME = '''\
"""Gives its inputs back, or their sum and difference."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse, ResponseOutput


class Identity(MLModel):
    async def predict(self, payload):
        given = {each.name: each for each in payload.inputs}
        wanted = [each.name for each in payload.outputs or []]
        if "INPUT1" in given:
            left, right = (NumpyCodec.decode_input(given[name]) for name in ("INPUT0", "INPUT1"))
            made = {"OUTPUT0": left + right, "OUTPUT1": left - right}
            outputs = [NumpyCodec.encode_output(name, array) for name, array in made.items()]
        else:
            one = given["INPUT0"]
            outputs = [ResponseOutput(name="OUTPUT0", shape=one.shape, datatype=one.datatype, data=one.data)]
        outputs = [each for each in outputs if not wanted or each.name in wanted]
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
'''

DATATYPES = (
    "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES".split()  # noqa: SIM905 - shorter
)


def _settings(name: str, tensors: int, datatype: str, width: int) -> dict:
    def described(word: str) -> list:
        return [{"name": f"{word}{n}", "datatype": datatype, "shape": [-1, width]} for n in range(tensors)]

    return {
        "name": name,
        "implementation": "conformance_runtime.Identity",
        "platform": "python",
        "inputs": described("INPUT"),
        "outputs": described("OUTPUT"),
        "parameters": {"version": "1"},
    }


def write(folder: Path) -> None:
    """Write runtime and settings."""
    models = [_settings(f"identity_{datatype.lower()}", 1, datatype, -1) for datatype in DATATYPES]
    models.append(_settings("simple", 2, "INT32", 16))
    for model in models:
        place = folder / model["name"]
        place.mkdir(parents=True, exist_ok=True)
        (place / "model-settings.json").write_text(json.dumps(model, indent=1))
        (place / "conformance_runtime.py").write_text(RUNTIME)
    (folder / "settings.json").write_text(json.dumps({"parallel_workers": 0, "use_structured_logging": False}))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
