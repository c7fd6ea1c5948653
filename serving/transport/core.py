"""The fast form of the face: the C core of grpcio, driven from one thread by its completion queue; knows no model.

What grpcio's own servers spend between the core and a handler (an event loop or a thread pool, a context, a
task per call) is most of what a small call costs. Here the polling thread reads a request and starts its method, and
the answer is sent by the thread that finishes it.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode

from serving import logs
from serving.calls import Call, Method, Status
from serving.interceptors import UNKNOWN
from serving.lending import Lender
from serving.transport import completion, health
from serving.transport.builtin import table
from serving.transport.core_stream import StreamCall
from serving.transport.core_unary import UnaryCall, Unheard
from serving.transport.core_watch import WatchCall
from serving.transport.face import cannot_listen, channel_options, listen_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from serving.interceptors import Desk
    from serving.transport.face import Options

log = logs.logger("transport")

# New calls that the core may hand over before the polling thread comes back for more.
_CALLS_ASKED_FOR: Final = 32

# While a model call is due: some sixteen calls, of two events each and a third for the answer. A batch of 32 costs no
# less per row than one of 16, and its callers all wait for the last (docs/performance.md).
_EVENTS_BEFORE_WORK: Final = 48

# That find nothing, one after the other, before what is due is done: the core looks at one socket at a time, and what
# that has brought is an event at the next look.
_EMPTY_LOOKS_BEFORE_WORK: Final = 2

# When everybody is gone: the pause between two looks whether calls are still in work, and how long that may go on.
_LEAVE_SECONDS: Final = 0.005
_PATIENCE_SECONDS: Final = 1.0

_WATCH: Final = health.WATCH.encode()


class CoreTransport:
    """gRPC by the completion queue.

    Mutable: `_port` and `_number`, set by `start`; `_streams`, under `_lock`; `_draining`, `_quiet` and `_gone_at`, the
    time when the last caller had left, set once each; `_unheard`, the polling thread's; `_calls`, the unary ones in
    work, which that thread adds to and any takes from.

    Args:
        methods: what to serve.
        desk: where calls are signed out.
        options: how to listen.
    """

    def __init__(self, methods: Iterable[Method], desk: Desk, options: Options) -> None:
        self._options = options
        self._desk = desk
        self._health = health.Health(options.max_streams)
        methods_ = table(methods, desk, self._health)
        self._table = {path.encode("latin-1"): found for path, found in methods_.items()}
        self._lock = threading.Lock()
        self._streams: set[StreamCall] = set()
        self._unheard = Unheard()
        self._calls: set[UnaryCall] = set()
        self._thread: threading.Thread | None = None
        self._port: completion.Port | None = None
        self._number = 0
        self._draining = False
        self._quiet = threading.Event()
        self._gone_at = 0.0

    @property
    def port(self) -> int:
        """The port bound; known after `start`."""
        return self._number

    def start(self) -> None:
        """Bind and answer calls.

        Raises:
            BadSetting: the address cannot be bound.
        """
        port = completion.Port(channel_options(self._options))
        address = listen_address(self._options)
        self._number = port.bind(address, self._options.credentials)
        if not self._number:
            port.close()
            raise cannot_listen(address)
        self._port = port
        port.start()
        for _ in range(_CALLS_ASKED_FOR):
            port.ask_for_call(self._called)
        self._thread = threading.Thread(target=self._run, args=(port,), name="grpc-core", daemon=True)
        self._thread.start()

    def set_health(self, name: str, *, serving: bool) -> None:
        """Say whether a service or model serves; any thread may."""
        self._health.set(name, serving=serving)

    def drain_and_stop(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, let accepted calls finish, stop; may be called twice."""
        port, self._port = self._port, None
        if port is None:
            return
        self._draining = True
        self._health.drain()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.drain()
        port.shutdown(lambda _event: self._quiet.set())
        if not self._quiet.wait(grace_seconds):
            port.cancel_all_calls()
            self._quiet.wait()
        self._gone_at = time.monotonic()
        if self._thread is not None:
            self._thread.join()

    def _run(self, port: completion.Port) -> None:
        lender = Lender()
        lender.lend()
        closed = False
        while not port.over:
            wait_seconds = self._unheard.look()
            if self._quiet.is_set():
                closed = closed or self._close(port)
                wait_seconds = _LEAVE_SECONDS
            if lender.due:
                # Short model calls wait until whoever else has sent something is in their batch.
                self._look_around(port)
                self._do(Lender.work, lender)
                continue
            event = port.poll(wait_seconds)
            if event is not None:
                self._do(event.tag, event)
            # An event left over keeps its call alive, and the core waits for that.
            del event

    def _close(self, port: completion.Port) -> bool:
        """Let go of the port, unless calls are still in work: to answer one, caller or not, the core needs it open."""
        gone_at = self._gone_at
        if not gone_at or ((self._calls or self._streams) and time.monotonic() < gone_at + _PATIENCE_SECONDS):
            return False
        port.close()
        return True

    def _look_around(self, port: completion.Port) -> None:
        """Take the events that are there."""
        events, looks = _EVENTS_BEFORE_WORK, _EMPTY_LOOKS_BEFORE_WORK
        while events and looks:
            event = port.poll_now()
            if event is None:
                looks -= 1
            else:
                events, looks = events - 1, _EMPTY_LOOKS_BEFORE_WORK
                self._do(event.tag, event)

    def _do(self, work: Callable[[Any], None], on: Any) -> None:
        try:
            work(on)
        except Exception:
            log.exception("transport_event_failed")

    def _called(self, event: Any) -> None:
        port = self._port
        if port is not None and not self._draining:
            self._ask_for_another(port)
        if not event.success:
            return
        path = completion.path_of(event)
        found = self._table.get(path)
        if found is not None:
            self._begin(event, *found)
        elif path == _WATCH:
            WatchCall(event.call, self._health).begin()
        else:
            self._desk.unknown(path)
            completion.end(event.call, UNKNOWN, completion.nothing)

    def _ask_for_another(self, port: completion.Port) -> None:
        try:
            port.ask_for_call(self._called)
        except ValueError:  # another thread has just shut the port
            if not self._draining:
                raise

    def _begin(self, event: Any, method: Method, desk: Desk) -> None:
        now = time.monotonic()
        deadline, metadata = completion.deadline_of(event, now), completion.metadata_of(event)
        if method.refuse is None:
            call = Call(method.name, deadline, metadata, now)
            unary = UnaryCall(self._unheard, event.call, method, desk, call, self._calls.discard)
            self._calls.add(unary)
            completion.receive(event.call, unary.received)
            return
        make_call = partial(_call, method.name, deadline=deadline, metadata=metadata)
        options = self._options
        stream = StreamCall(event.call, method, desk, make_call=make_call, options=options, left=self._left)
        with self._lock:
            full = len(self._streams) >= options.max_streams
            if not full:
                self._streams.add(stream)
        if full:
            message = f"--max-streams = {options.max_streams} streams are open: try again later."
            status = Status(StatusCode.RESOURCE_EXHAUSTED, message)
            desk.finished(make_call(), status)
            completion.end(event.call, status, completion.nothing)
            return
        stream.begin()
        if self._draining:  # it may have come too late to be told
            stream.drain()

    def _left(self, stream: StreamCall) -> None:
        with self._lock:
            self._streams.discard(stream)


def _call(name: str, *, deadline: float | None, metadata: dict[str, str | bytes]) -> Call:
    return Call(name, deadline=deadline, metadata=metadata, started=time.monotonic())
