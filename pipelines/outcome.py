"""What came of a pipeline, and the seconds that each of its stages took; knows no flow."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.ingest import IngestResult
    from pipelines.runs import RunRecord


@dataclass(frozen=True, slots=True)
class Released:
    """What came of publishing.

    Attributes:
        version: the run's; None: refused.
        reason: why it was refused.
        seconds: by stage.
    """

    version: int | None
    reason: str | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a pipeline.

    Attributes:
        record: of the run; of the finished one when there was nothing new.
        ingested: the data that it was made from.
        seconds: by stage, of this call only.
    """

    record: RunRecord
    ingested: IngestResult
    seconds: dict[str, float]

    @property
    def nothing_new(self) -> bool:
        """The same images and recipe had a finished run before, and nothing was done but looking."""
        return not self.seconds.keys() & {"train", "gate"}


def summary(metrics: dict[str, float]) -> str:
    """The one or two numbers of a run that a person asks for first."""
    if "accuracy" in metrics:
        return f"accuracy {metrics['accuracy']:.4f}"
    return (
        f"binary cross-entropy {metrics['binary_crossentropy']:.4f}, squared error {metrics['mean_squared_error']:.4f}"
    )


class Clock:
    """Seconds by stage; what Prefect needs between its tasks counts for the stage that it is in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block for a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds for a stage."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)
