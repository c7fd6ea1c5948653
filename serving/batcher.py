"""Callers' rows -> one call: threads that take what `serving.row_queue` says is due, and resolve futures.

Knows a function, a clock and a queue; no onnx, no grpc. A short call is left to the thread that submitted its rows, if
that lends itself (`serving.lending`): it then stands in for an idle executor. Every accepted future is resolved exactly
once: with its own rows' answers, with its own error, or by its caller's `cancel()`.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from serving import lending
from serving.answers import RowsAnswer, fail, resolve
from serving.errors import BadBundle, BadInput, DeadlineExceeded, Draining, ModelNotReady, Overloaded
from serving.pace import Pace
from serving.priority import step_back
from serving.row_queue import Arrays, Batch, BatchLimits, Due, Request, RowQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from serving.row_queue import Each

    Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], Mapping[str, NDArray[Any]]]

_LEAST_RETRY_MS, _MOST_RETRY_MS = 5, 2000
_SHORT_SECONDS = 0.005  # the longest call that a lent thread makes: it keeps a transport waiting meanwhile


class Batcher:
    """One model's callers on one side, calls of its function on the other.

    Args:
        run: (feeds, wanted outputs) -> outputs, each with as many rows as the feeds; called by one thread per
            executor at a time.
        limits: of batches and of what waits.
        executors: how many calls may run at a time.
        clock: that of the deadlines.
        batch_done: told of each call that answered: rows, queue_seconds (per piece), compute_seconds.
        rejected: told of each request dropped or refused: queue_full, expired or cancelled.
        name: of the threads, for debuggers.
    """

    # Mutable, all of it under `_lock`: `_queue` and the requests in it, `_idle` (executors that wait for a token in
    # `_wake`, less the tokens already there, less those that a lent thread stands in for), `_lent` (those), `_running`
    # (rows being computed), `_pace`, `_closed`.

    def __init__(
        self,
        run: Run,
        *,
        limits: BatchLimits,
        executors: int = 1,
        clock: Callable[[], float] = time.monotonic,
        batch_done: Callable[..., None] | None = None,
        rejected: Callable[..., None] | None = None,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._clock = clock
        self._batch_done = batch_done or _ignore
        self._rejected = rejected or _ignore
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._queue = RowQueue(limits)
        self._idle = 0
        self._lent = 0
        self._running = 0
        self._pace = Pace()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(executors)
        ]

    def __repr__(self) -> str:
        with self._lock:
            state = "closed" if self._closed else "open"
            return f"Batcher({state}, {self._idle} idle, {self._running} rows running, {self._queue!r})"

    @property
    def waiting_rows(self) -> int:
        """Rows accepted and not yet given to the model."""
        return self._queue.rows

    def start(self) -> None:
        """Start the executors' threads."""
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        feeds: Arrays,
        *,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
        each: Each | None = None,
        make: Callable[[Any], Any] | None = None,
    ) -> Future[Any]:
        """Accept rows; never blocks.

        Args:
            feeds: the inputs by name, each with its rows first; not to be changed until the future is done.
            outputs: the wanted ones; none: all.
            deadline: on the batcher's clock; rows that still wait then are not computed.
            each: makes one thing per row of the outputs of a call, in an executor's thread; requests that share a call
                and name the same function have it called once. None: the rows stay in the outputs.
            make: makes the answer of those things or outputs, in an executor's thread; None: they are the answer.

        Returns:
            The answer for these rows. Its `cancel()` says that the caller hung up: what waits is dropped. Its
            callbacks run in an executor's thread, and had better be short.

        Raises:
            BadInput: rows that no waiting will make acceptable.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline is past already.
            ModelNotReady: closed.
        """
        answer = RowsAnswer(self.cancelled)
        request = Request(feeds, tuple(outputs), deadline, answer, each, make)
        answer.request = request
        now = self._clock()
        if deadline is not None and deadline <= now:
            self._rejected(reason="expired")
            raise _expired()
        try:
            self._accept(request, now)
        except Overloaded:
            self._rejected(reason="queue_full")
            raise
        return answer

    def close(self) -> None:
        """Take no more; what was accepted is finished. Doesn't wait; may be called twice, from any thread."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle + self._lent):
                self._wake.put(None)
            self._idle = self._lent = 0

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait, after `close`, until everything accepted is answered; False if it took longer than that."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def abandon(self) -> None:
        """Close, and fail everything that still waits; calls that are running still finish."""
        self.close()
        with self._lock:
            dropped = [request for request in self._queue.clear() if request.settle()]
        for request in dropped:
            fail(request.future, Draining("The server stopped before these rows were computed; try again."))

    def cancelled(self, request: Request) -> None:
        """A caller hung up: what waits of its request is dropped, its neighbours notice nothing."""
        with self._lock:
            first = request.settle()
            self._queue.remove(request)
        if first:
            request.future.set_running_or_notify_cancel()
            self._rejected(reason="cancelled")

    def take(self) -> Due | None:
        """The next batch, for the executor that calls; without one it counts as idle from now on.

        None: closed, and nothing is left to do.
        """
        with self._lock:
            due, expired = self._take()
            if due.batch is None and not self._closed:
                self._idle += 1
            finished = due.batch is None and self._closed
        if expired:
            self._drop(expired)
        return None if finished else due

    def stand_in(self) -> None:
        """One call, in a thread that lent itself in an idle executor's place; what waits then is the executor's."""
        with self._lock:
            due, expired = self._take() if self._lent and self._is_short() else (Due(None), [])
        if expired:
            self._drop(expired)
        if due.batch is not None:
            self.compute(due.batch)
        with self._lock:
            if self._lent:  # else it was closed meanwhile, and the executor is awake
                self._lent -= 1
                self._idle += 1
                if self._queue.rows:
                    self._wake_one()

    def _take(self) -> tuple[Due, list[Request]]:
        """Under the lock: what is due, and whom to tell afterwards that it is too late."""
        due = self._queue.take(now=self._clock(), hurry=self._closed)
        if due.batch is not None:
            self._running += due.batch.rows
            if self._queue.rows:
                self._wake_one()
        return due, [request for request in due.expired if request.settle()] if due.expired else []

    def _drop(self, expired: list[Request]) -> None:
        for request in expired:
            self._rejected(reason="expired")
            fail(request.future, _expired())

    def compute(self, batch: Batch) -> None:
        """Call the model for a batch that `take` gave, and resolve what is complete with it.

        Where it refuses the values, the halves of the batch are tried by themselves, and theirs, until only whoever
        brought those values is left with the error.
        """
        started = self._clock()
        error: Exception | None = None
        parts: list[Any] = []
        try:
            answer = self._run(batch.feeds(), batch.outputs)
            if self._queue.limits.joins:
                _check_rows(answer, batch.rows)
            parts = batch.split(answer)
        except BadInput as refusal:
            if len(batch.pieces) > 1:
                self._part(batch)
                return
            error = refusal
        except Exception as failure:  # noqa: BLE001 - whoever waits gets it
            error = failure
        seconds = self._clock() - started
        with self._lock:
            self._running -= batch.rows
            if error is not None:
                self._pace.forget(batch.bucket)
            elif batch.alike:
                self._pace.add(batch.bucket, seconds / batch.rows)
            done = self._file(batch, parts, failed=error is not None)
        if error is None:
            waited = [started - piece.request.arrived for piece in batch.pieces]
            self._batch_done(rows=batch.rows, queue_seconds=waited, compute_seconds=seconds)
        for request in done:
            resolve(request, error)

    def _part(self, batch: Batch) -> None:
        """Compute a batch in two calls, without those who hung up or failed meanwhile."""
        with self._lock:
            self._pace.forget(batch.bucket)
            pieces = [piece for piece in batch.pieces if not piece.request.settled]
            self._running -= batch.rows - sum(piece.rows for piece in pieces)
        middle = (len(pieces) + 1) // 2
        for half in (pieces[:middle], pieces[middle:]):
            if half:
                self.compute(Batch(tuple(half), sum(piece.rows for piece in half)))

    def _accept(self, request: Request, now: float) -> None:
        with self._lock:
            if self._closed:
                raise ModelNotReady("This version is being unloaded and takes no more calls; try again.")
            self._queue.put(request, now=now, retry_after_ms=self._retry_after_ms)
            lender = lending.current() if self._idle and self._is_short() else None
            if lender is None:
                self._wake_one()
            else:
                self._idle -= 1
                self._lent += 1
        if lender is not None:
            lender.due.append(self.stand_in)

    def _is_short(self) -> bool:
        """Whether the next call is known to be short, by others with such rows, and due at once."""
        queue = self._queue
        limits = queue.limits
        if limits.max_wait_ms:
            return False
        row_seconds = self._pace.slowest(queue.buckets)
        return row_seconds is not None and min(queue.rows, limits.max_batch_rows) * row_seconds <= _SHORT_SECONDS

    def _wake_one(self) -> None:
        if self._idle:
            self._idle -= 1
            self._wake.put(None)

    def _work(self) -> None:
        step_back()
        while self._turn():
            pass

    def _turn(self) -> bool:
        """One look at the queue; a method of its own, so that no array outlives its batch in a waiting thread."""
        due = self.take()
        if due is None:
            return False
        if due.batch is None:
            self._wait(due.look_again)
        else:
            self.compute(due.batch)
        return True

    def _wait(self, look_again: float | None) -> None:
        """Until a token comes or the batch that is filling is due."""
        try:
            self._wake.get(timeout=None if look_again is None else max(0.0, look_again - self._clock()))
        except Empty:
            with self._lock:
                self._leave()

    def _leave(self) -> None:
        """Under the lock: an executor stops waiting although it got no token.

        As many wait as there are tokens, idle ones and lent ones together, and who waits takes one token whosever it
        was meant to be. So where nobody else is counted there is a token for everyone that waits, this one included;
        a look at `_wake` itself would tell nothing, for the others take from it without the lock.
        """
        if self._idle:
            self._idle -= 1
        elif self._lent:
            self._lent -= 1  # it is back: nobody needs to stand in for it
        else:
            self._wake.get_nowait()

    def _file(self, batch: Batch, parts: list[Any], *, failed: bool) -> list[Request]:
        """Put the answers where they belong; returns the requests that are now to be resolved, settled."""
        done = []
        for number, piece in enumerate(batch.pieces):
            request = piece.request
            if failed:
                self._queue.remove(request)
            else:
                request.answers[piece.index] = parts[number]
                if len(request.answers) > 1 and None in request.answers:
                    continue
            if not request.settled:
                request.settled = True
                done.append(request)
        return done

    def _retry_after_ms(self) -> int:
        ahead = (self._queue.rows + self._running) * self._pace.seconds / len(self._threads)
        return int(min(max(ahead * 1000, _LEAST_RETRY_MS), _MOST_RETRY_MS))


def _check_rows(answer: Mapping[str, NDArray[Any]], rows: int) -> None:
    for name, array in answer.items():
        if not array.ndim or array.shape[0] != rows:
            raise BadBundle(
                f"The model's output {name!r} must have one row per input row, here {rows}, so that answers can be "
                f"told apart. Received: shape {list(array.shape)}"
            )


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded("The deadline passed before these rows were computed; allow more time or send fewer rows.")


def _ignore(**_: object) -> None:
    pass
