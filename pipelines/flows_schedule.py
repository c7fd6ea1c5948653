"""A schedule in Prefect: the deployment that it is, the runs that are due, and what becomes of them.

Each call is a request or two and may be made again; when Prefect's server is away it is `Unreachable`, and whoever
called comes again. Knows no clock and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import prefect
from prefect import exceptions, states
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.worker import EventsWorker
from prefect.flow_engine import run_flow
from prefect.schedules import Cron, Interval
from prefect.server.schemas.schedules import CronSchedule
from prefect.types.entrypoint import EntrypointType

from pipelines.errors import PipelineError, UsageError
from pipelines.flows import pipeline_flow
from pipelines.flows_runtime import use_runtime
from pipelines.timetable import Due, Result, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State
    from prefect.schedules import Schedule

    from pipelines.outcome import Outcome
    from pipelines.timetable import Timetable

BATCH = 200
FLUSH_SECONDS = 5.0
UNDER_WAY = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
TROUBLE = (httpx.HTTPError, httpx.InvalidURL, exceptions.PrefectException, OSError)
MISUNDERSTOOD = (400, 405, 409, 422)
TOLD = 500
LABELS = {"published": "Published", "refused": "Refused", "nothing new": "NothingNew"}


def check(timetable: Timetable) -> None:
    """Refuse what Prefect would not take as a schedule.

    Raises:
        UsageError: no cron expression, one that never fires, or a time zone that Prefect doesn't know.
    """
    if timetable.cron is None:
        return
    try:
        schedule = CronSchedule(cron=timetable.cron, timezone=timetable.timezone)
    except ValueError as error:
        raise UsageError(
            "--cron takes minute, hour, day, month and weekday, for example '0 3 * * *', and --timezone a name such as "
            f"Europe/Berlin. Received: {timetable.cron!r} and {timetable.timezone!r}"
        ) from error
    if _next_date(schedule, datetime.now(UTC)) is None:
        raise UsageError(
            "--cron takes times that come, for example '0 3 28 2 *' for each 28th of February at three. "
            f"Received: {timetable.cron!r}, which never fires"
        )


def _next_date(schedule: CronSchedule, now: datetime) -> datetime | None:
    """The first time of a cron schedule after `now`, as Prefect's server counts; None: there is none."""
    try:
        return next(iter(asyncio.run(schedule.get_dates(1, now))), None)
    except ValueError:  # it looked decades ahead
        return None


class Board:
    """The schedule of one model on Prefect's server.

    Mutable state: the deployment's id and when its interval began to count, None until `post`; and the client, None
    until it is needed and after trouble.

    Args:
        timetable: when it fires, and with what.
    """

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._id: UUID | None = None
        self._anchor: datetime | None = None
        self._client: SyncPrefectClient | None = None
        self._open = contextlib.ExitStack()
        place = hashlib.sha256(str(timetable.workspace).encode()).hexdigest()[:6]
        self.name = f"{timetable.model}-{place}"

    def close(self) -> None:
        """Let go of the connection; the next call makes another."""
        self._client = None
        with contextlib.suppress(*TROUBLE):
            self._open.close()

    @property
    def deployment(self) -> str | None:
        """The deployment's id."""
        return None if self._id is None else str(self._id)

    def post(self) -> bool:
        """Put the schedule up, active, in place of an earlier one of this model and workspace.

        Returns:
            Whether it is the first.
        """
        with self._asking() as client:
            known = None
            with contextlib.suppress(exceptions.ObjectNotFound):
                known = client.read_deployment_by_name(f"{pipeline_flow.name}/{self.name}")
            anchors = [entry.schedule for entry in known.schedules] if known is not None else []
            deployment: Any = pipeline_flow.to_deployment(  # its type allows for a coroutine, which it is elsewhere
                name=self.name,
                schedules=self._schedules(anchors),
                parameters=self._timetable.parameters,
                description=f"{self._timetable.words}: {self._timetable.source} to {self._timetable.workspace}",
                tags=["calotype", self._timetable.model],
                paused=False,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
            self._id = deployment.apply()
            return known is None

    def _schedules(self, known: list[Any]) -> list[Schedule]:
        """What Prefect turns into runs; an interval that stays the same goes on counting from where it did."""
        asked = self._timetable
        if asked.cron is not None:
            return [Cron(asked.cron, timezone=asked.timezone)]
        if asked.every_seconds is None:
            return []
        same = (
            one.anchor_date
            for one in known
            if isinstance(one, IntervalSchedule) and one.interval.total_seconds() == asked.every_seconds
        )
        self._anchor = next(same, datetime.now(UTC))
        return [Interval(asked.every_seconds, anchor_date=self._anchor)]

    def next_at(self, now: datetime) -> datetime | None:
        """When the clock fires next; None: by new data only, or by an interval that is not put up yet."""
        asked = self._timetable
        if asked.cron is not None:
            return _next_date(CronSchedule(cron=asked.cron, timezone=asked.timezone), now)
        if asked.every_seconds is None or self._anchor is None:
            return None
        every = timedelta(seconds=asked.every_seconds)
        anchor = datetime.fromtimestamp(
            self._anchor.timestamp(), UTC
        )  # Prefect's is of a class whose differences differ
        return anchor + ((now - anchor) // every + 1) * every

    def due(self, now: datetime) -> list[Due]:
        """The firings that are due and that nobody began, oldest first; those of an earlier life included.

        Raises:
            Unreachable: no answer.
        """
        with self._asking() as client:
            self._see_posted(client)
            runs = client.get_scheduled_flow_runs_for_deployments([self._known()], scheduled_before=now, limit=BATCH)
            found = [Due(str(run.id), run.expected_start_time or now) for run in runs]
            return sorted(found, key=lambda due: due.at)

    def add(self, now: datetime) -> Due:
        """A firing that no schedule made, due now."""
        with self._asking() as client:
            self._see_posted(client)
            return Due(str(client.create_flow_run_from_deployment(self._known()).id), now)

    def _see_posted(self, client: SyncPrefectClient) -> None:
        """Put the schedule up again if the server lost its database: it would answer with nothing, for ever."""
        try:
            client.read_deployment(self._known())
        except exceptions.ObjectNotFound:
            self.post()

    def begin(self, due: Due) -> bool:
        """Tell that a firing is being worked on, again at will; False: somebody cancelled or deleted it."""
        with self._asking() as client:
            try:
                answer: Any = client.set_flow_run_state(UUID(due.id), states.Pending())
            except exceptions.ObjectNotFound:
                return False
            return answer.state is None or answer.state.type is not StateType.CANCELLED

    def cancelled(self, due: Due) -> bool:
        """Whether somebody asked for the end of a firing that is under way."""
        with self._asking() as client:
            try:
                state = client.read_flow_run(UUID(due.id)).state
            except exceptions.ObjectNotFound:  # deleted, which ends nothing
                return False
            return state is not None and state.type in {StateType.CANCELLING, StateType.CANCELLED}

    def end(self, due: Due, result: Result) -> None:
        """Write down how a firing ended."""
        message = result.reason or result.values.get("run") or result.end
        state: State[Any]
        if result.end == "skipped":
            state = states.Cancelled(name="Skipped", message=message)
        elif result.end == "failed":
            state = states.Failed(message=message)
        else:
            state = states.Completed(name=LABELS[result.end], message=message)
        self._set(due, state)

    def planned(self) -> bool:
        """Whether the server has made runs out of the schedule; a paused one is fine without."""
        with self._asking() as client:
            ahead = client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self._known()])),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=1,
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
                ),
            )
            return bool(ahead) or client.read_deployment(self._known()).paused

    def put_back(self, due: Due, why: str) -> None:
        """Make a firing due again."""
        self._set(due, states.Scheduled(message=why))

    def crashed(self, due: Due, why: str) -> None:
        """Write down that a try came to no end; another one may follow."""
        self._set(due, states.Crashed(message=why))

    def left_behind(self) -> list[Due]:
        """Firings that an earlier process of this schedule was working on when it died."""
        with self._asking() as client:
            runs = client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self._known()])),
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(UNDER_WAY)))
                ),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=BATCH,
            )
            return [Due(str(run.id), run.expected_start_time or datetime.now(UTC)) for run in runs]

    @contextlib.contextmanager
    def _asking(self) -> Iterator[SyncPrefectClient]:
        """The one client, as long as it works: each new one costs 30 ms and memory that is slow to come back."""
        try:
            if self._client is None:
                self._client = self._open.enter_context(get_client(sync_client=True))
            yield self._client
        except exceptions.PrefectHTTPStatusError as error:
            self.close()
            status = error.response.status_code
            if status in MISUNDERSTOOD:
                raise PipelineError(
                    f"Prefect's server refused what it was asked (status {status}): it may be of another version than "
                    f"{prefect.__version__}, which is installed here. It said: {error.response.text[:TOLD]}"
                ) from error
            raise Unreachable(f"it answered {status} {error.response.reason_phrase}") from error
        except TROUBLE as error:
            self.close()
            raise Unreachable(type(error).__name__) from error

    def _known(self) -> UUID:
        if self._id is None:
            raise AssertionError("post comes first")
        return self._id

    def _set(self, due: Due, state: State[Any]) -> None:
        with self._asking() as client, contextlib.suppress(exceptions.ObjectNotFound):
            client.set_flow_run_state(UUID(due.id), state, force=True)


def perform(flow_run: str) -> Outcome:
    """Run the pipeline as the flow run that Prefect has for a firing, with its parameters.

    Raises:
        Whatever the flow raises; `is_prefects` tells what is the server's fault.
    """
    with get_client(sync_client=True) as client:
        asked = client.read_flow_run(UUID(flow_run))
    try:
        with use_runtime(scheduled=True):
            outcome: Any = run_flow(pipeline_flow, flow_run=asked)
            return outcome  # type: ignore[no-any-return]  # a synchronous flow's
    finally:
        EventsWorker.drain_all(timeout=FLUSH_SECONDS)  # task runs are told to the server in the background


def is_prefects(error: BaseException | None) -> bool:
    """Whether an error comes from Prefect's server being away, or from one that does; one that refuses is there."""
    while error is not None:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in MISUNDERSTOOD:
            return False
        if isinstance(error, (httpx.HTTPError, exceptions.PrefectException)):
            return True
        error = error.__cause__ or error.__context__
    return False
