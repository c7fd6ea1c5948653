"""Numbers to charts, as PNG bytes; the only file that imports matplotlib. Knows no run and no model."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

SIZE_INCHES = (5.2, 3.0)  # small, so that its words can be read where the whole is as wide as a phone
DOTS_PER_INCH = 150


@dataclass(frozen=True, slots=True)
class Look:
    """The colours of a chart's lines and words, and of what it stands on."""

    ink: str
    paper: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing as PNG bytes, for a light page and for a dark one."""

    light: bytes
    dark: bytes


LIGHT = Look(ink="#24292f", paper="#ffffff")
DARK = Look(ink="#d7dce2", paper="#14171b")


def curve(history: Mapping[str, Sequence[float]], *, best_epoch: int) -> Chart:
    """Loss by epoch, and accuracy where there is one.

    Args:
        history: figures per epoch by name; `val_` before those of the validation part.
        best_epoch: whose weights were kept, from 1.
    """
    figure, axes = _figure()
    epochs = range(1, len(history["loss"]) + 1)
    axes.plot(epochs, history["loss"], color="C0", label="train loss")
    if "val_loss" in history:
        axes.plot(epochs, history["val_loss"], color="C0", linestyle="--", label="validation loss")
    axes.axvline(best_epoch, color="0.6", linewidth=1, label="kept")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines, labels = axes.get_legend_handles_labels()
    if "val_accuracy" in history:
        right = axes.twinx()
        right.plot(epochs, history["val_accuracy"], color="C1", linestyle="--", label="validation accuracy")
        right.set_ylabel("accuracy")
        more_lines, more_labels = right.get_legend_handles_labels()
        lines, labels = lines + more_lines, labels + more_labels
    figure.legend(lines, labels, frameon=False, loc="outside upper center", ncols=2)
    return _drawn(figure)


def calibration(bins: Sequence[Mapping[str, float]]) -> Chart:
    """How often the model is right, by how sure it says it is; a perfectly calibrated one lies on the diagonal."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.bar(
        [one["from"] for one in bins],
        [one["accuracy"] for one in bins],
        width=[one["to"] - one["from"] for one in bins],
        align="edge",
        alpha=0.6,
        edgecolor="none",
    )
    axes.plot([one["confidence"] for one in bins], [one["accuracy"] for one in bins], "o", color="C1", markersize=4)
    axes.set(xlabel="probability of the predicted label", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    return _drawn(figure)


def histogram(edges: Sequence[float], counts: Sequence[int], *, threshold: float) -> Chart:
    """Errors of the test images, and the threshold above which an image is anomalous."""
    figure, axes = _figure()
    axes.stairs(counts, edges, fill=True, alpha=0.6)
    axes.axvline(threshold, color="C3", linewidth=1, label="threshold")
    axes.set(xlabel="mean squared error", ylabel="images")
    axes.legend(frameon=False)
    return _drawn(figure)


def trials(ended: Sequence[tuple[int, float, bool]]) -> Chart:
    """The loss of each trial, and the smallest so far.

    Args:
        ended: number, loss, and whether the trial was let to its end; by number.
    """
    figure, axes = _figure()
    for whole, marker, color, label in ((True, "o", "C0", "whole trial"), (False, "x", "0.6", "stopped early")):
        some = [(number, loss) for number, loss, was_whole in ended if was_whole == whole]
        if some:
            axes.plot(*zip(*some, strict=True), marker, color=color, markersize=4, label=label)
    to_end = [(number, loss) for number, loss, whole in ended if whole]
    smallest = list(itertools.accumulate((loss for _, loss in to_end), min))
    axes.step([number for number, _ in to_end], smallest, where="post", color="C1", label="smallest so far")
    axes.set(xlabel="trial", ylabel="validation loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small", frameon=False)
    return _drawn(figure)


def importance(shares: Mapping[str, float], *, trials: int) -> Chart:
    """How much each parameter mattered.

    Args:
        shares: by parameter; they add up to 1.
        trials: how many it was learned from.
    """
    figure, axes = _figure()
    ordered = sorted(shares.items(), key=lambda pair: pair[1])
    axes.barh([name for name, _ in ordered], [share for _, share in ordered], alpha=0.6)
    axes.set(xlabel=f"share in what made the best of {trials} whole trials good", xlim=(0, 1))
    return _drawn(figure)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _drawn(figure: Figure) -> Chart:
    light = _png(figure, LIGHT)
    figure.set_layout_engine("none")  # where everything has its place now; finding it costs as much as drawing
    return Chart(light, _png(figure, DARK))


def _png(figure: Figure, look: Look) -> bytes:
    figure.set_facecolor(look.paper)
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=look.ink)
        for spine in axes.spines.values():
            spine.set_edgecolor(look.ink)
    for words in figure.findobj(Text):
        words.set_color(look.ink)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
