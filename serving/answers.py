"""What a caller of the batcher holds, and how it ends: by its own rows' answers, by an error, or by its `cancel()`."""

from __future__ import annotations

from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.promise import Promise

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.row_queue import Request


class RowsAnswer(Promise[Any]):
    """A future that tells the batcher at once when its caller hangs up; pending until it is resolved.

    Mutable: `request`, whose answer it is, while it may be cancelled.

    Args:
        gone: told of the request when its caller hung up.
    """

    def __init__(self, gone: Callable[[Request], None]) -> None:
        super().__init__()
        # Until one is done with the other: a circle would wait for the garbage collector, rows and all.
        self.request: Request | None = None
        self._gone = gone

    def cancel(self) -> bool:
        """Drop what waits of the request; False: it is answered."""
        cancelled = super().cancel()
        request, self.request = self.request, None
        if cancelled and request is not None:
            self._gone(request)
        return cancelled


def resolve(request: Request, error: Exception | None) -> None:
    """Make the answer of what was computed for a request that is settled, or fail it by the error."""
    future: RowsAnswer = request.future
    if error is None:
        try:
            answers = request.answers
            answer = answers[0] if len(answers) == 1 else _joined(answers)
            if request.make is not None:
                answer = request.make(answer)
        except Exception as failure:  # noqa: BLE001 - pieces that don't fit together, or no memory left
            error = failure
    if error is not None:
        fail(future, error)
        return
    future.request = None
    try:
        future.set_result(answer)
    except InvalidStateError:  # its caller hung up just now
        future.set_running_or_notify_cancel()


def fail(future: RowsAnswer, error: Exception) -> None:
    """End a request by an error, unless its caller hung up just now."""
    future.request = None
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _joined(answers: list[Any]) -> Any:
    if isinstance(answers[0], dict):
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return [row for answer in answers for row in answer]
