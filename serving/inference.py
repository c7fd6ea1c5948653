"""What each method of inference.GRPCInferenceService does, the Open Inference Protocol; knows no transport."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving import asked, model_card, tensors
from serving.calls import Answer, Call, Encoded, Method, Status, answered
from serving.errors import BadInput, ModelNotFound, ModelNotReady
from serving.repeats import Forms, Repeat
from serving.responses import Responder, streamed
from serving.turns import Turns
from serving.v2 import open_inference_pb2 as v2

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from serving.bundle import TensorSpec
    from serving.decoder import Decoder, Rows
    from serving.images import ImageSpec
    from serving.registry import Handle, Registry
    from serving.repeats import Form
    from serving.telemetry import Telemetry
    from serving.tensors import Sent

    Asked = v2.ModelInferRequest | Repeat[v2.ModelInferRequest]

NAME: Final = "inference.GRPCInferenceService"

_EXTENSIONS: Final = ("model_repository", "statistics", "model_configuration", "classification")
_MOST_DIGITS: Final = 18
_CONTENTS: Final = (v2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER,)
_ASKS_FOR_FINAL: Final = "triton_enable_empty_final_response"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was found out of a request on its way through `infer`, for those that repeat it with other contents.

    Args:
        model: asked for.
        number: of its version, likewise; 0: the one being served.
        inputs: of the version that it was found out for; another version has others, equal or not.
        name: of the input.
        dtype: of its array.
        shape: likewise.
        rows: as the metrics count them.
        respond: makes the answer.
    """

    model: str
    number: int
    inputs: tuple[TensorSpec, ...]
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    respond: Responder

    def infer(self, contents: bytes, handle: Handle, call: Call) -> Future[Encoded]:
        """The answer for other contents, which have the length of those that were planned for."""
        call.images = self.rows
        feeds = {self.name: np.frombuffer(contents, self.dtype).reshape(self.shape)}
        names, make = self.respond.names, call.watched(self.respond)
        return handle.infer(feeds, outputs=names, deadline=call.deadline, make=make, checked=True)


class InferenceService:
    """Tensors in and out of any model of a registry.

    Args:
        registry: where models are; not owned.
        decoder: reads encoded images in threads of its own; not owned.
        telemetry: where the statistics come from.
        version: of this program.
        max_message_bytes: the largest answer.
    """

    def __init__(
        self,
        registry: Registry,
        decoder: Decoder,
        telemetry: Telemetry,
        *,
        version: str,
        max_message_bytes: int = 2**31 - 1,
    ) -> None:
        self._registry = registry
        self._decoder = decoder
        self._telemetry = telemetry
        self._version = version
        self._max_message_bytes = max_message_bytes
        self._forms = Forms(v2.ModelInferRequest, path=_CONTENTS, repeats=_repeats)
        self._loader = Turns(1, name="loader")
        self._counting = Turns(1, name="counting")  # other workers may have to be asked

    def close(self, wait_seconds: float = 1.0) -> None:
        """Take no more loads, unloads and counts, and wait so long for each under way. May be called twice."""
        self._counting.close(wait_seconds)
        self._loader.close(wait_seconds)

    def live(self, _request: v2.ServerLiveRequest, _call: Call) -> Future[v2.ServerLiveResponse]:
        """Alive, since it answers."""
        return answered(v2.ServerLiveResponse(live=True))

    def ready(self, _request: v2.ServerReadyRequest, _call: Call) -> Future[v2.ServerReadyResponse]:
        """Whether the registry takes calls."""
        return answered(v2.ServerReadyResponse(ready=self._registry.ready()))

    def model_ready(self, request: v2.ModelReadyRequest, call: Call) -> Future[v2.ModelReadyResponse]:
        """Whether a version can be called; one that nobody knows cannot."""
        try:
            with self._acquire(request.name, request.version, call):
                return answered(v2.ModelReadyResponse(ready=True))
        except (ModelNotFound, ModelNotReady):
            return answered(v2.ModelReadyResponse(ready=False))

    def metadata(self, _request: v2.ServerMetadataRequest, _call: Call) -> Future[v2.ServerMetadataResponse]:
        """Who this is."""
        return answered(v2.ServerMetadataResponse(name="calotype", version=self._version, extensions=_EXTENSIONS))

    def model_metadata(self, request: v2.ModelMetadataRequest, call: Call) -> Future[v2.ModelMetadataResponse]:
        """The tensors of a version."""
        with self._acquire(request.name, request.version, call) as handle:
            versions = [
                status.version
                for status in self._registry.models()
                if status.name == request.name and status.state == "Available"
            ]
            return answered(model_card.metadata(handle, versions))

    def model_config(self, request: v2.ModelConfigRequest, call: Call) -> Future[v2.ModelConfigResponse]:
        """The configuration of a version."""
        with self._acquire(request.name, request.version, call) as handle:
            return answered(v2.ModelConfigResponse(config=model_card.config(handle)))

    def statistics(self, request: v2.ModelStatisticsRequest, call: Call) -> Future[v2.ModelStatisticsResponse]:
        """Counts and times of the versions asked for."""
        if request.name:
            with self._acquire(request.name, request.version, call):
                pass
        return self._counting.add(_at_once(self._statistics, request.name, _number(request.version)))

    def _statistics(self, name: str, version: int) -> v2.ModelStatisticsResponse:
        response = v2.ModelStatisticsResponse()
        for status in self._registry.models():
            if name in ("", status.name) and version in (0, status.version):
                counted = self._telemetry.statistics(model=status.name, version=status.version)
                response.model_stats.append(model_card.statistics(status.name, status.version, counted))
        return response

    def index(self, request: v2.RepositoryIndexRequest, _call: Call) -> Future[v2.RepositoryIndexResponse]:
        """The versions in the repository, and those that are still loaded."""
        response = v2.RepositoryIndexResponse()
        for status in self._registry.index():
            state = model_card.STATES.get(status.state, "UNAVAILABLE")
            if state == "READY" or not request.ready:
                response.models.add(name=status.name, version=str(status.version), state=state, reason=status.reason)
        return answered(response)

    def load(self, request: v2.RepositoryModelLoadRequest, call: Call) -> Future[v2.RepositoryModelLoadResponse]:
        """Load a model, or look for newer versions of it; answered when that is done."""
        call.model = request.model_name
        if request.parameters:
            raise BadInput(
                "A load with parameters is refused: a repository is changed by publishing into it. "
                f"Received: {', '.join(sorted(request.parameters))}"
            )
        loading = self._loader.add(_at_once(self._registry.load, request.model_name))
        return _then(loading, lambda _: v2.RepositoryModelLoadResponse())

    def unload(self, request: v2.RepositoryModelUnloadRequest, call: Call) -> Future[v2.RepositoryModelUnloadResponse]:
        """Unload a model until it is loaded again."""
        call.model = request.model_name
        unloading = self._loader.add(_at_once(self._registry.unload, request.model_name))
        return _then(unloading, lambda _: v2.RepositoryModelUnloadResponse())

    def infer(self, request: Asked, call: Call) -> Future[Encoded]:
        """The outputs for some inputs; encoded files in a uint8 `image` are decoded first."""
        if not isinstance(request, Repeat):
            return self._infer(request, call, None)
        answer = self._again(request, request.repeated.plan, call)
        return self._infer(request.whole(), call, request.repeated) if answer is None else answer

    def _again(self, request: Repeat[v2.ModelInferRequest], plan: _Plan | None, call: Call) -> Future[Encoded] | None:
        """The answer by what was found out of an earlier request; None: that was of another version, or nothing was."""
        if plan is None:
            return None
        call.model = plan.model
        handle = self._registry.acquire(plan.model, plan.number)
        try:
            call.version = handle.version
            return plan.infer(request.contents, handle, call) if plan.inputs is handle.inputs else None
        finally:
            handle.release()

    def _infer(
        self, request: v2.ModelInferRequest, call: Call, form: Form[v2.ModelInferRequest] | None
    ) -> Future[Encoded]:
        call.request_id = request.id
        handle = self._acquire(request.model_name, request.model_version, call)
        accepted = False
        try:
            given = tensors.sent(request)
            wanted = asked.wanted(request, handle.outputs)
            image = asked.encoded(given, handle)
            asked.check_inputs(given, handle, image)
            call.images = _rows(given)
            respond = self._responder(handle, request.id, wanted)
            if image is None and not any(item.slow for item in given):
                feeds = tensors.read_now(given)
                if form is not None:
                    form.plan = _plan(request, handle, feeds, respond)
                return handle.infer(feeds, outputs=respond.names, deadline=call.deadline, make=call.watched(respond))
            answer = self._prepared(given, image, call, handle, respond)
            accepted = True
        finally:
            if not accepted:
                handle.release()
        answer.add_done_callback(lambda _: handle.release())
        return answer

    def _prepared(
        self, given: list[Sent], image: ImageSpec | None, call: Call, handle: Handle, respond: Responder
    ) -> Answer[Encoded]:
        """The answer where contents or files must first be read, which takes too long for a transport's thread."""
        answer: Answer[Encoded] = Answer()
        files = "" if image is None else asked.IMAGE

        def infer(feeds: Mapping[str, NDArray[Any]]) -> None:
            made = handle.infer(feeds, outputs=respond.names, deadline=call.deadline, make=call.watched(respond))
            answer.follow(made, _itself)

        def decode(feeds: Mapping[str, NDArray[Any]]) -> None:
            if image is None:
                infer(feeds)
                return
            decoding = self._decoder.read(feeds[asked.IMAGE].tolist(), image, call)
            answer.continue_with(decoding, lambda rows: infer({**feeds, asked.IMAGE: _all_readable(rows)}))

        if any(item.slow for item in given):
            self._decoder.check(rows=0, size_bytes=sum(item.least_bytes for item in given))  # before each is looked at
            size_bytes = sum(item.read_bytes for item in given)
            reading = self._decoder.work(tensors.read(given, files=files), call, rows=0, size_bytes=size_bytes)
            answer.continue_with(reading, decode)
        else:
            decode(tensors.read_now(given, files=files))
        return answer

    def stream_infer(self, request: Asked, call: Call) -> Future[Encoded]:
        """`infer`, as a message of a stream."""
        parameters = request.parameters
        final = _ASKS_FOR_FINAL in parameters and parameters[_ASKS_FOR_FINAL].bool_param
        return _then(self.infer(request, call), partial(streamed, final=final))

    def methods(self) -> tuple[Method, ...]:
        """The service as a transport serves it."""
        return (
            _method("ServerLive", v2.ServerLiveRequest, self.live),
            _method("ServerReady", v2.ServerReadyRequest, self.ready),
            _method("ModelReady", v2.ModelReadyRequest, self.model_ready),
            _method("ServerMetadata", v2.ServerMetadataRequest, self.metadata),
            _method("ModelMetadata", v2.ModelMetadataRequest, self.model_metadata),
            _method("ModelInfer", v2.ModelInferRequest, self.infer, read=self._forms.read),
            _method("ModelStreamInfer", v2.ModelInferRequest, self.stream_infer, _refuse, read=self._forms.read),
            _method("ModelConfig", v2.ModelConfigRequest, self.model_config),
            _method("ModelStatistics", v2.ModelStatisticsRequest, self.statistics),
            _method("RepositoryIndex", v2.RepositoryIndexRequest, self.index),
            _method("RepositoryModelLoad", v2.RepositoryModelLoadRequest, self.load),
            _method("RepositoryModelUnload", v2.RepositoryModelUnloadRequest, self.unload),
        )

    def _responder(self, handle: Handle, request_id: str, wanted: Mapping[str, int]) -> Responder:
        labels = handle.bundle.labels if handle.bundle is not None else ()
        most = self._max_message_bytes
        return Responder(
            handle.name, handle.version, request_id=request_id, labels=labels, wanted=wanted, max_message_bytes=most
        )

    def _acquire(self, name: str, version: str, call: Call) -> Handle:
        call.model = name
        handle = self._registry.acquire(name, _number(version))
        call.version = handle.version
        return handle


def _number(version: str) -> int:
    if version and not (version.isascii() and version.isdigit() and len(version) <= _MOST_DIGITS):
        raise BadInput(
            f"failed to get model version from specified version string '{version}': a version is at most "
            f"{_MOST_DIGITS} decimal digits, or empty for the one being served."
        )
    return int(version or 0)


def _repeats(request: v2.ModelInferRequest) -> bool:
    """Whether there will be others with other contents: an only input, raw. With an id or parameters there hardly are.

    Encoded files and texts have another length nearly each time, and must be looked at anyway.
    """
    if request.id or request.parameters or len(request.raw_input_contents) != 1 or len(request.inputs) != 1:
        return False
    return request.inputs[0].datatype != "BYTES"


def _plan(
    request: v2.ModelInferRequest, handle: Handle, feeds: Mapping[str, NDArray[Any]], respond: Responder
) -> _Plan | None:
    """The plan for more of a request's form, whose contents are `feeds`; None: they must be looked at, being text."""
    ((name, array),) = feeds.items()
    if array.dtype.hasobject:
        return None
    rows = array.shape[0] if array.ndim else 1
    model, number = request.model_name, _number(request.model_version)
    return _Plan(model, number, handle.inputs, name, array.dtype, array.shape, rows, respond)


def _rows(given: list[Sent]) -> int:
    return next((item.shape[0] for item in given if item.shape), 1)


def _itself(message: Encoded) -> Encoded:
    return message


def _all_readable(rows: Rows) -> NDArray[Any]:
    """The pixels; a tensor has no place for a failure of one row."""
    if rows.failures:
        position, message = next(iter(rows.failures.items()))
        raise BadInput(f"`image` {position} cannot be read: {message}")
    return rows.pixels


def _at_once(work: Callable[..., Any], *arguments: Any) -> Generator[None, None, Any]:
    """Work that blocks until it is done, as a job of no steps for `Turns`."""
    yield from ()
    return work(*arguments)


def _then(source: Future[Any], make: Callable[[Any], Any]) -> Future[Any]:
    answer: Answer[Any] = Answer()
    answer.follow(source, make)
    return answer


def _method(name: str, request: Any, start: Any, refuse: Any = None, *, read: Any = None) -> Method:
    return Method(service=NAME, name=name, request=request, start=start, refuse=refuse, read=read)


def _refuse(request: Asked, status: Status) -> v2.ModelStreamInferResponse:
    answer = v2.ModelInferResponse(id=request.id)
    return v2.ModelStreamInferResponse(error_message=status.message, infer_response=answer)
