"""What the server counts: one object that every room reports to, and that Prometheus and ModelStatistics read.

Knows no transport and no model. Reporting is cheap (a lock, a few additions; a batch's queue times in one
call), because it is on the way of every request; reading is rare and does the work. Sums are plain
numbers, so that the counts of several processes can be added together.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
STATES = ("Start", "Loading", "Available", "Unloading", "End")

_BEST_LAST = ("End", "Unloading", "Start", "Loading", "Available")

# What ModelStatistics counts; other methods about a model, such as its metadata, compute nothing.
_INFERENCES = frozenset(
    {"ModelInfer", "ModelStreamInfer", "Classify", "Reconstruct", "StreamClassify", "StreamReconstruct"}
)

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How often batches of one size were computed, and the seconds that took."""

    rows: int
    batches: int
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """One version's account since the server started, as the protocol's ModelStatistics asks for it.

    Args:
        requests_ok: inferences answered with status OK.
        requests_failed: answered with any other status.
        ok_seconds: their whole time in the server.
        failed_seconds: likewise.
        rows: images or rows computed.
        batches: model calls that answered.
        queue_count: requests (or pieces of them) that left the queue for the model.
        queue_seconds: their time there.
        compute_seconds: inside the model, all batches.
        request_compute_seconds: the same as those requests (or pieces) felt it: a batch's time for each in it.
        decode_count: requests whose encoded images were decoded.
        decode_seconds: the time that took.
        last_request_unix_ms: when the last of these requests ended; 0 for never.
        batch_sizes: by rows, ascending.
    """

    requests_ok: int = 0
    requests_failed: int = 0
    ok_seconds: float = 0.0
    failed_seconds: float = 0.0
    rows: int = 0
    batches: int = 0
    queue_count: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    request_compute_seconds: float = 0.0
    decode_count: int = 0
    decode_seconds: float = 0.0
    last_request_unix_ms: int = 0
    batch_sizes: tuple[BatchSize, ...] = ()


@dataclass(slots=True)
class _Account:
    """What one (model, version) did; mutable, under the telemetry's lock."""

    method_code: dict[Key, Histogram] = field(default_factory=dict)  # (method, code) -> request seconds
    images: dict[str, int] = field(default_factory=dict)  # by method
    unreadable: dict[str, int] = field(default_factory=dict)  # of those, likewise
    queue: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    compute: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    decode: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    sizes: dict[int, list[float]] = field(default_factory=dict)  # rows -> [batches, compute seconds]
    felt_seconds: float = 0.0  # compute seconds, of each batch as often as it had requests
    last_request_unix_ms: int = 0

    def copy(self) -> _Account:
        """The same, apart."""
        made = _Account()
        made.add(self)
        return made

    def add(self, other: _Account) -> None:
        """Count what another account counted."""
        for key, histogram in other.method_code.items():
            self.method_code.setdefault(key, Histogram(SECONDS)).join(histogram)
        for mine, theirs in ((self.images, other.images), (self.unreadable, other.unreadable)):
            for method, count in theirs.items():
                mine[method] = mine.get(method, 0) + count
        for name in ("queue", "compute", "decode", "rows"):
            getattr(self, name).join(getattr(other, name))
        for rows, (batches, seconds) in other.sizes.items():
            size = self.sizes.setdefault(rows, [0, 0.0])
            size[0] += batches
            size[1] += seconds
        self.felt_seconds += other.felt_seconds
        self.last_request_unix_ms = max(self.last_request_unix_ms, other.last_request_unix_ms)


@dataclass(frozen=True, slots=True)
class Counts:
    """What one process counted, at one moment; it can be sent to another.

    Args:
        accounts: by model and version.
        rejected: by model, version and reason.
        states: by model and version.
        reloads: by model and outcome.
        queues: rows waiting, by model and version.
    """

    accounts: dict[Key, _Account] = field(default_factory=dict)
    rejected: dict[Key, int] = field(default_factory=dict)
    states: dict[Key, str] = field(default_factory=dict)
    reloads: dict[Key, int] = field(default_factory=dict)
    queues: dict[Key, int] = field(default_factory=dict)

    def lasting(self) -> Counts:
        """What is still true when the process has ended."""
        return Counts(self.accounts, self.rejected, {}, self.reloads, {})


class Telemetry(Collector):
    """The server's counters. All methods may be called from any thread, none blocks.

    A model's name reaches a label only once the registry reported it (`model_state`): whatever else callers
    ask for is counted under the empty name, so that no caller can grow the metrics.
    """

    # Mutable, all of it under `_lock`: `_accounts`, `_rejected`, `_states`, `_reloads`, `_queues`; `_found`, where in
    # the accounts, none of which is ever taken away, calls like earlier ones are counted.

    def __init__(self, *, unix_clock: Callable[[], float] = time.time) -> None:
        self._unix_clock = unix_clock
        self._lock = threading.Lock()
        self._accounts: dict[Key, _Account] = {}
        self._found: dict[tuple[str, int, str, str], tuple[_Account, Histogram]] = {}
        self._rejected: dict[Key, int] = {}
        self._states: dict[Key, str] = {}
        self._reloads: dict[Key, int] = {}
        self._queues: dict[Key, Callable[[], int]] = {}

    def request_done(
        self,
        *,
        model: str,
        version: int,
        method: str,
        code: str,
        seconds: float,
        images: int = 0,
        unreadable: int = 0,
    ) -> None:
        """A call was answered, well or not.

        Args:
            model: as asked for; empty for calls about no model.
            version: the one that answered; 0 where none did.
            method: the RPC's short name, such as Classify.
            code: the gRPC status name, such as OK.
            seconds: from arrival to answer.
            images: how many it carried that were answered.
            unreadable: of those, how many by a failure of their own.
        """
        with self._lock:
            found = self._found.get((model, version, method, code))
            if found is None:
                found = self._find(model, version, method, code)
            account, histogram = found
            histogram.counts[bisect_left(SECONDS, seconds)] += 1  # as its `add` does: this is done for every call
            histogram.total += seconds
            if images:
                account.images[method] = account.images.get(method, 0) + images
            if unreadable:
                account.unreadable[method] = account.unreadable.get(method, 0) + unreadable
            if method in _INFERENCES:
                account.last_request_unix_ms = int(self._unix_clock() * 1000)

    def batch_done(
        self, *, model: str, version: int, rows: int, queue_seconds: Sequence[float], compute_seconds: float
    ) -> None:
        """One model call answered: its rows, what each part of it had waited, and how long it took."""
        with self._lock:
            account = self._account(model, version)
            account.queue.add_all(queue_seconds)
            account.felt_seconds += compute_seconds * len(queue_seconds)
            account.compute.add(compute_seconds)
            account.rows.add(rows)
            size = account.sizes.setdefault(rows, [0, 0.0])
            size[0] += 1
            size[1] += compute_seconds

    def decode_done(self, *, model: str, version: int, seconds: float) -> None:
        """The encoded images of one request were decoded."""
        with self._lock:
            self._account(model, version).decode.add(seconds)

    def rejected(self, *, model: str, version: int = 0, reason: str) -> None:
        """A request was refused before any compute: queue_full, expired, cancelled, streams, draining …."""
        with self._lock:
            key = (*self._names(model, version), reason)
            self._rejected[key] = self._rejected.get(key, 0) + 1

    def model_state(self, *, model: str, version: int, state: str) -> None:
        """A version came into one of `STATES`; from now on the model has its own labels."""
        with self._lock:
            self._states[model, str(version)] = state

    def queue_gauge(self, *, model: str, version: int, rows: Callable[[], int]) -> None:
        """Read the rows waiting for this version from `rows` whenever the metrics are asked for."""
        with self._lock:
            self._queues[model, str(version)] = rows

    def forget(self, *, model: str, version: int) -> None:
        """A version is gone: its state and queue are no more; its counters stay, as counters must."""
        with self._lock:
            self._states.pop((model, str(version)), None)
            self._queues.pop((model, str(version)), None)

    def reload(self, *, model: str, outcome: str) -> None:
        """A version was tried: loaded or failed; or, of no model, the whole repository was unreadable."""
        with self._lock:
            self._reloads[model, outcome] = self._reloads.get((model, outcome), 0) + 1

    def statistics(self, *, model: str, version: int) -> Statistics:
        """One version's account, all zero if nothing was counted yet."""
        with self._lock:
            account = self._accounts.get((model, str(version)))
            return _statistics(account) if account else Statistics()

    def counts(self) -> Counts:
        """A copy of everything, to be sent or written out; a call waits for one account's copy at most."""
        with self._lock:
            keys = list(self._accounts)
            counted = Counts({}, dict(self._rejected), dict(self._states), dict(self._reloads))
            queues = dict(self._queues)
        for key in keys:
            with self._lock:
                counted.accounts[key] = self._accounts[key].copy()
        # Outside the lock: this asks the batchers, which hold their own lock while they report here.
        return replace(counted, queues={key: read() for key, read in queues.items()})

    def add(self, counts: Counts) -> None:
        """Count what another process counted; a version is in the state in which any process can use it best."""
        with self._lock:
            for key, account in counts.accounts.items():
                self._accounts.setdefault(key, _Account()).add(account)
            for mine, theirs in ((self._rejected, counts.rejected), (self._reloads, counts.reloads)):
                for key, count in theirs.items():
                    mine[key] = mine.get(key, 0) + count
            for key, state in counts.states.items():
                self._states[key] = max(self._states.get(key, state), state, key=_BEST_LAST.index)
            for key, rows in counts.queues.items():
                before = self._queues.get(key, int)()
                self._queues[key] = partial(int, before + rows)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """All metrics as Prometheus' own objects."""
        counts = self.counts()
        yield from _request_metrics(counts)
        yield from _batch_metrics(counts)
        yield from _model_metrics(counts)

    def _names(self, model: str, version: int) -> Key:
        written = (model, str(version) if version else "")
        if written in self._accounts or written in self._states:
            return written
        return (model, "") if any(model == name for name, _ in self._states) else ("", "")

    def _find(self, model: str, version: int, method: str, code: str) -> tuple[_Account, Histogram]:
        """Where calls like this one are counted; kept for the next one if they have labels of their own for good."""
        account = self._account(model, version)
        found = (account, account.method_code.setdefault((method, code), Histogram(SECONDS)))
        if self._accounts.get((model, str(version))) is account:
            self._found[model, version, method, code] = found
        return found

    def _account(self, model: str, version: int) -> _Account:
        account = self._accounts.get((model, str(version)))
        if account is not None:
            return account
        names = self._names(model, version)
        account = self._accounts.get(names)
        if account is None:
            account = self._accounts[names] = _Account()
        return account


def _request_metrics(counts: Counts) -> Iterator[Metric]:
    names = ("model", "version", "method")
    total = CounterMetricFamily("calotype_requests", "Calls answered.", labels=(*names, "code"))
    images = CounterMetricFamily("calotype_images", "Images answered.", labels=names)
    unreadable = CounterMetricFamily("calotype_images_unreadable", "Of them, those that can't be read.", labels=names)
    seconds = HistogramMetricFamily("calotype_request_seconds", "From arrival to answer.", labels=(*names, "code"))
    for key, account in counts.accounts.items():
        for (method, code), histogram in account.method_code.items():
            total.add_metric((*key, method, code), histogram.count)
            _add(seconds, (*key, method, code), histogram)
        for method, count in account.images.items():
            images.add_metric((*key, method), count)
        for method, count in account.unreadable.items():
            unreadable.add_metric((*key, method), count)
    yield from (total, images, unreadable, seconds)


def _batch_metrics(counts: Counts) -> Iterator[Metric]:
    for name, text, attribute in (
        ("calotype_queue_seconds", "Waiting for the model.", "queue"),
        ("calotype_compute_seconds", "Inside one model call.", "compute"),
        ("calotype_decode_seconds", "Decoding one request's images.", "decode"),
        ("calotype_batch_rows", "Rows in one model call.", "rows"),
    ):
        family = HistogramMetricFamily(name, text, labels=("model", "version"))
        for key, account in counts.accounts.items():
            histogram: Histogram = getattr(account, attribute)
            if histogram.count:
                _add(family, key, histogram)
        yield family


def _model_metrics(counts: Counts) -> Iterator[Metric]:
    rejected = CounterMetricFamily(
        "calotype_rejected", "Refused before any compute.", labels=("model", "version", "reason")
    )
    for key, count in counts.rejected.items():
        rejected.add_metric(key, count)
    reloads = CounterMetricFamily("calotype_reloads", "Versions tried.", labels=("model", "outcome"))
    for key, count in counts.reloads.items():
        reloads.add_metric(key, count)
    states = GaugeMetricFamily(
        "calotype_model_state", "1 for the state a version is in.", labels=("model", "version", "state")
    )
    for key, now in counts.states.items():
        for state in STATES:
            states.add_metric((*key, state), float(state == now))
    queues = GaugeMetricFamily("calotype_queue_rows", "Rows waiting.", labels=("model", "version"))
    for key, rows in counts.queues.items():
        queues.add_metric(key, rows)
    yield from (rejected, reloads, states, queues)


def _add(family: HistogramMetricFamily, labels: Key, histogram: Histogram) -> None:
    running, buckets = 0, []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        running += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
    family.add_metric(labels, buckets=buckets, sum_value=histogram.total)


def _statistics(account: _Account) -> Statistics:
    found = [(code, seconds) for (method, code), seconds in account.method_code.items() if method in _INFERENCES]
    good = [seconds for code, seconds in found if code == "OK"]
    bad = [seconds for code, seconds in found if code != "OK"]
    return Statistics(
        requests_ok=sum(histogram.count for histogram in good),
        requests_failed=sum(histogram.count for histogram in bad),
        ok_seconds=sum(histogram.total for histogram in good),
        failed_seconds=sum(histogram.total for histogram in bad),
        rows=sum(rows * int(batches) for rows, (batches, _) in account.sizes.items()),
        batches=account.compute.count,
        queue_count=account.queue.count,
        queue_seconds=account.queue.total,
        compute_seconds=account.compute.total,
        request_compute_seconds=account.felt_seconds,
        decode_count=account.decode.count,
        decode_seconds=account.decode.total,
        last_request_unix_ms=account.last_request_unix_ms,
        batch_sizes=tuple(
            BatchSize(rows=rows, batches=int(batches), compute_seconds=seconds)
            for rows, (batches, seconds) in sorted(account.sizes.items())
        ),
    )
