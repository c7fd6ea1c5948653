"""What one server, and the process above several, show and do alike; imports neither models' nor transports' libraries.

So that the process above its workers is small, and there soon.
"""

from __future__ import annotations

import gc
import ipaddress
import logging
from typing import TYPE_CHECKING, Final

from serving import logs

if TYPE_CHECKING:
    from serving.settings import ServeSettings
    from serving.tls import Tls

log = logs.logger("server")

_COLLECTOR_THRESHOLDS: Final = (20_000, 20, 20)


def addresses(settings: ServeSettings, port: int, http_port: int) -> tuple[str, str]:
    """Where gRPC and HTTP are, for people."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    tls = settings.tls_certificate is not None
    grpc, http = "grpcs" if tls else "grpc", "https" if tls and not settings.http_plain else "http"
    return f"{grpc}://{host}:{port}", f"{http}://{host}:{http_port}"


def tls_of(settings: ServeSettings) -> Tls | None:
    """The certificates that were chosen, if any."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    from serving.tls import Tls  # noqa: PLC0415 - and with it grpc

    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def warn_if_open(settings: ServeSettings) -> None:
    """Say in the log what a server that strangers may reach lacks."""
    host = settings.host
    try:
        closed = ipaddress.ip_address(host).is_loopback
    except ValueError:
        closed = host == "localhost"
    advice = []
    if settings.tokens is None and settings.tls_client_ca is None:
        advice.append("anybody who reaches this address may call it (--tokens, --tls-client-ca)")
    if settings.tls_certificate is None:
        advice.append("what is sent can be read on its way (--tls-certificate)")
    if advice and not closed:
        logs.event(log, "open_to_the_network", level=logging.WARNING, host=host, advice="; ".join(advice))


def spare_the_collector() -> None:
    """Have the garbage collector pass over what is loaded by now, and look less often: it took a tenth of a call.

    A call leaves next to nothing for it; what it finds is freed a little later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
