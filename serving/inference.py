"""What each method of inference.GRPCInferenceService does, the Open Inference Protocol; knows no transport."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from serving import model_card, tensors
from serving.calls import Answer, Call, Method, Status, answered
from serving.errors import BadInput, ModelNotFound, ModelNotReady
from serving.images import ImageSpec
from serving.v2 import open_inference_pb2 as v2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from serving.bundle import TensorSpec
    from serving.decoder import Decoder, Rows
    from serving.registry import Handle, Registry
    from serving.telemetry import Telemetry

NAME: Final = "inference.GRPCInferenceService"

_EXTENSIONS: Final = ("model_repository", "statistics", "model_configuration", "classification")
_IMAGE: Final = "image"
_IMAGE_DIMENSIONS: Final = 4
_CHANNELS: Final = (1, 3)
_ASKS_FOR_FINAL: Final = "triton_enable_empty_final_response"
_FINAL: Final = "triton_final_response"


class InferenceService:
    """Tensors in and out of any model of a registry.

    Args:
        registry: where models are; not owned.
        decoder: reads encoded images in threads of its own; not owned.
        telemetry: where the statistics come from.
        version: of this program.
    """

    def __init__(
        self,
        registry: Registry,
        decoder: Decoder,
        telemetry: Telemetry,
        *,
        version: str,
    ) -> None:
        self._registry = registry
        self._decoder = decoder
        self._telemetry = telemetry
        self._version = version
        self._loader = ThreadPoolExecutor(1, "loader")
        self._counting = ThreadPoolExecutor(1, "counting")  # other workers may have to be asked

    def close(self) -> None:
        """Wait for a load, unload or count under way, and take no more."""
        self._counting.shutdown(wait=True, cancel_futures=True)
        self._loader.shutdown(wait=True, cancel_futures=True)

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
        return _then(self._counting.submit(self._statistics, request.name, _number(request.version)), lambda told: told)

    def _statistics(self, name: str, version: int) -> v2.ModelStatisticsResponse:
        response = v2.ModelStatisticsResponse()
        for status in self._registry.models():
            if name in ("", status.name) and version in (0, status.version):
                counted = self._telemetry.statistics(model=status.name, version=status.version)
                response.model_stats.append(model_card.statistics(status.name, status.version, counted))
        return response

    def index(self, request: v2.RepositoryIndexRequest, _call: Call) -> Future[v2.RepositoryIndexResponse]:
        """The versions that the registry knows of."""
        response = v2.RepositoryIndexResponse()
        for status in self._registry.models():
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
        return _then(
            self._loader.submit(self._registry.load, request.model_name), lambda _: v2.RepositoryModelLoadResponse()
        )

    def unload(self, request: v2.RepositoryModelUnloadRequest, call: Call) -> Future[v2.RepositoryModelUnloadResponse]:
        """Unload a model until it is loaded again."""
        call.model = request.model_name
        return _then(
            self._loader.submit(self._registry.unload, request.model_name), lambda _: v2.RepositoryModelUnloadResponse()
        )

    def infer(self, request: v2.ModelInferRequest, call: Call) -> Future[v2.ModelInferResponse]:
        """The outputs for some inputs; encoded files in a uint8 `image` are decoded first."""
        call.request_id = request.id
        feeds = tensors.read_inputs(request)
        answer: Answer[v2.ModelInferResponse] = Answer()
        with ExitStack() as held:
            handle = held.enter_context(self._acquire(request.model_name, request.model_version, call))
            names = _output_names(request, handle)
            call.images = _rows(feeds)

            def respond(arrays: Mapping[str, NDArray[Any]]) -> v2.ModelInferResponse:
                return _response(request, handle, arrays, names)

            def infer(feeds: Mapping[str, NDArray[Any]]) -> None:
                answer.follow(handle.infer(feeds, outputs=names, deadline=call.deadline), respond)

            image = _encoded(feeds, handle.inputs)
            if image is None:
                infer(feeds)
            else:
                spec = handle.bundle.image if handle.bundle is not None else image
                decoding = self._decoder.read(feeds[_IMAGE].ravel().tolist(), spec, call)
                answer.continue_with(decoding, lambda rows: infer({**feeds, _IMAGE: _all_readable(rows)}))
                release = held.pop_all().close
                decoding.add_done_callback(lambda _: release())
        return answer

    def stream_infer(self, request: v2.ModelInferRequest, call: Call) -> Future[v2.ModelStreamInferResponse]:
        """`infer`, as a message of a stream."""

        def wrap(response: v2.ModelInferResponse) -> v2.ModelStreamInferResponse:
            if request.parameters[_ASKS_FOR_FINAL].bool_param:
                response.parameters[_FINAL].bool_param = True
            return v2.ModelStreamInferResponse(infer_response=response)

        return _then(self.infer(request, call), wrap)

    def methods(self) -> tuple[Method, ...]:
        """The service as a transport serves it."""
        return (
            _method("ServerLive", v2.ServerLiveRequest, self.live),
            _method("ServerReady", v2.ServerReadyRequest, self.ready),
            _method("ModelReady", v2.ModelReadyRequest, self.model_ready),
            _method("ServerMetadata", v2.ServerMetadataRequest, self.metadata),
            _method("ModelMetadata", v2.ModelMetadataRequest, self.model_metadata),
            _method("ModelInfer", v2.ModelInferRequest, self.infer),
            _method("ModelStreamInfer", v2.ModelInferRequest, self.stream_infer, _refuse),
            _method("ModelConfig", v2.ModelConfigRequest, self.model_config),
            _method("ModelStatistics", v2.ModelStatisticsRequest, self.statistics),
            _method("RepositoryIndex", v2.RepositoryIndexRequest, self.index),
            _method("RepositoryModelLoad", v2.RepositoryModelLoadRequest, self.load),
            _method("RepositoryModelUnload", v2.RepositoryModelUnloadRequest, self.unload),
        )

    def _acquire(self, name: str, version: str, call: Call) -> Handle:
        call.model = name
        handle = self._registry.acquire(name, _number(version))
        call.version = handle.version
        return handle


def _number(version: str) -> int:
    if version and not (version.isascii() and version.isdigit()):
        raise BadInput(f"A version is decimal digits, or empty for the one being served. Received: {version!r}")
    return int(version or 0)


def _rows(feeds: Mapping[str, NDArray[Any]]) -> int:
    return next((len(array) for array in feeds.values() if array.ndim), 1)


def _output_names(request: v2.ModelInferRequest, handle: Handle) -> tuple[str, ...]:
    known = [spec.name for spec in handle.outputs]
    names = tuple(output.name for output in request.outputs) or tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadInput(f"Model {handle.name!r} has the outputs {known}. Received: {unknown}")
    return names


def _encoded(feeds: Mapping[str, NDArray[Any]], inputs: tuple[TensorSpec, ...]) -> ImageSpec | None:
    """What files in `image` are to become; None: there are none."""
    image = feeds.get(_IMAGE)
    if image is None or image.dtype != object:
        return None
    shape = next((spec.shape for spec in inputs if spec.name == _IMAGE and spec.dtype == "uint8"), ())
    if len(shape) != _IMAGE_DIMENSIONS or shape[3] not in _CHANNELS or not (shape[1] and shape[2]):
        raise BadInput(
            "BYTES in `image` are encoded files, which this model cannot take: its `image` is not "
            "uint8 [rows, height, width, 1 or 3]."
        )
    if image.size != len(image) or not image.size:
        raise BadInput(f"Encoded files in `image` have the shape [rows]. Received: {list(image.shape)}")
    return ImageSpec(shape[1], shape[2], shape[3])


def _all_readable(rows: Rows) -> NDArray[Any]:
    """The pixels; a tensor has no place for a failure of one row."""
    if rows.failures:
        position, message = next(iter(rows.failures.items()))
        raise BadInput(f"`image` {position} cannot be read: {message}")
    return rows.pixels


def _response(
    request: v2.ModelInferRequest, handle: Handle, arrays: Mapping[str, NDArray[Any]], names: tuple[str, ...]
) -> v2.ModelInferResponse:
    version = str(handle.version)
    response = v2.ModelInferResponse(model_name=handle.name, model_version=version, id=request.id)
    counts = {output.name: _class_count(output) for output in request.outputs}
    labels = handle.bundle.labels if handle.bundle is not None else ()
    for name in names:
        array = arrays[name]
        if counts.get(name):
            array = tensors.classes(array, labels, counts[name])
        tensors.add_output(response, name, array)
    return response


def _class_count(output: v2.ModelInferRequest.InferRequestedOutputTensor) -> int:
    given = output.parameters.get("classification")
    return 0 if given is None else max(given.int64_param, given.uint64_param)


def _then(source: Future[Any], make: Callable[[Any], Any]) -> Future[Any]:
    answer: Answer[Any] = Answer()
    answer.follow(source, make)
    return answer


def _method(name: str, request: Any, start: Any, refuse: Any = None) -> Method:
    return Method(service=NAME, name=name, request=request, start=start, refuse=refuse)


def _refuse(request: v2.ModelInferRequest, status: Status) -> v2.ModelStreamInferResponse:
    answer = v2.ModelInferResponse(id=request.id)
    return v2.ModelStreamInferResponse(error_message=status.message, infer_response=answer)
