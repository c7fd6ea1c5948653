"""Several workers on one port, and the process above them, which loads no model.

The kernel spreads connections over the workers (SO_REUSEPORT). The process above starts them, and another in the place
of one that died; metrics, probes, statistics and orders for all are its own.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self

from serving import logs
from serving.authorization import Tokens
from serving.errors import CalotypeError, ModelNotFound, ModelNotReady
from serving.front import addresses, tls_of, warn_if_open
from serving.http import HttpPort
from serving.lines import Line, Lines, answer
from serving.telemetry import Counts, Statistics, Telemetry
from serving.transport.face import Options, cannot_listen, listen_address
from serving.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext
    from multiprocessing.process import BaseProcess

    from serving.mirror import Mirror
    from serving.settings import ServeSettings

log = logs.logger("fleet")

_LOOK_SECONDS = 1.0
_SETTLE_SECONDS = 0.1
_COUNT_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
_MOST_PAUSE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Worker:
    """One process; mutable: what it has said so far, `joined` (orders reach it) under the fleet's lock."""

    process: BaseProcess
    lines: Lines
    joined: bool = False
    ready: threading.Event = field(default_factory=threading.Event)
    settled: threading.Event = field(default_factory=threading.Event)
    error: CalotypeError | None = None
    counts: Counts = field(default_factory=Counts)


class Fleet:
    """The workers of one server, a context manager: whatever happens, `stop` leaves none running.

    Args:
        settings: all that may be chosen.
        mirror: what keeps the repository's folder as a bucket is; None: the folder is the repository.
        asked_to_stop: whether somebody did, whom a start that takes long is not to keep waiting.
    """

    # Mutable, under `_lock`: `_workers`, `_unloaded`, `_gone` (what workers that ended had counted). `_socket` holds
    # the port while workers come and go; the keeper's thread alone replaces workers. `_turn` is of one order at a time,
    # so that opposite ones reach all workers one after the other; nothing else waits for it.

    def __init__(
        self,
        settings: ServeSettings,
        *,
        mirror: Mirror | None = None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._mirror = mirror
        self._asked_to_stop = asked_to_stop
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._workers: list[Worker] = []
        self._unloaded: set[str] = set()
        self._gone = Telemetry()
        self._socket: socket.socket | None = None
        self._port = 0
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)
        # Two, as there are two lines to each: whoever asks for counts can't wait for an order.
        self._counting = ThreadPoolExecutor(settings.workers, "count")
        self._ordering = ThreadPoolExecutor(settings.workers, "order")
        tls = tls_of(settings)
        self._http = HttpPort(
            host=settings.host,
            port=settings.http_port,
            metrics=lambda: (
                self._total().exposition()
                + Vitals(self.processes).exposition()
                + (b"" if mirror is None else mirror.exposition())
            ),
            ready=self._ready,
            tokens=None if settings.tokens is None else Tokens(settings.tokens),
            tls=None if settings.http_plain else tls,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def addresses(self) -> tuple[str, str]:
        """Of gRPC and of HTTP, with the ports really bound."""
        return addresses(self._settings, self._port, self._http.port)

    @property
    def processes(self) -> list[int]:
        """Of the workers, by number."""
        with self._lock:
            return [each.process.pid or 0 for each in self._workers]

    def start(self) -> None:
        """Start the workers; returns as soon as all take calls, or it is asked to stop.

        Raises:
            BadRepository: there is no such folder, or bucket.
            BadSetting: a port can't be bound, or whatever else a worker refuses.
        """
        warn_if_open(self._settings)
        self._http.start()
        self._socket, self._port = _reserve(self._settings)
        if self._mirror is not None:
            self._mirror.start(asked_to_stop=self._asked_to_stop)
            if self._asked_to_stop():
                return
        for each in [self._hire() for _ in range(self._settings.workers)]:
            while not each.settled.wait(_SETTLE_SECONDS):
                if self._asked_to_stop():
                    return
            if each.error is not None:
                raise each.error
            if not each.ready.is_set():
                raise ModelNotReady(f"A worker ended while it started (exit status {each.process.exitcode}).")
        self._keeper.start()

    def stop(self) -> None:
        """Have every worker drain, and wait for that; may be called twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._mirror is not None:
            self._mirror.stop()
        if self._keeper.ident is not None:
            self._keeper.join()
        with self._lock:
            workers, self._workers = self._workers, []
        for each in workers:
            each.process.terminate()  # it drains
        end = time.monotonic() + self._settings.drain_seconds + _PATIENCE_SECONDS
        for each in workers:
            each.process.join(max(0.0, end - time.monotonic()))
            if each.process.is_alive():
                each.process.kill()
                each.process.join()
            each.lines.close()
        self._counting.shutdown()
        self._ordering.shutdown()
        self._http.stop()
        if self._socket is not None:
            self._socket.close()

    # ---- questions ------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Whether calls may come: all workers were ready once, and one is."""
        return self._keeper.ident is not None and not self._stopping.is_set() and bool(self._at_work())

    def _total(self) -> Telemetry:
        """What all workers counted, those that ended too."""
        self._count()
        total = Telemetry()
        with self._lock:
            total.add(self._gone.counts())
            for each in self._workers:
                total.add(each.counts)
        return total

    def _count(self) -> None:
        def ask(each: Worker) -> None:
            with contextlib.suppress(CalotypeError):  # it died, or is stopped: what it said last is what is known
                each.counts = each.lines.questions.ask("counts", patience_seconds=_COUNT_SECONDS)

        list(self._counting.map(ask, self._at_work()))

    def _statistics(self, model: str, version: int) -> Statistics:
        return self._total().statistics(model=model, version=version)

    # ---- orders ---------------------------------------------------------------------------------

    def _load(self, name: str) -> None:
        self._everywhere("load", name, self._unloaded.discard)

    def _unload(self, name: str) -> None:
        self._everywhere("unload", name, self._unloaded.add)

    def _everywhere(self, order: str, name: str, remember: Callable[[str], None]) -> None:
        """Have every worker carry out an order, and those that come later start with it; raises what one raised."""

        def ask(each: Worker) -> Exception | None:
            try:
                each.lines.orders.ask(order, name)
            except Exception as error:  # noqa: BLE001 - whoever ordered gets it
                return error
            return None

        came_of: dict[Worker, Exception | None] = {}
        with self._turn:
            while new := self._not_asked(came_of, name, remember):
                came_of.update(zip(new, self._ordering.map(ask, new), strict=True))
        for error in came_of.values():
            if error is not None:
                raise error

    def _not_asked(
        self, came_of: Mapping[Worker, Exception | None], name: str, remember: Callable[[str], None]
    ) -> list[Worker]:
        """The workers that an order has yet to reach; when there are none, `_join` tells those that come of it."""
        with self._lock:
            joined = [each for each in self._workers if each.joined and each.process.is_alive()]
            new = [each for each in joined if each not in came_of]
            errors = list(came_of.values())
            # Whoever died meanwhile has a successor, and a load that failed is still wanted.
            if not new and (None in errors or not any(isinstance(error, ModelNotFound) for error in errors)):
                remember(name)
        return new

    def _join(self, hired: Worker) -> frozenset[str]:
        """From now on orders reach a worker; returns what the orders until now left unloaded."""
        with self._lock:
            hired.joined = True
            return frozenset(self._unloaded)

    def _at_work(self) -> list[Worker]:
        with self._lock:
            return [each for each in self._workers if each.ready.is_set() and each.process.is_alive()]

    # ---- workers --------------------------------------------------------------------------------

    def _hire(self, instead: Worker | None = None) -> Worker:
        """Start one more worker, or one in the place of another that ended."""
        context = multiprocessing.get_context("spawn")
        asked, up = _pipes(context)
        lines, down = _pipes(context)
        with self._lock:
            place: dict[str, Any] = {"port": self._port, "unloaded": frozenset(self._unloaded)}
        process = context.Process(
            target=_work,
            args=(self._settings, up, down),
            kwargs={**place, "workers": self._settings.workers},
            name="calotype-worker",
        )
        process.start()
        for end in (*up, *down):
            end.close()
        hired = Worker(process, Lines(*map(Line, lines)))
        with self._lock:
            if instead is None:
                self._workers.append(hired)
            else:
                self._gone.add(instead.counts.lasting())
                self._workers[self._workers.index(instead)] = hired
        # It is among the workers before it can join.
        questions, orders = asked
        threading.Thread(target=self._listen, args=(hired, questions), name="questions", daemon=True).start()
        obeyed = {"load": self._load, "unload": self._unload}
        threading.Thread(target=answer, args=(orders, obeyed), name="orders", daemon=True).start()
        return hired

    def _listen(self, hired: Worker, asked: Connection) -> None:
        """Answer one worker's questions until it ends."""

        def ready() -> None:
            hired.ready.set()
            hired.settled.set()

        def failed(error: CalotypeError) -> None:
            hired.error = error

        def counted(counts: Counts) -> None:
            hired.counts = counts

        answers: dict[str, Callable[..., Any]] = {"ready": ready, "failed": failed, "counted": counted}
        answer(asked, {**answers, "join": lambda: self._join(hired), "statistics": self._statistics})
        hired.settled.set()

    def _keep(self) -> None:
        """Put another worker into the place of each that ended; the longer a pause, the quicker they end."""
        pause = 0.0
        while not self._stopping.is_set():
            with self._lock:
                workers = list(self._workers)
            wait([each.process.sentinel for each in workers], timeout=_LOOK_SECONDS)
            ended = [each for each in workers if not each.process.is_alive()]
            if not ended:
                self._count()
                pause = 0.0
            elif not self._stopping.wait(pause):
                for each in ended:
                    self._replace(each)
                pause = min(max(2 * pause, 0.1), _MOST_PAUSE_SECONDS)

    def _replace(self, ended: Worker) -> None:
        ended.process.join()
        code = ended.process.exitcode
        logs.event(log, "worker_ended", level=logging.ERROR, pid=ended.process.pid, status=code, error=ended.error)
        ended.lines.close()
        self._hire(ended)


def _work(*arguments: Any, **more: Any) -> None:
    from serving import worker  # noqa: PLC0415 - a server with all its libraries: not for the process above

    worker.work(*arguments, **more)


def _pipes(context: SpawnContext) -> tuple[tuple[Connection, Connection], tuple[Connection, Connection]]:
    """Two of them, for questions and for orders, by their ends."""
    (questions, questioned), (orders, ordered) = context.Pipe(), context.Pipe()
    return (questions, orders), (questioned, ordered)


def _reserve(settings: ServeSettings) -> tuple[socket.socket, int]:
    """A socket that holds the port for the workers, and the port."""
    address = listen_address(Options(host=settings.host, port=settings.port))
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        # Alone first: a second server on the port must fail, not share the callers of the first.
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
            port = int(alone.getsockname()[1])
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((where[0], port, *where[2:]))
    except OSError as error:
        raise cannot_listen(address) from error
    return held, port
