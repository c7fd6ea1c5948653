"""The server as a process: its settings in, its exit status out, one process or several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING, Final

from serving import logs
from serving.front import spare_the_collector

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.fleet import Fleet
    from serving.mirror import Mirror
    from serving.server import Server
    from serving.settings import ServeSettings


_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
_KILLED_SECONDS: Final = 1.0


def run(settings: ServeSettings, *, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit status.

    Args:
        settings: all that may be chosen.
        say: told the one line with the addresses, once calls may come.
    """
    logs.configure(form=settings.log_format, level=settings.log_level)
    asked: list[int] = []
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_DFL if settings.workers == 1 else _end_at_once)
        asked.append(number)
        stop.set()

    one = _one(settings)
    before = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        with one(settings, mirror=_mirror(settings), asked_to_stop=stop.is_set) as server:
            if not stop.is_set():
                spare_the_collector()
            if not stop.is_set():
                say("calotype serving on " + " ".join(server.addresses))
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 130 if asked[0] == signal.SIGINT else 0


def _end_at_once(number: int, _frame: object) -> None:
    """End the workers and this process: who asks twice doesn't want to wait for the drain. Takes no lock of ours."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(_KILLED_SECONDS)  # with them the port is free
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _one(settings: ServeSettings) -> type[Server | Fleet]:
    """What serves; imported here, because a fleet needs none of a server's libraries."""
    if settings.workers == 1:
        from serving.server import Server  # noqa: PLC0415 - see above

        return Server
    from serving.fleet import Fleet  # noqa: PLC0415

    return Fleet


def _mirror(settings: ServeSettings) -> Mirror | None:
    """What keeps the models' folder as a bucket is, where they come from one."""
    if settings.models_url is None:
        return None
    from serving.mirror import Mirror  # noqa: PLC0415 - whoever has a folder needs none

    return Mirror(settings.models_url, settings.models, poll_seconds=settings.poll_seconds)
