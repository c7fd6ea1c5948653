"""The rows that wait for one model, and which of them go into its next call: decisions only.

Knows no thread, no lock and no model: one synchronous method, `take`, looks at the state, moves it and
returns the work that is due; `serving.batcher` does that work and holds the lock. Time is an argument.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.errors import BadInput, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    Each = Callable[[Mapping[str, NDArray[Any]]], list[Any]]
    """Makes one thing per row of a call's outputs."""

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How batches are made and how much may wait.

    Args:
        max_batch_rows: the most rows in one call; larger requests are split and joined again.
        max_wait_ms: how long an idle executor leaves the oldest row waiting for company; 0: not at all.
        max_queue_rows: the most rows waiting.
        max_queue_bytes: the most bytes of inputs waiting.
        preferred_rows: sizes at which a batch is cut, and started without waiting longer.
        joins: False for a model that doesn't compute row by row: each request is one call, counted as one row.
    """

    max_batch_rows: int = 64
    max_wait_ms: float = 0.0
    max_queue_rows: int = 2048
    max_queue_bytes: int = 2**28
    preferred_rows: tuple[int, ...] = ()
    joins: bool = True


@dataclass(slots=True, eq=False)
class Request:
    """What one caller asked for; mutable under the batcher's lock.

    Args:
        feeds: the inputs, each with its rows first.
        outputs: the wanted ones; none: all.
        deadline: on the batcher's clock.
        future: resolved exactly once, by whoever `settle`s first.
        each: makes one thing per row of a call's outputs; None: the rows stay in the outputs.
        make: what the future becomes, of the things or the outputs; None: those.
    """

    feeds: Arrays
    outputs: tuple[str, ...]
    deadline: float | None
    future: Any
    each: Each | None = None
    make: Callable[[Any], Any] | None = None
    arrived: float = 0.0
    rows: int = 0
    settled: bool = False
    queued: dict[int, Piece] = field(default_factory=dict)  # those not taken yet
    answers: list[Any] = field(default_factory=list)  # one per piece, None until it is computed

    def settle(self) -> bool:
        """True for the first who asks: that one resolves the future, and nobody else does."""
        first, self.settled = not self.settled, True
        return first


@dataclass(slots=True, eq=False)
class Piece:
    """Rows of one request that are computed in one call."""

    request: Request
    index: int
    feeds: Arrays
    rows: int
    size_bytes: int
    bucket: tuple[object, ...]
    number: int


@dataclass(slots=True)  # one per call: a frozen one takes several times as long to make
class Batch:
    """One model call that is due."""

    pieces: tuple[Piece, ...]
    rows: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """The wanted ones, the same for all its requests."""
        return self.pieces[0].request.outputs

    @property
    def bucket(self) -> tuple[object, ...]:
        """That of all its rows."""
        return self.pieces[0].bucket

    @property
    def alike(self) -> bool:
        """Whether other calls of its bucket should take as long per row: not where a row may have any size."""
        return bool(self.bucket) and not any(array.dtype.hasobject for array in self.pieces[0].feeds.values())

    def feeds(self) -> Arrays:
        """The call's inputs; a request that fills the batch alone isn't copied."""
        if len(self.pieces) == 1:
            return self.pieces[0].feeds
        return {name: np.concatenate([piece.feeds[name] for piece in self.pieces]) for name in self.pieces[0].feeds}

    def split(self, answer: Mapping[str, NDArray[Any]]) -> list[Any]:
        """What the call's outputs are to each piece: views, or what its request makes of each row.

        Requests that make the same of their rows, by the same function, have it made of all rows at once.
        """
        each = self.pieces[0].request.each
        for piece in self.pieces:
            if piece.request.each is not each:
                return [_made(piece, part) for piece, part in zip(self.pieces, self._views(answer), strict=True)]
        if each is None:
            return self._views(answer)
        made = each(answer)
        if len(self.pieces) == 1:
            return [made]
        parts, start = [], 0
        for piece in self.pieces:
            end = start + piece.rows
            parts.append(made[start:end])
            start = end
        return parts

    def _views(self, answer: Mapping[str, NDArray[Any]]) -> list[Any]:
        if len(self.pieces) == 1:
            return [dict(answer)]
        parts, start = [], 0
        for piece in self.pieces:
            end = start + piece.rows
            parts.append({name: array[start:end] for name, array in answer.items()})
            start = end
        return parts


def _made(piece: Piece, part: Arrays) -> Any:
    each = piece.request.each
    return part if each is None else each(part)


@dataclass(slots=True)  # one per look, as above
class Due:
    """What `take` found.

    Args:
        batch: to be computed now, if any.
        expired: requests whose deadline passed while they waited; the taker settles them.
        look_again: when a batch that is filling will be due at the latest; None: only a new arrival matters.
    """

    batch: Batch | None
    expired: tuple[Request, ...] = ()
    look_again: float | None = None


class RowQueue:
    """Bounded, first come first served by bucket; a bucket holds rows of one shape, dtype and wanted outputs."""

    # Mutable: `_buckets` (no empty ones; pieces in order of arrival, by number), `rows` and `bytes` (sums over
    # them), `_numbers`. Whoever calls holds the batcher's lock.

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.rows = 0
        self.bytes = 0
        self._buckets: dict[tuple[object, ...], OrderedDict[int, Piece]] = {}
        self._numbers = 0

    def __repr__(self) -> str:
        waiting = ", ".join(str([piece.rows for piece in bucket.values()]) for bucket in self._buckets.values())
        return f"RowQueue({self.rows} rows, {self.bytes} bytes: {waiting or 'empty'})"

    @property
    def buckets(self) -> Iterable[tuple[object, ...]]:
        """Those in which rows wait."""
        return self._buckets

    def put(self, request: Request, *, now: float, retry_after_ms: Callable[[], int] = lambda: 50) -> None:
        """Accept a request.

        Raises:
            BadInput: inputs without rows, with different numbers of rows, or more than may ever wait.
            Overloaded: full at the moment; nothing was changed.
        """
        limits = self.limits
        rows, size_bytes, bucket = _measured(request, joins=limits.joins)
        if self.rows + rows > limits.max_queue_rows or self.bytes + size_bytes > limits.max_queue_bytes:
            self._refuse(rows, size_bytes, retry_after_ms())
        request.rows, request.arrived = rows, now
        waiting = self._buckets.get(bucket)
        if waiting is None:
            waiting = self._buckets[bucket] = OrderedDict()
        if rows <= limits.max_batch_rows:
            number = self._numbers
            request.answers = [None]
            request.queued[number] = waiting[number] = Piece(
                request, 0, request.feeds, rows, size_bytes, bucket, number
            )
            self._numbers = number + 1
            self.rows += rows
            self.bytes += size_bytes
            return
        for index, (feeds, count) in enumerate(self._split(request.feeds, rows)):
            share = size_bytes * count // rows
            self._add(waiting, Piece(request, index, feeds, count, share, bucket, self._numbers))

    def _add(self, waiting: OrderedDict[int, Piece], piece: Piece) -> None:
        request, number = piece.request, piece.number
        request.answers.append(None)
        request.queued[number] = waiting[number] = piece
        self._numbers = number + 1
        self.rows += piece.rows
        self.bytes += piece.size_bytes

    def remove(self, request: Request) -> None:
        """Forget what still waits of a request: its caller hung up, or a part of it failed."""
        for piece in list(request.queued.values()):
            self._pop(piece)

    def clear(self) -> list[Request]:
        """Forget everything that waits, and return whose it was."""
        requests = {piece.request: None for bucket in self._buckets.values() for piece in bucket.values()}
        for request in requests:
            self.remove(request)
        return list(requests)

    def take(self, *, now: float, hurry: bool = False) -> Due:
        """The batch that is due, for an executor that is idle.

        Of the buckets that are due, the one whose oldest row came first goes first, so none starves.

        Args:
            now: on the clock of the deadlines.
            hurry: don't let batches fill: nobody else will come.
        """
        expired = self._expire(now)
        look_again: float | None = None
        chosen: list[Piece] = []
        rows = 0
        for bucket in self._buckets.values():
            head = next(iter(bucket.values()))
            if chosen and chosen[0].number < head.number:
                continue
            pieces, full = self._fill(bucket)
            due_at = head.request.arrived + self.limits.max_wait_ms / 1000
            if full or hurry or due_at <= now:
                chosen = pieces
            elif look_again is None or due_at < look_again:
                look_again = due_at
        if not chosen:
            return Due(None, expired, look_again)
        for piece in chosen:
            rows += piece.rows
            self._pop(piece)
        return Due(Batch(tuple(chosen), rows), expired, look_again)

    def _fill(self, bucket: OrderedDict[int, Piece]) -> tuple[list[Piece], bool]:
        """The pieces of the next batch from this bucket, and whether waiting could make it no better."""
        pieces: list[Piece] = []
        rows, preferred = 0, 0
        for piece in bucket.values():
            if rows + piece.rows > self.limits.max_batch_rows or (pieces and not self.limits.joins):
                return (pieces[:preferred] or pieces), True
            pieces.append(piece)
            rows += piece.rows
            if rows in self.limits.preferred_rows:
                preferred = len(pieces)
        full = rows == self.limits.max_batch_rows or not self.limits.joins
        return (pieces if full else pieces[:preferred] or pieces), full or preferred > 0

    def _expire(self, now: float) -> tuple[Request, ...]:
        """Remove the requests whose deadline passed, from the head of each bucket as far as a batch reaches."""
        expired: dict[Request, None] = {}
        for bucket in self._buckets.values():
            rows = 0
            for piece in bucket.values():
                deadline = piece.request.deadline
                if deadline is not None and deadline <= now:
                    expired[piece.request] = None
                    continue
                rows += piece.rows
                if rows >= self.limits.max_batch_rows:
                    break
        for request in expired:
            self.remove(request)
        return tuple(expired)

    def _refuse(self, rows: int, size_bytes: int, retry_after_ms: int) -> None:
        limits = self.limits
        for count, waiting, limit, name in (
            (rows, self.rows, limits.max_queue_rows, "max_queue_rows"),
            (size_bytes, self.bytes, limits.max_queue_bytes, "max_queue_bytes"),
        ):
            if count > limit:
                raise BadInput(
                    f"A request may bring at most {limit} {name.rsplit('_', 1)[1]} ({name}): send it in parts, or have "
                    f"the server started with a larger --{name.replace('_', '-')}. Received: {count}"
                )
            if waiting + count > limit:
                raise Overloaded(
                    f"The queue is full: {waiting} of {limit} {name.rsplit('_', 1)[1]} ({name}) are waiting. "
                    f"Try again in {retry_after_ms} ms.",
                    retry_after_ms=retry_after_ms,
                )

    def _split(self, feeds: Arrays, rows: int) -> list[tuple[Arrays, int]]:
        most = self.limits.max_batch_rows
        return [
            ({name: array[start : start + most] for name, array in feeds.items()}, min(most, rows - start))
            for start in range(0, rows, most)
        ]

    def _pop(self, piece: Piece) -> None:
        bucket = self._buckets[piece.bucket]
        del bucket[piece.number], piece.request.queued[piece.number]
        if not bucket:
            del self._buckets[piece.bucket]
        self.rows -= piece.rows
        self.bytes -= piece.size_bytes


def _rows(feeds: Arrays) -> int:
    counts = {name: (array.shape[0] if array.ndim else None) for name, array in feeds.items()}
    different = set(counts.values())
    if len(different) != 1 or different & {None, 0}:
        raise BadInput(
            "Every input needs the same number of rows, at least 1, as its first dimension. Received: "
            + (", ".join(f"{name}={count}" for name, count in counts.items()) or "no inputs")
        )
    return int(next(iter(feeds.values())).shape[0])


def _size_bytes(feeds: Arrays) -> int:
    total = 0
    for array in feeds.values():
        total += _bytes(array)
    return total


def _bytes(array: NDArray[Any]) -> int:
    if array.dtype != object:
        return array.nbytes
    return array.nbytes + sum(map(sys.getsizeof, array.ravel().tolist()))  # a letter is up to four bytes, in an object


def _measured(request: Request, *, joins: bool) -> tuple[int, int, tuple[object, ...]]:
    """A request's rows, bytes and bucket; raises BadInput for inputs that have no rows in common."""
    feeds = request.feeds
    if not joins:
        return 1, _size_bytes(feeds), ()
    if len(feeds) == 1:  # by far the most are like this, and pay for no more than this
        ((name, array),) = feeds.items()
        shape, dtype = array.shape, array.dtype
        if shape and shape[0] and not dtype.hasobject:
            return shape[0], array.nbytes, (request.outputs, name, dtype, shape[1:])
    return _rows(feeds), _size_bytes(feeds), _bucket(request)


def _bucket(request: Request) -> tuple[object, ...]:
    feeds = request.feeds
    return (request.outputs, *((name, feeds[name].dtype, feeds[name].shape[1:]) for name in sorted(feeds)))
