"""The generated code in the repository is what protoc makes of protos/ today."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = ("serving/v1/prediction.proto", "serving/v2/open_inference.proto")


@pytest.mark.parametrize("proto", PROTOS)
def test_generated_code_is_fresh(tmp_path, proto):
    """Whoever edits a proto and forgets to generate is told here, not by a caller."""
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outputs, str(ROOT / "protos" / proto)],
        check=True,
    )
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert len(made) == 3
    for path in made:
        assert (ROOT / path).read_text() == (tmp_path / path).read_text(), f"make {path} anew from {proto}"


@pytest.mark.parametrize("proto", PROTOS)
def test_every_field_is_commented(proto):
    """A proto is the page that people of other languages read: nothing on it is unexplained."""
    lines = (ROOT / "protos" / proto).read_text().splitlines()
    needs = re.compile(r"\s*(rpc |message |enum |service |oneof |[\w<>., ]+ = \d+;)")
    bare = [
        line for before, line in itertools.pairwise(lines) if needs.match(line) and not before.lstrip().startswith("//")
    ]
    assert bare == []
