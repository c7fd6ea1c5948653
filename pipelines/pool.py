"""Chunks through worker processes; a file that kills its process is found and set aside.

Processes are spawned, never forked, because the caller may have threads. They write chunks, and a thread of the
caller's publishes them: it waits for the disk while they compute. Knows no images.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pipelines.journal import Chunk, give_up, publish, write_chunk
from pipelines.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Work = Callable[[Chunk], Path]

WORTH_A_WORKER_SECONDS = 0.5  # about what a process needs to start
_AHEAD_OF_THE_DISK = 4  # chunks of each process at most that are under way: it waits for a disk that is slower
_SECONDS_PER_FILE = 60e-6
_SECONDS_PER_BYTE = 40e-9  # of an encoded file


def worker_count(*, files: int, size_bytes: int, cpus: Callable[[], int] | None = None) -> int:
    """How many processes are worth starting for so many files of so many bytes in all; 0: none but this one.

    Args:
        files: to be read.
        size_bytes: of them all.
        cpus: how many there are to use; by default those that this process may have, its cgroup's quota included.
    """
    useful = int(expected_seconds(files=files, size_bytes=size_bytes) / WORTH_A_WORKER_SECONDS)
    return 0 if useful < 1 else min((cpus or _available_cpus)(), useful + 1)


def expected_seconds(*, files: int, size_bytes: int) -> float:
    """About how long one process takes for so many files of so many bytes in all."""
    return files * _SECONDS_PER_FILE + size_bytes * _SECONDS_PER_BYTE


def _available_cpus() -> int:
    from serving.session import available_cpus  # noqa: PLC0415 - onnxruntime: not in every process that decodes

    return available_cpus()


class Staff:
    """The processes of one ingest on this machine; a context manager that ends them.

    They take longer to start than a thousand files to read, so they are started while the source is still listed.
    Mutable: the processes, from the moment at which it is worth having some, the chunks that were begun with them, and
    those of these that wait.

    Args:
        workers: how many; None: as many as are worth it.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers
        self._press: _Press | None = None
        self._begun: dict[Future[Path], Chunk] = {}
        self._waiting: list[Future[Path]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.recall()
        if self._press is not None:
            self._press.end(wait=True)
            self._press = None

    def worth(self, *, files: int, size_bytes: int) -> int:
        """How many processes so much work is given."""
        return worker_count(files=files, size_bytes=size_bytes) if self._workers is None else self._workers

    def expect(self, files: int, size_bytes: int) -> None:
        """Start the processes in the background, if so much work, or more, is to come; may be called again."""
        workers = self.worth(files=files, size_bytes=size_bytes)
        if self._press is None and workers > 1 and not _may_start_none():
            with suppress(OSError):  # `run` tries again, and says it
                self._press = _Press(workers)
                self._press.start()

    def has_room(self) -> bool:
        """Whether a chunk that is begun now would soon be worked at."""
        self._waiting = [future for future in self._waiting if not future.done()]
        return self._press is not None and len(self._waiting) <= self._press.workers

    def begin(self, chunk: Chunk) -> bool:
        """Have a chunk written and published, for `run` to tell of; no, if that can't be: then nothing was begun."""
        if self._press is None:
            return False
        with suppress(BrokenProcessPool, OSError):
            future = self._press.submit(chunk, work=write_chunk)
            self._begun[future] = chunk
            self._waiting.append(future)
            return True
        return False

    def recall(self) -> None:
        """Forget what was begun: nobody works at it any more when this returns, and what is ready is published.

        The processes end with it; `run` starts others.
        """
        if self._press is not None and self._begun:
            self._press.end(wait=True)
            self._press = None
        self._begun, self._waiting = {}, []

    def run(self, chunks: Sequence[Chunk]) -> Iterator[Path]:
        """As `run_chunks`, the chunks that were begun included; the processes end with the last chunk."""
        size_bytes = sum(size for chunk in chunks for size, _ in chunk.stamps)
        workers = self.worth(files=sum(len(chunk.names) for chunk in chunks), size_bytes=size_bytes)
        press, self._press = self._press, None
        begun, self._begun, self._waiting = self._begun, {}, []
        yield from run_chunks(chunks, workers=workers, press=press, begun=begun)


class _Press:
    """Processes that write chunks, and a thread that publishes them in their order.

    Args:
        workers: how many processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._writers = _executor(workers)
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publish")

    def start(self) -> None:
        """Have the processes load all that decoding needs."""
        for _ in range(self.workers):
            self._writers.submit(_loaded)

    def submit(self, chunk: Chunk, *, work: Work) -> Future[Path]:
        """Where the chunk will lie when it is published."""
        written = self._writers.submit(work, chunk)
        return self._publisher.submit(_publish_when_written, written)

    def end(self, *, wait: bool) -> None:
        """Write no chunk that isn't begun, publish those that are written; processes may end later than this."""
        self._writers.shutdown(wait=wait, cancel_futures=True)
        self._publisher.shutdown(wait=True)


def _publish_when_written(written: Future[Path]) -> Path:
    return publish(written.result())


def run_chunks(
    chunks: Sequence[Chunk],
    *,
    workers: int,
    work: Work = write_chunk,
    press: _Press | None = None,
    begun: Mapping[Future[Path], Chunk] | None = None,
) -> Iterator[Path]:
    """Where every chunk lies when it is written and published, in the order in which they are ready.

    Args:
        chunks: each small enough for one task.
        workers: processes; with one or none the work is done in this one.
        work: what writes a chunk, for `journal.publish`; picklable, and safe to do again.
        press: so many processes, if they were started already; they are ended here.
        begun: chunks that they work at already.

    Raises:
        OSError: a chunk's outcome can't be written.
    """
    if press is None and (workers <= 1 or _may_start_none() or len(chunks) == 1):
        for chunk in chunks:
            yield publish(work(chunk))
        return
    left = dict.fromkeys([*(begun or {}).values(), *chunks])
    try:
        for chunk, path in _together(chunks, press=press or _Press(workers), work=work, begun=begun or {}):
            del left[chunk]
            yield path
    except BrokenProcessPool:
        for chunk in left:
            yield from _carefully(chunk, work=work)


def _loaded() -> None:
    """Nothing: to find it here, a process has to load all that decoding needs."""


def _may_start_none() -> bool:
    return multiprocessing.current_process().daemon


def _executor(workers: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=die_with_parent)


def _together(
    chunks: Sequence[Chunk], *, press: _Press, work: Work, begun: Mapping[Future[Path], Chunk]
) -> Iterator[tuple[Chunk, Path]]:
    waiting = deque(chunks)
    pending = dict(begun)
    try:
        while waiting or pending:
            while waiting and len(pending) < _AHEAD_OF_THE_DISK * press.workers:
                chunk = waiting.popleft()
                pending[press.submit(chunk, work=work)] = chunk
            ready, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in sorted(ready, key=lambda future: future.exception() is not None):
                yield pending.pop(future), future.result()
    except BaseException:
        press.end(wait=True)
        raise
    press.end(wait=False)  # they end while the caller goes on


def _carefully(chunk: Chunk, *, work: Work) -> Iterator[Path]:
    """A chunk by itself; one that kills its process in halves, down to the file that does it."""
    try:
        for _, path in _together([chunk], press=_Press(1), work=work, begun={}):
            yield path
    except BrokenProcessPool:
        if len(chunk.names) == 1:
            yield publish(give_up(chunk, "the decoder crashed on it"))
            return
        half = len(chunk.names) // 2
        for part in (slice(None, half), slice(half, None)):
            first = chunk.first + (part.start or 0)
            smaller = replace(
                chunk, names=chunk.names[part], paths=chunk.paths[part], stamps=chunk.stamps[part], first=first
            )
            yield from _carefully(smaller, work=work)
