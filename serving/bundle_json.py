"""What `bundle.json` says: the description of a bundle as frozen objects, and as strict JSON.

Knows no folder. A description written by a newer Calotype is refused with a sentence; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from serving.errors import BadBundle, BadInput
from serving.images import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

Task = Literal["classify", "reconstruct"]

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model.

    Args:
        name: of the tensor.
        dtype: as numpy names it; `string` for text.
        shape: None for a dimension that any size fits; the first one is the rows.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a reconstructing model calls an image anomalous.

    Args:
        error: mean squared error on the scale 0…1; above it is anomalous.
        quantile: of the validation errors that gave it.
    """

    error: float
    quantile: float


@dataclass(frozen=True, slots=True)
class Parity:
    """The proof that the exported graph computes what the trained model did.

    Args:
        max_abs_diff: largest absolute difference of any output.
        rows: images compared.
    """

    max_abs_diff: float
    rows: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a reader needs to know of a model to use it; the fields of `bundle.json`, in order.

    Args:
        schema_version: of this description.
        name: of the model.
        version: 0 until it is published.
        task: classify or reconstruct.
        image: the images that it takes.
        inputs: of the graph.
        outputs: of the graph.
        labels: in the order of the output's columns; empty for reconstruct.
        threshold: for reconstruct.
        metrics: of the test part.
        parity: of the export.
        recipe: what it was trained by, as plain JSON values.
        dataset: what it was trained on: name, snapshot, counts …
        made_by: git commit if any, library versions, time in UTC.
    """

    schema_version: int
    name: str
    version: int
    task: Task
    image: ImageSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    threshold: Threshold | None
    metrics: Mapping[str, Any]
    parity: Parity | None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `bundle.json`.

        Raises:
            BadBundle: a value that strict JSON does not have: NaN, infinity, an object of some library.
        """
        try:
            text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            text.encode()  # half of a surrogate pair has no bytes
        except (TypeError, ValueError) as error:
            raise BadBundle(f"The bundle of {self.name!r} can't be written as JSON: {error}") from error
        return text


def from_json(text: str | bytes) -> Bundle:
    """The bundle that the text of a `bundle.json` describes; keys that it doesn't know are left alone.

    Raises:
        BadBundle: not strict JSON, written by a newer schema, or a field missing or of the wrong kind, by its name.
    """
    values = _object("bundle.json", _parsed(text))
    version = _whole(values, "schema_version")
    if version > SCHEMA_VERSION:
        raise BadBundle(
            f"it is of schema_version {version}, written by a newer Calotype; this one reads up to {SCHEMA_VERSION}:"
            " upgrade the reader."
        )
    task = _text(values, "task")
    if task not in get_args(Task):
        raise BadBundle(f"its 'task' is one of {', '.join(get_args(Task))}. Received: {task!r}")
    return Bundle(
        schema_version=version,
        name=_text(values, "name"),
        version=_whole(values, "version"),
        task=cast("Task", task),
        image=_image(_object("image", values.get("image"))),
        inputs=_tensors(values, "inputs"),
        outputs=_tensors(values, "outputs"),
        labels=_texts(values, "labels"),
        threshold=_threshold(values.get("threshold")),
        metrics=_object("metrics", values.get("metrics")),
        parity=_parity(values.get("parity")),
        recipe=_object("recipe", values.get("recipe", {})),
        dataset=_object("dataset", values.get("dataset", {})),
        made_by=_object("made_by", values.get("made_by", {})),
    )


# ---- fields -------------------------------------------------------------------------------------


def _parsed(text: str | bytes) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadBundle(f"it is not valid JSON: {error}") from error


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadBundle(f"its {name!r} must be an object. Received: {_shown(value)}")
    return value


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    value = values.get(name)
    if not isinstance(value, list):
        raise BadBundle(f"its {name!r} must be a list. Received: {_shown(value)}")
    return value


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise BadBundle(f"its {name!r} must be a text. Received: {_shown(value)}")
    return value


def _texts(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    items = _list(values, name)
    if not all(isinstance(item, str) for item in items):
        raise BadBundle(f"its {name!r} must be a list of texts. Received: {_shown(items)}")
    return tuple(items)


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadBundle(f"its {name!r} must be a whole number. Received: {_shown(value)}")
    return value


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadBundle(f"its {name!r} must be a number. Received: {_shown(value)}")
    return float(value)


def _image(values: Mapping[str, Any]) -> ImageSpec:
    height, width, channels = (_whole(values, side) for side in ("height", "width", "channels"))
    resize = _text(values, "resize")
    try:
        return ImageSpec(height, width, channels, cast("Any", resize))
    except BadInput as error:
        raise BadBundle(f"its 'image' is refused: {error}") from error


def _tensors(values: Mapping[str, Any], name: str) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(_object(name, item)) for item in _list(values, name))


def _tensor(values: Mapping[str, Any]) -> TensorSpec:
    shape = _list(values, "shape")
    if not all(size is None or (type(size) is int and size >= 0) for size in shape):
        raise BadBundle(f"its 'shape' must be a list of whole numbers and nulls. Received: {_shown(shape)}")
    return TensorSpec(_text(values, "name"), _text(values, "dtype"), tuple(shape))


def _threshold(value: object) -> Threshold | None:
    if value is None:
        return None
    values = _object("threshold", value)
    return Threshold(error=_number(values, "error"), quantile=_number(values, "quantile"))


def _parity(value: object) -> Parity | None:
    if value is None:
        return None
    values = _object("parity", value)
    return Parity(max_abs_diff=_number(values, "max_abs_diff"), rows=_whole(values, "rows"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004  a line of a terminal
