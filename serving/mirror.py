"""A repository in a bucket as a folder on this machine: a thread looks, fetches what is new, and lets go of the rest.

Whoever reads the folder sees a version whole or not at all: it is fetched beside its place, compared with its
checksums, written through to the disk, and renamed. While the bucket can't be reached the folder stays as it is.
Knows nothing of what is loaded. `mirror_plan` decides what there is to do, `mirror_folder` does it on disk.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving import buckets, logs, mirror_plan
from serving.bundle import CONFIG
from serving.errors import BadBundle, BadRepository, Unreachable
from serving.mirror_folder import MirrorFolder
from serving.mirror_plan import Listing
from serving.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from serving.mirror_plan import Decision, Files, Key, Stamp

log = logs.logger("mirror")

_LOOK_SECONDS = 0.1
_JOIN_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0
_OF_ONE_FILE = (FileNotFoundError, PermissionError)


class Mirror(Collector):
    """One bucket, one folder, one thread.

    Args:
        url: of the repository, for fsspec.
        folder: the copy; made when missing.
        poll_seconds: pause between two looks.
    """

    # Mutable: `_looks`, `_good_at`, `_trouble` (of the last look: its kind; None: there was none) and `_changed`, each
    # written by one thread; the mirror's thread alone: `_before`, `_refused`, `_said` (what was logged of a version).

    def __init__(self, url: str, folder: Path, *, poll_seconds: float) -> None:
        self._url = url
        self._shown = without_secrets(url)
        self._folder = MirrorFolder(folder, self._shown)
        self._poll_seconds = poll_seconds
        self._looks = {"done": 0, "failed": 0}
        self._good_at: float | None = None
        self._trouble: str | None = None
        self._error = ""
        self._changed: Callable[[], None] | None = None
        self._before = Listing()
        self._refused: dict[Key, Files] = {}
        self._said: dict[Key, Files] = {}
        self._filled = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="mirror", daemon=True)

    def start(
        self, *, asked_to_stop: Callable[[], bool] = lambda: False, patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        """Begin to look; returns when the copy is as the bucket, or can't be made so, or somebody asked to stop.

        Args:
            asked_to_stop: whether somebody did.
            patience_seconds: how long a copy that there was before waits for news; what comes later is picked up.

        Raises:
            BadSetting: the folder is something else, or can't be written.
            BadRepository: the bucket can't be had, and nothing of it was mirrored before.
        """
        self._folder.adopt()
        held = len(self._folder.mirrored.versions)
        end = time.monotonic() + patience_seconds
        self._thread.start()
        while not self._filled.wait(_LOOK_SECONDS):
            if asked_to_stop():
                return
            if held and time.monotonic() > end:
                logs.event(log, "mirror_late", level=logging.WARNING, url=self._shown, versions_kept=held)
                return
        if self._trouble is not None and not self._folder.mirrored.versions:
            raise BadRepository(f"The model repository {self._shown} can't be read: {self._error}")

    def tell(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the folder has changed, from the mirror's thread."""
        self._changed = changed

    def stop(self) -> None:
        """Look no more; what is being fetched is thrown away. May be called twice, or without `start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # else it goes with the process, and the lock with it
            self._folder.close()

    # ---- the thread's own -----------------------------------------------------------------------

    def _keep(self) -> None:
        settling = self._round()
        if settling and not self._stopping.wait(self._poll_seconds):
            self._round()
        self._filled.set()
        while not self._stopping.wait(self._poll_seconds):
            self._round()

    def _round(self) -> bool:
        known = self._folder.changes
        settling = self.look()
        if self._folder.changes != known and self._changed is not None:
            self._changed()
        return settling

    def look(self) -> bool:
        """One round; whatever goes wrong is logged and counted. Whether the next one may find more by itself."""
        try:
            if not self._folder.hold():
                return False  # another process keeps this folder
            settling = self._look()
        except Exception as error:  # noqa: BLE001 - the folder is as it is, and the next round comes
            self._failed(error)
            return False
        if self._trouble is not None:
            logs.event(log, "mirror_reaches_again", url=self._shown)
        self._trouble = None
        self._good_at = time.monotonic()
        self._looks["done"] += 1
        return settling

    def _failed(self, error: Exception) -> None:
        self._looks["failed"] += 1
        self._error = str(error) if isinstance(error, Unreachable) else buckets.why(error, self._url)
        kind = type(error.__cause__ or error).__name__
        kept = len(self._folder.mirrored.versions)
        if self._trouble != kind and (kept or self._filled.is_set()):  # else the start fails, and says why
            logs.event(
                log, "mirror_failed", level=logging.ERROR, url=self._shown, error=self._error, versions_kept=kept
            )
        self._trouble = kind

    def _look(self) -> bool:
        system, root = buckets.open_url(self._url)
        entries = system.find(root, detail=True)
        now = mirror_plan.listing((path.removeprefix(root).lstrip("/"), told) for path, told in entries.items())
        mirrored = self._folder.mirrored
        if mirrored.versions and not now.versions:
            raise Unreachable("there is no version of any model any more, which is not believed: what was there stays.")
        decision = mirror_plan.decide(now, before=self._before, mirrored=mirrored, refused=self._refused)
        self._before = now
        for key, reason in decision.unready:
            self._say(key, now.versions[key], reason)
        undone, error = self._bring(system, root, now, decision)
        self._let_go(decision, undone)
        if error is not None:
            raise error
        return bool(decision.settling)

    def _bring(
        self, system: Any, root: str, now: Listing, decision: Decision
    ) -> tuple[frozenset[str], Exception | None]:
        """Fetch what is new; the models of which something didn't come, and the first reason."""
        known = {name for name, _ in self._folder.mirrored.versions}
        configs = [(name, partial(self._configure, name, now.configs[name])) for name in decision.configs]
        # A new model is configured before it is there; of one that serves the version comes before a policy that asks
        # for it.
        steps = [
            *(step for step in configs if step[0] not in known),
            *((key[0], partial(self._fetch, key, now.versions[key])) for key in decision.fetch),
            *(step for step in configs if step[0] in known),
        ]
        undone, first = [], None
        for at, (name, step) in enumerate(steps):
            try:
                if self._stopping.is_set():
                    return frozenset(name for name, _ in steps[at:]), first
                step(system, root)
            except _OF_ONE_FILE as error:  # it went away meanwhile, or is not for us: the others come all the same
                undone.append(name)
                first = first or error
            except Exception as error:  # noqa: BLE001 - nothing more will come; what is to go may go
                return frozenset([*undone, *(name for name, _ in steps[at:])]), error
        return frozenset(undone), first

    def _let_go(self, decision: Decision, undone: frozenset[str]) -> None:
        """Remove what is gone, but the last version of a model whose next one didn't come."""
        staying = {name for name, number in self._folder.mirrored.versions if (name, number) not in decision.gone}
        for name in decision.configs_gone:
            if name not in undone:
                self._folder.drop_config(name)
        for name, number in decision.gone:
            if name in staying or name not in undone:
                self._folder.drop_version(name, number)
                logs.event(log, "version_gone", model=name, version=number, url=self._shown)

    def _configure(self, name: str, stamp: Stamp, system: Any, root: str) -> None:
        self._folder.put_config(name, system.cat_file(f"{root}/{name}/{CONFIG}"), stamp)

    def _fetch(self, key: Key, files: Files, system: Any, root: str) -> None:
        name, number = key
        began = time.perf_counter()
        try:
            with self._folder.staged(name, number) as staging:
                for file in files:
                    system.get_file(f"{root}/{name}/{number}/{file}", str(staging / file))
                self._folder.accept(staging, files)
                self._folder.put_version(staging, key, files)
        except BadBundle as error:
            self._refused[key] = files
            self._say(key, files, str(error))
            return
        self._refused.pop(key, None)
        fields: dict[str, Any] = {
            "bytes": sum(size for size, _ in files.values()),
            "seconds": time.perf_counter() - began,
        }
        logs.event(log, "version_mirrored", model=name, version=number, url=self._shown, **fields)

    def _say(self, key: Key, files: Files, reason: str) -> None:
        """Log why a version isn't taken, once for each state of its files."""
        if self._said.get(key) != files:
            self._said[key] = files
            fields = {"model": key[0], "version": key[1], "url": self._shown}
            logs.event(log, "version_not_taken", level=logging.WARNING, **fields, error=reason)

    # ---- metrics --------------------------------------------------------------------------------

    def exposition(self) -> bytes:
        """Its metrics in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Its metrics as Prometheus' own objects."""
        looks = CounterMetricFamily("calotype_mirror_looks", "Looks at the bucket of models.", labels=("outcome",))
        for outcome, count in self._looks.items():
            looks.add_metric((outcome,), count)
        yield looks
        if self._good_at is not None:
            age = time.monotonic() - self._good_at
            yield GaugeMetricFamily("calotype_mirror_age_seconds", "Since the last good look at the bucket.", age)
