"""Places that hold a password, so that it is used here and told nobody: Prefect keeps what its flows are called with.

A flow is called with the place as it may be told; whoever opens it asks for the whole. That works within one process,
and in those that it starts with `environment`.
"""

from __future__ import annotations

import json
import os

from serving.urls import MASK, masked

VARIABLE = "CALOTYPE_GIVEN_PLACES"

# Mutable: the one thing that this room is for. What may be told -> what was given; the latest counts.
_given: dict[str, str] = {}


def hide(place: str) -> str:
    """A source or database as it may be told, for `reveal`; itself where it holds no secret."""
    told = masked(place)
    if told != place:
        _given[told] = place
    return told


def reveal(place: str) -> str:
    """What was given to `hide`, here or in the process that started this one; any other place as it is."""
    return _known().get(place, place)


def is_lost(place: str) -> bool:
    """Whether a place shows that it held a secret, and nobody here was given it."""
    return MASK in place and place not in _known()


def environment() -> dict[str, str]:
    """Variables by which a process that is started here reveals the same."""
    return {VARIABLE: json.dumps(_given)} if _given else {}


def _known() -> dict[str, str]:
    inherited: dict[str, str] = json.loads(os.environ.get(VARIABLE) or "{}")
    return inherited | _given
