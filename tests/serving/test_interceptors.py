"""What the desk lets out: sentences and words of a bounded length."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from serving.calls import Call
from serving.errors import ModelNotFound
from serving.interceptors import OK, Desk, Status, cut
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


def test_a_sampled_log_has_one_good_call_in_so_many_and_every_bad_one(caplog):
    """The metrics count all of them."""
    telemetry = Telemetry()
    desk = Desk(telemetry, log_sample=10)
    caplog.set_level("INFO", "calotype")
    for number in range(40):
        desk.finished(Call("Classify", request_id=str(number)), OK)
        desk.finished(Call("Reconstruct"), Status(StatusCode.NOT_FOUND))
    calls = [record.fields["method"] for record in caplog.records]
    assert (calls.count("Classify"), calls.count("Reconstruct")) == (4, 40)
    assert b'calotype_requests_total{code="OK",method="Classify",model="",version=""} 40.0' in telemetry.exposition()
