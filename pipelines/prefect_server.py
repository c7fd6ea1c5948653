"""Prefect's API for a run that nobody gave one: a private server on this machine, as long as the run lasts.

Prefect would start one by itself; that one takes 12 to 25 seconds, outlasts its own time limit on a busy machine,
writes into the user's `~/.prefect` and prints a hundred lines when it ends (docs/decisions/0002). This one is
started while other things load, keeps its home below the user's state folder, logs into a file there, and dies with
its parent.

Run as a module, this file is that server. It imports Prefect only there: the settings must be in the environment
before Prefect is first imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import PipelineError
from serving.urls import masked, scrubbed, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

START_LIMIT_SECONDS = 180.0
STOP_LIMIT_SECONDS = 10.0
PROBE_SECONDS = 10.0
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}
EPHEMERAL = {"PREFECT__SERVER_EPHEMERAL": "1"}


class PrivateServer:
    """One server process, from `start` to `stop`; its address is known once `wait` returns.

    Args:
        home: Prefect's home for it; made when missing. Nobody else may use it meanwhile.
        whole: with its page and its services, of which one turns schedules into runs; without, runs only.
    """

    def __init__(self, home: Path, *, whole: bool = False) -> None:
        self._home = home
        self._log = home / "server.log"
        self._whole = whole
        self._process: subprocess.Popen[str] | None = None
        # Held here, so that a server that died comes back where it was, and calls meanwhile wait instead of failing.
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """Its API's URL, as `PREFECT_API_URL` takes it."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"

    def died(self) -> bool:
        """Whether it was started, not stopped, and is no more."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start the process, for the first time or after it died; returns at once."""
        again = self._process is not None
        self._close_pipes()
        self._home.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **QUIET,
            "PREFECT_HOME": str(self._home),
            **({"PREFECT_UI_STATIC_DIRECTORY": str(self._home / "page")} if self._whole else EPHEMERAL),
        }
        environment.pop("PREFECT_API_URL", None)
        descriptor = self._listener.fileno()
        with self._log.open("a" if again else "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "pipelines.prefect_server", str(descriptor), "whole" if self._whole else "runs"],
                env=environment,
                pass_fds=(descriptor,),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                process_group=0,  # Ctrl-C reaches the terminal's group; this process decides when the server ends
            )

    def wait(self) -> str:
        """Block until the API answers.

        Returns:
            Its URL, as `PREFECT_API_URL` takes it.

        Raises:
            PipelineError: the process ended, or didn't answer within three minutes.
        """
        if self._process is None:
            raise AssertionError("wait comes after start")
        limit = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < limit and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()  # noqa: S310 - our own address
                return self.url
            time.sleep(0.05)
        raise PipelineError(f"Prefect's server did not start; what it said is in {self._log}.")

    def stop(self) -> None:
        """End the process; may be called twice, or without `start`."""
        self._listener.close()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_pipes()
        self._process = None

    def _close_pipes(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


@contextlib.contextmanager
def prefect_environment() -> Iterator[PrivateServer | None]:
    """Make Prefect's environment: the user's API when `PREFECT_API_URL` is set, else a private server.

    Must be entered before Prefect is imported. The server is starting when the block begins: `wait_ready` it.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        _check_answers(os.environ["PREFECT_API_URL"])
        yield None
        return
    # The server is gone before Prefect's last lines could reach it.
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    with _free_home(state_folder()) as home:
        server = PrivateServer(home)
        os.environ["PREFECT_HOME"] = str(home)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def schedule_environment(home: Path) -> Iterator[PrivateServer | None]:
    """Make the environment of a process that keeps a schedule: as `prefect_environment`, for weeks.

    A server that the user named may come later than this process, so nobody looks for it here. A private one is whole,
    has a home that stays with the workspace, and its address is in the environment before it answers.

    Args:
        home: of the private server; the caller sees to it that nobody else uses it.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        yield None
        return
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    os.environ["PREFECT_HOME"] = str(home)
    server = PrivateServer(home, whole=True)
    try:
        server.start()
        os.environ["PREFECT_API_URL"] = server.url
        yield server
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.stop()


def _check_answers(url: str) -> None:
    """See that somebody is at the address that the user named; what they say is Prefect's business.

    Raises:
        PipelineError: nobody answers.
    """
    try:
        health = f"{without_secrets(url).rstrip('/')}/health"  # urllib takes a user for a part of the host
        urllib.request.urlopen(health, timeout=PROBE_SECONDS).close()  # noqa: S310 - the user's own address
    except urllib.error.HTTPError:
        return  # somebody answered, for example to ask for credentials
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = scrubbed(str(getattr(error, "reason", error)), url)
        raise PipelineError(
            f"No Prefect server answers at PREFECT_API_URL={masked(url)} ({said}). "
            "Start it, correct the address, or unset the variable: then this run brings a server of its own."
        ) from error


def wait_ready(server: PrivateServer | None) -> None:
    """Wait for the private server, when there is one, and put its address where Prefect looks for it."""
    if server is not None:
        os.environ["PREFECT_API_URL"] = server.wait()


def state_folder() -> Path:
    """Where the private servers' homes lie: below the user's, so that every workspace finds the tables made."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "calotype" / "prefect"


@contextlib.contextmanager
def _free_home(folder: Path) -> Iterator[Path]:
    """The first home in `folder` that no other process holds: two servers on one SQLite file lock each other out."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1_000):
        with (folder / f"{number}.lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder / str(number)
            return
    raise PipelineError(f"A thousand runs are under way in {folder}; wait for one to end.")


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent closes its end, or dies
    os._exit(0)


def main() -> None:
    """Serve Prefect's API on the listening socket whose number is the first argument; `whole` or `runs` the second."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    listener = socket.socket(fileno=int(sys.argv[1]))
    ephemeral = sys.argv[2] == "runs"

    import uvicorn  # noqa: PLC0415 - only this process needs it
    from prefect.server.api.server import create_app  # noqa: PLC0415 - only this process needs it

    config = uvicorn.Config(create_app(ephemeral=ephemeral), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
