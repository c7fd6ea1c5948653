"""What was looked at and what was seen, line by line as it comes; knows nothing of containers."""

from __future__ import annotations

import sys
import time


class Report:
    """Prints checks with their times.

    Mutable state: how many failed.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.failed = 0

    def title(self, text: str) -> None:
        """A new part begins."""
        self._print(f"\n{self._clock()}  {text}")

    def check(self, what: str, seen: object, *, good: bool) -> None:
        """One truth that was looked at, and what was seen."""
        self.failed += not good
        self._print(f"{self._clock()}    {'ok    ' if good else 'FAILED'}  {what:<62}  {seen}")

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
