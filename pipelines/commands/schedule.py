"""`calotype schedule`: keeps running the pipeline, at times, at intervals, or on new data."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from pipelines.flows_ingest import Runner
    from pipelines.flows_schedule import Board
    from pipelines.meter import Meter
    from pipelines.prefect_server import PrivateServer
    from pipelines.timetable import Due, Result, Timetable
    from pipelines.webhook import Webhook
    from pipelines.workspace import Workspace

WHEN = (
    click.option(
        "--cron", metavar="EXPR", help="Minute, hour, day, month, weekday: '0 3 * * *' is each night at three."
    ),
    click.option(
        "--every",
        "every_seconds",
        type=click.FloatRange(1.0, 31_536_000.0),
        metavar="SECONDS",
        help="An interval, in seconds.",
    ),
    click.option("--on-new-data", is_flag=True, help="Whenever SOURCE has changed and come to rest."),
    click.option("--timezone", default="UTC", show_default=True, metavar="NAME", help="That --cron is meant in."),
    click.option(
        "--poll-seconds",
        type=click.FloatRange(0.1, 86_400.0),
        default=5.0,
        show_default=True,
        help="Seconds between two looks at SOURCE, with --on-new-data.",
    ),
    click.option(
        "--settle-seconds",
        type=click.FloatRange(0.0, 86_400.0),
        default=15.0,
        show_default=True,
        help="How many seconds nothing may change in SOURCE before it is taken, with --on-new-data.",
    ),
)
TOLD = (
    click.option(
        "--webhook",
        envvar="CALOTYPE_WEBHOOK",
        metavar="URL",
        help="Gets each publication, refusal and failure as JSON by POST. Also CALOTYPE_WEBHOOK.",
    ),
    click.option(
        "--metrics-port",
        envvar="CALOTYPE_METRICS_PORT",
        type=click.IntRange(0, 65_535),
        metavar="N",
        help="Serve /metrics and /livez here; 0 is any free port. Off by default. Also CALOTYPE_METRICS_PORT.",
    ),
    click.option(
        "--metrics-host",
        envvar="CALOTYPE_METRICS_HOST",
        default="127.0.0.1",
        show_default=True,
        metavar="HOST",
        help="The address to serve them on. Also CALOTYPE_METRICS_HOST.",
    ),
)


@click.command(short_help="Keep running the pipeline: at times, at intervals, or on new data.")
@click.argument("source")
@options.add(
    options.NAME,
    *WHEN,
    *TOLD,
    options.TASK,
    *options.TRAINING,
    options.SEED,
    options.DATASET,
    *options.DATA,
    *options.RUNNER,
    *options.RECIPE,
    options.FORCE,
    options.WORKSPACE,
    click.option("--json", "as_json", is_flag=True, help="Print each firing's end as one line of JSON on stdout."),
)
def command(  # noqa: PLR0913 - one for each option
    *,
    source: str,
    model: str,
    cron: str | None,
    every_seconds: float | None,
    on_new_data: bool,
    poll_seconds: float,
    settle_seconds: float,
    webhook: str | None,
    metrics_port: int | None,
    metrics_host: str,
    workspace: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Do what `calotype run` does, on and on: at times (--cron), at intervals (--every), or when SOURCE has new data.

    Runs until it is stopped; the schedule and its runs are visible in Prefect. One firing at a time; one that finds
    nothing new trains nothing and says so. SOURCE may be empty, or not there yet. Ends with status 0 on SIGTERM; the
    same command goes on. With --json each firing's end is one line of JSON on stdout.
    """
    from pipelines import webhook as hook
    from pipelines.errors import UsageError
    from pipelines.model_lock import schedule_turn
    from pipelines.timetable import check_cron

    if sum((cron is not None, every_seconds is not None, on_new_data)) != 1:
        raise UsageError("A schedule takes one of --cron EXPR, --every SECONDS and --on-new-data.")
    _refuse_idle(cron=cron, on_new_data=on_new_data)
    if cron is not None:
        check_cron(cron, timezone=given["timezone"])
    if webhook is not None:
        hook.check(webhook)
    place = options.workspace_of(workspace)
    timetable = _timetable(source, model, place, cron=cron, every_seconds=every_seconds, **given)
    _look_once(timetable)
    signal.signal(signal.SIGTERM, _stop)
    with (
        schedule_turn(place, model, patience_seconds=PATIENCE_SECONDS),
        _farewell(place, model),
        _telling(timetable, webhook=webhook, as_json=as_json, host=metrics_host, port=metrics_port) as (meter, ended),
    ):
        place.models.mkdir(parents=True, exist_ok=True)  # a prediction server may be started on it already
        _keep(timetable, place, meter, ended, poll_seconds=poll_seconds, settle_seconds=settle_seconds)


def _refuse_idle(*, cron: str | None, on_new_data: bool) -> None:
    """Refuse an option on the command line that would do nothing, since another one isn't there.

    Raises:
        UsageError: which, and what it needs.
    """
    from click.core import ParameterSource

    from pipelines.errors import UsageError

    needs = {
        "timezone": ("--cron", cron is not None),
        "poll_seconds": ("--on-new-data", on_new_data),
        "settle_seconds": ("--on-new-data", on_new_data),
    }
    context = click.get_current_context()
    for name, (needed, there) in needs.items():
        if not there and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name.replace('_', '-')} means something with {needed} only: add that, or leave it out."
            )


def _timetable(  # noqa: PLR0913 - one for each option
    source: str,
    model: str,
    place: Workspace,
    *,
    dataset: str | None,
    force: bool,
    runner: Runner,
    runner_address: str | None,
    cron: str | None,
    every_seconds: float | None,
    timezone: str,
    **given: Any,
) -> Timetable:
    """What the options ask for, the flow's parameters in it as plain values.

    Raises:
        UsageError: they make no recipe, or a name is none.
    """
    from pipelines.commands import session
    from pipelines.secret import hide
    from pipelines.timetable import Timetable

    recipe = options.make_recipe(**given)
    session.check_request(recipe=recipe, model=model)
    told = hide(_absolute(source))
    return Timetable(
        model=model,
        source=told,
        workspace=place.root,
        cron=cron,
        every_seconds=every_seconds,
        timezone=timezone,
        parameters={
            "source": told,
            "name": model,
            "dataset": session.dataset_name(dataset, source),
            "recipe": recipe.to_dict(),
            "workspace": str(place.root),
            "force": force,
            "runner": runner,
            "runner_address": runner_address,
            "when_busy": "refuse",
        },
    )


@contextlib.contextmanager
def _farewell(place: Workspace, model: str) -> Iterator[None]:
    """Say, when somebody stops the schedule, what the next start goes on with."""
    from pipelines.runs import interrupted_runs

    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        runs = interrupted_runs(place, model)
        _say(model, f"stopped; run {runs[-1]} goes on with the next start" if runs else "stopped")
        raise


PATIENCE_SECONDS = 10.0  # for an earlier process of this schedule that is being stopped


def _keep(
    timetable: Timetable,
    place: Workspace,
    meter: Meter,
    concluded: Callable[[Due, Result], None],
    *,
    poll_seconds: float,
    settle_seconds: float,
) -> None:
    from pipelines import secret, watch
    from pipelines.launch import FiringProcess
    from pipelines.prefect_server import schedule_environment
    from pipelines.runs import interrupted_runs
    from pipelines.scheduler import Scheduler
    from serving.urls import without_secrets

    environment = dict(os.environ)
    os.environ |= OWN_CALLS
    with (
        schedule_environment(place.root / ".prefect" / timetable.model) as server,
        contextlib.ExitStack() as closing,
    ):
        from pipelines import flows_schedule

        flows_schedule.check(timetable)
        board = closing.enter_context(contextlib.closing(flows_schedule.Board(timetable)))
        inherited = {name: os.environ[name] for name in os.environ if name not in OWN_CALLS}
        kept = {name: environment[name] for name in OWN_CALLS if name in environment}
        scheduler = Scheduler(
            timetable,
            board=board,
            start=partial(FiringProcess, environment=inherited | kept | secret.environment()),
            look=partial(watch.patiently, partial(watch.look, secret.reveal(timetable.source)), meanwhile=meter.beat),
            watcher=watch.Watcher(settle_seconds),
            poll_seconds=poll_seconds,
            tell=partial(_say, timetable.model),
            concluded=concluded,
            upkeep=partial(_revive, server, timetable.model),
            meter=meter,
        )
        _say(timetable.model, f"keeping a schedule {timetable.words}: {timetable.source} to {place.root}{_next(board)}")
        if server is not None:
            server.wait()
        scheduler.begin(interrupted=interrupted_runs(place, timetable.model))
        page = without_secrets(os.environ["PREFECT_API_URL"]).rstrip("/").removesuffix("/api")
        _say(timetable.model, f"in Prefect: {page}/deployments/deployment/{board.deployment}{_next(board)}")
        scheduler.run()


def _next(board: Board) -> str:
    """When its clock fires next, as the end of a line; empty where that isn't known, or no clock fires it."""
    at = board.next_at(datetime.now(UTC))
    return "" if at is None else f"; the next firing is at {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


# Calls of the scheduler itself must return soon: it comes again by itself.
OWN_CALLS = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_API_REQUEST_TIMEOUT": "10"}


def _revive(server: PrivateServer | None, model: str) -> None:
    if server is not None and server.died():
        _say(model, "Prefect's private server died; starting it again")
        server.start()


@contextlib.contextmanager
def _telling(
    timetable: Timetable, *, webhook: str | None, as_json: bool, host: str, port: int | None
) -> Iterator[tuple[Meter, Callable[[Due, Result], None]]]:
    """The figures, and what is done with each firing's end: a line, the figures, the webhook, JSON."""
    from pipelines.meter import Meter, served
    from pipelines.webhook import Webhook

    say = partial(_say, timetable.model)
    with contextlib.ExitStack() as stack:
        meter = Meter(timetable.model)
        _recall(meter, timetable)
        if port is not None:
            say(f"metrics on {host}:{stack.enter_context(served(meter, host=host, port=port))}")
        hook = stack.enter_context(Webhook(webhook, told=say, counted=meter.webhook))
        yield meter, partial(_concluded, timetable, hook, as_json)


def _concluded(timetable: Timetable, hook: Webhook, as_json: bool, due: Due, result: Result) -> None:  # noqa: FBT001
    """Tell everybody how a firing ended."""
    from pipelines.commands import session
    from pipelines.errors import PipelineError
    from pipelines.leftovers import close_leftovers
    from pipelines.workspace import Workspace

    _say(timetable.model, f"{due.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}: {_came_of_it(result)}")
    message = {
        "event": result.end.replace(" ", "-"),
        "model": timetable.model,
        "version": result.values.get("version"),
        "run": result.values.get("run"),
        "metrics": result.values.get("metrics", {}),
        "reason": result.reason,
        "warning": result.values.get("warning"),
        "report": result.values.get("report"),
        "host": socket.gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "scheduled": due.at.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 1),
    }
    if result.end in {"published", "refused", "failed"}:
        hook.send(message)
    if as_json:
        session.print_json_line(message)
    if result.end in {"published", "refused", "nothing new"}:
        try:
            for sentence in close_leftovers(Workspace(timetable.workspace), timetable.model, told=message["run"]):
                _say(timetable.model, sentence)
        except (PipelineError, OSError) as error:  # a full disk, or somebody took one up: the next firing sees to it
            _say(timetable.model, f"interrupted runs are left as they are: {error}")


def _came_of_it(result: Result) -> str:
    values, took = result.values, f"{result.seconds:.1f} s"
    warning = f". Warning: {values['warning']}" if values.get("warning") else ""
    if result.end == "published":
        from pipelines.outcome import summary

        told = f"run {values['run']}, {summary(values['metrics'])}, {took}{warning}"
        return f"published as version {values['version']}: {told}"
    if result.end == "nothing new":
        return f"{result.reason}, so nothing was trained ({took})"
    return f"{result.end}: {result.reason}" + (f" (run {values['run']}, {took})" if values else "") + warning


def _recall(meter: Meter, timetable: Timetable) -> None:
    """Start the figures from what earlier processes left."""
    from pipelines.leftovers import newest_version

    newest = newest_version(timetable.workspace / "models", timetable.model)
    if newest is not None:
        meter.model(*newest)
        meter.succeeded(newest[1])


def _look_once(timetable: Timetable) -> None:
    """Refuse a source that can never become one."""
    from pipelines import watch

    if "://" not in timetable.source:
        with contextlib.suppress(OSError):
            watch.look(timetable.source)


def _absolute(source: str) -> str:
    """A folder's absolute path, so that it means the same in every process; anything else as it is."""
    from pathlib import Path

    from pipelines.sources import KNOWN

    return (
        source if "://" in source or (source in KNOWN and not Path(source).is_dir()) else str(Path(source).absolute())
    )


def _say(model: str, line: str) -> None:
    click.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {model}: {line}", err=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End at once and well: what is under way goes on with the next start."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)
