"""Spans of calls for OpenTelemetry: one per call, with the reading of images, the queue and the model's call inside it.

The only room that imports opentelemetry, and imported itself only where its variables are set (`serving.tracer`). What
goes where is said by those: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on. A span
is made when the call is over, of the moments that were noted on its way.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from serving import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    from serving.calls import Call, Method, Status
    from serving.loading import Loaded
    from serving.model_config import Tuning
    from serving.repository import Version

    Make = Callable[[Any], Any]
    Load = Callable[[Version, Tuning], Loaded]

# What says that the server failed, not its caller, by OpenTelemetry's conventions for gRPC servers.
_SERVERS_FAULT: Final = frozenset(
    (
        StatusCode.UNKNOWN, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNIMPLEMENTED, StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS,
    )
)  # fmt: skip

_CLOSE_SECONDS: Final = 2.0

# When this thread's last model call began and ended: whoever makes an answer does it in the thread that computed it.
_last = threading.local()


class Trace:
    """The moments of one call, in time.monotonic() seconds; mutable, by one thread after the other.

    Args:
        service: full name of the service that is called.

    Attributes:
        parts: name, beginning and end of what happened inside the call.
    """

    __slots__ = ("parts", "service")

    def __init__(self, service: str) -> None:
        self.service = service
        self.parts: list[tuple[str, float, float]] = []

    def reading(self, work: Future[Any]) -> None:
        """Images or long contents are being read until `work` is done."""
        began = time.monotonic()
        work.add_done_callback(lambda _: self.parts.append(("decode", began, time.monotonic())))

    def around(self, make: Make) -> Make:
        """`make`, an answer of a model's outputs, noting how long its rows waited and were computed.

        Of a request that was cut into several batches the last one counts.
        """
        accepted = time.monotonic()

        def noting(arrays: Any) -> Any:
            began, ended = getattr(_last, "call", (accepted, accepted))
            if began >= accepted:
                self.parts += (("queue", accepted, began), ("compute", began, ended))
            return make(arrays)

        return noting


class Traces:
    """Makes spans of calls, and sends them to the collector from a thread of its own.

    Args:
        environment: OpenTelemetry's own variables; it reads most of them itself.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        own = {} if environment.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "calotype"}
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("calotype.serving")
        _speak_as_the_house_does()

    def methods(self, methods: Iterable[Method]) -> tuple[Method, ...]:
        """The same methods, whose calls note their moments."""
        return tuple(_noting(method) for method in methods)

    def loader(self, load: Load) -> Load:
        """The same loader, of models that tell when they compute."""
        return _timed(load)

    def finished(self, call: Call, status: Status) -> None:
        """Make the spans of a call, or a request of a stream, that has just been answered."""
        words = {name: word for name, word in call.metadata.items() if isinstance(word, str)}
        clock = time.time_ns() - int(time.monotonic() * 1e9)
        service = (
            "" if call.trace is None else call.trace.service
        )  # None: its bytes were no message, or it was let in not
        span = self._tracer.start_span(
            f"{service}/{call.method}".lstrip("/"),
            propagate.extract(words),
            trace.SpanKind.SERVER,
            {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": call.method,
                "rpc.grpc.status_code": status.code.value[0],
                "calotype.model": logs.cut(call.model),
                "calotype.version": call.version,
                "calotype.images": call.images,
                "calotype.request_id": logs.cut(call.request_id),
            },
            start_time=clock + int(call.started * 1e9),
        )
        if status.code in _SERVERS_FAULT:
            span.set_status(trace.StatusCode.ERROR, status.message)
        if span.is_recording() and call.trace is not None:
            inside = trace.set_span_in_context(span)
            for name, began, ended in call.trace.parts:
                part = self._tracer.start_span(name, inside, start_time=clock + int(began * 1e9))
                part.end(clock + int(ended * 1e9))
        span.end()

    def close(self) -> None:
        """Send what is left, for a few seconds at most: a collector that is away holds no stop up."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def _noting(method: Method) -> Method:
    def start(request: Any, call: Call) -> Future[Any]:
        call.trace = Trace(method.service)
        return method.start(request, call)

    return replace(method, start=start)


def _timed(load: Load) -> Load:
    """What loads models whose calls are timed for the thread that makes them."""

    def load_timed(version: Version, tuning: Tuning) -> Loaded:
        loaded = load(version, tuning)

        def run(feeds: Any, outputs: Any) -> Any:
            began = time.monotonic()
            try:
                return loaded.run(feeds, outputs)
            finally:
                _last.call = (began, time.monotonic())

        return replace(loaded, run=run)

    return load_timed


def _speak_as_the_house_does() -> None:
    """Have OpenTelemetry's own lines, such as those of a collector that is away, look like all others."""
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers, theirs.propagate = logging.getLogger(logs.ROOT).handlers, False
