"""A training's state is found whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import checkpoint
from pipelines.checkpoint import Checkpoint, Standing


def _some(identity: str = "this") -> Checkpoint:
    standing = Standing(epoch=3, best_epoch=2, best_loss=0.25, waited=1, seconds=4.5, history={"loss": [3.0, 2.0, 1.5]})
    variables = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64), np.array([1, 2], np.uint32)]
    return Checkpoint(identity, standing, variables, [np.full(3, 0.1, np.float32)])


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    """Values, types, shapes and their order survive, and so do the numbers that callbacks remember."""
    saved = _some()
    checkpoint.save(tmp_path, saved)
    found = checkpoint.load(tmp_path, identity="this")
    assert found is not None
    assert found.standing == saved.standing
    for before, after in zip([*saved.variables, *saved.best], [*found.variables, *found.best], strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_many_variables_keep_their_order(tmp_path):
    """The eleventh variable comes after the tenth, not after the first."""
    variables = [np.array(at) for at in range(25)]
    checkpoint.save(tmp_path, Checkpoint("this", Standing(), variables, []))
    found = checkpoint.load(tmp_path, identity="this")
    assert found is not None
    assert [int(value) for value in found.variables] == list(range(25))


def test_the_state_of_another_training_is_not_taken(tmp_path):
    """Another recipe or snapshot starts at its own beginning."""
    checkpoint.save(tmp_path, _some("that"))
    assert checkpoint.load(tmp_path, identity="this") is None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"rubbish" * 100])
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    """Nothing that lies there can keep a training from starting."""
    (tmp_path / checkpoint.FILE).write_bytes(damage)
    assert checkpoint.load(tmp_path, identity="this") is None


def test_a_file_cut_anywhere_is_as_good_as_none(tmp_path):
    """Half a state is never taken for a state."""
    checkpoint.save(tmp_path, _some())
    path = tmp_path / checkpoint.FILE
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert checkpoint.load(tmp_path, identity="this") is None


def test_saving_leaves_one_file(tmp_path):
    """What is written beside its place is gone when it is in place, and `remove` leaves nothing."""
    checkpoint.save(tmp_path, _some())
    checkpoint.save(tmp_path, _some())
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
    checkpoint.remove(tmp_path)
    checkpoint.remove(tmp_path)
    assert not list(tmp_path.iterdir())
