"""What should be loaded of one model, decided from what is on disk, what is loaded, and what failed before.

Pure: the keeper asks, and does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from serving.model_config import VersionPolicy
    from serving.repository import Model, Version

Stamp = tuple[Any, ...]
"""What a version was loaded from, its files and the model's configuration: equal means untouched."""


@dataclass(frozen=True, slots=True)
class Step:
    """One version that may be among those served.

    Args:
        version: as found on disk.
        load: whether to try to load it.
        held: whether it is loaded already; that goes on unless a new load of it succeeds.
    """

    version: Version
    load: bool
    held: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one model.

    Args:
        steps: to be gone through until `most` versions are loaded, the best first; what else is loaded then ends.
        most: how many versions are to be loaded.
        broken: versions newly found that may not be loaded, with the reason.
    """

    steps: tuple[Step, ...] = ()
    most: int = 0
    broken: tuple[tuple[Version, str], ...] = ()


def stamp(model: Model, version: Version) -> Stamp:
    """What this version would be loaded from now."""
    return (version.files, model.config, model.reason)


def settling(
    model: Model, seen: Mapping[tuple[str, int], Stamp], *, has_bundle: bool, doubted: Collection[int] = ()
) -> frozenset[int]:
    """The versions that are not to be tried yet, as they may be half of a copy.

    Where bundles live, a lone model.onnx is most likely the first file of the next one; it is taken at its word only
    when it was the same at two looks. So is whatever didn't load at the look before, and has changed since.

    Args:
        model: as found on disk.
        seen: name and number -> the files of a version at the look before, if it could be tried then.
        has_bundle: whether a bundle of this model is loaded.
        doubted: the versions that didn't load, and haven't rested since.
    """
    bundles_live = has_bundle or any(version.kind == "bundle" for version in model.versions)
    found = set()
    for version in model.versions:
        before = seen.get((model.name, version.number))
        first_of_many = bundles_live and version.kind == "plain"
        goes_on = version.number in doubted and before is not None
        if (first_of_many or goes_on) and before != version.files:
            found.add(version.number)
    return frozenset(found)


def decide(
    model: Model | None,
    *,
    policy: VersionPolicy,
    loaded: Mapping[int, Stamp],
    failed: Mapping[int, Stamp],
    unloaded: bool,
    settling: Collection[int] = (),
) -> Decision:
    """Decide about one model: the newest versions that load and that the policy wants are served, and no others.

    A version that failed is not tried again while its stamp is the same. A loaded version whose folder is still there
    is kept, even if the files in it were damaged meanwhile; one whose folder is gone (rolled back) is replaced by the
    newest that is left, and serves until that one is loaded.

    Args:
        model: as found on disk; None: there is no such folder.
        policy: which versions are wanted.
        loaded: number -> stamp of those that take calls.
        failed: number -> stamp of those that failed to load.
        unloaded: whether somebody wants this model unloaded.
        settling: versions that are not loaded yet, see `settling`.
    """
    if unloaded or model is None:
        return Decision()
    broken, steps = [], []
    for version in reversed(model.versions):
        number, now = version.number, stamp(model, version)
        new = failed.get(number) != now
        if new and not version.usable:
            broken.append((version, version.reason))
        if policy.only is not None and number not in policy.only:
            continue
        load = version.usable and new and loaded.get(number) != now and number not in settling
        if load or number in loaded:
            steps.append(Step(version, load=load, held=number in loaded))
    return Decision(tuple(steps), policy.most, tuple(reversed(broken)))


def hold(model: Model, reason: str, *, loaded: Mapping[int, Stamp], failed: Mapping[int, Stamp]) -> Decision:
    """Decide about a model that can't be loaded as a whole, its configuration being broken: what is loaded goes on.

    Args:
        model: as found on disk.
        reason: a sentence.
        loaded: number -> stamp of those that take calls.
        failed: number -> stamp of those that failed to load.
    """
    steps = tuple(Step(version, load=False, held=True) for version in model.versions if version.number in loaded)
    newest = model.newest
    news = newest is not None and failed.get(newest.number) != stamp(model, newest)
    return Decision(steps, len(steps), ((newest, reason),) if newest is not None and news else ())
