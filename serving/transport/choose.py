"""Which form of the transport a server gets: the fast one where it works, else the portable one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from serving import logs
from serving.errors import BadSetting
from serving.transport.aio import AioTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from serving.calls import Method
    from serving.interceptors import Desk
    from serving.transport.face import Form, Options, Transport

log = logs.logger("transport")


def proven_core() -> Form:
    """The fast form, proven; what it rests on may be missing, so it is imported here. Raises whatever is wrong."""
    from serving.transport import self_test  # noqa: PLC0415
    from serving.transport.core import CoreTransport  # noqa: PLC0415

    self_test.run(CoreTransport)
    return CoreTransport


def build(
    kind: str, methods: Iterable[Method], desk: Desk, options: Options, *, core: Callable[[], Form] = proven_core
) -> Transport:
    """The transport that was asked for, not started.

    Args:
        kind: core, aio, or auto: core if it passes its self-test here.
        methods: what to serve.
        desk: where calls are signed out.
        options: how to listen.
        core: gives the fast form, or raises.

    Raises:
        BadSetting: core, where it does not pass.
    """
    if kind == "aio":
        return AioTransport(methods, desk, options)
    try:
        form = core()
    except Exception as error:
        if kind == "core":
            raise BadSetting(
                f"--transport core does not work with the installed grpcio {grpc.__version__}: {error!r}. "
                "Leave it at auto, or choose aio."
            ) from error
        logs.event(log, "transport_fallback", level=logging.WARNING, form="aio", grpcio=grpc.__version__, error=error)
        form = AioTransport
    return form(methods, desk, options)
