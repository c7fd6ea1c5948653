"""Progress bars on the terminal for whatever takes longer than a second; elsewhere a line now and then.

Knows rich and nothing of what is being done. Everything goes to stderr: stdout carries results.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rich.progress import TaskID


NARROWEST = 110
SILENCE_SECONDS = 10.0


def stderr_console() -> Console:
    """Where everything that is no result goes; wide enough for a table where there is no terminal to ask."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal else Console(stderr=True, highlight=False, width=NARROWEST)


class ProgressBars:
    """One bar per stage, in the order in which the stages first report; a context manager that takes the screen.

    Mutable state: the stages' bars and starting times, and when a line was last printed. Threads may report at once.

    Args:
        console: where to draw; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or stderr_console()
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._stages: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._said = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, title: str) -> None:
        """Start a new list of stages below a title; the bars above stay as they are."""
        with self._lock:
            self._stages.clear()
            self._began.clear()
            self._bars.console.print(f"[bold]{title}", highlight=False)

    def tell(self, line: str) -> None:
        """Print a line of its own."""
        with self._lock:
            self._say(line)

    def report(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Say how far a stage is.

        Args:
            stage: its name, as it is shown.
            done: steps behind it.
            total: steps in all; None: not known yet.
            note: a few words behind the bar, such as the loss.
        """
        with self._lock:
            bar = self._stages.get(stage)
            if bar is None:
                bar = self._stages[stage] = self._bars.add_task(stage, total=total, note=note)
                self._began[stage] = time.monotonic()
            self._bars.update(bar, completed=done, total=total, note=note)
            if not self.console.is_terminal and time.monotonic() - self._said > SILENCE_SECONDS:
                self._say(f"{stage}: {done} of {total or '?'} {note}")
            if total is not None and done >= total and stage in self._began:
                seconds = time.monotonic() - self._began.pop(stage)
                if not self.console.is_terminal:
                    self._say(f"{stage}: {done} in {seconds:.1f} s {note}")

    def _say(self, line: str) -> None:
        """A line where there are no bars."""
        self.console.print(line.rstrip(), markup=False)  # a label may look like markup
        self._said = time.monotonic()
