"""One firing of a schedule as a process of its own: what it needs of memory ends with it.

Run as a module: the first argument is the id of Prefect's flow run; how it ended is one line of JSON on stdout. It
dies with its parent, whose end of stdin closes however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from pipelines.commands import session
from pipelines.errors import BadSource, Busy, PipelineError, UsageError

if TYPE_CHECKING:
    from types import FrameType

EXIT_SECONDS = 10.0


def perform(flow_run: str) -> dict[str, Any]:
    """Run the pipeline for a firing.

    Returns:
        `Result` as plain values.
    """
    from pipelines import flows_schedule, gate  # noqa: PLC0415 - Prefect reads the environment when it is imported

    began = time.monotonic()
    try:
        outcome = flows_schedule.perform(flow_run)
    except Busy as busy:
        return {"end": "skipped", "reason": str(busy), "passing": True, "seconds": time.monotonic() - began}
    except Exception as error:  # noqa: BLE001 - told to the parent, who tells the user
        return {
            "end": "failed",
            "reason": _sentence(error),
            "passing": _may_pass(error),
            "prefect": flows_schedule.is_prefects(error),
            "seconds": time.monotonic() - began,
        }
    # An earlier try may have been killed after the work and before a word of it: then there is something to tell.
    nothing_new = outcome.nothing_new and not outcome.record.untold
    values = session.run_values(outcome.record, nothing_new=nothing_new, seconds=outcome.seconds)
    values["warning"] = None if nothing_new else gate.warning_of(outcome.record.report)
    end = "nothing new" if nothing_new else outcome.record.state
    reason = f"nothing new since run {outcome.record.run}" if nothing_new else outcome.record.reason
    return {"end": end, "reason": reason, "values": values, "seconds": time.monotonic() - began}


def _may_pass(error: Exception) -> bool:
    """Whether another try is worth it: no mistake of the user's, or a source that can't be reached."""
    return not isinstance(error, UsageError) or (isinstance(error, BadSource) and error.__cause__ is not None)


def _sentence(error: Exception) -> str:
    told = " ".join(str(error).split())
    return told if isinstance(error, (PipelineError, OSError)) and told else f"{type(error).__name__}: {told}"


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _end_at_last() -> None:
    """Prefect's threads may wait for a server that is away; nobody waits for them longer than this."""
    time.sleep(EXIT_SECONDS)
    os._exit(0)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(session.TERMINATED)


def main() -> None:
    """Perform the firing that the first argument names."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _terminate)
    told = os.dup(1)
    os.dup2(2, 1)  # whatever prints on stdout by itself is no result
    result = perform(sys.argv[1])
    os.write(told, (json.dumps(result) + "\n").encode())
    os.close(told)
    threading.Thread(target=_end_at_last, daemon=True).start()


if __name__ == "__main__":
    main()
