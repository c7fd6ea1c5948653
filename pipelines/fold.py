"""A Keras model as an equal one that exports to a faster graph; exact, up to the rounding of float32.

Three rewrites. Nearest-neighbour upsampling by 2 followed by a 3x3 convolution is one transposed convolution of 4x4
with stride 2: it has the same answers with 4/9 of the multiplications. Other nearest-neighbour upsampling becomes
a resize to a fixed size, which tf2onnx writes as one node instead of a tower of Tile and Reshape. And flattening
gets its size as a constant instead of a chain of nodes that work it out. A layer that a model uses more than once, and
so perhaps at two sizes, stays as it is.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers

FOLDED_KERNEL = 4


def folded(model: Any) -> Any:
    """The equal model; layers that aren't rewritten are shared with the given one.

    Args:
        model: functional or sequential; one of another kind, or one that Keras can't put together anew, is returned as
            it is.
    """
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        return model
    try:
        replaced = _replacements(model.layers)
        if not replaced:
            return model
        return keras.models.clone_model(model, clone_function=lambda layer: replaced.get(id(layer), layer))
    except Exception:  # noqa: BLE001 - a model of somebody's own: slower is better than not exported
        return model


def folded_kernel(kernel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The kernel of the transposed convolution.

    Each output pixel sees an upsampled pixel through one or two taps of the convolution; along an axis with taps
    w0, w1, w2 the sums are w2, w1 + w2, w0 + w1, w0.

    Args:
        kernel: of the convolution, float32 [3, 3, in, out].

    Returns:
        float32 [4, 4, out, in].
    """
    sums = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], kernel.dtype)
    found: np.ndarray[Any, Any] = np.einsum("au,bv,uvio->aboi", sums, sums, kernel)
    return found


def _replacements(stack: list[Any]) -> dict[int, Any]:
    """New layers by the identity of the old ones."""
    found: dict[int, Any] = {}
    for layer in stack:
        if not _is_used_once(layer):
            continue
        if type(layer) is layers.Flatten:
            found[id(layer)] = _flat(math.prod(layer.input.shape[1:]))
        if not isinstance(layer, layers.UpSampling2D) or layer.interpolation != "nearest":
            continue
        after = _only_reader(layer, stack)
        if tuple(layer.size) == (2, 2) and after is not None and _is_plain_3x3(after):
            found[id(layer)] = layers.Identity()
            found[id(after)] = _transposed(after)
        else:
            found[id(layer)] = layers.Resizing(*layer.output.shape[1:3], interpolation="nearest")
    return found


def _flat(size: int) -> Any:
    return layers.Lambda(lambda tensor: keras.ops.reshape(tensor, (-1, size)))


def _only_reader(layer: Any, stack: list[Any]) -> Any | None:
    """The one layer that takes this layer's output; None when there are more, or none."""
    readers = [
        other for other in stack for call in _calls(other) if any(one is layer.output for one in call.input_tensors)
    ]
    return readers[0] if len(readers) == 1 and _is_used_once(readers[0]) else None


def _is_used_once(layer: Any) -> bool:
    """Whether its `input` and `output` are all there is: of a layer that is called again they are the first call's."""
    return len(_calls(layer)) == 1


def _calls(layer: Any) -> list[Any]:
    """The nodes of a layer, one for each time that it was called; Keras has no public name for them."""
    found: list[Any] = layer._inbound_nodes  # noqa: SLF001
    return found


def _is_plain_3x3(layer: Any) -> bool:
    return (
        type(layer) is layers.Conv2D
        and tuple(layer.kernel_size) == (3, 3)
        and tuple(layer.strides) == (1, 1)
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.padding == "same"
        and layer.groups == 1
    )


def _transposed(conv: Any) -> Any:
    kernel, *bias = conv.get_weights()
    new = layers.Conv2DTranspose(
        conv.filters, FOLDED_KERNEL, strides=2, padding="same", activation=conv.activation, use_bias=bool(bias)
    )
    new.build((None, *conv.input.shape[1:]))
    new.set_weights([folded_kernel(kernel), *bias])
    return new
