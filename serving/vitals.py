"""What the kernel says of this server's processes: CPU time, memory, open files, start; for Prometheus.

The names are Prometheus' own (`process_…`), each with a label `process`: `server`, and with several workers `worker-1`
and so on besides. A worker that takes a dead one's place takes its name, and its CPU time begins anew, as counters may.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric


class Vitals:
    """The vital signs of some processes; read anew whenever they are collected.

    Args:
        workers: process numbers of the workers, in their order; none: this process does the work.
    """

    def __init__(self, workers: Sequence[int] = ()) -> None:
        self._processes = {"server": None} | {f"worker-{at}": pid for at, pid in enumerate(workers, 1)}

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """All of it as Prometheus' own objects; nothing where there is no /proc."""
        families: dict[str, Metric] = {}
        for name, pid in self._processes.items():
            for metric in _read(pid):
                family = families.setdefault(metric.name, copy.copy(metric))
                if family.samples is metric.samples:
                    family.samples = []
                for sample in metric.samples:
                    family.add_sample(sample.name, {"process": name}, sample.value)
        yield from families.values()


def _read(pid: int | None) -> list[Metric]:
    """Of one process; nothing of one that has just ended."""
    of = partial(str, "self" if pid is None else pid)
    return list(ProcessCollector(pid=of, registry=CollectorRegistry()).collect())
