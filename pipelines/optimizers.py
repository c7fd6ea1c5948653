"""Optimizers and learning rate schedules by name, as Keras objects."""

from __future__ import annotations

from typing import Any

import keras

WARM_UP_FRACTION = 0.05
WEIGHT_DECAY = 1e-4
MOMENTUM = 0.9

NAMES: dict[str, str] = {
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "lion": "Lion",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
}


def build(name: str, *, learning_rate: float, schedule: str, steps: int) -> Any:
    """A new optimizer.

    Args:
        name: a key of `models.catalogue.RATES`.
        learning_rate: the highest one.
        schedule: constant, or cosine: a warm-up over the first twentieth, then down to zero at `steps`.
        steps: of the whole training.
    """
    rate: Any = learning_rate
    if schedule == "cosine":
        warm_up = int(steps * WARM_UP_FRACTION)
        rate = keras.optimizers.schedules.CosineDecay(
            learning_rate / 10 if warm_up else learning_rate,
            max(1, steps - warm_up),
            warmup_target=learning_rate if warm_up else None,
            warmup_steps=warm_up,
        )
    extra: dict[str, Any] = {"sgd": {"momentum": MOMENTUM, "nesterov": True}}.get(name, {})
    if name == "adamw":
        extra = {"weight_decay": WEIGHT_DECAY}
    return getattr(keras.optimizers, NAMES[name])(learning_rate=rate, **extra)
