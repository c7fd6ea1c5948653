"""Writes the models that the suite calls, as plain ONNX files in a model repository; needs `onnx` and nothing else.

    python tests/conformance/models.py FOLDER

    simple                        OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1; INT32 [rows, 16]
    simple_int8, simple_string    the same; INT8, and numbers written as BYTES: what Triton's client examples call
    simple_identity               OUTPUT0 = INPUT0; BYTES [rows, any]
    identity_bool … identity_bytes    OUTPUT0 = INPUT0, [rows, any], one for each datatype

The layout, `<name>/<version>/model.onnx`, is that of NVIDIA Triton and of everybody who took it over.
"""

from __future__ import annotations

import sys
from pathlib import Path

from onnx import TensorProto, helper

KINDS = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "fp16": TensorProto.FLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
    "bytes": TensorProto.STRING,
}


def identity(kind: int) -> bytes:
    """OUTPUT0 is INPUT0, [rows, any]."""
    return _model([helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])], 1, kind, "any")


def sum_and_difference(kind: int) -> bytes:
    """OUTPUT0 and OUTPUT1 are the sum and the difference of INPUT0 and INPUT1, [rows, 16]."""
    numbers, given = TensorProto.INT32, ("INPUT0", "INPUT1")
    nodes = [helper.make_node("Cast", [name], [f"{name}_number"], to=numbers) for name in given]
    terms = [f"{name}_number" for name in given]
    for position, operation in enumerate(("Add", "Sub")):
        nodes.append(helper.make_node(operation, terms, [f"number{position}"]))
        nodes.append(helper.make_node("Cast", [f"number{position}"], [f"OUTPUT{position}"], to=kind))
    return _model(nodes, 2, kind, 16)


def write(folder: Path) -> list[str]:
    """Write them all; returns their names."""
    models = {f"identity_{name}": identity(kind) for name, kind in KINDS.items()}
    models |= {"simple": sum_and_difference(TensorProto.INT32), "simple_int8": sum_and_difference(TensorProto.INT8)}
    models |= {"simple_string": sum_and_difference(TensorProto.STRING), "simple_identity": models["identity_bytes"]}
    for name, model in models.items():
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.onnx").write_bytes(model)
    return sorted(models)


def _model(nodes: list, tensors: int, kind: int, width: int | str) -> bytes:
    def values(word: str) -> list:
        return [helper.make_tensor_value_info(f"{word}{n}", kind, ["rows", width]) for n in range(tensors)]

    graph = helper.make_graph(nodes, "conformance", values("INPUT"), values("OUTPUT"))
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")  # noqa: T201 - its result
