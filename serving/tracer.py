"""Whether calls are traced: by OpenTelemetry, where its own variables ask for it and it is installed.

They are no settings of this program's, and nothing of OpenTelemetry is imported without them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from serving import logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.tracing import Traces

log = logs.logger("tracing")


def build(environment: Mapping[str, str]) -> Traces | None:
    """What traces calls; None: nobody asks for it, or it can't be had, which the log says.

    Args:
        environment: usually `os.environ`.
    """
    if not wanted(environment):
        return None
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        from serving.tracing import Traces  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        _refuse(f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {error.name} is missing: pip install 'calotype[tracing]'")
        return None
    if protocol not in (None, "", "grpc"):
        _refuse(f"OTEL_EXPORTER_OTLP_PROTOCOL must be grpc here. Received: {protocol!r}")
        return None
    traces = Traces(environment)
    logs.event(log, "tracing")
    return traces


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the variables name a collector, and don't say otherwise."""
    named = any(environment.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_"))
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return named and not off and environment.get("OTEL_TRACES_EXPORTER", "otlp") in ("", "otlp")


def _refuse(reason: str) -> None:
    logs.event(log, "no_tracing", level=logging.WARNING, reason=reason)
