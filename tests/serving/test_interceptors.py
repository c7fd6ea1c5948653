"""What the desk lets out: sentences and words of a bounded length."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from serving.calls import Call
from serving.errors import ModelNotFound
from serving.interceptors import Desk, Status, cut
from serving.telemetry import Telemetry


@given(st.text(), st.integers(1, 3000))
def test_what_is_cut_is_a_beginning_of_a_kilobyte(text, times):
    """And what is short stays as it is."""
    long = text * times
    shown = cut(long)
    assert len(shown.encode()) < 1100
    assert shown == long or long.startswith(shown.partition(" … (")[0])


@pytest.mark.parametrize("form", ["model", "request_id"])
def test_a_caller_cannot_flood_the_log(caplog, form):
    """Neither by its words nor by the sentences that quote them."""
    desk, call = Desk(Telemetry()), Call("Classify", **{form: "x" * 100_000})
    caplog.set_level("INFO", "calotype")
    status = desk.explain(ModelNotFound("x" * 100_000), call)
    desk.finished(call, status)
    desk.finished(call, Status(StatusCode.OK))
    assert len(caplog.records) == 2
    assert all(len(str(vars(record))) < 6000 for record in caplog.records)
