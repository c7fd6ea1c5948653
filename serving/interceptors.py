"""What happens around every call: its status, its line in the log and its metrics; knows no method and no transport.

Here is the one table from the errors of this house to the statuses of gRPC.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from grpc import StatusCode

from serving import errors, logs
from serving.calls import Call, Encoded, Method, Status
from serving.logs import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.authorization import Tokens
    from serving.telemetry import Telemetry
    from serving.tracing import Traces


class BadMessage(errors.BadInput):
    """Bytes that are no message."""


STATUS: Mapping[type[errors.CalotypeError], StatusCode] = {
    errors.BadInput: StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: StatusCode.NOT_FOUND,
    errors.ModelNotReady: StatusCode.UNAVAILABLE,
    errors.Overloaded: StatusCode.UNAVAILABLE,
    errors.Draining: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
    errors.TooLarge: StatusCode.RESOURCE_EXHAUSTED,
}

OK = Status(StatusCode.OK)
CANCELLED = Status(StatusCode.CANCELLED, "The caller hung up.")
UNKNOWN = Status(StatusCode.UNIMPLEMENTED, "Method not found!")

PUSHBACK = "grpc-retry-pushback-ms"
REQUEST_ID = "x-request-id"

_log = logs.logger("calls")

_NO_METHOD = "unknown"


def parse(method: Method, data: bytes) -> Any:
    """The request in `data`.

    Raises:
        BadInput: the bytes are no message of the method's kind.
    """
    try:
        return (method.read or method.request.FromString)(data)
    except DecodeError as error:
        kind = method.request.DESCRIPTOR.full_name
        raise BadMessage(f"The {len(data)} bytes received are no message of type {kind}.") from error


class Desk:
    """Where calls are let in, and signed out.

    Args:
        telemetry: told of every call.
        tokens: one of which every call needs; None: none.
        max_message_bytes: the largest request, and answer; the transport takes a little more, so that this can say
            what is wrong.
        log_sample: one in so many of the calls that went well is logged.
        traces: told of every call as well; None: nobody traces.
    """

    # Mutable: `_good`, which counts the calls that went well; a step of it is one for all threads.

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        tokens: Tokens | None = None,
        max_message_bytes: int = 2**31 - 1,
        log_sample: int = 1,
        traces: Traces | None = None,
    ) -> None:
        self._telemetry = telemetry
        self.tokens = tokens
        self._max_message_bytes = max_message_bytes
        self._log_sample = log_sample
        self._traces = traces
        self._good = itertools.count()

    def admit(self, call: Call) -> None:
        """Let a call in; a stream when it opens, before any of its requests is read.

        Raises:
            Unauthenticated: without a good token.
        """
        if self.tokens is not None:
            self.tokens.grant(call.metadata)

    def read(self, method: Method, data: bytes, call: Call) -> Any:
        """The request in `data`, of a call that is let in.

        Raises:
            Unauthenticated: without a good token.
            TooLarge: over the limit.
            BadInput: the bytes are no message of the method's kind.
        """
        if self.tokens is not None:
            self.tokens.grant(call.metadata)
        if len(data) > self._max_message_bytes:
            raise errors.TooLarge(
                f"A message may have {self._max_message_bytes} bytes (--max-message-bytes): send fewer images in one, "
                f"or have the server started with a larger limit. Received: {len(data)}"
            )
        return parse(method, data)

    def write(self, message: Any) -> bytes:
        """An answer as bytes.

        Raises:
            TooLarge: over the limit.
        """
        data: bytes = message.data if type(message) is Encoded else message.SerializeToString()
        if len(data) > self._max_message_bytes:
            raise errors.TooLarge(
                f"The answer has {len(data)} bytes, and a message may have {self._max_message_bytes} "
                "(--max-message-bytes): send fewer rows in one request, or ask for less."
            )
        return data

    def explain(self, error: BaseException, call: Call) -> Status:
        """The status that tells the caller of `error`; what nobody foresaw is told to the log alone."""
        for kind in type(error).__mro__:
            code = STATUS.get(kind)
            if code is not None:
                return Status(code, cut(str(error)), _trailers(error))
        incident = secrets.token_hex(8)
        fields = {
            "incident": incident,
            "method": call.method,
            "model": cut(call.model),
            "version": call.version,
            "request_id": request_id(call),
        }
        _log.error("internal_error", exc_info=error, extra={"fields": fields})
        return Status(StatusCode.INTERNAL, f"The server failed to answer; its log tells more under the id {incident}.")

    def finished(self, call: Call, status: Status) -> None:
        """Count and log a call, or one request of a stream, that has just been answered."""
        seconds = time.monotonic() - call.started
        good = status is OK
        code = "OK" if good else status.code.name
        self._telemetry.request_done(
            model=call.model,
            version=call.version,
            method=call.method,
            code=code,
            seconds=seconds,
            images=call.images if good else 0,
            unreadable=call.unreadable if good else 0,
        )
        if self._traces is not None:
            self._traces.finished(call, status)
        if _log.isEnabledFor(logging.INFO) and (not good or next(self._good) % self._log_sample == 0):
            logs.event(
                _log,
                "call",
                method=call.method,
                code=code,
                ms=round(seconds * 1000, 3),
                model=cut(call.model),
                version=call.version,
                images=call.images,
                unreadable=call.unreadable,
                request_id=request_id(call),
                reason=status.message,
            )

    def unknown(self, path: bytes | str) -> None:
        """Count and log a call of no method; what it asked for is in the log alone, as anybody may think of any."""
        asked = path.decode(errors="replace") if isinstance(path, bytes) else path
        self.finished(Call(_NO_METHOD), Status(UNKNOWN.code, f"{UNKNOWN.message} Received: {cut(asked)!r}"))


def request_id(call: Call) -> str:
    """The caller's id of a request, from its message or else its metadata; empty when it gave none."""
    return cut(call.request_id or str(call.metadata.get(REQUEST_ID, "")))


def hung_up(call: Call) -> Status:
    """Why a transport gave up a call: the caller's deadline passed, or the caller went away."""
    if call.deadline is not None and time.monotonic() >= call.deadline:
        return Status(StatusCode.DEADLINE_EXCEEDED, "The caller's deadline passed before the answer was there.")
    return CANCELLED


def _trailers(error: BaseException) -> tuple[tuple[str, str], ...]:
    return ((PUSHBACK, str(error.retry_after_ms)),) if isinstance(error, errors.Overloaded) else ()
