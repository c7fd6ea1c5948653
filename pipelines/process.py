"""The process that TensorFlow lives in, apart from the one that schedules.

It loads its libraries while the caller reads images, is used for one run and ends with it: repeated fits in one
process grow (keras#20552), and a scheduler that never imports TensorFlow stays small. Knows no model.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pipelines.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from multiprocessing.queues import Queue

T = TypeVar("T")

POLL_SECONDS = 0.1
PLAIN_MODULES = frozenset({"pipelines", "serving", *sys.stdlib_module_names})  # errors from there can be read anywhere
OUT_OF_MEMORY = "ResourceExhaustedError"  # TensorFlow's

Message = dict[str, Any]


class HeavyProcess:
    """One spawned process that runs functions; a context manager that ends it.

    Mutable state: the executor, from the first `start` or `call` to the end of the with block. Functions,
    arguments, results and errors are pickled. The process dies with its parent, however that ends.

    Args:
        preload: called there at once, in the background: it imports what the functions will need.
    """

    def __init__(self, preload: Callable[[], object]) -> None:
        self._preload = preload
        self._context = multiprocessing.get_context("spawn")
        self._messages: Queue[Message] = self._context.Queue()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._kill()  # what it answered is here; TensorFlow takes a second or two to end by itself
            self._executor.shutdown(cancel_futures=True)
            self._executor = None
        self._messages.close()

    def start(self) -> None:
        """Start the process in the background, so that it has loaded when it is needed; may be called twice."""
        self._started()

    def call(self, function: Callable[..., T], *arguments: Any, progress: Callable[[Message], None] | None = None) -> T:
        """Run `function` there, with `arguments`, and a progress callback as its last one when `progress` is given.

        Args:
            function: of a module, so that it can be found there by its name.
            arguments: what it takes before the callback.
            progress: called in this process, in this thread, with what the function reports.

        Raises:
            PipelineError: the process died, or the function raised an error of a library that isn't loaded here, told
                in words; whatever else the function raises is raised as it is.
        """
        invoke = _invoke if progress is None else _invoke_reporting
        future = self._started().submit(invoke, function, arguments)
        try:
            if progress is not None:
                self._relay(future, progress)
            return future.result()
        except BrokenProcessPool as error:
            raise PipelineError(
                "The training process ended without a word: it was killed, or memory ran out. "
                "The same command goes on from what was saved."
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                1, mp_context=self._context, initializer=_prepare, initargs=(self._messages,)
            )
            self._executor.submit(self._preload)
        return self._executor

    def _relay(self, future: Future[Any], progress: Callable[[Message], None]) -> None:
        while not future.done():
            self._deliver(progress, timeout=POLL_SECONDS)
        while self._deliver(progress, timeout=0.01):
            pass

    def _deliver(self, progress: Callable[[Message], None], *, timeout: float) -> bool:
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return False
        progress(message)
        return True

    def _kill(self) -> None:
        processes = getattr(self._executor, "_processes", None) or {}
        for process in list(processes.values()):
            process.kill()


_messages: Queue[Message] | None = None  # set once, in the child, before anything else runs there


def _prepare(messages: Queue[Message]) -> None:
    global _messages  # noqa: PLW0603 - an executor's initializer has no other place
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    die_with_parent()


def die_with_parent() -> None:
    """End this process, a worker of `multiprocessing`, when its parent ends, a kill -9 of that included.

    For an executor's `initializer`. Without it workers wait for ever: each holds both ends of the queue of calls.
    """
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _outlive_nobody() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _invoke(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Call it; errors of TensorFlow and the like don't leave this process, since reading them loads their library."""
    try:
        return function(*arguments)
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == OUT_OF_MEMORY:
            raise PipelineError(
                f"Memory ran out: {_first_line(error)}. Give a smaller --batch-size, smaller images (--image-size), "
                "or a smaller architecture."
            ) from error
        if type(error).__module__.partition(".")[0] in PLAIN_MODULES:
            raise
        raise PipelineError(f"The training process failed: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """What an error says first; TensorFlow's go on with the whole graph."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "no reason given")


def _invoke_reporting(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    if _messages is None:
        raise AssertionError("the executor's initializer has not run")
    return _invoke(function, (*arguments, _messages.put))
