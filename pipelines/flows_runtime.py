"""What a flow needs from the process that it runs in, and when a task is tried again."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from pipelines import backend
from pipelines.pool import Staff
from pipelines.process import HeavyProcess
from pipelines.progress import ProgressBars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a flow needs from the process that it runs in.

    Attributes:
        bars: where progress is shown.
        heavy: the process that TensorFlow lives in.
        staff: the processes that decode.
        scheduled: all of this is done for a schedule.
    """

    bars: ProgressBars
    heavy: HeavyProcess
    staff: Staff
    scheduled: bool = False


_runtime: ContextVar[Runtime] = ContextVar("runtime")


def runtime() -> Runtime:
    """The runtime that the surrounding flow uses."""
    return _runtime.get()


@contextlib.contextmanager
def use_runtime(
    *, staff: Staff | None = None, heavy: HeavyProcess | None = None, scheduled: bool = False
) -> Iterator[Runtime]:
    """The surrounding runtime, or a new one whose processes and bars end with the block.

    Args:
        staff: of a new one, if it was started before; ends with the block too.
        heavy: the same.
        scheduled: of a new one.
    """
    surrounding = _runtime.get(None)
    if surrounding is not None:
        yield surrounding
        return
    # A synchronous flow waits a second for its heartbeat's thread whenever it ends; ours are short.
    quick = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with quick, ProgressBars() as bars, staff or Staff() as hands, heavy or HeavyProcess(backend.start) as process:
        runtime = Runtime(bars, heavy=process, staff=hands, scheduled=scheduled)
        token = _runtime.set(runtime)
        try:
            yield runtime
        finally:
            _runtime.reset(token)


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself, such as a file server that hiccups; never what the user has to mend."""
    return isinstance(state.data, OSError)


# A dict, so that each task says what it is and not how it is retried.
RETRIED: Any = {"retries": 2, "retry_delay_seconds": 1, "retry_condition_fn": _is_transient}
