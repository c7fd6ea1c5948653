"""The processes of a deployment, as a person starts them, and how to look into them: for the tests of schedules."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("CALOTYPE_", "PREFECT_"))}


def until(true, *, seconds=120.0, what="it"):
    """What `true` returns as soon as it is true."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


def add_digits(inbox, first, last):
    """Put scikit-learn's digits number `first` to `last` into an inbox, by label, as somebody copies them."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(first, last):
        path = inbox / str(digits.target[number]) / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(np.rint(digits.images[number] * 15.9375).astype(np.uint8), np.ones((2, 2), np.uint8))
        Image.fromarray(pixels).save(path)


def _hear_ctrl_c():
    """What a shell starts in the background ignores it, and so does what that starts, such as these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Schedule:
    """`calotype schedule` in a process of its own, small enough to train in a second."""

    def __init__(self, folder, *arguments, name="digits", **environment):
        self.out, self.err = folder / "events.jsonl", folder / "schedule.log"
        self.models = folder / "ws" / "models" / name
        words = ("--architecture", "lenet5", "--epochs", "1", "--force", "--json", "--workspace", folder / "ws")
        self._command = [sys.executable, "-m", "pipelines.cli", "schedule", "inbox", "--name", name]
        self._command += [str(word) for word in (*words, *arguments)]
        self._folder = folder
        self._environment = {**CLEAN, "PYTHONPATH": str(ROOT), **environment}
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def start(self):
        with self.out.open("a") as out, self.err.open("a") as err:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=out,
                stderr=err,
                preexec_fn=_hear_ctrl_c,  # noqa: PLW1509 it only sets a signal back
            )

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)

    def kill(self):
        """As the machine's memory killer does."""
        self.process.kill()
        self.process.wait()

    def events(self, *kinds):
        """How firings ended so far; of these kinds only."""
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        return [event for event in map(json.loads, lines) if not kinds or event["event"] in kinds]

    def log(self):
        return self.err.read_text()

    def ended(self, count, *kinds, seconds=180.0):
        """The events, once there are so many of these kinds."""
        return until(
            lambda: (found := self.events(*kinds)) and len(found) >= count and found,
            seconds=seconds,
            what=f"{count} firings {kinds}; the log says:\n{self.log()[-3000:]}",
        )

    def runs(self):
        """The records of all runs."""
        return [json.loads(path.read_text()) for path in sorted(self._folder.glob("ws/runs/*/run.json"))]

    def children(self, *, of=None):
        """Process id -> command line of everything below the scheduler."""
        found = {}
        pending = [of or self.process.pid]
        while pending:
            listed = subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(pending.pop())], capture_output=True, text=True, check=False
            )
            for line in listed.stdout.splitlines():
                number, _, command = line.strip().partition(" ")
                found[int(number)] = command
                pending.append(int(number))
        return found

    def child(self, *words):
        """The process id of the child whose command line holds one of these words."""
        hits = [number for number, command in self.children().items() if any(word in command for word in words)]
        return hits[0] if hits else None

    def rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


class NamedPrefect:
    """`prefect server start` on a port that stays."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._folder = folder
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def start(self):
        more = {
            "PREFECT_HOME": str(self._folder / "prefect"),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        more["PREFECT_UI_STATIC_DIRECTORY"] = str(self._folder / "page")
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        with (self._folder / "prefect.log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--log-level", "warning"],
                env={**CLEAN, **more},
                stdout=log,
                stderr=log,
            )

    def ready(self):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            return True
        return False

    def kill(self):
        self.process.kill()
        self.process.wait()


class Receiver:
    """A webhook's receiver: keeps what it gets; answers with `status`."""

    def __init__(self, status=200):
        self.got = []
        receiver = self
        self.status = status

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, json.loads(body)))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def kill(number):
    os.kill(number, signal.SIGKILL)
