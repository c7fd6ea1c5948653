"""The conformance suite, which knows nothing of this server, against this server, by both transports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.server_process import running

SUITE = Path(__file__).parents[1] / "conformance"

pytestmark = pytest.mark.slow


def test_the_server_conforms(form, tmp_path):
    """Every test of the suite passes, and none is skipped: nothing of the protocol is missing."""
    subprocess.run([sys.executable, SUITE / "models.py", tmp_path / "models"], check=True, timeout=60)
    with running(tmp_path / "models", tmp_path / "log", "--transport", form) as server:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", SUITE, "--target", server.address, "-q", "-p", "no:cacheprovider"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "skipped" not in done.stdout, done.stdout


def test_the_suite_stands_alone(tmp_path):
    """It imports nothing of this repository, and without a target it collects nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", SUITE, "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "no tests ran" in done.stdout
    for path in SUITE.glob("*.py"):
        for word in ("calotype", "from serving", "import serving", "from tests", "pipelines"):
            assert word not in path.read_text(), f"{path.name} knows {word}"
