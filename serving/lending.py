"""A thread that lends itself to short work when it has nothing else to do: a hop to another costs more than such work.

The thread says so once (`Lender.lend`), submits what it was given to do as anybody does, and whoever it submits to
may find its lender (`current`) and leave work for the moment at which the thread would wait. Knows no work.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_local = threading.local()


class Lender:
    """What one thread has been left to do; that thread's alone.

    Mutable: `due`, work in the order in which it came.
    """

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due: deque[Callable[[], None]] = deque()

    def lend(self) -> None:
        """Lend the calling thread, for as long as it lives."""
        _local.lender = self

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lend the calling thread for as long as this lasts."""
        before = current()
        self.lend()
        try:
            yield
        finally:
            _local.lender = before

    def work(self) -> None:
        """Do what is due now; what that leaves behind comes next time."""
        for _ in range(len(self.due)):
            self.due.popleft()()


def current() -> Lender | None:
    """The lender of the calling thread, if it lends itself."""
    lender: Lender | None = getattr(_local, "lender", None)
    return lender
