"""The thread that keeps a shelf as the repository says: looks, loads, switches, and lets go. Loads before it unloads.

Knows no transport. How a folder becomes a model is `serving.loading`'s affair, what should be loaded `serving.plan`'s.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from serving import bundle as bundles
from serving import logs, model_config, plan, repository
from serving.batcher import Batcher
from serving.doubts import Doubts, looks_at_rest
from serving.errors import BadRepository, CalotypeError, Draining
from serving.priority import step_back
from serving.served import Served
from serving.shelf import Failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from serving.loading import Loaded
    from serving.model_config import Tuning
    from serving.plan import Decision, Stamp, Step
    from serving.repository import Model, Scan, Version
    from serving.shelf import Shelf
    from serving.telemetry import Telemetry

log = logs.logger("registry")

_PATIENCE_SECONDS = 0.5


class Keeper:
    """One thread over one repository and one shelf.

    Args:
        models: the repository.
        shelf: where what is loaded is put.
        load: version folder, and how it is served -> model; raises CalotypeError.
        tuning: how models are served whose configuration doesn't say.
        poll_seconds: pause between two looks.
        telemetry: told of states, reloads and batches.
    """

    # Mutable: `_watchers` (under `_lock`), `_orders`, the thread's inbox; the thread's alone: `_tunings` (name -> what
    # its configuration said at the last look), `_seen` (what the files of each version were at the last look) and
    # `_doubts`.

    def __init__(
        self,
        models: Path,
        shelf: Shelf,
        *,
        load: Callable[[Version, Tuning], Loaded],
        tuning: Tuning,
        poll_seconds: float,
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._shelf = shelf
        self._load = load
        self._tuning = tuning
        self._poll_seconds = poll_seconds
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._watchers: list[Callable[[str, bool], None]] = []
        self._tunings: dict[str, tuple[str | None, Tuning | str]] = {}
        self._seen: dict[tuple[str, int], Stamp] = {}
        self._doubts = Doubts(looks_at_rest(poll_seconds))
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.looked = threading.Event()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="registry", daemon=True)

    def start(self) -> None:
        """Begin to load and to poll; returns at once.

        Raises:
            BadRepository: there is no such folder.
        """
        self._note(repository.scan(self._models))
        self._thread.start()

    def look_again(self) -> None:
        """Begin the first round anew; returns at once."""
        self.looked.clear()
        self._orders.put(self._look_first)

    def stop(self) -> None:
        """Begin nothing any more. May be called twice."""
        self.stopped.set()
        self._orders.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the thread."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def watch(self, callback: Callable[[str, bool], None]) -> None:
        """Call `callback(name, ready)` for every model now, and whenever that changes, from the thread."""
        with self._lock:
            self._watchers.append(callback)
        for name in self._shelf.ready_names():
            callback(name, True)

    def order(self, work: Callable[[], None]) -> None:
        """Have the thread do something, and wait for it; raises what it raises."""
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
            if not self._thread.is_alive():
                raise Draining("The server is stopping and loads nothing any more.")
        done.result()

    # ---- orders ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Bring every model to what the repository says."""
        scan = repository.scan(self._models)
        self._note(scan)
        names = {*scan.models, *self._shelf.names()} - {
            path.name for path, _ in scan.ignored if path.parent == self._models
        }
        for name in sorted(names):
            if self.stopped.is_set():
                return
            try:
                self._settle(scan, name)
                # What is there at the start is taken as it is: who starts a server wants to know at once.
                self._judge(scan, name, at_once=not self.looked.is_set())
            except Exception:
                log.exception("model_failed", extra={"fields": {"model": name}})
        self._seen = {key: version.files for key, version in scan.usable.items()}

    def load(self, name: str) -> None:
        """Load a model, its failed versions too."""
        scan = repository.scan(self._models)
        self._note(scan)
        if name not in scan.models:
            raise self._shelf.absent(name)
        self._shelf.want(name, loaded=True)
        self._shelf.forgive(name)
        self._doubts.drop(name)
        self._seen |= {key: version.files for key, version in scan.usable.items() if key[0] == name}  # they say so
        self._settle(scan, name)
        self._judge(scan, name, at_once=True)
        if not self._shelf.loaded(name):
            raise self._shelf.absent(name)

    def unload(self, name: str) -> None:
        """Unload a model until it is loaded by an order."""
        if not self._shelf.knows(name):
            self._note(repository.scan(self._models))  # other workers may have looked since it came
        if not self._shelf.knows(name):
            raise self._shelf.absent(name)
        self._shelf.want(name, loaded=False)
        self._doubts.drop(name)
        self._keep_only(name, set())

    # ---- the thread's own -----------------------------------------------------------------------

    def _keep(self) -> None:
        step_back()  # before the first session: onnxruntime's threads are as their maker is
        self._look_first()
        while not self.stopped.is_set():
            try:
                order = self._orders.get(timeout=self._poll_seconds)
            except Empty:
                self._try_look()
            else:
                if order is not None:
                    order()

    def _look_first(self) -> None:
        self._try_look()
        self.looked.set()

    def _try_look(self) -> None:
        """One round of polling; whatever is wrong is logged, and the next round comes."""
        try:
            self.look()
        except BadRepository as error:
            self._telemetry.reload(model="", outcome="unreadable")
            logs.event(log, "repository_unreadable", level=logging.ERROR, error=error)
        except Exception:
            log.exception("poll_failed")

    def _note(self, scan: Scan) -> None:
        on_disk = {name: tuple(v.number for v in model.versions) for name, model in scan.models.items()}
        for name, version in self._shelf.note(on_disk) + self._doubts.note(on_disk):
            self._telemetry.forget(model=name, version=version)

    def _settle(self, scan: Scan, name: str) -> None:
        """Bring one model to what the repository says."""
        model = scan.models.get(name)
        tuning = self._tuning if model is None else self._tuning_of(model)
        decision = self._decide(model, name, tuning)
        for version, reason in decision.broken:
            # A configuration is one file, written at once: it is no half of anything.
            report = self._fail if isinstance(tuning, str) else self._doubts.add
            report(version, plan.stamp(scan.models[name], version), reason)
        kept: set[int] = set()
        for step in decision.steps:
            if len(kept) == decision.most:
                break
            if self._go(step, scan.models[name], tuning):
                kept.add(step.version.number)
        self._keep_only(name, kept)

    def _judge(self, scan: Scan, name: str, *, at_once: bool) -> None:
        """Report what has failed of one model; what may be half of a copy has not, until it rests."""
        model = scan.models.get(name)
        if model is None:
            return
        for version, doubt in self._doubts.failed(model, at_once=at_once):
            self._fail(version, doubt.stamp, doubt.reason)
        for number, reason in self._doubts.untold(name):
            logs.event(log, "not_whole_yet", model=name, version=number, reason=reason)

    def _decide(self, model: Model | None, name: str, tuning: Tuning | str) -> Decision:
        available = self._shelf.loaded(name)
        loaded = {number: served.stamp for number, served in available.items()}
        doubted, unloaded = self._doubts.stamps(name), self._shelf.unwanted(name)
        failed = self._shelf.failed(name) | doubted
        if isinstance(tuning, str) and model is not None and not unloaded:
            return plan.hold(model, tuning, loaded=loaded, failed=failed)
        policy = self._tuning.policy if isinstance(tuning, str) else tuning.policy
        settling: frozenset[int] = frozenset()
        if model is not None:
            has_bundle = any(served.bundle is not None for served in available.values())
            settling = plan.settling(model, self._seen, has_bundle=has_bundle, doubted=doubted)
        return plan.decide(model, policy=policy, loaded=loaded, failed=failed, unloaded=unloaded, settling=settling)

    def _tuning_of(self, model: Model) -> Tuning | str:
        """How a model is served, or a sentence that says why it can't be."""
        if model.reason:
            return model.reason
        known = self._tunings.get(model.name)
        if known is None or known[0] != model.config:
            known = self._tunings[model.name] = (model.config, self._read(model))
        return known[1]

    def _read(self, model: Model) -> Tuning | str:
        if model.config is None:
            return self._tuning
        where = str(model.path / bundles.CONFIG)
        try:
            return model_config.read(model.config, self._tuning, model=model.name, where=where)
        except model_config.BadConfig as error:
            return str(error)

    def _go(self, step: Step, model: Model, tuning: Tuning | str) -> bool:
        """Whether a version of the plan takes calls now."""
        stamp = plan.stamp(model, step.version)
        if step.load and not isinstance(tuning, str) and self._try(step.version, stamp, tuning):
            return True
        if step.held and not step.load and self._shelf.loaded(model.name)[step.version.number].stamp == stamp:
            self._shelf.forgive(model.name, step.version.number)  # back to what is loaded
            self._doubts.drop(model.name, step.version.number)
        return step.held

    def _try(self, version: Version, stamp: Stamp, tuning: Tuning) -> bool:
        """Load one version and let it take calls; False, and in doubt, if it doesn't load."""
        served = Served(name=version.name, number=version.number, stamp=stamp, tuning=tuning)
        self._move(served, "Start")
        self._move(served, "Loading")
        self._shelf.begin(served)
        try:
            loaded = self._load(version, tuning)
        except Exception as error:  # noqa: BLE001 - one bad model never stops the poll
            self._shelf.give_up(served)
            if self._shelf.move(served, "End"):  # no older state of it goes on
                self._telemetry.model_state(model=version.name, version=version.number, state="End")
            unforeseen = not isinstance(error, CalotypeError)
            self._doubts.add(version, stamp, f"{type(error).__name__}: {error}" if unforeseen else str(error))
            return False
        self._doubts.drop(version.name, version.number)
        limits = replace(tuning.limits, joins=tuning.limits.joins and loaded.joins)
        tuned = replace(tuning, limits=limits, executors=tuning.executors or loaded.executors)
        served.begin(loaded, tuned, self._batcher(served, loaded, tuned))
        self._telemetry.reload(model=version.name, outcome="loaded")
        self._say(version, tuning)
        self._put(served)
        return True

    def _say(self, version: Version, tuning: Tuning) -> None:
        """What a model's configuration changes, and what of it changes nothing."""
        fields: dict[str, Any] = {"model": version.name, "version": version.number}
        if tuning.ignored:
            ignored = ", ".join(tuning.ignored)
            logs.event(log, "config_not_honoured", level=logging.WARNING, **fields, fields=ignored)
        if replace(tuning, ignored=()) != self._tuning:
            limits = tuning.limits
            rows = limits.max_batch_rows if limits.joins else 0
            fields |= {"max_batch_rows": rows, "max_wait_ms": limits.max_wait_ms}
            fields |= {"max_queue_rows": limits.max_queue_rows, "executors": tuning.executors}
            logs.event(log, "config_honoured", **fields)

    def _batcher(self, served: Served, loaded: Loaded, tuning: Tuning) -> Batcher:
        name, number = served.key
        batcher = Batcher(
            loaded.run,
            limits=tuning.limits,
            executors=tuning.executors,
            batch_done=partial(self._telemetry.batch_done, model=name, version=number),
            rejected=partial(self._telemetry.rejected, model=name, version=number),
            name=f"{name}-{number}",
        )
        batcher.start()
        self._telemetry.queue_gauge(model=name, version=number, rows=lambda: batcher.waiting_rows)
        return batcher

    def _fail(self, version: Version, stamp: Stamp, reason: str) -> None:
        older_goes_on = self._shelf.fail((version.name, version.number), Failure(stamp, reason))
        self._telemetry.reload(model=version.name, outcome="failed")
        if not older_goes_on:
            self._telemetry.model_state(model=version.name, version=version.number, state="End")
        serving = ", ".join(map(str, sorted(self._shelf.loaded(version.name))))
        fields = {"model": version.name, "version": version.number, "error": reason, "still_serving": serving or None}
        logs.event(log, "load_failed", level=logging.ERROR, **fields)

    def _put(self, served: Served) -> None:
        first = not self._shelf.loaded(served.name)
        older = self._shelf.put(served)
        self._move(served, "Available")
        if first:
            self._tell(served.name, ready=True)
        if older is not None:
            self._let_go(older)

    def _keep_only(self, name: str, numbers: set[int]) -> None:
        """Let every other version of a model end after its last call."""
        going = [served for number, served in self._shelf.loaded(name).items() if number not in numbers]
        for served in going:
            self._shelf.retire(served)
        if going and not self._shelf.loaded(name):
            self._tell(name, ready=False)
        for served in going:
            self._let_go(served)

    def _tell(self, name: str, *, ready: bool) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for callback in watchers:
            callback(name, ready)

    def _let_go(self, served: Served) -> None:
        self._move(served, "Unloading")
        threading.Thread(target=self._end, args=(served,), name=f"unload-{served.name}", daemon=True).start()

    def _end(self, served: Served) -> None:
        """Wait for the last handle and the last accepted row of a version, then let go of it."""
        served.released.wait()
        if served.batcher is not None:
            served.batcher.close()
            served.batcher.join()
        last = self._shelf.remove(served)
        served.end()
        logs.event(log, "model_state", model=served.name, version=served.number, state="End")
        if last:
            self._telemetry.forget(model=served.name, version=served.number)

    def _move(self, served: Served, state: str) -> None:
        if self._shelf.move(served, state):
            self._telemetry.model_state(model=served.name, version=served.number, state=state)
        logs.event(log, "model_state", model=served.name, version=served.number, state=state)
