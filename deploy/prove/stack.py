"""The deployment of docker-compose.yml under a name, ports and passwords of its own; started, hit, and taken down."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import engine as engines

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine import Engine

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = "calotype-proof"
MODEL = "digits"
SERVICES = ("trainer", "prefect", "serving", "postgres")
EVERY_SECONDS = 12
RUN_OPTIONS = "--architecture lenet5 --epochs 6"
RESTART_SECONDS = 120.0
BACK_SECONDS = 15.0


class NotInTime(Exception):
    """Something that was waited for did not come."""


class Stack:
    """One deployment, from `start` to `remove`.

    Args:
        engine: runs it.
        folder: of this proof; the inbox and the images for predictions lie in it.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self.inbox = folder / "inbox"
        self.held = folder / "held"
        self._drops = folder / "drops"
        for made in (self.inbox, self._drops):
            made.mkdir(mode=0o755)
        self.grpc_port, self.http_port, self.prefect_port = free_ports(3)
        self._environment = {
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "GRAFANA_PASSWORD": secrets.token_hex(16),
            "CALOTYPE_BIND": "127.0.0.1",
            "CALOTYPE_PORT": str(self.grpc_port),
            "CALOTYPE_HTTP_PORT": str(self.http_port),
            "PREFECT_PORT": str(self.prefect_port),
            "CALOTYPE_INBOX": str(self.inbox),
            "CALOTYPE_MODEL": MODEL,
            "CALOTYPE_SCHEDULE": f"--every {EVERY_SECONDS}",
            "CALOTYPE_RUN_OPTIONS": RUN_OPTIONS,
            "TRAINER_CPUS": str(os.cpu_count() or 1),
            "SERVING_CPUS": str(os.cpu_count() or 1),
        }

    @property
    def address(self) -> str:
        """Where the prediction server's gRPC port is published."""
        return f"127.0.0.1:{self.grpc_port}"

    def start(self, *services: str) -> None:
        """Start some services; the others are left as they are."""
        self._compose("up", "--detach", "--no-build", *services)

    def remove(self) -> None:
        """Take everything down, volumes included; may be called twice, and before `start`."""
        self._compose("down", "--volumes", "--timeout=20")

    def left_over(self) -> list[str]:
        """Containers and volumes that `remove` did not remove."""
        label = f"label=com.docker.compose.project={PROJECT}"
        containers = self._engine.do("ps", "--all", "--quiet", "--filter", label).split()
        return containers + self._engine.do("volume", "ls", "--quiet", "--filter", label).split()

    def container(self, service: str) -> str:
        """The id of a service's container."""
        labels = (f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        found = self._engine.do("ps", "--all", "--quiet", *filters).split()
        if len(found) != 1:
            raise NotInTime(f"expected one container of {service}, found {len(found)}")
        return found[0]

    def execute(self, service: str, *words: str) -> str:
        """Run a command in a service's container."""
        return self._engine.do("exec", self.container(service), *words)

    def logs(self, service: str, lines: int = 40) -> str:
        """The last lines of a service's log, both streams."""
        return engines.run(
            ["sh", "-c", 'exec "$@" 2>&1', "sh", self._engine.name, "logs", f"--tail={lines}", self.container(service)],
            seconds=60,
        )

    def restart(self, service: str) -> None:
        """Stop a container as its stop signal asks, and start it again."""
        self._engine.do("restart", "-t", "40", self.container(service), seconds=RESTART_SECONDS)

    def kill(self, service: str) -> str:
        """Kill the container's first process, as an out-of-memory killer would; its restart policy brings it back.

        Returns:
            How it came back, in words.
        """
        container = self.container(service)
        before = self._pid(container)
        try:
            os.kill(before, signal.SIGKILL)
        except PermissionError:  # an engine of another user: `kill` counts as a wish to stop, so it must be started
            self._engine.do("kill", container)
            self._engine.do("start", container)
            return "killed and started by the engine"
        with contextlib.suppress(NotInTime):
            wait(
                "its restart", lambda: self._engine.inspect(container)["State"]["Pid"] not in {0, before}, BACK_SECONDS
            )
            return "back by its restart policy"
        self._engine.do("start", container)
        return f"not back within {BACK_SECONDS:.0f} s, so it was started"

    def healthy(self, service: str) -> bool:
        """Whether the service's own health check, run now, is content."""
        test = self._engine.inspect(self.container(service))["Config"]
        check = (test.get("Healthcheck") or test.get("HealthCheck"))["Test"]
        words = check[1:] if check[0] == "CMD" else ["sh", "-c", check[1]]
        try:
            self.execute(service, *words)
        except engines.CommandFailed:
            return False
        return True

    def ready(self) -> bool:
        """Whether the prediction server says so on its published HTTP port."""
        return bool(self._page("/readyz"))

    def metrics(self) -> str:
        """What the prediction server tells Prometheus; empty when nobody answers."""
        return self._page("/metrics")

    def prepare_drops(self, program: str) -> None:
        """Have the digits made inside the pipelines image, and put them in order."""
        archive = self._drops / "digits.tar"
        container = ["run", "--rm", "--network=none", "calotype-pipelines", "python3", "-c", program]
        engines.run(
            ["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", str(archive), self._engine.name, *container],
            seconds=120,
        )
        with tarfile.open(archive) as tar:
            tar.extractall(self._drops, filter="data")
        (self._drops / "held").rename(self.held)

    def drop(self, number: int) -> int:
        """Let the images of one drop fall into the inbox, each in one step; returns how many."""
        files = sorted((self._drops / str(number)).rglob("*.png"))
        for file in files:
            folder = self.inbox / file.parent.name
            folder.mkdir(mode=0o755, exist_ok=True)
            file.rename(folder / file.name)
        return len(files)

    def _page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
        except OSError:  # also for a status that is no success
            return ""
        return text

    def _pid(self, container: str) -> int:
        return int(self._engine.inspect(container)["State"]["Pid"])

    def _compose(self, *words: str) -> None:
        command = [*self._engine.compose, "-p", PROJECT, "-f", str(ROOT / "docker-compose.yml"), *words]
        engines.run(command, seconds=RESTART_SECONDS, environment=self._environment)


def wait(what: str, come: Callable[[], bool], seconds: float) -> float:
    """Look every quarter of a second until something is true.

    Returns:
        The seconds it took.

    Raises:
        NotInTime: it took more than `seconds`.
    """
    begun = time.monotonic()
    while not come():
        if time.monotonic() - begun > seconds:
            raise NotInTime(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.25)
    return time.monotonic() - begun


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    with contextlib.ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in found]
