"""A few hundred damaged messages, images and frames; twenty thousand: `python -m tests.serving.fuzz`."""

from __future__ import annotations

import pytest

from tests.serving.fuzz import fuzz


@pytest.mark.slow
def test_damage_is_the_callers_fault_and_the_server_lives(form, tmp_path):
    """No crash, no hang, no UNKNOWN or INTERNAL, nothing left open, and good calls are answered as before."""
    found = fuzz(tmp_path, transport=form, count=600, seed=7)
    assert found.faults == []
    assert sum(found.codes.values()) >= 600
    assert len(found.codes) > 15, "the damage is too much alike to find anything"
