"""The composition root: builds the server's rooms from settings, starts, drains and stops them.

Start: bind both ports (whatever is taken fails before any model is loaded), then load, then say ready. Stop is the
reverse: not ready at once, no new calls, accepted ones finish, then models, then the ports' last threads.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from serving import front, loading, logs, repository, tracer
from serving.authorization import Tokens, guarded
from serving.decoder import Decoder
from serving.errors import BadRepository, Draining
from serving.http import HttpPort
from serving.inference import InferenceService
from serving.interceptors import Desk
from serving.model_config import Tuning
from serving.registry import Registry
from serving.row_queue import BatchLimits
from serving.service import PredictionService
from serving.session import available_cpus
from serving.shared import SharedRegistry, SharedTelemetry
from serving.telemetry import Telemetry
from serving.transport import choose
from serving.transport.face import Options
from serving.urls import without_secrets
from serving.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.mirror import Mirror
    from serving.repository import Version
    from serving.settings import ServeSettings
    from serving.shared import Shared
    from serving.tls import Tls

log = logs.logger("server")

_LOOK_SECONDS: Final = 0.1


class Server:
    """One prediction server, a context manager: whatever happens, `stop` leaves nothing running.

    Args:
        settings: all that may be chosen.
        load: version folder, and how it is served -> model; None: `serving.loading.load`.
        shared: its place, where it is one worker of several; the HTTP port is another's then.
        mirror: what keeps the repository's folder as a bucket is; None: the folder is the repository.
        asked_to_stop: whether somebody did, whom a start that takes long is not to keep waiting.
    """

    # Mutable: `_draining`, `_stopped` and `_begun`, set once each.

    def __init__(
        self,
        settings: ServeSettings,
        *,
        load: Callable[[Version, Tuning], loading.Loaded] | None = None,
        shared: Shared | None = None,
        mirror: Mirror | None = None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._mirror = mirror
        self._shared = shared
        self._asked_to_stop = asked_to_stop
        cpus = max(1, available_cpus() // (1 if shared is None else shared.workers))
        tokens = None if settings.tokens is None else Tokens(settings.tokens)
        tls = front.tls_of(settings)
        self._traces = tracer.build(os.environ)
        load = load or _loader(cpus)
        self.telemetry = Telemetry() if shared is None else SharedTelemetry(shared.up.questions)
        self.registry = (Registry if shared is None else partial(SharedRegistry, shared))(
            settings.models,
            load=load if self._traces is None else self._traces.loader(load),
            tuning=Tuning(limits=_limits(settings), executors=settings.executors),
            poll_seconds=settings.poll_seconds,
            telemetry=self.telemetry,
        )
        self._decoder = _decoder(settings, cpus, self.telemetry)
        self._inference = InferenceService(
            self.registry,
            self._decoder,
            self.telemetry,
            version=importlib.metadata.version("calotype"),
            max_message_bytes=settings.max_message_bytes,
        )
        methods = (*PredictionService(self.registry, self._decoder).methods(), *self._inference.methods())
        if tokens is not None:
            methods = guarded(methods, tokens)
        if self._traces is not None:
            methods = self._traces.methods(methods)
        desk = Desk(
            self.telemetry,
            tokens=tokens,
            max_message_bytes=settings.max_message_bytes,
            log_sample=settings.log_sample,
            traces=self._traces,
        )
        self._transport = choose.build(
            settings.transport, methods, desk, _options(settings, tls, shared=shared is not None)
        )
        self._http = HttpPort(
            host=settings.host,
            port=settings.http_port,
            metrics=self._metrics,
            ready=lambda: self.registry.ready() and not self._draining.is_set(),
            tokens=tokens,
            tls=None if settings.http_plain else tls,
        )
        self._draining = threading.Event()
        self._stopped = threading.Event()
        self._begun = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop(drain_seconds=0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def addresses(self) -> tuple[str, str]:
        """Of gRPC and of HTTP, with the ports really bound."""
        return front.addresses(self._settings, self._transport.port, self._http.port)

    def start(self) -> None:
        """Listen, and load what is in the repository; returns as soon as both are done, or it is asked to stop.

        Raises:
            BadRepository: there is no such folder, or bucket.
            BadSetting: a port can't be bound, or a bucket's folder not be used.
        """
        if self._shared is not None:
            self._start_shared(self._shared)
            return
        front.warn_if_open(self._settings)
        self._http.start()
        self._transport.start()
        self._transport.set_health("", serving=False)
        if self._mirror is not None:
            self._mirror.start(asked_to_stop=self._asked_to_stop)
            self._mirror.tell(self._look)
        self.registry.watch(lambda name, ready: self._transport.set_health(name, serving=ready))
        self.registry.start()
        self._begun = True
        if self._is_loaded():
            self._say_what_is_served()
            self._transport.set_health("", serving=True)

    def _metrics(self) -> bytes:
        """What Prometheus is told."""
        mirrored = b"" if self._mirror is None else self._mirror.exposition()
        return self.telemetry.exposition() + Vitals().exposition() + mirrored

    def _look(self) -> None:
        """See at once what the mirror brought, instead of at the next look."""
        with suppress(Draining, BadRepository):
            self.registry.poll()

    def _start_shared(self, shared: Shared) -> None:
        """Load first: the others take the calls until this one can, and the port is known to be free."""
        self.registry.unwanted(shared.unloaded)
        self.registry.start()
        self._begun = True
        if not self._is_loaded():
            return
        self.shared_registry().join()
        if not self._is_loaded():
            return
        self._say_what_is_served()
        self._transport.start()
        self.registry.watch(lambda name, ready: self._transport.set_health(name, serving=ready))
        self._transport.set_health("", serving=True)

    def _is_loaded(self) -> bool:
        """Wait until the registry is ready; False: asked to stop before.

        A look now and then, because a signal's handler interrupts this very wait: it may set no lock that this holds.
        """
        while not self._asked_to_stop():
            if self.registry.wait_ready(_LOOK_SECONDS):
                return not self._asked_to_stop()
        return False

    def _say_what_is_served(self) -> None:
        """One line of the log; whoever named the wrong folder reads in it that nothing is."""
        url, folder = self._settings.models_url, self._settings.models
        served = [status for status in self.registry.models() if status.state == "Available"]
        fields: dict[str, object] = {"models": len({status.name for status in served}), "versions": len(served)}
        fields["repository"] = folder if url is None else without_secrets(url)
        if not served and url is None and (hint := repository.hint(folder)):
            fields["hint"] = hint
        logs.event(log, "repository_served", level=logging.INFO if served else logging.WARNING, **fields)

    def shared_registry(self) -> SharedRegistry:
        """The registry of a worker."""
        assert isinstance(self.registry, SharedRegistry)  # noqa: S101 only a worker asks
        return self.registry

    def stop(self, drain_seconds: float | None = None) -> None:
        """Say not ready, let accepted calls finish for so long, and end everything; may be called twice."""
        self._draining.set()
        if self._stopped.is_set():
            return
        self._stopped.set()
        grace = self._settings.drain_seconds if drain_seconds is None else drain_seconds
        end = time.monotonic() + grace
        level = logging.INFO if self._begun else logging.DEBUG  # why it didn't begin is all that is to be said
        logs.event(log, "draining", level=level, seconds=grace)
        if self._mirror is not None:
            self._mirror.stop()
        self._transport.drain_and_stop(grace)
        self.registry.stop(max(0.0, end - time.monotonic()))
        self._decoder.close(max(0.0, end - time.monotonic()))
        self._inference.close()
        self._http.stop()
        if self._traces is not None:
            self._traces.close()
        logs.event(log, "stopped", level=level)


def _loader(cpus: int) -> Callable[[Version, Tuning], loading.Loaded]:
    def load(version: Version, tuning: Tuning) -> loading.Loaded:
        rows = tuning.limits.max_batch_rows if tuning.limits.joins else 1
        if not tuning.executors:
            return loading.load_to_fit(version, cpus=cpus, max_batch_rows=rows)
        return loading.load(version, threads=max(1, cpus // tuning.executors), max_batch_rows=rows)

    return load


def _decoder(settings: ServeSettings, cpus: int, telemetry: Telemetry) -> Decoder:
    return Decoder(
        threads=cpus,
        max_image_pixels=settings.max_image_pixels,
        max_queue_rows=settings.max_queue_rows,
        max_queue_bytes=settings.max_queue_bytes,
        telemetry=telemetry,
    )


def _limits(settings: ServeSettings) -> BatchLimits:
    return BatchLimits(
        max_batch_rows=settings.max_batch_rows,
        max_wait_ms=settings.max_wait_ms,
        max_queue_rows=settings.max_queue_rows,
        max_queue_bytes=settings.max_queue_bytes,
    )


def _options(settings: ServeSettings, tls: Tls | None, *, shared: bool) -> Options:
    return Options(
        host=settings.host,
        port=settings.port,
        max_message_bytes=settings.max_message_bytes,
        max_streams=settings.max_streams,
        credentials=None if tls is None else tls.credentials(),
        shared_port=shared,
    )
