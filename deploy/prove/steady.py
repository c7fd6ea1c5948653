"""Runs inside a container of calotype-serving: calls the server through its published port, on and on.

Arguments: address, model, folder of images. Two clients: `once` takes each answer as it comes, `patient` tries again as
any client of ours does. A line of JSON a call: when it ended, which client, the version that answered, or the error.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import count
from pathlib import Path

from serving.client import Client, Options
from serving.errors import CalotypeError

ADDRESS, MODEL, FOLDER = sys.argv[1:]
PAUSE_SECONDS = 0.05
LOCK = threading.Lock()


def tell(**values: object) -> None:
    """One line about one call."""
    with LOCK:
        sys.stdout.write(json.dumps({"time": time.time(), **values}) + "\n")
        sys.stdout.flush()


def call(name: str, options: Options) -> None:
    """Call for ever."""
    files = [path.read_bytes() for path in sorted(Path(FOLDER).rglob("*.png"))]
    with Client(ADDRESS, options=options) as client:
        for number in count():
            images = [files[(number * 4 + place) % len(files)] for place in range(4)]
            begun = time.monotonic()
            try:
                answer = next(iter(client.classify_each(images, model=MODEL)))
            except CalotypeError as error:
                tell(client=name, error=f"{type(error).__name__}: {error}")
            else:
                tell(client=name, version=answer.version, seconds=round(time.monotonic() - begun, 4))
            time.sleep(PAUSE_SECONDS)


threading.Thread(target=call, args=("once", Options(attempts=1, timeout_seconds=10)), daemon=True).start()
call("patient", Options(attempts=60, timeout_seconds=60))
