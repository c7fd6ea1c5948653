"""What should be loaded of one model, decided from what is on disk, what is loaded, and what failed before.

Pure: the registry asks, and does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.repository import Model, Version

Files = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one model.

    Args:
        try_in_turn: versions to load, best first, until one succeeds; it then replaces the current one.
        keep: whether the current version serves on if none of them loads.
        broken: versions newly found that may not be loaded, with the reason.
    """

    try_in_turn: tuple[Version, ...]
    keep: bool
    broken: tuple[tuple[Version, str], ...] = ()


def decide(
    model: Model | None,
    *,
    current: tuple[int, Files] | None,
    failed: Mapping[int, Files],
    unloaded: bool,
) -> Decision:
    """Decide about one model: its newest version that loads is served, and no other.

    A version that failed is not tried again while its files are the same. A loaded version whose folder is still there
    is kept, even if the files in it were damaged meanwhile; one whose folder is gone (rolled back) is replaced by the
    newest that is left, and serves until that one is loaded.

    Args:
        model: as found on disk; None: there is no such folder.
        current: number of the version being served, and its files when it was loaded.
        failed: versions that failed to load, with their files at that time.
        unloaded: whether somebody wants this model unloaded.
    """
    if unloaded or model is None:
        return Decision((), keep=False)
    broken = tuple(
        (version, version.reason)
        for version in model.versions
        if not version.usable and failed.get(version.number) != version.files
    )
    on_disk = {version.number for version in model.versions}
    keep = current is not None and current[0] in on_disk
    worth: list[Version] = []
    for version in reversed(model.usable):
        if current is not None and version.number == current[0]:
            if version.files != current[1] and failed.get(version.number) != version.files:
                worth.append(version)  # exchanged in place
            break
        if keep and current is not None and version.number < current[0]:
            break
        if failed.get(version.number) != version.files:
            worth.append(version)
    return Decision(tuple(worth), keep=keep, broken=broken)
