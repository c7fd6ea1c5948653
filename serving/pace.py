"""How long a model takes per row, for rows of each kind that it was given; knows no model, no thread and no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

_WEIGHT: Final = 0.2  # of the newest call in a running mean
_MOST_KINDS: Final = 128


class Pace:
    """Running means of the seconds per row: of each kind of rows, such as those of one shape, and of all.

    Not locked, its owner is. Mutable: `seconds`, of all kinds together, 0.0 before the first call; `_kinds`, which
    forgets the one that came first when there are too many.
    """

    __slots__ = ("_kinds", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._kinds: dict[Hashable, float] = {}

    def add(self, kind: Hashable, seconds: float) -> None:
        """A call with rows of this kind took so long per row."""
        self.seconds = _mean(self.seconds or seconds, seconds)
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            known = seconds
        self._kinds[kind] = _mean(known, seconds)

    def forget(self, kind: Hashable) -> None:
        """A call with rows of this kind failed: nothing is known of the next one."""
        self._kinds.pop(kind, None)

    def slowest(self, kinds: Iterable[Hashable]) -> float | None:
        """The seconds per row of the slowest of these kinds; None: there are none, or one isn't known."""
        slowest: float | None = None
        for kind in kinds:
            seconds = self._kinds.get(kind)
            if seconds is None:
                return None
            if slowest is None or seconds > slowest:
                slowest = seconds
        return slowest


def _mean(mean: float, seconds: float) -> float:
    return mean + _WEIGHT * (seconds - mean)
