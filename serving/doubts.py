"""Versions that didn't load and may be half of a copy: failures only once they rest.

Knows no disk and no log: the keeper tells what it found and does what is said here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from serving import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.plan import Stamp
    from serving.repository import Model, Version

_REST_SECONDS: Final = 10.0


def looks_at_rest(poll_seconds: float) -> int:
    """How many looks must find a version the same before it counts as failed: two, or as many as take some seconds."""
    return 1 + max(1, math.ceil(_REST_SECONDS / poll_seconds))


@dataclass(slots=True)
class Doubt:
    """One version; mutable: what is known of it by now.

    Args:
        stamp: what didn't load.
        reason: why, a sentence.
        looks: how many found it so.
        told: whether its operator was.
    """

    stamp: Stamp
    reason: str
    looks: int = 0
    told: bool = False


class Doubts:
    """All of them, for one thread.

    Args:
        looks: that must find a version the same before it has failed.
    """

    # Mutable: `_found`, by name and number.

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._found: dict[tuple[str, int], Doubt] = {}

    def add(self, version: Version, stamp: Stamp, reason: str) -> None:
        """A version, as it is now, doesn't load."""
        key = version.name, version.number
        known = self._found.get(key)
        self._found[key] = Doubt(stamp, reason, told=known is not None and known.told)

    def drop(self, name: str, number: int = 0) -> None:
        """A version, or 0: every one of a model, is in doubt no more."""
        for key in [key for key in self._found if key[0] == name and number in (0, key[1])]:
            del self._found[key]

    def note(self, on_disk: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        """Forget what is gone, by what a look found; returns it."""
        gone = [key for key in self._found if key[1] not in on_disk.get(key[0], ())]
        for key in gone:
            del self._found[key]
        return gone

    def stamps(self, name: str) -> dict[int, Stamp]:
        """What is not to be tried again as it is, by number."""
        return {number: doubt.stamp for (model, number), doubt in self._found.items() if model == name}

    def failed(self, model: Model, *, at_once: bool) -> list[tuple[Version, Doubt]]:
        """After a look at a model: the versions that rest, and have failed; in doubt no more.

        Args:
            model: as found.
            at_once: whether they have failed without a rest.
        """
        failed = []
        for version in model.versions:
            doubt = self._found.get((model.name, version.number))
            if doubt is not None and doubt.stamp == plan.stamp(model, version):
                doubt.looks += 1
                if at_once or doubt.looks >= self._looks:
                    failed.append((version, doubt))
        for version, _ in failed:
            del self._found[version.name, version.number]
        return failed

    def untold(self, name: str) -> list[tuple[int, str]]:
        """Number and reason of a model's versions that are in doubt since the last time this was asked."""
        new = {key[1]: doubt for key, doubt in self._found.items() if key[0] == name and not doubt.told}
        for doubt in new.values():
            doubt.told = True
        return [(number, doubt.reason) for number, doubt in new.items()]
