"""What each method of calotype.v1.PredictionService does: decode, ask the registry, encode; knows no transport."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serving import bundle as bundles
from serving import codec
from serving.calls import Answer, Call, Encoded, Method, Status, answered
from serving.decoder import Rows
from serving.errors import BadInput
from serving.repeats import Forms, Repeat
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from serving.bundle import Bundle
    from serving.decoder import Decoder
    from serving.registry import Handle, ModelStatus, Registry
    from serving.repeats import Form

NAME = "calotype.v1.PredictionService"

_FORMS = frozenset(v1.ReconstructionForm.values())
_CALLED_INSTEAD = {"classify": "Classify", "reconstruct": "Reconstruct"}
_BAD_IMAGE = "INVALID_ARGUMENT"
_MOST_WRITERS = 256
_CONTENTS = (  # the same in both requests
    v1.ClassifyRequest.IMAGES_FIELD_NUMBER,
    v1.Images.PIXELS_FIELD_NUMBER,
    v1.PixelBlock.DATA_FIELD_NUMBER,
)


@dataclass(frozen=True, slots=True)
class _Writer:
    """How a version's answers are written, for one way to ask; shared by its calls, so that rows are written together.

    Args:
        bundle: of the version.
        head: the fields that are the same in every answer, as bytes.
        outputs: of the model, that the answer is made of.
        each: one element of the field `results` per row, as bytes.
    """

    bundle: Bundle
    head: bytes
    outputs: tuple[str, ...]
    each: Callable[[Mapping[str, NDArray[Any]]], list[bytes]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was found out of a request with pixels of the model's size, for those that repeat it with other pixels.

    Args:
        model: asked for.
        number: of its version, likewise; 0: the one being served.
        bundle: of the version that it was found out for; another version has another one.
        name: of the input.
        shape: of the pixels.
        outputs: of the model, that the answer is made of.
        each: one element of the answer per row, as bytes.
        respond: makes the answer of them.
    """

    model: str
    number: int
    bundle: Bundle
    name: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    each: Callable[[Mapping[str, NDArray[Any]]], list[bytes]]
    respond: Callable[[list[bytes]], Encoded]

    def infer(self, contents: bytes, handle: Handle, call: Call) -> Future[Any]:
        """The answer for other pixels, which have the length of those that were planned for."""
        call.images = self.shape[0]
        feeds = {self.name: np.frombuffer(contents, np.uint8).reshape(self.shape)}
        make = call.watched(self.respond)
        return handle.infer(
            feeds, outputs=self.outputs, deadline=call.deadline, each=self.each, make=make, checked=True
        )


class PredictionService:
    """Predictions by the bundles of a registry.

    Args:
        registry: where models are; not owned.
        decoder: reads encoded images in threads of its own; not owned.
    """

    def __init__(self, registry: Registry, decoder: Decoder) -> None:
        self._registry = registry
        self._decoder = decoder
        self._writers: dict[tuple[str, int, int], _Writer] = {}
        self._classify_forms = Forms(v1.ClassifyRequest, path=_CONTENTS, repeats=_repeats)
        self._reconstruct_forms = Forms(v1.ReconstructRequest, path=_CONTENTS, repeats=_repeats)

    def classify(self, request: Any, call: Call) -> Future[Any]:
        """Score the labels for each image of a ClassifyRequest, or a repeated one."""
        return self._answer(request, call, "classify", _top_k)

    def reconstruct(self, request: Any, call: Call) -> Future[Any]:
        """Reconstruct each image of a ReconstructRequest, or a repeated one, and measure the error."""
        return self._answer(request, call, "reconstruct", _wanted_form)

    def list_models(self, _request: v1.ListModelsRequest, _call: Call) -> Future[v1.ListModelsResponse]:
        """Every version that the registry knows of."""
        return answered(v1.ListModelsResponse(models=[_info(status) for status in self._registry.models()]))

    def methods(self) -> tuple[Method, ...]:
        """The service as a transport serves it."""
        classify, reconstruct = self._classify_forms.read, self._reconstruct_forms.read
        return (
            _method("Classify", v1.ClassifyRequest, self.classify, read=classify),
            _method("Reconstruct", v1.ReconstructRequest, self.reconstruct, read=reconstruct),
            _method("StreamClassify", v1.ClassifyRequest, self.classify, _refusal(v1.ClassifyResponse), read=classify),
            _method(
                "StreamReconstruct",
                v1.ReconstructRequest,
                self.reconstruct,
                _refusal(v1.ReconstructResponse),
                read=reconstruct,
            ),
            _method("ListModels", v1.ListModelsRequest, self.list_models),
        )

    def _answer(self, request: Any, call: Call, task: str, choose: Callable[[Any], int]) -> Future[Any]:
        if not isinstance(request, Repeat):
            return self._predict(request, call, task, choose(request), None)
        form = request.repeated
        answer = self._again(request, form.plan, call)
        if answer is not None:
            return answer
        message = request.whole()
        return self._predict(message, call, task, choose(message), form)

    def _again(self, request: Repeat[Any], plan: _Plan | None, call: Call) -> Future[Any] | None:
        """The answer by what was found out of an earlier request; None: that was of another version, or nothing was."""
        if plan is None:
            return None
        call.model = plan.model
        handle = self._registry.acquire(plan.model, plan.number)
        try:
            call.version = handle.version
            return plan.infer(request.contents, handle, call) if plan.bundle is handle.bundle else None
        finally:
            handle.release()

    def _predict(self, request: Any, call: Call, task: str, choice: int, form: Form[Any] | None) -> Future[Any]:
        """The request's images through its model; the handle is held until the work is accepted."""
        call.request_id, call.model = request.request_id, request.model
        handle = self._registry.acquire(call.model, request.version)
        decoding: Future[Rows] | None = None
        try:
            call.version = handle.version
            writer = self._writer(handle, task, choice)
            rows = self._rows(request.images, writer.bundle, call)
            if isinstance(rows, Rows):
                inferred = _infer(handle, rows, call, writer)
                if form is not None:
                    form.plan = _plan(request, rows, writer)
                return inferred
            decoding = rows
        finally:
            if decoding is None:
                handle.release()
        answer: Answer[Any] = Answer()
        answer.continue_with(decoding, lambda rows: answer.follow(_infer(handle, rows, call, writer), _itself))
        decoding.add_done_callback(lambda _: handle.release())
        return answer

    def _writer(self, handle: Handle, task: str, choice: int) -> _Writer:
        bundle = _bundle(handle, task)
        if task == "classify" and choice >= len(bundle.labels):
            choice = 0
        key = (handle.name, handle.version, choice)
        writer = self._writers.get(key)
        if writer is None or writer.bundle is not bundle:
            if len(self._writers) >= _MOST_WRITERS:
                self._writers.clear()
            make = _classifications if task == "classify" else _reconstructions
            writer = self._writers[key] = make(bundle, handle, choice)
        return writer

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


def _top_k(request: v1.ClassifyRequest) -> int:
    return request.top_k


def _wanted_form(request: v1.ReconstructRequest) -> int:
    if request.form not in _FORMS:
        raise BadInput(f"`form` must be ERROR_ONLY (0), PNG (1) or PIXELS (2). Received: {request.form}")
    return request.form


def _repeats(request: v1.ClassifyRequest | v1.ReconstructRequest) -> bool:
    """Whether there will be others with other pixels; with an id there hardly are."""
    return not request.request_id and request.images.WhichOneof("form") == "pixels"


def _plan(request: Any, rows: Rows, writer: _Writer) -> _Plan:
    """The plan for more of a request's form, whose pixels are `rows`."""
    bundle, outputs, each = writer.bundle, writer.outputs, writer.each
    respond = _responder(writer, request.request_id, rows.failures)
    name, shape = bundle.inputs[0].name, rows.pixels.shape
    return _Plan(request.model, request.version, bundle, name, shape, outputs, each, respond)


def _classifications(bundle: Bundle, handle: Handle, top_k: int) -> _Writer:
    write = codec.Classifications(bundle.labels, top_k=top_k)
    head = v1.ClassifyResponse(model=handle.name, version=handle.version).SerializeToString()
    return _Writer(bundle, head, ("probabilities",), lambda arrays: write(arrays["probabilities"]))


def _reconstructions(bundle: Bundle, handle: Handle, form: int) -> _Writer:
    threshold = None if bundle.threshold is None else bundle.threshold.error
    write = codec.Reconstructions(threshold=threshold, form=form)
    head = v1.ReconstructResponse(model=handle.name, version=handle.version).SerializeToString()
    outputs = ("error",) if form == v1.ERROR_ONLY else ("error", "reconstruction")
    return _Writer(bundle, head, outputs, lambda arrays: write(arrays["error"], arrays.get("reconstruction")))


def _infer(handle: Handle, rows: Rows, call: Call, writer: _Writer) -> Future[Any]:
    """The answer for some rows; without any there is nothing to compute."""
    respond = _responder(writer, call.request_id, rows.failures)
    call.unreadable = len(rows.failures)
    if not len(rows.pixels):
        return answered(respond([]))
    feeds = {writer.bundle.inputs[0].name: rows.pixels}
    make = call.watched(respond)
    return handle.infer(feeds, outputs=writer.outputs, deadline=call.deadline, each=writer.each, make=make)


def _itself(message: Any) -> Any:
    return message


def _responder(writer: _Writer, request_id: str, failures: Mapping[int, str]) -> Callable[[list[bytes]], Encoded]:
    head = writer.head
    if request_id:
        head += v1.ClassifyResponse(request_id=request_id).SerializeToString()

    def respond(results: list[bytes]) -> Encoded:
        for position, message in sorted(failures.items()):
            results.insert(position, _failed(writer.bundle.task, message))
        return Encoded(head + b"".join(results))

    return respond


def _failed(task: str, message: str) -> bytes:
    """The element of `results` that stands for an unreadable image."""
    failure = v1.Failure(code=_BAD_IMAGE, message=message)
    if task == "classify":
        return v1.ClassifyResponse(results=(v1.Classification(error=failure),)).SerializeToString()
    return v1.ReconstructResponse(results=(v1.Reconstruction(failure=failure),)).SerializeToString()


def _bundle(handle: Handle, task: str) -> Bundle:
    """The handle's bundle, if it is of the task."""
    bundle = handle.bundle
    if bundle is None:
        raise bundles.plain(handle.name, handle.version)
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


def _method(name: str, request: Any, start: Any, refuse: Any = None, *, read: Any = None) -> Method:
    return Method(service=NAME, name=name, request=request, start=start, refuse=refuse, read=read)


def _refusal(response: Any) -> Callable[[Any, Status], Any]:
    def refuse(request: Any, status: Status) -> Any:
        failure = v1.Failure(code=status.code.name, message=status.message)
        return response(model=request.model, version=request.version, request_id=request.request_id, error=failure)

    return refuse
