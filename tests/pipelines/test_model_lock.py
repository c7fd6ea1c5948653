"""Whose turn it is with a model."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pipelines.errors import Busy
from pipelines.model_lock import run_turn, schedule_turn
from pipelines.workspace import Workspace


def _nobody(sentence):
    raise AssertionError(sentence)


def test_a_second_run_of_a_model_is_refused_with_the_holders_name(tmp_path):
    """The sentence says who holds it; another model, and the schedule of the same one, have turns of their own."""
    place = Workspace(tmp_path)
    with run_turn(place, "m", patience_seconds=0, told=_nobody):
        with pytest.raises(Busy, match=r"Another run of m is under way \(process \d+ on "):
            run_turn(place, "m", patience_seconds=0, told=_nobody).__enter__()
        with run_turn(place, "n", patience_seconds=0, told=_nobody), schedule_turn(place, "m", patience_seconds=0):
            pass
    with run_turn(place, "m", patience_seconds=0, told=_nobody):
        pass
    assert not list(tmp_path.glob("[!.]*"))


def test_a_second_run_waits_says_so_once_and_comes_next(tmp_path):
    """`calotype run` twice at the same time: the second one goes on when the first has ended."""
    place, said, released = Workspace(tmp_path), [], threading.Event()
    first = run_turn(place, "m", patience_seconds=0, told=_nobody)
    first.__enter__()

    def told(sentence):
        said.append(sentence)
        first.__exit__(None, None, None)
        released.set()

    with run_turn(place, "m", patience_seconds=60, told=told):
        assert released.is_set()
    assert len(said) == 1
    assert "waiting for it to end" in said[0]


def test_a_killed_holder_holds_nothing(tmp_path):
    """A kill -9 lets go of the turn."""
    program = (
        "import sys, time, pathlib\nfrom pipelines.model_lock import run_turn\n"
        "from pipelines.workspace import Workspace\n"
        "with run_turn(Workspace(pathlib.Path(sys.argv[1])), 'm', patience_seconds=0, told=print):\n"
        "    print('held', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=str(holder.pid)):
            run_turn(Workspace(tmp_path), "m", patience_seconds=0, told=_nobody).__enter__()
        holder.kill()
        holder.wait()
    with run_turn(Workspace(tmp_path), "m", patience_seconds=0, told=_nobody):
        pass
