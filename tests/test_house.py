"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = sorted(
    path
    for wing in ("serving", "pipelines")
    for path in (ROOT / wing).rglob("*.py")
    if "_pb2" not in path.name and path.stat().st_size
)

FLOWS = ("flows", "flows_deployed", "flows_ingest", "flows_runtime", "flows_schedule", "flows_tune", "prefect_server")

IMPORT_ALL = """
import importlib, pkgutil, sys
import serving
for module in pkgutil.walk_packages(serving.__path__, "serving."):
    importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "prefect", "pipelines"}))
"""


def test_no_room_of_serving_loads_what_trains():
    """Every serving module, in a fresh interpreter, leaves TensorFlow, Keras, Prefect and pipelines unloaded."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_stay_small_enough_to_live_in(path):
    """No file has more than 400 lines and no function more than 60; every file says what it is for."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("library", ["prefect", "onnxruntime", "tf2onnx", "matplotlib", "optuna", "fsspec"])
def test_a_heavy_library_has_one_room(library):
    """Each heavy library is imported by one file, two at most where the house says so."""
    allowed = {
        "prefect": {f"pipelines/{name}.py" for name in FLOWS},
        "onnxruntime": {"serving/session.py", "pipelines/quantize.py"},
        "tf2onnx": {"pipelines/convert.py"},
        "matplotlib": {"pipelines/charts.py"},
        "optuna": {"pipelines/tune.py"},
        "fsspec": {"serving/buckets.py"},
    }
    found = {
        str(path.relative_to(ROOT))
        for path in OURS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] == library
    }
    assert found <= allowed[library]
