"""One loaded version, and the handle that a call holds on it; the shelf owns both."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from serving.errors import BadInput, ModelNotReady
from serving.session import check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from serving.batcher import Batcher
    from serving.bundle import Bundle, TensorSpec
    from serving.loading import Loaded
    from serving.model_config import Tuning
    from serving.plan import Stamp
    from serving.row_queue import Each


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What an operator sees of one version.

    Args:
        name: of the model.
        version: its number.
        state: Start, Loading, Available, Unloading or End.
        bundle: None for a plain ONNX file, and until it is loaded.
        reason: why it failed to load, or the state of it that is on disk now; else empty.
    """

    name: str
    version: int
    state: str
    bundle: Bundle | None
    reason: str = ""


@dataclass(slots=True, eq=False, kw_only=True)
class Served:
    """A version on its way from Start to End; mutable under the shelf's lock.

    Args:
        name: of the model.
        number: of the version.
        stamp: what it was loaded from.
        tuning: how it is served.
        handles: how many calls hold it.
        released: set once it is Unloading and held by nobody.
    """

    name: str
    number: int
    stamp: Stamp
    tuning: Tuning
    state: str = "Start"
    handles: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    batcher: Batcher | None = None
    bundle: Bundle | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    output_names: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, int]:
        """Name and number."""
        return (self.name, self.number)

    @property
    def available(self) -> bool:
        """Whether it takes calls."""
        return self.state == "Available"

    def begin(self, loaded: Loaded, tuning: Tuning, batcher: Batcher) -> None:
        """Take what was loaded; the batcher is running."""
        self.tuning = tuning
        self.bundle, self.inputs, self.outputs = loaded.bundle, loaded.inputs, loaded.outputs
        self.output_names = frozenset(spec.name for spec in loaded.outputs)
        self.batcher = batcher

    def end(self) -> None:
        """Let go of the model and its memory."""
        self.state, self.batcher = "End", None

    def status(self) -> ModelStatus:
        """As an operator sees it."""
        return ModelStatus(self.name, self.number, self.state, self.bundle)


class Handle:
    """A call's hold on one version; a context manager. Not to be shared between threads.

    What was accepted by `infer` keeps the version alive by itself, so the handle may be released right after.
    """

    __slots__ = ("_release", "_served")

    def __init__(self, served: Served, release: Callable[[Served], None]) -> None:
        self._served = served
        self._release: Callable[[Served], None] | None = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def name(self) -> str:
        """Of the model."""
        return self._served.name

    @property
    def version(self) -> int:
        """Its number, never 0."""
        return self._served.number

    @property
    def bundle(self) -> Bundle | None:
        """What is known of the model; None for a plain ONNX file."""
        return self._served.bundle

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self._served.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self._served.outputs

    @property
    def tuning(self) -> Tuning:
        """How it is served."""
        return self._served.tuning

    def release(self) -> None:
        """Give the version back; may be called twice."""
        release, self._release = self._release, None
        if release is not None:
            release(self._served)

    def infer(
        self,
        feeds: Mapping[str, NDArray[Any]],
        *,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
        each: Each | None = None,
        make: Callable[[Any], Any] | None = None,
        checked: bool = False,
    ) -> Future[Any]:
        """Accept rows for the model's next call; never blocks.

        Args:
            feeds: an array for every input, by name, rows first.
            outputs: names of the wanted ones; none: all.
            deadline: in time.monotonic() seconds; rows that still wait then are not computed.
            each: makes one thing per row of the wanted outputs, in the thread that computed them, once per call for all
                who name the same function; None: the outputs stay arrays.
            make: makes the answer of these rows' things, or outputs, in the same thread; None: they are the answer.
            checked: this version has taken such feeds before: the same names, dtypes, shapes and outputs.

        Returns:
            The answer for these rows. Cancelling it says that the caller hung up.

        Raises:
            BadInput: a name, dtype or shape that the model doesn't have; more rows than may ever wait.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline is past.
            ModelNotReady: the handle was released.
        """
        batcher = self._served.batcher
        if self._release is None or batcher is None:
            raise ModelNotReady(f"Version {self.version} of model {self.name!r} was released; acquire it again.")
        if not checked:
            self._check(feeds, outputs)
        timeout_ms = self._served.tuning.timeout_ms
        if timeout_ms:
            latest = time.monotonic() + timeout_ms / 1000
            deadline = latest if deadline is None else min(deadline, latest)
        return batcher.submit(dict(feeds), outputs=outputs, deadline=deadline, each=each, make=make)

    def _check(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> None:
        """Refuse before the queue what would fail the neighbours' batch."""
        inputs, known = self._served.inputs, self._served.output_names
        for spec in inputs:
            array = feeds.get(spec.name)
            if array is None:
                break
            check(spec, array)
        else:
            if len(feeds) == len(inputs) and known.issuperset(outputs):
                return
        if feeds.keys() != {spec.name for spec in inputs}:
            expected = [spec.name for spec in inputs]
            raise BadInput(f"Model {self.name!r} takes the inputs {expected}. Received: {sorted(feeds)}")
        other = next(name for name in outputs if name not in known)
        raise BadInput(
            f"Model {self.name!r} gives the outputs {[spec.name for spec in self._served.outputs]}. Received: {other!r}"
        )
