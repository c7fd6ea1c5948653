"""One worker of several: a whole server but for the HTTP port, in a process of its own, told by the one above."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serving import logs
from serving.errors import CalotypeError, ModelNotReady
from serving.front import spare_the_collector
from serving.lines import Line, answer
from serving.server import Server
from serving.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from serving.settings import ServeSettings


def work(
    settings: ServeSettings, up: Connection, down: Connection, *, port: int, workers: int, unloaded: frozenset[str]
) -> None:
    """Serve until SIGTERM, or the end of the process above.

    Args:
        settings: all that may be chosen.
        up: where this asks.
        down: where this is asked.
        port: that all workers share.
        workers: how many there are.
        unloaded: names of the models that are not to be loaded.
    """
    logs.configure(form=settings.log_format, level=settings.log_level)
    stop = threading.Event()
    # Ctrl-C reaches every process of a terminal; the one above says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    line = Line(up)
    shared = Shared(up=line, port=port, workers=workers, unloaded=unloaded)
    try:
        server = Server(replace(settings, port=port), shared=shared, asked_to_stop=stop.is_set)
        server.start()
    except CalotypeError as error:
        line.ask("failed", error)
        return
    if stop.is_set():
        server.stop()
        return
    spare_the_collector()
    line.ask("ready")
    registry = server.shared_registry()
    answers: dict[str, Callable[..., Any]] = {
        "counts": server.telemetry.counts,
        "load": registry.load_here,
        "unload": registry.unload_here,
    }

    def listen() -> None:
        answer(down, answers)
        stop.set()

    threading.Thread(target=listen, name="down", daemon=True).start()
    stop.wait()
    server.stop()
    with suppress(ModelNotReady):  # nobody is there to count
        line.ask("counted", server.telemetry.counts())
