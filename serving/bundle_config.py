"""The `config.pbtxt` that makes a published bundle a valid model of NVIDIA Triton's, in protobuf's text form.

Writes it; reading one, whoever wrote it, is `serving.model_config`'s affair.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from serving.errors import BadBundle

if TYPE_CHECKING:
    from serving.bundle_json import Bundle, TensorSpec

# The server's own default: a published model neither lowers nor raises it, until somebody edits its file.
MAX_BATCH_ROWS: Final = 64

_HEAD: Final = """\
# How this model is served, by calotype and by NVIDIA Triton: written once, yours to change.
# max_batch_size is the most rows in one model call, and takes the place of --max-batch-rows.
"""

_DATA_TYPES: Final = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "string": "TYPE_STRING",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
}


def config_text(bundle: Bundle) -> str:
    """A ModelConfig for the bundle: rows batched dynamically; dimensions without the rows.

    The name is left out, so that it is the folder's, also of a copy.

    Raises:
        BadBundle: a tensor of a type that Triton does not have.
    """
    lines = [_HEAD + 'platform: "onnxruntime_onnx"', f"max_batch_size: {MAX_BATCH_ROWS}"]
    for kind, specs in (("input", bundle.inputs), ("output", bundle.outputs)):
        lines += [_tensor(kind, spec) for spec in specs]
    return "\n".join([*lines, "dynamic_batching { }", ""])


def _tensor(kind: str, spec: TensorSpec) -> str:
    dims = ", ".join("-1" if size is None else str(size) for size in spec.shape[1:])
    # Triton wants at least one dimension besides the rows: a number per row is one of size 1, reshaped away.
    shape = f"dims: [ {dims} ]" if dims else "dims: [ 1 ] reshape: { shape: [ ] }"
    if spec.dtype not in _DATA_TYPES:
        raise BadBundle(f"The {kind} {spec.name!r} is of type {spec.dtype!r}; one of {', '.join(_DATA_TYPES)}.")
    return f"{kind} [ {{ name: {json.dumps(spec.name)} data_type: {_DATA_TYPES[spec.dtype]} {shape} }} ]"
