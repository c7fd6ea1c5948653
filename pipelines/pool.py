"""Chunks through worker processes; a file that kills its process is found and set aside.

Processes are spawned, never forked, because the caller may have threads. Knows no images.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.journal import Chunk, decode_chunk, give_up
from pipelines.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Work = Callable[[Chunk], Path]

WORTH_A_WORKER_SECONDS = 0.5  # about what a process needs to start
_SECONDS_PER_FILE = 60e-6
_SECONDS_PER_BYTE = 40e-9  # of an encoded file


def worker_count(*, files: int, size_bytes: int) -> int:
    """How many processes are worth starting for so many files of so many bytes in all; 0: none but this one."""
    seconds = files * _SECONDS_PER_FILE + size_bytes * _SECONDS_PER_BYTE
    useful = int(seconds / WORTH_A_WORKER_SECONDS)
    return 0 if useful < 1 else min(len(os.sched_getaffinity(0)), useful + 1)


def run_chunks(chunks: Sequence[Chunk], *, workers: int, work: Work = decode_chunk) -> Iterator[Path]:
    """What `work` makes of every chunk, in the order in which it is ready.

    Args:
        chunks: each small enough for one task.
        workers: processes; with one or none the work is done in this one.
        work: picklable, and safe to do again.

    Raises:
        OSError: a chunk's outcome can't be written.
    """
    daemon = multiprocessing.current_process().daemon  # such a process may start no others
    if workers <= 1 or daemon or len(chunks) == 1:
        yield from map(work, chunks)
        return
    left = dict.fromkeys(chunks)
    try:
        for chunk, path in _together(chunks, workers=workers, work=work):
            del left[chunk]
            yield path
    except BrokenProcessPool:
        for chunk in left:
            yield from _carefully(chunk, work=work)


def _together(chunks: Sequence[Chunk], *, workers: int, work: Work) -> Iterator[tuple[Chunk, Path]]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=die_with_parent) as pool:
        pending = {pool.submit(work, chunk): chunk for chunk in chunks}
        try:
            while pending:
                ready, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in sorted(ready, key=lambda future: future.exception() is not None):
                    yield pending.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _carefully(chunk: Chunk, *, work: Work) -> Iterator[Path]:
    """A chunk by itself; one that kills its process in halves, down to the file that does it."""
    try:
        for _, path in _together([chunk], workers=1, work=work):
            yield path
    except BrokenProcessPool:
        if len(chunk.names) == 1:
            yield give_up(chunk, "the decoder crashed on it")
            return
        half = len(chunk.names) // 2
        for part in (slice(None, half), slice(half, None)):
            smaller = replace(chunk, names=chunk.names[part], paths=chunk.paths[part], stamps=chunk.stamps[part])
            yield from _carefully(smaller, work=work)
