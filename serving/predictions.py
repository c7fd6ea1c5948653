"""What a prediction is to those who ask for one in Python, over the wire or in this process; knows neither."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of one image, best first."""

    labels: tuple[Score, ...]

    @property
    def label(self) -> str:
        """The best label."""
        return self.labels[0].label

    @property
    def probability(self) -> float:
        """The best label's probability."""
        return self.labels[0].probability


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How well a model could reproduce one image.

    Args:
        error: mean squared error on the scale 0…1.
        anomalous: whether it is above the model's threshold.
        image: the reconstruction in the form asked for; empty when none was.
    """

    error: float
    anomalous: bool
    image: bytes = b""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one image has no prediction.

    Args:
        code: the gRPC status name.
        message: one sentence.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Predictions with the model that made them.

    Args:
        model: its name.
        version: its version.
        results: one per image, in order.
    """

    model: str
    version: int
    results: tuple[Classification | Reconstruction | Failure, ...]
