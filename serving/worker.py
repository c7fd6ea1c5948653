"""One worker of several: a whole server but for the HTTP port, in a process of its own, told by the one above."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from serving import logs
from serving.errors import CalotypeError, ModelNotReady
from serving.front import spare_the_collector
from serving.lines import Line, Lines, answer
from serving.server import Server
from serving.shared import Shared

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from serving.settings import ServeSettings
    from serving.shared import SharedRegistry


def work(
    settings: ServeSettings,
    up: tuple[Connection, Connection],
    down: tuple[Connection, Connection],
    *,
    port: int,
    workers: int,
    unloaded: frozenset[str],
) -> None:
    """Serve until SIGTERM, or the end of the process above.

    Args:
        settings: all that may be chosen.
        up: where this asks questions, and gives orders.
        down: where this is asked, and given orders.
        port: that all workers share.
        workers: how many there are.
        unloaded: names of the models that are not to be loaded.
    """
    logs.configure(form=settings.log_format, level=settings.log_level)
    stop = threading.Event()
    # Ctrl-C reaches every process of a terminal; the one above says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lines = Lines(*map(Line, up))
    questions, orders = down
    shared = Shared(up=lines, port=port, workers=workers, unloaded=unloaded)
    told = suppress(ModelNotReady)  # or the process above is gone, and nobody is there to be told
    try:
        server = Server(replace(settings, port=port), shared=shared, asked_to_stop=stop.is_set)
        _listen(questions, server, stop)
        server.start()
    except CalotypeError as error:
        with told:
            lines.questions.ask("failed", error)
        return
    if not stop.is_set():
        _obey(orders, server.shared_registry())
        spare_the_collector()
        with told:
            lines.questions.ask("ready")
        stop.wait()
    server.stop()
    with told:
        lines.questions.ask("counted", server.telemetry.counts())


def _listen(questions: Connection, server: Server, stop: threading.Event) -> None:
    """Answer questions from now on; when nobody is there to ask them any more, stop."""

    def listen() -> None:
        answer(questions, {"counts": server.telemetry.counts})
        if stop.is_set():
            os._exit(1)  # the process above ended while all drain: who killed it doesn't want to wait for that
        stop.set()

    threading.Thread(target=listen, name="questions", daemon=True).start()


def _obey(orders: Connection, registry: SharedRegistry) -> None:
    """Carry out orders from now on."""
    carried_out = {"load": registry.load_here, "unload": registry.unload_here}
    threading.Thread(target=answer, args=(orders, carried_out), name="orders", daemon=True).start()
