"""The Python client: images in, predictions out; knows only calotype.v1.

with Client("127.0.0.1:8001", token="secret", ca="ca.pem") as client:
    for prediction in client.classify(["cat.jpg", png_bytes, pixels], model="pets"):
        print(prediction)
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Self

import grpc
from grpc import StatusCode

from serving import credentials, errors
from serving.causes import cause
from serving.parts import Part, split
from serving.predictions import Answered, Classification, Failure, Reconstruction, Score
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from serving.credentials import Pem
    from serving.parts import Image

Form = Literal["error", "png", "pixels"]

FORMS: dict[Form, v1.ReconstructionForm] = {
    "error": v1.ERROR_ONLY,
    "png": v1.PNG,
    "pixels": v1.PIXELS,
}

_ERRORS: dict[StatusCode, type[errors.CalotypeError]] = {
    StatusCode.INVALID_ARGUMENT: errors.BadInput,
    StatusCode.NOT_FOUND: errors.ModelNotFound,
    StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    StatusCode.UNAVAILABLE: errors.ModelNotReady,
}
_MOST_VERSION, _MOST_LABELS = 2**63 - 1, 2**32 - 1

# The doubling ends here, so that ten attempts outlast a restart, and a server that is back is asked soon.
_MOST_BACKOFF_MS = 1000.0
_MOST_DOUBLINGS = 30  # of hundreds of attempts there would be no such number

_PUSHBACK = "grpc-retry-pushback-ms"

# A message over the limit, in the words of our servers and of gRPC's core; RESOURCE_EXHAUSTED is more than that.
_SERVERS_LIMIT, _CORES_LIMIT = "--max-message-bytes", "message larger than max"

# What the core of a stopping server says, in these very words, to a call that comes between its shutting down and the
# caller's hearing of it: grpc/grpc#41785. A caller's own cancelling has other words, or is no RpcError.
_TURNED_AWAY = (StatusCode.CANCELLED, "CANCELLED")


class CallFailed(errors.CalotypeError):
    """The server failed to answer, or the answer was lost, in a way that has no name of its own here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a client calls.

    Args:
        timeout_seconds: for one request, its retries included.
        request_images: most images in one request.
        request_bytes: images of a request stop being added above this.
        in_flight: requests under way at once.
        attempts: times that a request is sent while the server answers UNAVAILABLE, or stops.
        backoff_ms: first wait between attempts when the server names none; doubles each time, up to a second.
        max_message_bytes: largest answer taken.
    """

    timeout_seconds: float = 60.0
    request_images: int = 32
    request_bytes: int = 4 * 1024 * 1024
    in_flight: int = 4
    attempts: int = 10
    backoff_ms: float = 50.0
    max_message_bytes: int = 256 * 1024 * 1024


class Client:
    """One channel to one server; may be used by several threads; close it, or use `with`.

    Args:
        address: host:port, or as the server prints it: grpcs://host:port is TLS by whom this machine trusts.
        token: for a server with `--tokens`.
        ca: PEM file (or its content) of the authority that signed the server's certificate; makes it TLS.
        certificate: PEM file (or its content) of the client's own, for a server with `--tls-client-ca`.
        key: PEM file (or its content) of that certificate's private key.
        options: how to call.
        sleep: how to wait between attempts.

    Raises:
        BadSetting: an address of something else, or a file that can't be read or is not what it should be.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        options: Options | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options = options or Options()
        self._sleep = sleep
        self._metadata = credentials.metadata(token)
        where, secure = credentials.target(address)
        own = credentials.channel_credentials(ca=ca, certificate=certificate, key=key, secure=secure)
        arguments = channel_arguments(self._options)
        if own is None:
            self._channel = grpc.insecure_channel(where, options=arguments)
        else:
            self._channel = grpc.secure_channel(where, own, options=arguments)
        self._stub = v1_grpc.PredictionServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._channel.close()

    def classify(
        self, images: Iterable[Image], *, model: str, version: int = 0, top_k: int = 0
    ) -> list[Classification | Failure]:
        """The labels of each image, in order; a Failure for each that cannot be read, or has other pixels.

        Args:
            images: paths, encoded files, or uint8 pixels [height, width], [height, width, 1 or 3]; or one
                array uint8 [rows, height, width, channels].
            model: name.
            version: 0 is the one being served.
            top_k: labels per image; 0 is all.

        Raises:
            CalotypeError: BadInput, TooLarge, ModelNotFound, ModelNotReady (after all attempts) …
        """
        results: list[Any] = []
        for answer in self.classify_each(images, model=model, version=version, top_k=top_k):
            results += answer.results
        return results

    def reconstruct(
        self, images: Iterable[Image], *, model: str, version: int = 0, form: Form = "error"
    ) -> list[Reconstruction | Failure]:
        """The reconstruction of each image, in order; a Failure for each that cannot be read, or has other pixels.

        Args:
            images: as for `classify`.
            model: name.
            version: 0 is the one being served.
            form: `error` alone, or the image too as `png`, or as `pixels` (uint8 of the model's size).

        Raises:
            CalotypeError: BadInput, TooLarge, ModelNotFound, ModelNotReady (after all attempts) …
        """
        results: list[Any] = []
        for answer in self.reconstruct_each(images, model=model, version=version, form=form):
            results += answer.results
        return results

    def classify_each(
        self, images: Iterable[Image], *, model: str, version: int = 0, top_k: int = 0
    ) -> Iterator[Answered]:
        """As `classify`, lazily: an answer per request, while `images` is still being read."""
        return self._pipeline(self._stub.Classify, classify_request(model, version, top_k), images)

    def reconstruct_each(
        self, images: Iterable[Image], *, model: str, version: int = 0, form: Form = "error"
    ) -> Iterator[Answered]:
        """As `reconstruct`, lazily: an answer per request, while `images` is still being read."""
        return self._pipeline(self._stub.Reconstruct, reconstruct_request(model, version, form), images)

    def models(self) -> list[v1.ModelInfo]:
        """What the server has."""
        flight = self._send(self._stub.ListModels, v1.ListModelsRequest(), Part(None))
        return list(self._response(flight).models)

    def _pipeline(self, method: Any, template: Any, images: Iterable[Image]) -> Iterator[Answered]:
        """Answers in order, several requests under way; those nobody waits for any more are cancelled."""
        waiting: deque[_Flight | Answered] = deque()
        options = self._options
        try:
            for part in split(images, max_images=options.request_images, max_bytes=options.request_bytes):
                waiting.append(self._launch(method, template, part))
                if len(waiting) >= options.in_flight:
                    yield self._land(waiting.popleft())
            while waiting:
                yield self._land(waiting.popleft())
        finally:
            for flight in waiting:
                if isinstance(flight, _Flight):
                    flight.future.cancel()

    def _launch(self, method: Any, template: Any, part: Part) -> _Flight | Answered:
        if part.images is None:  # nothing of it could be read here: nothing to send
            return Answered(template.model, template.version, part.merged(()))
        request = type(template)()
        request.CopyFrom(template)
        request.images.CopyFrom(part.images)
        return self._send(method, request, part)

    def _send(self, method: Any, request: Any, part: Part) -> _Flight:
        timeout = self._options.timeout_seconds
        future = method.future(request, timeout=timeout, metadata=self._metadata)
        return _Flight(method, request, part, future, time.monotonic() + timeout)

    def _land(self, flight: _Flight | Answered) -> Answered:
        return flight if isinstance(flight, Answered) else answer(self._response(flight), flight.part)

    def _response(self, flight: _Flight) -> Any:
        """The server's answer, however many attempts it takes."""
        future, attempt = flight.future, 1
        while True:
            try:
                return future.result()
            except grpc.RpcError as error:
                wait_seconds = retry_after(error, attempt, self._options)
                left_seconds = flight.deadline - time.monotonic()
                if wait_seconds is None or wait_seconds >= left_seconds:
                    raise translated(error) from error
            self._sleep(wait_seconds)
            timeout = left_seconds - wait_seconds
            future = flight.method.future(flight.request, timeout=timeout, metadata=self._metadata)
            attempt += 1


@dataclass(frozen=True, slots=True)
class _Flight:
    """A request under way."""

    method: Any
    request: Any
    part: Part
    future: Any
    deadline: float


def channel_arguments(options: Options) -> list[tuple[str, int | str]]:
    """What a channel is told; gRPC's own retries are off, because this client has its own.

    Where a name means several servers (a headless service in Kubernetes), calls go round all that answer. One that
    restarts is found again within a second; gRPC by itself waits up to two minutes between two tries.
    """
    return [
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.enable_retries", 0),
    ]


def classify_request(model: str, version: int, top_k: int) -> v1.ClassifyRequest:
    """What all requests of a call have in common.

    Raises:
        BadInput: a number below 0 or beyond the field.
    """
    _check_number("version", version, _MOST_VERSION)
    _check_number("top_k", top_k, _MOST_LABELS)
    return v1.ClassifyRequest(model=model, version=version, top_k=top_k)


def reconstruct_request(model: str, version: int, form: Form) -> v1.ReconstructRequest:
    """As `classify_request`; BadInput for a form that there isn't as well."""
    _check_number("version", version, _MOST_VERSION)
    if not isinstance(form, str) or form not in FORMS:
        raise errors.BadInput(f"form must be {', '.join(FORMS)}. Received: {form!r}")
    return v1.ReconstructRequest(model=model, version=version, form=FORMS[form])


def _check_number(name: str, number: Any, most: int) -> None:
    if not isinstance(number, Integral) or not 0 <= int(number) <= most:
        raise errors.BadInput(f"{name} must be a whole number from 0 to {most}. Received: {number!r}")


def answer(response: Any, part: Part) -> Answered:
    """A response as plain objects, with the part's own failures at their places."""
    read = _classification if isinstance(response, v1.ClassifyResponse) else _reconstruction
    return Answered(response.model, response.version, part.merged(read(each) for each in response.results))


def retry_after(error: Any, attempt: int, options: Options) -> float | None:
    """Seconds to wait before another attempt; None: there is none.

    Only calls for which nothing was computed are retried: UNAVAILABLE ones, and those that a stopping server turned
    away; not those whose connection no further attempt will mend, as where the server is not trusted. The server's own
    wish goes before the doubling wait, and a negative one means never. Waits are spread, so that refused clients don't
    come back together.
    """
    if attempt >= options.attempts or not (error.code() is StatusCode.UNAVAILABLE or _turned_away(error)):
        return None
    why = cause(error.details() or "")
    if why is not None and why.lasting:
        return None
    doubled_ms = options.backoff_ms * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS)
    wait_ms = min(doubled_ms, max(_MOST_BACKOFF_MS, options.backoff_ms))
    for key, value in error.trailing_metadata() or ():
        if key == _PUSHBACK:
            if not value.isdigit():
                return None
            wait_ms = max(wait_ms, float(value))
    return wait_ms * random.uniform(1.0, 1.5) / 1000  # noqa: S311 no secret


def translated(error: Any) -> errors.CalotypeError:
    """The error of this house that a status means."""
    code, details = error.code(), error.details() or ""
    if code is StatusCode.UNIMPLEMENTED:
        return CallFailed("The server does not speak calotype.v1: is this the gRPC port of `calotype serve`?")
    if _turned_away(error):
        return errors.ModelNotReady("The server stopped before it had read the call: try again.")
    if code is StatusCode.RESOURCE_EXHAUSTED:
        if _SERVERS_LIMIT in details:
            return errors.TooLarge(details)
        if _CORES_LIMIT in details:
            limits = "the server (--max-message-bytes) or this client (Options.max_message_bytes)"
            return errors.TooLarge(
                f"A message is larger than {limits} takes: send fewer images in one. (gRPC: {details})"
            )
    kind = _ERRORS.get(code)
    why = cause(details) if code is StatusCode.UNAVAILABLE else None
    if why is not None:
        return errors.ModelNotReady(f"{why.sentence} (gRPC: {details})")
    return CallFailed(f"{code.name}: {details}") if kind is None else kind(details)


def _turned_away(error: Any) -> bool:
    return (error.code(), error.details()) == _TURNED_AWAY


def _classification(result: v1.Classification) -> Classification | Failure:
    if result.HasField("error"):
        return Failure(result.error.code, result.error.message)
    return Classification(tuple(Score(score.label, score.probability) for score in result.labels))


def _reconstruction(result: v1.Reconstruction) -> Reconstruction | Failure:
    if result.HasField("failure"):
        return Failure(result.failure.code, result.failure.message)
    return Reconstruction(result.error, result.anomalous, result.image)
