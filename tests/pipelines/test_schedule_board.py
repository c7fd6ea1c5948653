"""What the schedule makes of answers that Prefect's server seldom gives: on a client that gives them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from pipelines.errors import UsageError
from pipelines.timetable import Due, Timetable

pytestmark = pytest.mark.slow  # imports Prefect

DUE = Due(str(uuid4()), datetime(2026, 1, 1, tzinfo=UTC))


class Forgetful:
    """A server that was given an empty database: it knows a deployment only after it was put up again."""

    def __init__(self):
        self.known = set()

    def read_deployment(self, deployment):
        if deployment not in self.known:
            raise _not_found()

    def create_flow_run_from_deployment(self, deployment):
        self.read_deployment(deployment)
        return SimpleNamespace(id=uuid4())

    def set_flow_run_state(self, run, state, force=False):
        raise _not_found()

    def read_flow_run(self, run):
        raise _not_found()


def _not_found():
    from prefect.exceptions import ObjectNotFound

    return ObjectNotFound(http_exc=_answered(404))


def _answered(status):
    from prefect.exceptions import PrefectHTTPStatusError

    request = httpx.Request("GET", "http://prefect/api")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def test_a_lost_database_and_a_deleted_run_hold_nothing_up(monkeypatch):
    """A firing is added by putting the schedule up again; one that was deleted is not begun, nor ended in mid-run."""
    from pipelines import flows_schedule

    timetable = Timetable(model="m", source="inbox", workspace=Path("ws"), every_seconds=60.0)
    board, client = flows_schedule.Board(timetable), Forgetful()
    board._client, board._id = client, uuid4()

    def post():
        board._id = uuid4()
        client.known.add(board._id)
        return True

    monkeypatch.setattr(board, "post", post)
    assert board.add(DUE.at).at == DUE.at
    assert len(client.known) == 1
    assert board.begin(DUE) is False
    assert board.cancelled(DUE) is False


def test_a_server_that_refuses_is_not_waited_for():
    """Away is away, however deep in the error; a server of another version answers, and goes on to refuse."""
    from pipelines.flows_schedule import is_prefects

    away = RuntimeError("the flow failed")
    away.__cause__ = httpx.ConnectError("refused")
    assert is_prefects(away)
    assert is_prefects(_answered(503))
    assert not is_prefects(_answered(422))
    assert not is_prefects(OSError(28, "No space left on device"))


@pytest.mark.parametrize("cron", ["0 3 31 2 *", "0 3 30 2 *", "61 3 * * *"])
def test_a_cron_expression_that_never_fires_is_refused(cron):
    """The 31st of February: the sentence has what was received; the 29th comes, in some years."""
    from pipelines import flows_schedule

    with pytest.raises(UsageError, match=re.escape(f"Received: {cron!r}")):
        flows_schedule.check(Timetable(model="m", source="inbox", workspace=Path("ws"), cron=cron))
    flows_schedule.check(Timetable(model="m", source="inbox", workspace=Path("ws"), cron="0 3 29 2 *"))


def test_the_next_firing_is_known_from_the_clock():
    """Of cron in its time zone; of an interval from when it began to count; of new data never."""
    from prefect.client.schemas.schedules import IntervalSchedule

    from pipelines import flows_schedule

    def board(**when):
        return flows_schedule.Board(Timetable(model="m", source="inbox", workspace=Path("ws"), **when))

    now = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
    assert board(cron="0 3 * * *", timezone="Asia/Tokyo").next_at(now) == datetime(2026, 1, 1, 18, tzinfo=UTC)
    assert board().next_at(now) is None
    interval = board(every_seconds=3600.0)
    assert interval.next_at(now) is None
    known = IntervalSchedule(interval=timedelta(hours=1), anchor_date=datetime(2026, 1, 1, 10, 10, tzinfo=UTC))
    interval._schedules([known])  # as Prefect's server answers: its anchor is no plain datetime
    assert interval.next_at(now) == datetime(2026, 1, 1, 13, 10, tzinfo=UTC)
