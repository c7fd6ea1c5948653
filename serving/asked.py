"""What a ModelInfer asks of a model, held against what that takes and gives; looks at no contents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serving import tensors
from serving.errors import BadInput
from serving.images import ImageSpec

if TYPE_CHECKING:
    from serving.bundle import TensorSpec
    from serving.registry import Handle
    from serving.tensors import Sent
    from serving.v2 import open_inference_pb2 as v2

IMAGE: Final = "image"

_IMAGE_DIMENSIONS: Final = 4
_CHANNELS: Final = (1, 3)
_CLASSES: Final = "classification"
_SCORES_DIMENSIONS: Final = 2


def wanted(request: v2.ModelInferRequest, outputs: tuple[TensorSpec, ...]) -> dict[str, int]:
    """The outputs asked for, by name, each with its number of classes; 0: the output itself."""
    specs = {spec.name: spec for spec in outputs}
    chosen: dict[str, int] = {}
    for output in request.outputs:
        spec = specs.get(output.name)
        if spec is None:
            raise BadInput(f"The model has the outputs {list(specs)}. Received: {output.name!r}")
        if output.name in chosen:
            raise BadInput(f"The output {output.name!r} was asked for twice.")
        chosen[output.name] = _class_count(output, spec)
    return chosen or dict.fromkeys(specs, 0)


def _class_count(output: v2.ModelInferRequest.InferRequestedOutputTensor, spec: TensorSpec) -> int:
    if _CLASSES not in output.parameters:
        return 0
    given = output.parameters[_CLASSES]
    kind = given.WhichOneof("parameter_choice")
    count = getattr(given, kind) if kind in ("int64_param", "uint64_param") else 0
    if count < 1:
        raise BadInput(
            f"`classification` of the output {output.name!r} is how many classes of each row are wanted, an "
            f"int64_param from 1 up. Received: {str(given).strip() or 'nothing'}"
        )
    rows_only = spec.shape[:1] == (None,) and len(spec.shape) == 1
    if spec.dtype in ("bool", "string") or rows_only or len(spec.shape) > _SCORES_DIMENSIONS:
        raise BadInput(
            f"`classification` needs an output of scores, [rows, classes]. Received: {output.name!r} of shape "
            f"{tensors.shape(spec)} and datatype {tensors.datatype(spec)}"
        )
    return int(count)


def encoded(given: list[Sent], handle: Handle) -> ImageSpec | None:
    """What files in `image` are to become; None: there are none. Only pixels can come as files."""
    image = next((item for item in given if item.name == IMAGE and item.dtype == "string"), None)
    spec = next((spec for spec in handle.inputs if spec.name == IMAGE and spec.dtype == "uint8"), None)
    if image is None or spec is None:
        return None
    shape = spec.shape
    if len(shape) != _IMAGE_DIMENSIONS or shape[3] not in _CHANNELS or not (shape[1] and shape[2]):
        raise BadInput(
            "BYTES in `image` are encoded files, which this model cannot take: its `image` is not "
            "uint8 [rows, height, width, 1 or 3]."
        )
    if len(image.shape) != 1 or not image.elements:
        raise BadInput(f"Encoded files in `image` have the shape [rows]. Received: {list(image.shape)}")
    return handle.bundle.image if handle.bundle is not None else ImageSpec(shape[1], shape[2], shape[3])


def check_inputs(given: list[Sent], handle: Handle, image: ImageSpec | None) -> None:
    """Refuse by names, datatypes, shapes and rows, before any contents are looked at."""
    specs = {spec.name: spec for spec in handle.inputs}
    names = [item.name for item in given]
    if specs.keys() != set(names):
        raise BadInput(f"Model {handle.name!r} takes the inputs {sorted(specs)}. Received: {sorted(names)}")
    limits = handle.tuning.limits
    for item in given:
        if image is None or item.name != IMAGE:
            tensors.check(item, specs[item.name])
        rows = item.shape[0] if item.shape else 0
        if limits.joins and rows > limits.max_queue_rows:
            raise BadInput(
                f"A request may have at most --max-queue-rows = {limits.max_queue_rows} rows. Received: {rows}"
            )
