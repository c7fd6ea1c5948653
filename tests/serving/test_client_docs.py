"""What docs/client.md shows works as it stands there."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving.client import Options
from serving.codec import png
from tests.serving.certificates import Authority
from tests.serving.fake_models import pixels
from tests.serving.fake_registry import served, two_models

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def rig():
    with served(two_models()) as rig:
        yield rig


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_an_example_runs(rig, tmp_path, title, code):
    """In a folder with the files that it names, against a server with the models that it names."""
    for name, row in zip(("one.png", "two.png"), pixels(2), strict=True):
        (tmp_path / name).write_bytes(png(row))
    authority = Authority(tmp_path)
    authority.ca.rename(tmp_path / "ca.pem")
    authority.sign("client")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("127.0.0.1:8001", rig.address)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{title}: {done.stderr}"


def test_all_examples_are_run():
    assert len(EXAMPLES) == PAGE.count("```python")


def test_the_options_are_told_with_their_defaults():
    """Each has its row."""
    told = re.search(r"^\| option \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    for option in dataclasses.fields(Options):
        assert f"`{option.name}`" in told[0]
    assert f"| {Options().attempts} |" in told[0]
    assert f"| {Options().timeout_seconds:.0f} |" in told[0]
