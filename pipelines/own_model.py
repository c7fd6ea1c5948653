"""Whether a model of one's own is one that can be trained, judged, exported and loaded again; asked before it learns.

Looks at a built Keras model from outside; knows no recipe and no catalogue. Needs TensorFlow.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from pipelines.errors import BadRecipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.objective import Objective

SUM_TOLERANCE = 1e-3
SAME_TOLERANCE = 1e-5
FAR = 1e3  # times what a pixel can be: what ends in a sigmoid or softmax stays in 0…1 even there


def check_form(model: Any, objective: Objective, *, name: str, shape: tuple[int, int, int]) -> None:
    """See that it is a model of layers from such images to what the objective compares.

    Args:
        model: what the function returned.
        objective: what it will minimise.
        name: `module:function`.
        shape: height, width and channels of the images.

    Raises:
        BadRecipe: it is no such model.
    """
    if not _has_graph(model):
        bases = f"a {type(model).__name__}" + (
            "" if not isinstance(model, keras.Model) else ", whose layers are hidden"
        )
        raise _bad(
            name,
            wrong="it is no model that shows its layers",
            expected="a keras.Sequential that begins with keras.Input(shape), or keras.Model(inputs, outputs)",
            received=bases,
            cure="Build it from layers instead of a subclass's call method.",
        )
    wanted = (None, *shape), (None, *(shape if objective.task == "reconstruct" else (objective.units,)))
    for what, tensors, expected in zip(("input", "output"), (model.inputs, model.outputs), wanted, strict=True):
        found = [tuple(tensor.shape) for tensor in tensors]
        if found != [expected]:
            last = f"The last layer takes its width from `units`, which is {objective.units} here ({objective.reason})."
            raise _bad(
                name,
                wrong=f"its {what} has another shape",
                expected=f"one {what} of {expected}",
                received=" and ".join(map(str, found)),
                cure=last if what == "output" else "Take `shape` for keras.Input.",
            )


def check_answers(model: Any, objective: Objective, *, name: str, pixels: NDArray[np.uint8]) -> None:
    """See that it answers in 0…1, and a distribution where labels exclude each other; and the same when loaded again.

    Args:
        model: passed `check_form`.
        objective: what it will minimise.
        name: `module:function`.
        pixels: uint8 [rows, height, width, channels], a few real images.

    Raises:
        BadRecipe: it doesn't.
    """
    images = pixels.astype(np.float32) / 255
    try:
        answers = np.asarray(model(images, training=False))
    except Exception as error:
        raise _bad(
            name,
            wrong="it can't answer for an image",
            expected="answers for float32 in 0…1",
            received=_first_line(error),
            cure="Try it on one batch: model(images).",
        ) from error
    far = np.concatenate([-FAR * images, FAR * images]) if objective.task == "classify" else images
    _check_range(answers, np.asarray(model(far, training=False)), objective, name=name)
    _check_saving(model, images, answers, name=name)


def _check_range(answers: Any, far: Any, objective: Objective, *, name: str) -> None:
    """Look at answers, float32 [rows, …], for real images, and at those for pixels far out of their range."""
    if answers.dtype != np.float32 or not np.isfinite(answers).all():
        raise _bad(
            name,
            wrong="its answers are no numbers to compare",
            expected="finite float32",
            received=f"{answers.dtype}, {np.count_nonzero(~np.isfinite(answers))} of {answers.size} not finite",
            cure='Give the last layer dtype="float32", and start from small weights.',
        )
    end = f'End in activation="{objective.activation}", which the function is given as `activation`.'
    finite = np.concatenate([answers.ravel(), far[np.isfinite(far)]])
    if finite.min() < 0 or finite.max() > 1:
        raise _bad(
            name,
            wrong="its answers leave 0…1, as those of a last layer without activation (logits) do",
            expected="numbers in 0…1",
            received=f"{finite.min():.4g} to {finite.max():.4g}",
            cure=end,
        )
    sums = answers.sum(axis=-1)
    if objective.activation == "softmax" and np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise _bad(
            name,
            wrong="its answers are no probabilities of labels that exclude each other",
            expected="numbers that add up to 1 for each image",
            received=f"sums of {sums.min():.4g} to {sums.max():.4g}",
            cure=end,
        )


def _check_saving(model: Any, images: Any, answers: Any, *, name: str) -> None:
    """Evaluation and export load what training saved."""
    expected = "the same answers from a copy that was saved and loaded"
    cure = (
        "Use Keras' own layers instead of Lambda, and give your own layers get_config and "
        "@keras.saving.register_keras_serializable()."
    )
    with tempfile.TemporaryDirectory(prefix="calotype-own-") as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            loaded = np.asarray(keras.models.load_model(path, compile=False)(images, training=False))
        except Exception as error:
            wrong = "it can't be saved and loaded again"
            raise _bad(name, wrong=wrong, expected=expected, received=_first_line(error), cure=cure) from error
    apart = float(np.abs(loaded - answers).max()) if loaded.shape == answers.shape else np.inf
    if not apart <= SAME_TOLERANCE:
        wrong = "it answers otherwise once it is saved and loaded again"
        raise _bad(name, wrong=wrong, expected=expected, received=f"answers {apart:.3g} apart", cure=cure)


def _has_graph(model: Any) -> bool:
    """Whether Keras knows it layer by layer: functional, or sequential with an input."""
    is_graph = isinstance(model, keras.Sequential) or (isinstance(model, keras.Model) and hasattr(model, "operations"))
    return is_graph and hasattr(model, "inputs")


def _bad(name: str, *, wrong: str, expected: str, received: str, cure: str) -> BadRecipe:
    return BadRecipe(
        f"The model of {name!r} can't be used: {wrong}. Expected: {expected}. Received: {received}. {cure}"
    )


def _first_line(error: Exception) -> str:
    """What a foreign error says first; Keras quotes whole graphs after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
