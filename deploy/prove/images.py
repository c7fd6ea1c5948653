"""Builds the two images and looks into them."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import engine as engines

if TYPE_CHECKING:
    from engine import Engine
    from report import Report

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ("serving", "pipelines")
BUILD_SECONDS = 900.0
PUBLIC_BASE_MB = 130
SERVING_LIMIT_MB = 400
SIZE = re.compile(r"([0-9.]+) ?(B|kB|MB|GB)\b")
UNITS_MB = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
HEAVY = ("tensorflow", "keras", "prefect")
LOOK = f"""
import importlib.util, json, os, subprocess, sys
print(json.dumps([os.getuid(), sys.version.split()[0],
    [name for name in {HEAVY!r} if importlib.util.find_spec(name)],
    sorted(name for name in os.environ if name.startswith(("PIP_", "UV_")) or "TOKEN" in name or "PASSWORD" in name),
    [path for path in ("/etc/pip.conf", "/root/.config/pip/pip.conf")
        if os.path.isfile(path) and os.path.getsize(path)]]))
"""


def build(engine: Engine, report: Report) -> None:
    """Build both; a pip configuration that `PIP_CONFIG_FILE` names reaches the build as a secret.

    Raises:
        CommandFailed: a build failed.
    """
    configuration = os.environ.get("PIP_CONFIG_FILE", "")
    secret = [f"--secret=id=pip,src={configuration}"] if Path(configuration).is_file() else []
    for image in IMAGES:
        begun = time.monotonic()
        command = [engine.name, "build", *secret, "--target", image, "--tag", f"calotype-{image}", str(ROOT)]
        engines.run(command, seconds=BUILD_SECONDS)
        report.check(f"calotype-{image} is built", f"{time.monotonic() - begun:.0f} s", good=True)


def look(engine: Engine, report: Report) -> None:
    """See who runs in them, what is in them, and how large they are."""
    for image in IMAGES:
        found = engine.do("run", "--rm", "--read-only", "--network=none", f"calotype-{image}", "python3", "-c", LOOK)
        user, python, heavy, variables, configurations = json.loads(found)
        configured = engine.inspect(f"calotype-{image}", kind="image")["Config"]["User"]
        report.check(f"calotype-{image} has python3", python, good=python.startswith("3.11."))
        report.check(f"calotype-{image} runs as a plain user", f"uid {user}, USER {configured}", good=user != 0)
        kept = variables + configurations
        report.check(f"calotype-{image} keeps no pip configuration, no secret", kept or "none", good=not kept)
        size = own_layers_mb(engine, f"calotype-{image}") + PUBLIC_BASE_MB
        limit = SERVING_LIMIT_MB if image == "serving" else None
        words = f"{size} MB, {PUBLIC_BASE_MB} of them the public base" + (f"; limit {limit} MB" if limit else "")
        report.check(f"calotype-{image}'s size", words, good=limit is None or size < limit)
        if image == "serving":
            report.check("calotype-serving has none of " + ", ".join(HEAVY), heavy or "none", good=not heavy)


def own_layers_mb(engine: Engine, image: str) -> int:
    """What an image adds to its base, in MB: the layers from the one that makes our user upwards."""
    lines = engine.do("history", "--no-trunc", "--format={{.Size}}\t{{.CreatedBy}}", image).splitlines()
    first = next(place for place, line in enumerate(lines) if "groupadd" in line)
    sizes = [SIZE.match(line) for line in lines[: first + 1]]
    return round(sum(float(size[1]) * UNITS_MB[size[2]] for size in sizes if size is not None))
