"""Ours, from an environment of its own: `calotype serve` with the log level set, and whatever comes after the port."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Become the server of the repository that the model lies in."""
    model, _, port, *more = sys.argv[1:]
    calotype = Path(sys.executable).with_name("calotype")
    flags = ["--models", str(Path(model).parents[2]), "--host", "127.0.0.1", "--port", port, "--http-port", "0"]
    os.execv(calotype, [str(calotype), "serve", *flags, "--log-level", "warning", *more])  # noqa: S606 no shell is wanted


if __name__ == "__main__":
    main()
