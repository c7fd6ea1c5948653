"""What each method of calotype.v1.PredictionService does: decode, ask the registry, encode; knows no transport."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving import codec
from serving.calls import Answer, Call, Encoded, Method, Status, answered
from serving.decoder import Rows
from serving.errors import BadInput
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from serving.bundle import Bundle
    from serving.decoder import Decoder
    from serving.registry import Handle, ModelStatus, Registry

NAME = "calotype.v1.PredictionService"

_CALLED_INSTEAD = {"classify": "Classify", "reconstruct": "Reconstruct"}
_BAD_IMAGE = "INVALID_ARGUMENT"


@dataclass(slots=True)  # one per call: a frozen one takes five times as long to make
class _Task:
    """What of a prediction depends on the task.

    Args:
        name: as bundles call it.
        outputs: of the model, that the answer is made of.
        response: the empty answer.
        fill: appends one result per row to the answer.
        failure: the result that stands for an unreadable image.
        encode: one result per row as bytes, to be appended to the answer's; None: `fill` is all there is.
    """

    name: str
    outputs: tuple[str, ...]
    response: Any
    fill: Callable[[Bundle, Any, Mapping[str, NDArray[Any]]], None]
    failure: Callable[[str], Any]
    encode: Callable[[Bundle, Mapping[str, NDArray[Any]]], bytes] | None = None


class PredictionService:
    """Predictions by the bundles of a registry.

    Args:
        registry: where models are; not owned.
        decoder: reads encoded images in threads of its own; not owned.
    """

    def __init__(self, registry: Registry, decoder: Decoder) -> None:
        self._registry = registry
        self._decoder = decoder

    def classify(self, request: v1.ClassifyRequest, call: Call) -> Future[v1.ClassifyResponse]:
        """Score the labels for each image."""

        def fill(bundle: Bundle, results: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
            labels, top_k = bundle.labels, request.top_k
            codec.add_classifications(results, arrays["probabilities"], labels, top_k=top_k)

        def encode(bundle: Bundle, arrays: Mapping[str, NDArray[Any]]) -> bytes:
            return codec.classifications(arrays["probabilities"], bundle.labels, top_k=request.top_k)

        def failure(message: str) -> v1.Classification:
            return v1.Classification(error=v1.Failure(code=_BAD_IMAGE, message=message))

        task = _Task("classify", ("probabilities",), v1.ClassifyResponse(), fill, failure, encode)
        return self._predict(request, call, task)

    def reconstruct(self, request: v1.ReconstructRequest, call: Call) -> Future[v1.ReconstructResponse]:
        """Reconstruct each image and measure the error."""
        form = request.form
        if form not in v1.ReconstructionForm.values():
            raise BadInput(f"`form` must be ERROR_ONLY (0), PNG (1) or PIXELS (2). Received: {form}")

        def fill(bundle: Bundle, results: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
            threshold = None if bundle.threshold is None else bundle.threshold.error
            codec.add_reconstructions(results, arrays, threshold=threshold, form=form)

        def failure(message: str) -> v1.Reconstruction:
            return v1.Reconstruction(failure=v1.Failure(code=_BAD_IMAGE, message=message))

        outputs = ("error",) if form == v1.ERROR_ONLY else ("error", "reconstruction")
        task = _Task("reconstruct", outputs, v1.ReconstructResponse(), fill, failure)
        return self._predict(request, call, task)

    def list_models(self, _request: v1.ListModelsRequest, _call: Call) -> Future[v1.ListModelsResponse]:
        """Every version that the registry knows of."""
        return answered(v1.ListModelsResponse(models=[_info(status) for status in self._registry.models()]))

    def methods(self) -> tuple[Method, ...]:
        """The service as a transport serves it."""
        classify, reconstruct = v1.ClassifyRequest, v1.ReconstructRequest
        return (
            _method("Classify", classify, self.classify),
            _method("Reconstruct", reconstruct, self.reconstruct),
            _method("StreamClassify", classify, self.classify, _refusal(v1.ClassifyResponse)),
            _method("StreamReconstruct", reconstruct, self.reconstruct, _refusal(v1.ReconstructResponse)),
            _method("ListModels", v1.ListModelsRequest, self.list_models),
        )

    def _predict(self, request: Any, call: Call, task: _Task) -> Future[Any]:
        """The request's images through its model; the handle is held until the work is accepted."""
        call.request_id, call.model = request.request_id, request.model
        handle = self._registry.acquire(request.model, request.version)
        decoding: Future[Rows] | None = None
        try:
            call.version = handle.version
            bundle = _bundle(handle, task.name)
            rows = self._rows(request.images, bundle, call)
            if isinstance(rows, Rows):
                return _infer(handle, rows, call, task)
            decoding = rows
        finally:
            if decoding is None:
                handle.release()
        answer: Answer[Any] = Answer()
        answer.continue_with(decoding, lambda rows: answer.follow(_infer(handle, rows, call, task), _itself))
        decoding.add_done_callback(lambda _: handle.release())
        return answer

    def _rows(self, images: v1.Images, bundle: Bundle, call: Call) -> Rows | Future[Rows]:
        """The rows at once where they are pixels of the model's size, else a future of them."""
        form = images.WhichOneof("form")
        if form == "pixels":
            block = codec.pixels(images.pixels)
            call.images = len(block)
            return (
                Rows(block) if block.shape[1:] == bundle.image.shape else self._decoder.fit(block, bundle.image, call)
            )
        files = images.encoded.files
        if not files:
            raise BadInput(
                "A request needs at least one image, as images.encoded.files or images.pixels. Received: none"
            )
        call.images = len(files)
        return self._decoder.read(files, bundle.image, call)


def _infer(handle: Handle, rows: Rows, call: Call, task: _Task) -> Future[Any]:
    """The answer for some rows; without any there is nothing to compute."""
    bundle = handle.bundle
    assert bundle is not None  # noqa: S101 `_bundle` saw to it
    respond = _responder(call, bundle, rows, task)
    if not len(rows.pixels):
        return answered(respond({}))
    feeds = {bundle.inputs[0].name: rows.pixels}
    return handle.infer(feeds, outputs=task.outputs, deadline=call.deadline, make=call.watched(respond))


def _itself(message: Any) -> Any:
    return message


def _responder(call: Call, bundle: Bundle, rows: Rows, task: _Task) -> Callable[[Mapping[str, NDArray[Any]]], Any]:
    def respond(arrays: Mapping[str, NDArray[np.float32]]) -> Any:
        response = task.response
        response.model, response.version, response.request_id = call.model, call.version, call.request_id
        if task.encode is not None and arrays and not rows.failures:
            return Encoded(response.SerializeToString() + task.encode(bundle, arrays))
        if arrays:
            task.fill(bundle, response.results, arrays)
        for position, message in sorted(rows.failures.items()):
            response.results.insert(position, task.failure(message))
        return response

    return respond


def _bundle(handle: Handle, task: str) -> Bundle:
    """The handle's bundle, if it is of the task."""
    bundle = handle.bundle
    if bundle is None:
        raise BadInput(
            f"Model {handle.name!r} version {handle.version} is plain ONNX without a bundle.json: it answers "
            "inference.GRPCInferenceService/ModelInfer only."
        )
    if bundle.task != task:
        raise BadInput(
            f"Model {handle.name!r} version {handle.version} is of task {bundle.task!r}, not {task!r}: "
            f"call {_CALLED_INSTEAD[bundle.task]} instead."
        )
    return bundle


def _info(status: ModelStatus) -> v1.ModelInfo:
    info = v1.ModelInfo(name=status.name, version=status.version, state=status.state)
    bundle = status.bundle
    if bundle is not None:
        info.task, info.metrics_json = bundle.task, json.dumps(dict(bundle.metrics))
        info.height, info.width, info.channels = bundle.image.shape
        info.labels.extend(bundle.labels)
    return info


def _method(name: str, request: Any, start: Any, refuse: Any = None) -> Method:
    return Method(service=NAME, name=name, request=request, start=start, refuse=refuse)


def _refusal(response: Any) -> Callable[[Any, Status], Any]:
    def refuse(request: Any, status: Status) -> Any:
        failure = v1.Failure(code=status.code.name, message=status.message)
        return response(model=request.model, version=request.version, request_id=request.request_id, error=failure)

    return refuse
