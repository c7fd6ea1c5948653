"""What the first layers of a trained model look for and see: their filters, and their maps of sample images.

Arrays only: `features.npz` in a run's folder. Knows no page; imports Keras only when it looks, in its process.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FEATURES = "features.npz"
MOST_LAYERS = 2
MOST_FILTERS = 32
MOST_MAPS = 16
SAMPLES = 4
LARGEST_SIDE = 64


@dataclass(frozen=True, slots=True)
class Layer:
    """One of the first layers.

    Attributes:
        name: as Keras has it.
        kind: what it is, in words.
        units: filters, or units of a dense layer; as many maps as units were made, the first ones are kept.
        filters: float32 [n, height, width, channels]; empty where they see no image but another layer's maps.
        maps: float32 [samples, n, height, width], on a smaller grid where they are large; empty for a dense layer.
    """

    name: str
    kind: str
    units: int
    filters: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """What was found.

    Attributes:
        rows: of the samples in the test part, int64 [samples].
        layers: first to last; none for a model whose layers can't be told, such as a subclass of Keras' model.
    """

    rows: NDArray[np.int64]
    layers: tuple[Layer, ...]


def samples(labels: NDArray[np.integer[Any]], *, most: int = SAMPLES) -> NDArray[np.int64]:
    """Rows to show, of as many different labels as there are, int64 [n]; the same for the same labels."""
    first = np.sort(np.unique(labels, return_index=True)[1])[:most]
    others = np.setdiff1d(np.arange(len(labels)), first)[: most - len(first)]
    return np.sort(np.concatenate([first, others])).astype(np.int64)


def save(model: Any, images: NDArray[np.uint8], folder: Path, *, rows: NDArray[np.int64]) -> None:
    """Look at a Keras model and write `features.npz` into `folder`.

    Args:
        model: trained; answers float32 images in 0…1.
        images: uint8 [samples, height, width, channels].
        folder: of the run.
        rows: where the images lie in the test part, int64 [samples].
    """
    found = Features(rows, look(model, images))
    about = [
        {name: value for name, value in asdict(one).items() if isinstance(value, str | int)} for one in found.layers
    ]
    arrays: dict[str, Any] = {"rows": found.rows, "about": json.dumps(about)}
    for number, one in enumerate(found.layers):
        arrays |= {f"filters{number}": one.filters, f"maps{number}": one.maps}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(folder / FEATURES, buffer.getvalue())


def load(folder: Path) -> Features | None:
    """What `save` wrote; None for a run that an older calotype judged."""
    try:
        with np.load(folder / FEATURES) as stored:
            about = json.loads(str(stored["about"]))
            layers = tuple(
                Layer(**one, filters=stored[f"filters{number}"], maps=stored[f"maps{number}"])
                for number, one in enumerate(about)
            )
            return Features(stored["rows"], layers)
    except FileNotFoundError:
        return None


def look(model: Any, images: NDArray[np.uint8]) -> tuple[Layer, ...]:
    """The first convolutions of a model, or its first dense layer where it has none before that."""
    import keras  # noqa: PLC0415 - TensorFlow, only now

    if len(getattr(model, "inputs", None) or ()) != 1:
        return ()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][:MOST_LAYERS]
    if not convolutions:
        return tuple(_dense(layer, images.shape[1:]) for layer in model.layers if _sees(layer, images.shape[1:]))[:1]
    try:
        outputs = [layer.output for layer in convolutions]
    except AttributeError:  # a layer that is used twice has no output of its own
        return ()
    answers = keras.Model(model.inputs[0], outputs)(images.astype(np.float32) / 255, training=False)
    if len(outputs) == 1 and not isinstance(answers, list | tuple):  # Keras gives one output bare
        answers = [answers]
    return tuple(_convolution(layer, np.asarray(maps)) for layer, maps in zip(convolutions, answers, strict=True))


def _convolution(layer: Any, maps: NDArray[np.float32]) -> Layer:
    kernel = np.asarray(layer.kernel)  # [height, width, channels, filters]
    shown = np.moveaxis(kernel, -1, 0)[:MOST_FILTERS] if kernel.shape[2] in (1, 3) else kernel[:0, :, :, 0]
    height, width = kernel.shape[:2]
    return Layer(
        name=layer.name,
        kind=f"convolution {height}x{width}",
        units=kernel.shape[-1],
        filters=shown,
        maps=_smaller(np.moveaxis(maps, -1, 1)[:, :MOST_MAPS]),
    )


def _sees(layer: Any, shape: tuple[int, ...]) -> bool:
    """Whether each unit of a layer has a weight for every pixel."""
    kernel = getattr(layer, "kernel", None)
    return kernel is not None and len(kernel.shape) == 2 and kernel.shape[0] == math.prod(shape)  # noqa: PLR2004 - a matrix


def _dense(layer: Any, shape: tuple[int, ...]) -> Layer:
    kernel = np.asarray(layer.kernel).T
    filters = kernel[:MOST_FILTERS].reshape(-1, *shape)
    return Layer(
        name=layer.name,
        kind="dense, a weight for every pixel",
        units=len(kernel),
        filters=filters if shape[-1] in (1, 3) else filters[:0],
        maps=np.zeros((0, 0, 0, 0), np.float32),
    )


def _smaller(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over blocks, so that no side is larger than a picture on the page needs; float32 [..., height, width]."""
    step = math.ceil(max(maps.shape[-2:]) / LARGEST_SIDE)
    if step == 1:
        return maps
    height, width = (side // step for side in maps.shape[-2:])
    cut = maps[..., : height * step, : width * step]
    means: NDArray[np.float32] = cut.reshape(*maps.shape[:2], height, step, width, step).mean(axis=(3, 5))
    return means
