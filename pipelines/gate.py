"""The last question before a run is published: is it good enough, and not worse than what is being served?

The answer is data: whoever asked refuses or publishes. Knows no flows, and publishes nothing.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import chance, contender
from pipelines.config import LARGER_IS_BETTER
from pipelines.dataset import Snapshot
from pipelines.duel import Meeting, meet
from pipelines.files import write_atomically
from pipelines.judge import REPORT
from pipelines.paired import LEVEL, Comparison
from pipelines.scan import silent
from serving import bundle as bundles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipelines.config import Recipe
    from pipelines.contender import Contender
    from pipelines.scan import Progress
    from pipelines.workspace import Workspace

GATE = "gate.json"
FEWEST_IMAGES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What the gate found.

    Attributes:
        passed: whether the run may be published.
        reason: why, in words.
        versions: of the model when the gate looked; the answer holds as long as there are no others.
        champion: the version to beat, or None.
        images: test images on which the two were compared.
        left_out: test images on which they weren't, by the reason; see `duel.Meeting`.
        champion_learned: whether it is known which images the champion learned from; None: they didn't meet.
        comparison: the numbers; None: they didn't meet, or no image was left.
        forced: whether only `--force` let it pass.
        warning: said of a classifier that is not beyond chance better than always giving the same answer; it passes
            all the same.
    """

    passed: bool
    reason: str
    versions: tuple[int, ...] = ()
    champion: int | None = None
    images: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    champion_learned: bool | None = None
    comparison: Comparison | None = None
    forced: bool = False
    warning: str | None = None


def judge_run(
    folder: Path,
    *,
    name: str,
    snapshot: Path,
    recipe: Recipe,
    workspace: Workspace,
    force: bool = False,
    progress: Progress = silent,
) -> GateResult:
    """Whether a run's model may become the newest version of `name`; the answer is also the run's `gate.json`.

    Args:
        folder: the run's, with an exported model.
        name: of the model.
        snapshot: that it was trained on; its test part is what both are judged on.
        recipe: of the run.
        workspace: with the repository, the datasets and the known sets.
        force: let pass what the gate can't tell: too few images to find it worse, or a champion that may have learned
            them. It never lets pass what was found worse beyond chance on images that are new to both, however few,
            what answers with no number where the champion has one, or what missed a floor.
        progress: called with the stage, and how many images of how many are done.

    Raises:
        UsageError: the run has no exported model, or its snapshot is gone.
    """
    versions = tuple(bundles.versions(workspace.models, name))  # before the champion is looked for
    challenger, champion = contender.of_run(folder), contender.champion(workspace.models, name)
    found = obstacle(challenger, champion, name=name, recipe=recipe)
    if found is None and champion is not None:
        met = meet(
            challenger,
            champion,
            Snapshot.open(snapshot),
            workspace=workspace,
            max_pixels=recipe.data.max_image_pixels,
            progress=progress,
        )
        found = decide(met, champion=champion.bundle.version, force=force)
    elif found is None:
        found = GateResult(passed=True, reason="There is no champion to beat.")
    number = None if champion is None else champion.bundle.version
    warning = chance.warning(_report(folder))
    found = dataclasses.replace(found, versions=versions, champion=number, warning=warning)
    write_atomically(folder / GATE, (json.dumps(dataclasses.asdict(found), indent=2) + "\n").encode())
    return found


def _report(folder: Path) -> dict[str, Any]:
    """What the run's evaluation found; empty for a run that was made without one."""
    path = folder / REPORT
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return report


def warning_of(report: str | None) -> str | None:
    """What the gate warned of in the run that this page is of; None: of nothing, or nothing is written there."""
    path = Path(report).parent / GATE if report is not None else None
    if path is None or not path.exists():
        return None
    warning: str | None = json.loads(path.read_text(encoding="utf-8")).get("warning")
    return warning


def obstacle(challenger: Contender, champion: Contender | None, *, name: str, recipe: Recipe) -> GateResult | None:
    """The refusal that needs no comparison: a floor that isn't reached, or a champion of another task; else None."""
    missed = missed_floors(challenger.bundle.metrics, recipe)
    if missed:
        return _refused(f"The recipe's floors are not reached on the test part: {'; '.join(missed)}.")
    if champion is not None and champion.bundle.task != challenger.bundle.task:
        return _refused(
            f"Version {champion.bundle.version} of {name!r} is there to {champion.bundle.task}, and this run to "
            f"{challenger.bundle.task}: whoever calls {name!r} would get answers of another kind. Run it under another "
            "--name."
        )
    return None


def missed_floors(metrics: Mapping[str, float], recipe: Recipe) -> list[str]:
    """The floors that a run's metrics don't reach, a few words each; what is unknown or no number reaches none."""
    missed = []
    for metric, floor in recipe.floors.items():
        value = metrics.get(metric, float("nan"))
        if metric in LARGER_IS_BETTER[recipe.task]:
            if not value >= floor:
                missed.append(f"{metric} is {value:.6g} and must be at least {floor:g}")
        elif not value <= floor:
            missed.append(f"{metric} is {value:.6g} and may be at most {floor:g}")
    return missed


def decide(met: Meeting, *, champion: int, force: bool) -> GateResult:
    """Pass or refuse by what came of a meeting with a champion of this version.

    What chance doesn't explain is a finding, on however few images; only where there is none can they be too few.
    """
    if met.comparison is not None and met.comparison.beyond_chance:
        found = _worse(met, met.comparison, champion, force=force)
    elif met.comparison is None or met.images < FEWEST_IMAGES:
        found = _by_force(_too_few(met, champion), force=force)
    else:
        words = f"Not worse than version {champion} beyond chance: {_in_words(met.comparison, met.images)}."
        found = GateResult(passed=True, reason=words)
    return dataclasses.replace(
        found,
        images=met.images,
        left_out=met.left_out,
        champion_learned=met.champion_learned,
        comparison=met.comparison,
    )


def _worse(met: Meeting, comparison: Comparison, champion: int, *, force: bool) -> GateResult:
    """Refuse for good, unless the champion may have learned the images it is better on, which explains no NaN."""
    words = f"Worse than version {champion}, beyond chance: {_in_words(comparison, met.images)}."
    if met.champion_learned or comparison.not_finite:
        return _refused(words)
    advantage = (
        f"{words} (Which images version {champion} learned from is not known any more, so it may have learned "
        "some of these, and be no better.)"
    )
    return _by_force(advantage, force=force)


# ---- words --------------------------------------------------------------------------------------

_LEFT_OUT = {
    "learned": "were in the training or validation part of one of the two",
    "label": "have a label that one of the two doesn't know",
    "unreadable": "can't be read from the source any more, or have changed there",
}


def _refused(words: str) -> GateResult:
    return GateResult(passed=False, reason=f"{words} Nothing was published; the run is kept.")


def _by_force(words: str, *, force: bool) -> GateResult:
    if force:
        return GateResult(passed=True, forced=True, reason=f"Published by --force. {words}")
    return _refused(f"{words} `calotype publish RUN --force` publishes it all the same.")


def _too_few(met: Meeting, champion: int) -> str:
    out = "; ".join(f"{count} {_LEFT_OUT[reason]}" for reason, count in met.left_out.items())
    return (
        f"It can't be compared with version {champion}: {met.images} test images are left for it, and at least "
        f"{FEWEST_IMAGES} are needed{f' ({out})' if out else ''}."
    )


def _in_words(comparison: Comparison, images: int) -> str:
    value = ".4f" if comparison.metric == "accuracy" else ".6f"
    broken = comparison.not_finite
    return (
        f"{comparison.metric.replace('_', ' ')} {comparison.challenger:{value}} against {comparison.champion:{value}} "
        f"on {images} images, worse on {comparison.worse} and better on {comparison.better} of them "
        f"({comparison.test}, p = {comparison.p_value:.3g}, level {LEVEL:g})"
        + (f"; on {broken} of them its error is no finite number, where the champion's is" if broken else "")
    )
