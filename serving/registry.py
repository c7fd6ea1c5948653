"""What is loaded: one-way states per version, handles that keep a version alive, load before unload.

One keeper thread looks at the repository, loads and switches; calls only take handles, so no call waits for a load.
Knows no transport. How a folder becomes a model is `serving.loading`'s affair, what should be loaded `serving.plan`'s.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from serving import logs, repository
from serving.batcher import Batcher
from serving.errors import BadRepository, CalotypeError, Draining, ModelNotFound, ModelNotReady
from serving.plan import decide
from serving.served import Handle, ModelStatus, Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from serving.loading import Loaded
    from serving.repository import Scan, Version
    from serving.row_queue import BatchLimits
    from serving.telemetry import Telemetry

__all__ = ["Handle", "ModelStatus", "Registry"]

log = logs.logger("registry")

_PATIENCE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that didn't load; not tried again until its files change."""

    files: tuple[Any, ...]
    reason: str


class Registry:
    """The models of one repository, kept as its folder says.

    Args:
        models: the repository.
        load: version folder -> model, in the keeper's thread; raises CalotypeError.
        limits: of batches and queues, per version.
        executors: calls at a time, per version.
        poll_seconds: pause between two looks.
        telemetry: told of states, reloads and batches.
    """

    # Mutable. Under `_lock`: `_served` (name, number -> what is loaded, loading or on its way out), `_current` (name ->
    # the one for version 0), `_failures`, `_on_disk` (names and numbers of the last look), `_watchers`, and the
    # handles' counts. The keeper's alone: `_unloaded` (names that wait for an explicit load). `_orders` is its inbox.

    def __init__(
        self,
        models: Path,
        *,
        load: Callable[[Version], Loaded],
        limits: BatchLimits,
        executors: int,
        poll_seconds: float,
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._load = load
        self._limits = limits
        self._executors = executors
        self._poll_seconds = poll_seconds
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._served: dict[tuple[str, int], Served] = {}
        self._current: dict[str, Served] = {}
        self._failures: dict[tuple[str, int], Failure] = {}
        self._on_disk: dict[str, tuple[int, ...]] = {}
        self._unloaded: set[str] = set()
        self._watchers: list[Callable[[str, bool], None]] = []
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._looked = threading.Event()
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="registry", daemon=True)

    def start(self) -> None:
        """Begin to load and to poll; returns at once, `wait_ready` waits for the first round.

        Raises:
            BadRepository: there is no such folder.
        """
        self._note(repository.scan(self._models))
        self._keeper.start()

    def stop(self, drain_seconds: float) -> None:
        """Stop polling, let accepted work finish for so long, and fail the rest. May be called twice."""
        self._stopped.set()
        self._orders.put(None)
        with self._lock:
            batchers = [served.batcher for served in self._served.values() if served.batcher is not None]
        for batcher in batchers:
            batcher.close()
        end = time.monotonic() + drain_seconds
        for batcher in batchers:
            if not batcher.join(max(0.0, end - time.monotonic())):
                batcher.abandon()
        if self._keeper.ident is not None:
            self._keeper.join(max(0.0, end - time.monotonic()))

    def wait_ready(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every model found at the start was loaded, or failed to."""
        return self._looked.wait(timeout_seconds)

    def ready(self) -> bool:
        """Whether calls may come: from the first round of loading until `stop`, whatever single models do."""
        return self._looked.is_set() and not self._stopped.is_set()

    def acquire(self, name: str, version: int = 0) -> Handle:
        """A handle on a model; the version lives at least until the handle is released.

        Args:
            name: of the model.
            version: an exact one, or 0 for the one being served.

        Raises:
            ModelNotFound: no such model or version, or one that this server doesn't keep loaded.
            ModelNotReady: it is loading, unloading, or failed to load.
        """
        with self._lock:
            served = self._served.get((name, version)) if version else self._current.get(name)
            if served is None or not served.available:
                raise self._absent(name, version)
            served.handles += 1
        return Handle(served, self._release)

    def models(self) -> list[ModelStatus]:
        """Every version that is loaded, loading, unloading, or failed to load, by name and number."""
        with self._lock:
            statuses = {key: served.status() for key, served in self._served.items()}
            for key, failure in self._failures.items():
                statuses.setdefault(key, ModelStatus(*key, state="End", bundle=None, reason=failure.reason))
        return [statuses[key] for key in sorted(statuses)]

    def load(self, name: str) -> None:
        """Load a model's newest version now, failed and unloaded ones too; blocks until it is served.

        Raises:
            ModelNotFound: no such model in the repository.
            ModelNotReady: none of its versions loads.
            Draining: the registry stopped meanwhile.
        """
        self._order(partial(self._load_now, name))

    def unload(self, name: str) -> None:
        """Unload a model; it stays unloaded, whatever appears on disk, until `load`. Raises as `load` does."""
        self._order(partial(self._unload_now, name))

    def poll(self) -> None:
        """Look at the repository now instead of at the end of the pause; blocks until that is done."""
        self._order(self._look)

    def watch(self, callback: Callable[[str, bool], None]) -> None:
        """Call `callback(name, ready)` for every model now, and whenever that changes, from the keeper's thread."""
        with self._lock:
            self._watchers.append(callback)
            now = list(self._current)
        for name in now:
            callback(name, True)

    # ---- the keeper's thread --------------------------------------------------------------------

    def _keep(self) -> None:
        self._try_look()
        self._looked.set()
        while not self._stopped.is_set():
            try:
                order = self._orders.get(timeout=self._poll_seconds)
            except Empty:
                self._try_look()
            else:
                if order is not None:
                    order()

    def _order(self, work: Callable[[], None]) -> None:
        """Have the keeper do something, and wait for it."""
        done: Future[None] = Future()

        def carry_out() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whoever ordered gets it
                done.set_exception(error)
            else:
                done.set_result(None)

        self._orders.put(carry_out)
        while not wait([done], timeout=_PATIENCE_SECONDS).done:
            if not self._keeper.is_alive():
                raise Draining("The server is stopping and loads nothing any more.")
        done.result()

    def _try_look(self) -> None:
        """One round of polling; whatever is wrong is logged, and the next round comes."""
        try:
            self._look()
        except BadRepository as error:
            logs.event(log, "repository_unreadable", level=logging.ERROR, error=error)
        except Exception:
            log.exception("poll_failed")

    def _look(self) -> None:
        scan = repository.scan(self._models)
        self._note(scan)
        names = {*scan.models, *(name for name, _ in self._served)} - {path.name for path, _ in scan.ignored}
        for name in sorted(names):
            try:
                self._settle(scan, name)
            except Exception:
                log.exception("model_failed", extra={"fields": {"model": name}})

    def _note(self, scan: Scan) -> None:
        with self._lock:
            self._on_disk = {name: tuple(v.number for v in model.versions) for name, model in scan.models.items()}
            gone = [key for key in self._failures if key[1] not in self._on_disk.get(key[0], ())]
            for key in gone:
                del self._failures[key]
        for name, version in gone:
            self._telemetry.forget(model=name, version=version)

    def _settle(self, scan: Scan, name: str) -> None:
        """Bring one model to what the repository says: the newest version that loads, and no other."""
        current = self._current.get(name)
        failed = {key[1]: failure.files for key, failure in self._failures.items() if key[0] == name}
        decision = decide(
            scan.models.get(name),
            current=None if current is None else (current.number, current.files),
            failed=failed,
            unloaded=name in self._unloaded,
        )
        for version, reason in decision.broken:
            self._fail(version, reason)
        for version in decision.try_in_turn:
            if self._try(version):
                return
        if not decision.keep and current is not None:
            self._switch(name, None)

    def _try(self, version: Version) -> bool:
        """Load one version and switch to it; False, and reported, if it doesn't load."""
        served = Served(name=version.name, number=version.number, files=version.files)
        self._move(served, "Start")
        self._move(served, "Loading")
        with self._lock:
            older = self._served.get(served.key)
            if older is None:
                self._served[served.key] = served
        try:
            loaded = self._load(version)
        except Exception as error:  # noqa: BLE001 - one bad model never stops the poll
            with self._lock:
                if older is None:
                    del self._served[served.key]
            unforeseen = not isinstance(error, CalotypeError)
            self._fail(version, f"{type(error).__name__}: {error}" if unforeseen else str(error))
            return False
        served.begin(loaded, self._batcher(version, loaded))
        self._telemetry.reload(model=version.name, outcome="loaded")
        self._switch(version.name, served)
        return True

    def _batcher(self, version: Version, loaded: Loaded) -> Batcher:
        name, number = version.name, version.number
        batcher = Batcher(
            loaded.run,
            limits=replace(self._limits, joins=loaded.joins),
            executors=self._executors,
            batch_done=partial(self._telemetry.batch_done, model=name, version=number),
            rejected=partial(self._telemetry.rejected, model=name, version=number),
            name=f"{name}-{number}",
        )
        batcher.start()
        self._telemetry.queue_gauge(model=name, version=number, rows=lambda: batcher.waiting_rows)
        return batcher

    def _fail(self, version: Version, reason: str) -> None:
        key = (version.name, version.number)
        with self._lock:
            self._failures[key] = Failure(version.files, reason)
            serving = self._current.get(version.name)
        self._telemetry.reload(model=version.name, outcome="failed")
        if key not in self._served:
            self._telemetry.model_state(model=version.name, version=version.number, state="End")
        logs.event(
            log,
            "load_failed",
            level=logging.ERROR,
            model=version.name,
            version=version.number,
            error=reason,
            still_serving=serving.number if serving else None,
        )

    def _switch(self, name: str, served: Served | None) -> None:
        """From here on calls for version 0 get `served`; the one before ends after its last call."""
        with self._lock:
            old = self._current.pop(name, None)
            if served is not None:
                self._current[name] = self._served[served.key] = served
                self._failures.pop(served.key, None)
                served.state = "Available"
            if old is not None:
                old.state = "Unloading"
        if served is not None:
            self._move(served, "Available")
        if old is None or served is None:
            for callback in list(self._watchers):
                callback(name, served is not None)
        if old is not None:
            self._move(old, "Unloading")
            threading.Thread(target=self._end, args=(old,), name=f"unload-{name}", daemon=True).start()

    def _end(self, served: Served) -> None:
        """Wait for the last handle and the last accepted row of a version, then let go of it."""
        served.released.wait()
        if served.batcher is not None:
            served.batcher.close()
            served.batcher.join()
        with self._lock:
            if self._served.get(served.key) is served:
                del self._served[served.key]
                replaced = False
            else:
                replaced = True
        served.end()
        logs.event(log, "model_state", model=served.name, version=served.number, state="End")
        if not replaced:
            self._telemetry.forget(model=served.name, version=served.number)

    def _move(self, served: Served, state: str) -> None:
        with self._lock:
            served.state = state
            if state == "Unloading" and served.handles == 0:
                served.released.set()
            replaced = self._served.get(served.key, served) is not served
        if not replaced:
            self._telemetry.model_state(model=served.name, version=served.number, state=state)
        logs.event(log, "model_state", model=served.name, version=served.number, state=state)

    def _load_now(self, name: str) -> None:
        scan = repository.scan(self._models)
        self._note(scan)
        if name not in scan.models:
            raise self._absent(name, 0)
        self._unloaded.discard(name)
        with self._lock:
            for key in [key for key in self._failures if key[0] == name]:
                del self._failures[key]
        self._settle(scan, name)
        if name not in self._current:
            raise self._absent(name, 0)

    def _unload_now(self, name: str) -> None:
        if name not in self._on_disk and name not in self._current:
            raise self._absent(name, 0)
        self._unloaded.add(name)
        if name in self._current:
            self._switch(name, None)

    # ---- any thread -----------------------------------------------------------------------------

    def _release(self, served: Served) -> None:
        with self._lock:
            served.handles -= 1
            if served.handles == 0 and served.state == "Unloading":
                served.released.set()

    def _absent(self, name: str, version: int) -> CalotypeError:
        """Why there is no handle, for the caller."""
        what = f"version {version} of model {name!r}" if version else f"model {name!r}"
        if name not in self._on_disk and name not in self._current:
            return ModelNotFound(f"Request for unknown model: there is no {name!r} in the repository of this server.")
        served = self._served.get((name, version))
        if served is not None:
            return ModelNotReady(f"The {what} is {served.state}; try again.")
        failures = {key[1]: failure for key, failure in self._failures.items() if key[0] == name}
        if version in failures or (not version and failures):
            return ModelNotReady(f"The {what} failed to load; the server's log says why.")
        current = self._current.get(name)
        if version and (current is not None or version not in self._on_disk.get(name, ())):
            now = f"served is {current.number}" if current else "none is served"
            return ModelNotFound(f"Version {version} of model {name!r} isn't loaded; {now} (0 asks for that one).")
        if name in self._unloaded:
            return ModelNotReady(f"The {what} is unloaded; it needs RepositoryModelLoad.")
        return ModelNotReady(f"The {what} is loading, or has no version that can be loaded; try again.")
