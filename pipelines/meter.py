"""What a schedule tells Prometheus: /metrics, and /livez for whoever restarts what hangs. Knows no flow.

Times are Unix timestamps, as is the custom: an age is `time() - calotype_pipeline_…_timestamp_seconds`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, make_wsgi_app

from pipelines.errors import UsageError
from pipelines.timetable import ENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipelines.timetable import Result

ALIVE_SECONDS = 120.0
PREFIX = "calotype_pipeline"


class Meter:
    """The figures of one model's schedule.

    Args:
        model: the label of all of them.
        clock: seconds since 1970.
    """

    def __init__(self, model: str, clock: Callable[[], float] = time.time) -> None:
        self._model = model
        self._clock = clock
        self._beat = time.monotonic()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # when a counter began is nobody's question here
        self.registry = CollectorRegistry()
        self._firings = self._counter("firings", "Firings by how they ended.", "outcome")
        self._webhooks = self._counter("webhook_messages", "Messages to the webhook by what became of them.", "outcome")
        self._started = self._gauge("start_timestamp_seconds", "When this process of the schedule started.")
        self._last_success = self._gauge("last_success_timestamp_seconds", "End of the last firing that did not fail.")
        self._last_run = self._gauge("last_run_timestamp_seconds", "End of the last run that trained.")
        self._duration = self._gauge("last_run_duration_seconds", "How long the last run that trained took.")
        self._stages = self._gauge("last_run_stage_seconds", "The same, by stage.", "stage")
        self._data = self._gauge("data_timestamp_seconds", "When the newest file of the source changed.")
        self._files = self._gauge("source_files", "Files in the source.")
        self._published = self._gauge("model_timestamp_seconds", "When the newest version was published.")
        self._version = self._gauge("model_version", "The newest version's number.")
        self._metric = self._gauge("model_metric", "The newest version's metrics on the test part.", "metric")
        self._running = self._gauge("running", "1 while a firing is under way.")
        self._prefect = self._gauge("prefect_up", "1 while Prefect's server answers.")
        self._running.labels(model).set(0)
        self._started.labels(model).set(clock())
        for end in ENDS:
            self._firings.labels(model, _label(end))
        for outcome in ("sent", "lost"):
            self._webhooks.labels(model, outcome)

    def beat(self) -> None:
        """The scheduler's loop is alive."""
        self._beat = time.monotonic()

    def alive(self) -> bool:
        """Whether the scheduler's loop went round within the last two minutes."""
        return time.monotonic() - self._beat < ALIVE_SECONDS

    def prefect(self, *, up: bool) -> None:
        """Whether Prefect's server answers."""
        self._prefect.labels(self._model).set(float(up))

    def source(self, files: int, newest_ns: int) -> None:
        """What lies in the source."""
        self._files.labels(self._model).set(files)
        if newest_ns:
            self._data.labels(self._model).set(newest_ns / 1e9)

    def began(self) -> None:
        """A firing is under way."""
        self._running.labels(self._model).set(1)

    def stopped(self) -> None:
        """It is no more."""
        self._running.labels(self._model).set(0)

    def ended(self, result: Result) -> None:
        """How a firing ended."""
        self._firings.labels(self._model, _label(result.end)).inc()
        now = self._clock()
        if result.end in {"published", "refused", "nothing new"}:
            self._last_success.labels(self._model).set(now)
        if result.end in {"published", "refused"}:
            self._last_run.labels(self._model).set(now)
            self._duration.labels(self._model).set(result.seconds)
            for stage, seconds in result.values.get("seconds", {}).items():
                self._stages.labels(self._model, stage).set(seconds)
        if result.end == "published":
            self.model(result.values["version"], now, result.values["metrics"])

    def model(self, version: int, published: float, metrics: dict[str, Any]) -> None:
        """The newest version: its number, when it was published (seconds since 1970), and its metrics."""
        self._version.labels(self._model).set(version)
        self._published.labels(self._model).set(published)
        for name, value in metrics.items():
            self._metric.labels(self._model, name).set(value)

    def succeeded(self, when: float) -> None:
        """When the last success was, as an earlier process left it."""
        self._last_success.labels(self._model).set(when)

    def webhook(self, outcome: str) -> None:
        """A message to the webhook was sent or lost."""
        self._webhooks.labels(self._model, outcome).inc()

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", words, ["model", *labels], registry=self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", words, ["model", *labels], registry=self.registry)


@contextlib.contextmanager
def served(meter: Meter, *, host: str, port: int) -> Iterator[int]:
    """Serve /metrics and /livez as long as the block lasts.

    Args:
        meter: whose figures.
        host: the address to listen on.
        port: 0: any free one.

    Yields:
        The port.

    Raises:
        UsageError: the port is taken, or the address not this machine's.
    """
    try:
        server = make_server(host, port, _application(meter), _Server, _Silent)
    except OSError as error:
        raise UsageError(f"--metrics-port {port} on {host} can't be listened on: {error.strerror}.") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(meter: Meter) -> Callable[..., Iterable[bytes]]:
    metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(meter.registry)

    def answer(environment: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "")
        if path == "/metrics":
            return metrics(environment, start)
        if path == "/livez":
            alive = meter.alive()
            start("200 OK" if alive else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"ok\n" if alive else b"the scheduler's loop stands still\n"]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there are /metrics and /livez\n"]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """Somebody who connects and asks nothing keeps no probe waiting."""

    daemon_threads = True


class _Silent(WSGIRequestHandler):
    """Scrapes are no news."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its parent's signature
        """Say nothing."""


def _label(end: str) -> str:
    return end.replace(" ", "_")
