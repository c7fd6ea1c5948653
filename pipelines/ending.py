"""How a run ends: what its record says of that, and its page. Knows no flow."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import report
from pipelines.errors import ParityFailed, PipelineError, Refused, UsageError
from pipelines.export import DRAFT
from pipelines.outcome import Clock
from pipelines.runs import reopen_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipelines.runs import Run, RunRecord
    from pipelines.workspace import Workspace

    Tell = Callable[[str], None]


@contextlib.contextmanager
def written_down(run: Run) -> Iterator[None]:
    """Put into the record how the block came to no good end, if it did.

    A refusal is kept in the record and goes no further. One by the parity gate is a failure: nothing was exported, so
    there is nothing to judge or to publish, and the same command tries again.

    Raises:
        Exception: whatever the block raises that is no refusal.
    """
    try:
        yield
    except ParityFailed as failure:
        run.update(state="failed", reason=str(failure))
    except Refused as refusal:
        refuse(run, str(refusal))
    except Exception as error:
        run.update(state="failed", reason=str(error))
        raise


def refuse(run: Run, reason: str | None) -> None:
    """Put down a run as refused; a version that it was published as before is withdrawn, and no longer its own."""
    run.update(state="refused", reason=reason, version=None)


def make_page(run: Run, clock: Clock, *, tell: Tell) -> None:
    """The page of a run that has a model to show; last, since it says what came of it, and no reason to fail.

    Args:
        run: held by this process.
        clock: the page's seconds go into it, and into the record.
        tell: is given the sentence where no page can be made.
    """
    if not (run.folder / DRAFT).exists():
        return
    try:
        with clock.stage("report"):
            path = report.write(run.folder, run.record)
        run.update(report=str(path), seconds=run.record.seconds | clock.seconds)
    except (OSError, PipelineError) as error:
        tell(f"The page of the run {run.record.run} could not be made: {error}")


def with_page(workspace: Workspace, ended: RunRecord, *, tell: Tell) -> RunRecord:
    """The record of a run that ended, with the page that it lacks when its process was killed right before."""
    if ended.report is not None and Path(ended.report).exists():
        return ended
    with contextlib.suppress(UsageError), reopen_run(workspace, ended.run) as run:  # whoever holds it makes the page
        make_page(run, Clock(), tell=tell)
        return run.record
    return ended
