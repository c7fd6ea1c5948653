"""A registry that holds what a test put into it, and can hold back its answers; and a rig that serves it."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.authorization import Tokens, guarded
from serving.calls import Answer
from serving.decoder import Decoder
from serving.errors import ModelNotFound
from serving.inference import InferenceService
from serving.interceptors import Desk
from serving.model_config import Tuning
from serving.row_queue import BatchLimits
from serving.service import PredictionService
from serving.session import Session
from serving.telemetry import Telemetry
from serving.transport.aio import AioTransport
from serving.transport.core import CoreTransport
from serving.transport.face import Options
from tests.serving.fake_models import classifier, reconstructor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serving.bundle import Bundle


TUNING = Tuning(limits=BatchLimits(), executors=1)


@dataclass
class FakeHandle:
    name: str
    version: int
    bundle: Bundle | None
    session: Session
    registry: FakeRegistry
    tuning: Tuning = TUNING
    state: str = "Available"
    reason: str = ""
    open: int = 0

    @property
    def inputs(self):
        return self.session.inputs

    @property
    def outputs(self):
        return self.session.outputs

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def release(self):
        self.open -= 1

    def infer(self, feeds, *, outputs=(), deadline=None, each=None, make=None, checked=False) -> Future[Any]:
        if make is not None:
            answer: Answer[Any] = Answer()
            made = make if each is None else lambda arrays: make(each(arrays))
            answer.follow(self.infer(feeds, outputs=outputs, deadline=deadline), made)
            return answer
        self.registry.deadlines.append(deadline)
        if self.registry.trouble is not None:
            raise self.registry.trouble.pop(0) if self.registry.trouble else RuntimeError("out of trouble")
        future: Future[dict[str, Any]] = Future()
        if self.registry.hold:
            self.registry.held.append((future, lambda: self.session.run(feeds, outputs)))
        else:
            future.set_result(self.session.run(feeds, outputs))
        return future


@dataclass
class FakeRegistry:
    hold: bool = False
    trouble: list[Exception] | None = None
    is_ready: bool = True
    handles: dict[tuple[str, int], FakeHandle] = field(default_factory=dict)
    held: list[tuple[Future[Any], Callable[[], Any]]] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def add(self, made: tuple[Bundle, bytes], *, version: int = 1, plain: str = "") -> None:
        bundle, model = made
        name = plain or bundle.name
        session = Session(model, threads=1)
        self.handles[name, version] = FakeHandle(name, version, None if plain else bundle, session, self)

    def acquire(self, name: str, version: int = 0) -> FakeHandle:
        handle = self.find(name, version)
        handle.open += 1
        return handle

    def find(self, name: str, version: int = 0) -> FakeHandle:
        known = [number for known_name, number in self.handles if known_name == name]
        number = version or max(known, default=0)
        if (name, number) not in self.handles:
            raise ModelNotFound(f"Request for unknown model: there is no {name!r} version {version}.")
        return self.handles[name, number]

    def models(self) -> list[FakeHandle]:
        return [self.handles[key] for key in sorted(self.handles)]

    def index(self) -> list[FakeHandle]:
        return self.models()

    def ready(self) -> bool:
        return self.is_ready

    def load(self, name: str) -> None:
        self.find(name)
        self.loads.append(f"+{name}")

    def unload(self, name: str) -> None:
        self.find(name)
        self.loads.append(f"-{name}")

    def answer(self, index: int) -> None:
        """Finish a held call."""
        future, work = self.held[index]
        future.set_result(work())


def two_models() -> FakeRegistry:
    """A registry with the classifier `digits` and the reconstructor `digits-ae`, version 1 each."""
    registry = FakeRegistry()
    registry.add(classifier())
    registry.add(reconstructor())
    return registry


FORMS = {"aio": AioTransport, "core": CoreTransport}


@dataclass
class Rig:
    address: str
    registry: FakeRegistry
    telemetry: Telemetry
    transport: AioTransport | CoreTransport


@contextmanager
def served(registry: FakeRegistry, form: str = "core", tokens: Tokens | None = None, **options) -> Iterator[Rig]:
    """A real server on a free port, over a fake registry."""
    telemetry = Telemetry()
    for handle in registry.models():
        telemetry.model_state(model=handle.name, version=handle.version, state="Available")
    decoder = Decoder(
        threads=1, max_image_pixels=10_000, max_queue_rows=1000, max_queue_bytes=10_000_000, telemetry=telemetry
    )
    largest = options.get("max_message_bytes", 2**26)
    inference = InferenceService(registry, decoder, telemetry, version="0.0", max_message_bytes=largest)
    methods = (*PredictionService(registry, decoder).methods(), *inference.methods())
    desk = Desk(telemetry, tokens=tokens, max_message_bytes=largest)
    if tokens is not None:
        methods = guarded(methods, tokens)
    transport = FORMS[form](methods, desk, Options(**{"port": 0, **options}))
    transport.start()
    transport.set_health("", serving=True)
    try:
        yield Rig(f"127.0.0.1:{transport.port}", registry, telemetry, transport)
    finally:
        transport.drain_and_stop(1.0)
        inference.close()
        decoder.close()
