"""What all tests share: where other people's programs are, and that nothing touches the user's own folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline per example: the machine is shared, and a pause of it is no fault of ours. CI looks four times as long.
settings.register_profile(
    "calotype",
    deadline=None,
    max_examples=100 if os.environ.get("CI") else 25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("calotype")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended.

    Attributes:
        status: its exit status.
        out: its stdout.
        err: its stderr.
    """

    status: int
    out: str
    err: str


@pytest.fixture
def calotype(tmp_path):
    """Run the command `calotype` as a user does: a process of its own, in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CALOTYPE_", "PREFECT_"))}

    def run(*arguments: object, timeout: float = 800, **more: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(Path(__file__).parent.parent), **more},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder of 600 of scikit-learn's 8x8 digits, enlarged to 16x16, as PNG files by label."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("sources") / "small-digits"
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:600], digits.target, strict=False)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(np.rint(image * 15.9375).astype(np.uint8), np.ones((2, 2), np.uint8))
        Image.fromarray(pixels).save(path)
    yield folder
    shutil.rmtree(folder)
