"""Starts a firing in a process of its own, and ends it when it must; knows what it says and not what it does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from pipelines.timetable import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

GRACE_SECONDS = 6.0
DIED = "its process ended without a word (exit status {status}): it was killed, or memory ran out"


class FiringProcess:
    """The process of one firing, from its construction to `result` or `end`.

    Args:
        flow_run: the id of Prefect's flow run.
        environment: of the process.
    """

    def __init__(self, flow_run: str, environment: Mapping[str, str]) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "pipelines.firing", flow_run],
            env=dict(environment),
            stdin=subprocess.PIPE,  # closes when this process dies, and then that one ends too
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches the terminal's group; this process decides
        )

    def result(self, patience_seconds: float) -> Result | None:
        """How it ended; None: it is still at work after so long."""
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            return None
        seconds = time.monotonic() - self._began
        said = self._last_words()
        try:
            return Result(**json.loads(said))
        except (ValueError, TypeError):
            reason = DIED.format(status=self._process.returncode)
            return Result(end="failed", reason=reason, passing=True, seconds=seconds)

    def end(self) -> None:
        """End it, within seconds; may be called when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._last_words()

    def _last_words(self) -> bytes:
        if self._process.stdout is None or self._process.stdin is None:
            raise AssertionError("both were asked for")
        if self._process.stdout.closed:
            return b""
        with self._process.stdin, self._process.stdout:
            return self._process.stdout.read()
