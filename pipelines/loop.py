"""The training loop: epochs of steps over rows, resumable after each epoch. Knows no recipe and no folder layout.

Whole chunks of rows (many steps) are gathered by a seeded permutation while the chunk before them is trained on,
and one compiled function makes all steps of a chunk: Python is entered once per chunk, not once per step.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from pipelines.checkpoint import Checkpoint, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pipelines.objective import Objective

    Progress = Callable[[dict[str, float | int | str]], None]

CHUNK_BYTES = 16 * 2**20
CHUNK_STEPS = 64
REPORT_SECONDS = 0.5
SIGMOID_THRESHOLD = 0.5


class Rows(Protocol):
    """What the loop needs of a part of a snapshot; `dataset.Part` is one."""

    @property
    def rows(self) -> int:
        """How many."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [rows]."""

    def gather(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The rows of these numbers, uint8 [n, height, width, channels]."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training is besides its model and rows; fields as in `config.Recipe`.

    With a `strategy`, of `tf.distribute`, model and optimizer were made in its scope, and each of its devices takes its
    share of every step's rows.
    """

    objective: Objective
    optimizer: Any
    epochs: int
    batch_size: int
    seed: int
    patience: int = 0
    augment: Callable[[Any, Any], Any] | None = None
    class_weights: NDArray[np.float32] = field(default_factory=lambda: np.ones(1, np.float32))
    strategy: Any | None = None


class Training:
    """One training of one model.

    Args:
        model: a built Keras model; trained in place.
        plan: how.
        train: rows to learn from.
        validation: rows to choose the best epoch by; may be empty, then the last epoch is the best.
    """

    # Mutable: `standing`, `best`, and the variables of the model and the optimizer.

    def __init__(self, model: Any, plan: Plan, *, train: Rows, validation: Rows) -> None:
        self.model = model
        self.plan = plan
        self.train = train
        self.validation = validation
        self.standing = Standing()
        self.best: list[NDArray[np.generic]] = []
        plan.optimizer.build(model.trainable_variables)
        self._train_chunk = _train_function(model, plan)
        self._judge_chunk = _judge_function(model, plan)

    def run(self, progress: Progress, *, after_epoch: Callable[[], None]) -> None:
        """Train to the end of the plan, or until patience is out, and put the best weights in place.

        Args:
            progress: told the figures of every epoch, and about twice a second how far it is.
            after_epoch: called when an epoch is whole; the place to save `state`.
        """
        began = time.perf_counter() - self.standing.seconds
        while self.standing.epoch < self.plan.epochs and not self._is_patience_out():
            figures = self._one_epoch(progress)
            self._take_note(figures)
            self.standing.seconds = time.perf_counter() - began
            after_epoch()
            progress({"epoch": self.standing.epoch, "epochs": self.plan.epochs, **figures})
        if self.best:
            self.model.set_weights(self.best)

    def state(self, identity: str) -> Checkpoint:
        """Everything that decides how this training goes on."""
        variables = [np.asarray(variable) for variable in self._variables()]
        return Checkpoint(identity, self.standing, variables, self.best)

    def takes(self, checkpoint: Checkpoint) -> bool:
        """Whether a state fits this training: a model whose code has changed may have other weights."""
        wanted = [tuple(variable.shape) for variable in self._variables()]
        return wanted == [array.shape for array in checkpoint.variables]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a state that `state` gave and this training `takes`."""
        for variable, value in zip(self._variables(), checkpoint.variables, strict=True):
            variable.assign(value)
        self.standing, self.best = checkpoint.standing, checkpoint.best

    def _variables(self) -> list[Any]:
        """In a fixed order: weights and seed generators, then the optimizer's."""
        return [*self.model.variables, *self.plan.optimizer.variables]

    def _is_patience_out(self) -> bool:
        return 0 < self.plan.patience <= self.standing.waited

    def _one_epoch(self, progress: Progress) -> dict[str, float]:
        epoch = self.standing.epoch
        began = time.perf_counter()
        order = np.random.default_rng((self.plan.seed, epoch)).permutation(self.train.rows)
        sums, done, reported = np.zeros(2), 0, began
        for pixels, labels in _chunks(self.train, order, batch_size=self.plan.batch_size):
            sums += self._train_chunk(pixels, labels).numpy()
            done += len(pixels)
            if time.perf_counter() - reported > REPORT_SECONDS:
                reported = time.perf_counter()
                progress({"epoch": epoch, "epochs": self.plan.epochs, "rows": done, "of_rows": self.train.rows})
        seconds = time.perf_counter() - began
        figures = _figures(sums, done, task=self.plan.objective.task)
        figures |= {f"val_{name}": value for name, value in self._judge().items()}
        return figures | {"images_per_second": done / seconds}

    def _judge(self) -> dict[str, float]:
        rows = self.validation.rows
        if not rows:
            return {}
        sums = np.zeros(2)
        for pixels, labels in _chunks(self.validation, np.arange(rows), batch_size=self.plan.batch_size):
            sums += self._judge_chunk(pixels, labels).numpy()
        return _figures(sums, rows, task=self.plan.objective.task)

    def _take_note(self, figures: dict[str, float]) -> None:
        standing = self.standing
        standing.epoch += 1
        for name, value in figures.items():
            standing.history.setdefault(name, []).append(value)
        if "val_loss" not in figures:
            standing.best_epoch, self.best = standing.epoch, []
        elif standing.best_loss is None or figures["val_loss"] < standing.best_loss:
            standing.best_epoch, standing.best_loss, standing.waited = standing.epoch, figures["val_loss"], 0
            self.best = [np.array(weight) for weight in self.model.get_weights()]
        else:
            standing.waited += 1


def forward(model: Any) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The model as a compiled function from uint8 rows to its float32 answers."""
    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)]
    compiled = tf.function(lambda pixels: model(scaled(pixels), training=False), input_signature=signature)
    return lambda pixels: np.asarray(compiled(tf.constant(pixels)))


def scaled(pixels: Any) -> Any:
    """uint8 pixels as float32 in 0…1; the exported graph does the same."""
    return tf.cast(pixels, tf.float32) / 255.0


def _chunks(
    part: Rows, order: NDArray[np.int64], *, batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Rows in the given order, whole steps at a time, the next chunk gathered while this one is used."""
    one = part.gather(order[:1]).nbytes
    steps = max(1, min(CHUNK_STEPS, CHUNK_BYTES // (one * batch_size)))
    size = steps * batch_size
    pieces = [order[at : at + size] for at in range(0, len(order), size)]
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
        coming = pool.submit(part.gather, pieces[0])
        for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
            pixels = coming.result()
            if after is not None:
                coming = pool.submit(part.gather, after)
            yield pixels, part.labels[piece]


def _train_function(model: Any, plan: Plan) -> Callable[..., Any]:
    """Every step of a chunk; returns the sums of loss and of right answers."""
    losses = _loss_function(plan.objective)
    weights = tf.constant(plan.class_weights)
    variables, optimizer, batch = model.trainable_variables, plan.optimizer, plan.batch_size

    devices = plan.strategy.num_replicas_in_sync if plan.strategy else 1

    def learn(images: Any, labels: Any, share: Any = 1.0) -> Any:
        with tf.GradientTape() as tape:
            answers = model(images, training=True)
            each = losses(images, labels, answers)
            row_weights = tf.gather(weights, labels) if len(plan.class_weights) > 1 else 1.0
            loss = tf.reduce_mean(each * row_weights) * share + sum(model.losses) / devices
        optimizer.apply(tape.gradient(loss, variables), variables)  # sums the gradients of all devices
        return tf.stack([tf.reduce_sum(each), _right_answers(plan.objective, labels, answers)]) * tf.sign(share)

    step = _mirrored(learn, plan.strategy) if plan.strategy else learn

    def chunk(pixels: Any, labels: Any) -> Any:
        rows, sums = tf.shape(pixels)[0], tf.zeros(2)
        if plan.augment is not None:  # all rows at once: a few large operations instead of many small ones
            pixels = plan.augment(pixels, tf.stack([plan.seed, tf.cast(optimizer.iterations.value, tf.int32)]))
        for at in tf.range(0, rows, batch):
            sums += step(scaled(pixels[at : at + batch]), labels[at : at + batch])
        return sums

    return _compiled(chunk, model)


def _mirrored(learn: Callable[..., Any], strategy: Any) -> Callable[..., Any]:
    """A step whose rows are shared out evenly; a device that has none left learns nothing from one of the others'."""

    def step(images: Any, labels: Any) -> Any:
        rows, devices = tf.shape(images)[0], strategy.num_replicas_in_sync

        def mine() -> Any:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            begin, end = rows * number // devices, rows * (number + 1) // devices
            share = tf.cast(end - begin, tf.float32) / tf.cast(rows, tf.float32)
            begin = tf.minimum(begin, rows - 1)
            here = slice(begin, tf.maximum(end, begin + 1))
            return learn(images[here], labels[here], share)

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(mine), axis=None)

    return step


def _judge_function(model: Any, plan: Plan) -> Callable[..., Any]:
    """As `_train_function`, with nothing learned."""
    losses = _loss_function(plan.objective)

    def chunk(pixels: Any, labels: Any) -> Any:
        rows, sums = tf.shape(pixels)[0], tf.zeros(2)
        for at in tf.range(0, rows, plan.batch_size):
            images, some = scaled(pixels[at : at + plan.batch_size]), labels[at : at + plan.batch_size]
            answers = model(images, training=False)
            each = losses(images, some, answers)
            sums += tf.stack([tf.reduce_sum(each), _right_answers(plan.objective, some, answers)])
        return sums

    return _compiled(chunk, model)


def _compiled(chunk: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """As one graph for chunks of any length; without XLA, which makes training on CPUs several times slower."""
    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8), tf.TensorSpec([None], tf.int32)]
    compiled: Callable[..., Any] = tf.function(chunk, input_signature=signature, jit_compile=False)
    return compiled


def _loss_function(objective: Objective) -> Callable[[Any, Any, Any], Any]:
    """A function from images, labels and answers to the loss of each row."""
    of_each = getattr(keras.losses, objective.loss)
    if objective.task == "reconstruct":
        return lambda images, _, answers: tf.reduce_mean(of_each(images, answers), axis=[1, 2])
    if objective.units == 1:
        return lambda _, labels, answers: of_each(tf.cast(labels, tf.float32)[:, tf.newaxis], answers)
    return lambda _, labels, answers: of_each(labels, answers)


def _right_answers(objective: Objective, labels: Any, answers: Any) -> Any:
    if objective.task == "reconstruct":
        return tf.constant(0.0)
    if objective.units == 1:
        chosen = tf.cast(answers[:, 0] > SIGMOID_THRESHOLD, labels.dtype)
    else:
        chosen = tf.argmax(answers, axis=1, output_type=labels.dtype)
    return tf.reduce_sum(tf.cast(chosen == labels, tf.float32))


def _figures(sums: NDArray[np.float64], rows: int, *, task: str) -> dict[str, float]:
    figures = {"loss": float(sums[0] / rows)}
    return figures | ({"accuracy": float(sums[1] / rows)} if task == "classify" else {})
