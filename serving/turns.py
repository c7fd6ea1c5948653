"""Long work in turns: threads that give every job a slice, so that nobody waits behind one caller's heap; knows no job.

The threads are daemons of our own: those of a ThreadPoolExecutor are joined at the interpreter's exit, however long
their work takes.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serving.calls import Answer
from serving.errors import Draining

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

Made = TypeVar("Made")

_SLICE_SECONDS: Final = 0.005


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Job:
    """Steps, and what waits for their result."""

    steps: Generator[None, None, Any]
    answer: Answer[Any]


class Turns:
    """Does jobs made of steps: a slice of one, then a slice of another.

    Jobs that have just come take turns with those that have had a slice already: short ones are done at once, long ones
    never starve. Between two steps a job is dropped if its caller hung up.

    Args:
        threads: how many jobs are worked on at once.
        name: of the threads, for debuggers.
        slice_seconds: after so long, at the end of a step, it is another job's turn.
        clock: that of the slices.
    """

    # Mutable, under `_changed`: `_fresh` and `_begun`, the jobs that no thread has in its hands; `_begun_next`, whose
    # turn it is; `_threads`, made with the first job; `_closed`.

    def __init__(
        self,
        threads: int,
        *,
        name: str,
        slice_seconds: float = _SLICE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = threads
        self._name = name
        self._slice_seconds = slice_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._fresh: deque[_Job] = deque()
        self._begun: deque[_Job] = deque()
        self._begun_next = False
        self._threads: list[threading.Thread] = []
        self._closed = False

    def add(self, steps: Generator[None, None, Made]) -> Future[Made]:
        """What `steps` returns, once it is its turn; never blocks. Cancelling it drops the job at its next step.

        Raises:
            Draining: closed.
        """
        job: _Job = _Job(steps, Answer())
        with self._changed:
            if self._closed:
                raise _draining()
            while len(self._threads) < self._count:
                self._threads.append(
                    threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                )
                self._threads[-1].start()
            self._fresh.append(job)
            self._changed.notify()
        waiting = weakref.ref(job)  # a circle would keep what was made until the garbage collector comes

        def drop(done: Future[Any]) -> None:
            left = waiting()
            if done.cancelled() and left is not None:
                self._drop(left)

        answer = job.answer
        answer.add_done_callback(drop)
        return answer

    def close(self, wait_seconds: float) -> None:
        """Fail what waits, and what is in work at its next step; wait so long for the threads. May be called twice."""
        with self._changed:
            self._closed = True
            left = [*self._fresh, *self._begun]
            self._fresh.clear()
            self._begun.clear()
            self._changed.notify_all()
        for job in left:
            job.answer.fail(_draining())
        end = time.monotonic() + wait_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if self._slice(job):
                self._put_back(job)
            del job  # or it would be kept, with all its files, until another comes

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._fresh and not self._begun:
                if self._closed:
                    return None
                self._changed.wait()
            first, other = (self._begun, self._fresh) if self._begun_next else (self._fresh, self._begun)
            self._begun_next = not self._begun_next
            return (first or other).popleft()

    def _slice(self, job: _Job) -> bool:
        """Whether steps are left."""
        end = self._clock() + self._slice_seconds
        try:
            while not self._closed and not job.answer.cancelled():
                next(job.steps)
                if self._clock() >= end:
                    return True
            job.steps.close()
            job.answer.fail(_draining())  # or its caller hung up, and it isn't told
        except StopIteration as last:
            job.answer.succeed(last.value)
        except Exception as error:  # noqa: BLE001 whoever waits gets it
            job.answer.fail(error)
        return False

    def _put_back(self, job: _Job) -> None:
        with self._changed:
            closed = self._closed
            if not closed and not job.answer.cancelled():
                self._begun.append(job)
                self._changed.notify()
        if closed:
            job.answer.fail(_draining())

    def _drop(self, job: _Job) -> None:
        """Let go at once of a job that nobody waits for; a thread that has it in its hands notices by itself."""
        with self._changed:
            for waiting in (self._fresh, self._begun):
                if job in waiting:
                    waiting.remove(job)


def _draining() -> Draining:
    return Draining("The server is stopping: send the request to another.")
