"""What was looked at and what was seen, line by line as it comes; knows nothing of containers."""

from __future__ import annotations

import sys
import time


class Report:
    """Prints checks with their times.

    Mutable state: what failed.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._failed: list[str] = []

    def title(self, text: str) -> None:
        """A new part begins."""
        self._print(f"\n{self._clock()}  {text}")

    def check(self, what: str, seen: object, *, good: bool) -> None:
        """One truth that was looked at, and what was seen."""
        line = f"{self._clock()}    {'ok    ' if good else 'FAILED'}  {what:<62}  {seen}"
        if not good:
            self._failed.append(line)
        self._print(line)

    def end(self) -> bool:
        """Say what failed once more, since a log is often read from its end; returns whether all was good."""
        self.title(f"{len(self._failed)} of the checks failed:" if self._failed else "all good")
        for line in self._failed:
            self._print(line)
        return not self._failed

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """Rows in columns, the first being the heads."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            self._print("          " + "  ".join([row[0].ljust(widths[0]), *cells[1:]]))

    def note(self, text: str) -> None:
        """Something that is no check."""
        self._print(f"{self._clock()}    {text}")

    def _clock(self) -> str:
        return f"[{time.monotonic() - self._start:4.0f} s]"

    @staticmethod
    def _print(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
