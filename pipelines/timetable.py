"""When a model's pipeline is to run, and what such an occasion is called: a firing. Knows no Prefect and no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from pipelines.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

End = Literal["published", "refused", "nothing new", "failed", "skipped"]
ENDS: tuple[End, ...] = ("published", "refused", "nothing new", "failed", "skipped")


class Unreachable(PipelineError):
    """Prefect's server doesn't answer, or not in a way that makes sense: come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """What a schedule was asked to do: one of `cron`, `every_seconds`, and neither of them: on new data.

    Attributes:
        model: the name that versions are published under.
        source: a folder, a URL, or the name of a known set.
        workspace: the workspace's folder.
        parameters: of the flow, as plain values.
        cron: five fields.
        every_seconds: the interval.
        timezone: that cron's fields are meant in.
    """

    model: str
    source: str
    workspace: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    cron: str | None = None
    every_seconds: float | None = None
    timezone: str = "UTC"

    @property
    def words(self) -> str:
        """When it fires, for people."""
        if self.cron is not None:
            return f"at {self.cron} ({self.timezone})"
        return "on new data" if self.every_seconds is None else f"every {self.every_seconds:g} s"

    @property
    def on_new_data(self) -> bool:
        """Whether a changed source fires it, and no clock."""
        return self.cron is None and self.every_seconds is None


CRON_FIELDS = 5


def check_cron(cron: str, *, timezone: str) -> None:
    """Refuse a number of fields that has another meaning elsewhere (six: seconds), and an unknown time zone.

    Raises:
        UsageError: either; the sentence names the option.
    """
    fields = len(cron.split())
    if fields != CRON_FIELDS:
        raise UsageError(
            "--cron takes five fields, minute, hour, day, month and weekday, for example '0 3 * * *'. "
            f"Received: {cron!r}, which has {fields}"
        )
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:  # OSError: the name of a folder of zones, such as Europe
        raise UsageError(f"--timezone takes a name such as Europe/Berlin. Received: {timezone!r}") from error


@dataclass(frozen=True, slots=True)
class Due:
    """A firing that is due.

    Attributes:
        id: of the flow run that Prefect has for it.
        at: the time it was meant for.
    """

    id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a firing ended.

    Attributes:
        end: in a word.
        reason: why, of a refusal, a failure and what was skipped.
        values: as `calotype run --json` prints them; empty where no run came about.
        passing: what failed may go by itself: another try is worth it.
        prefect: it failed because Prefect's server didn't answer.
        seconds: from its start to its end.
    """

    end: End
    reason: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    passing: bool = False
    prefect: bool = False
    seconds: float = 0.0
