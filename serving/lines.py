"""Questions and answers between two processes over a pipe; knows not what is asked."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.errors import CalotypeError, ModelNotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection


class Line:
    """The asking end of a pipe; any thread may ask, one after the other.

    Mutable, under `_lock`: `_asked`, how many questions there were.

    Args:
        connection: owned from now on; whoever answers is at its other end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._asked = 0

    def ask(self, name: str, *arguments: Any, patience_seconds: float | None = None) -> Any:
        """What the other process answers; raises the CalotypeError that it raises.

        Args:
            name: of the question.
            arguments: of it, which can be pickled.
            patience_seconds: how long to wait; None: as long as it takes.

        Raises:
            ModelNotReady: it is gone, or doesn't answer in time.
        """
        if not self._lock.acquire(timeout=-1 if patience_seconds is None else patience_seconds):
            raise ModelNotReady("A process of this server is busy; try again.")
        try:
            good, value = self._exchange(name, arguments, patience_seconds)
        except (EOFError, OSError) as error:
            raise ModelNotReady("A process of this server ended while it was asked; try again.") from error
        finally:
            self._lock.release()
        if good:
            return value
        raise value

    def _exchange(self, name: str, arguments: tuple[Any, ...], patience_seconds: float | None) -> tuple[bool, Any]:
        self._asked += 1
        self._connection.send((self._asked, name, arguments))
        while self._connection.poll(patience_seconds):
            number, good, value = self._connection.recv()
            if number == self._asked:  # an answer to a question before came too late
                return good, value
        raise ModelNotReady("A process of this server doesn't answer; try again.")

    def close(self) -> None:
        """Tell the other end that nothing more is asked."""
        with self._lock:
            self._connection.close()


@dataclass(frozen=True, slots=True)
class Lines:
    """Two pipes to one process, because an order may take as long as a model's loading, and no question waits for that.

    Args:
        questions: answered at once.
        orders: answered when they are carried out.
    """

    questions: Line
    orders: Line

    def close(self) -> None:
        """Tell the other end that nothing more is asked."""
        self.questions.close()
        self.orders.close()


def answer(connection: Connection, answers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer at the other end until nobody asks any more; returns then, with the connection closed."""
    with connection:
        while True:
            try:
                number, name, arguments = connection.recv()
                connection.send((number, *_try(answers[name], arguments)))
            except (EOFError, OSError):
                return


def _try(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, work(*arguments)
    except CalotypeError as error:
        return False, error
    except Exception as error:  # noqa: BLE001 - another process can't be expected to know every class
        return False, RuntimeError(f"{type(error).__name__}: {error}")
