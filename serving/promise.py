"""A future that costs little to make: it makes what a waiting thread needs when one waits.

The one of concurrent.futures has a lock and a condition of its own from the start, which a call that nobody waits for
pays as much for as for its place in the queue.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Made = TypeVar("Made")

_PENDING: Final = 0
_RUNNING: Final = 1
_CANCELLED: Final = 2
_NOTIFIED: Final = 3  # cancelled, and whoever works for it knows
_FINISHED: Final = 4

# Held for a few assignments at a time, so that one does for all. Whoever holds it may be interrupted by a collection
# that ends another promise, hence R.
_lock: Final = threading.RLock()

_log = logging.getLogger("concurrent.futures")


class Promise(Future[Made]):
    """As `concurrent.futures.Future`, for callbacks, `result` and asyncio; not for `wait` and `as_completed`.

    Mutable, under `_lock`: `_at`, `_value`, `_error`, `_callbacks` (None: they were called).
    """

    def __init__(self) -> None:
        # Not Future's own, which makes what this class is to save.
        self._at = _PENDING
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[Made]], object]] | None = []

    def __repr__(self) -> str:
        return f"<Promise {('pending', 'running', 'cancelled', 'cancelled', 'finished')[self._at]}>"

    def cancel(self) -> bool:
        """As Future's."""
        with _lock:
            if self._at in (_RUNNING, _FINISHED):
                return False
            if self._at != _PENDING:
                return True
            self._at = _CANCELLED
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            self._call(callbacks)
        return True

    def cancelled(self) -> bool:
        """As Future's."""
        return self._at in (_CANCELLED, _NOTIFIED)

    def running(self) -> bool:
        """As Future's."""
        return self._at == _RUNNING

    def done(self) -> bool:
        """As Future's."""
        return self._at >= _CANCELLED

    def result(self, timeout: float | None = None) -> Made:
        """As Future's."""
        if self._at != _FINISHED:
            self._wait(timeout)
        if self._error is None:
            made: Made = self._value
            return made
        try:
            raise self._error
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642  # else the error's traceback would hold this

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As Future's."""
        if self._at != _FINISHED:
            self._wait(timeout)
        return self._error

    def add_done_callback(self, fn: Callable[[Future[Made]], object]) -> None:
        """As Future's."""
        with _lock:
            if self._callbacks is not None:
                self._callbacks.append(fn)
                return
        self._call([fn])

    def set_running_or_notify_cancel(self) -> bool:
        """As Future's."""
        with _lock:
            if self._at == _CANCELLED:
                self._at = _NOTIFIED
                return False
            if self._at != _PENDING:
                raise InvalidStateError(f"{self!r} is no longer pending")
            self._at = _RUNNING
            return True

    def set_result(self, result: Made) -> None:
        """As Future's."""
        with _lock:
            if self._at > _RUNNING:
                raise InvalidStateError(f"{self!r} is no longer pending")
            self._value = result
            self._at = _FINISHED
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            self._call(callbacks)

    def set_exception(self, exception: BaseException | None) -> None:
        """As Future's."""
        with _lock:
            if self._at > _RUNNING:
                raise InvalidStateError(f"{self!r} is no longer pending")
            self._error = exception
            self._at = _FINISHED
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            self._call(callbacks)

    def _call(self, callbacks: list[Callable[[Future[Made]], object]]) -> None:
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # noqa: BLE001 as Future does: the others must hear of it too
                _log.exception("exception calling callback for %r", self)

    def _wait(self, timeout: float | None) -> None:
        done = threading.Event()
        self.add_done_callback(lambda _: done.set())
        if not done.wait(timeout):
            raise TimeoutError
        if self.cancelled():
            raise CancelledError
