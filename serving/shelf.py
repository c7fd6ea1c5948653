"""What is loaded, loading or on its way out, and what failed: the registry's state, behind one lock.

Starts nothing and waits for nothing, so that a call never waits here. The keeper changes it; calls take handles.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serving.errors import ModelNotFound, ModelNotReady
from serving.served import Handle, ModelStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from serving.errors import CalotypeError
    from serving.plan import Stamp
    from serving.served import Served

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that didn't load; not tried again until its stamp changes."""

    stamp: Stamp
    reason: str


class Shelf:
    """The versions by name and number; every method may be called from any thread."""

    # Mutable, all under `_lock`: `_served` (what is loaded, loading or on its way out), `_current` (name -> the one for
    # version 0: the newest available), `_failures`, `_on_disk` (names and numbers of the last look), `_unloaded` (names
    # that wait for an explicit load), and the states and counts of the versions themselves.

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: dict[Key, Served] = {}
        self._current: dict[str, Served] = {}
        self._failures: dict[Key, Failure] = {}
        self._on_disk: dict[str, tuple[int, ...]] = {}
        self._unloaded: set[str] = set()

    # ---- for calls ------------------------------------------------------------------------------

    def acquire(self, name: str, version: int) -> Handle:
        """A handle on an available version; 0 is the newest of them.

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

    def statuses(self) -> list[ModelStatus]:
        """Every version that is loaded, loading, unloading, or failed to load, by name and number."""
        with self._lock:
            statuses = {key: served.status() for key, served in self._served.items()}
            for key, failure in self._failures.items():
                known = statuses.get(key)
                if known is None:
                    statuses[key] = ModelStatus(*key, state="End", bundle=None, reason=failure.reason)
                else:  # an older state of it goes on
                    statuses[key] = replace(known, reason=failure.reason)
        return [statuses[key] for key in sorted(statuses)]

    def index(self) -> list[ModelStatus]:
        """As `statuses`, with the versions that are on disk only: not wanted, or unloaded."""
        known = {(status.name, status.version): status for status in self.statuses()}
        with self._lock:
            on_disk = [(name, number) for name, numbers in self._on_disk.items() for number in numbers]
        for key in on_disk:
            known.setdefault(key, ModelStatus(*key, state="End", bundle=None, reason="unloaded"))
        return [known[key] for key in sorted(known)]

    def absent(self, name: str, version: int = 0) -> CalotypeError:
        """Why there is no handle, for the caller."""
        with self._lock:
            return self._absent(name, version)

    # ---- for the keeper -------------------------------------------------------------------------

    def names(self) -> set[str]:
        """Of the models that have a version here."""
        with self._lock:
            return {name for name, _ in self._served}

    def knows(self, name: str) -> bool:
        """Whether there is such a model, on disk at the last look or here."""
        with self._lock:
            return name in self._on_disk or name in self._current

    def ready_names(self) -> list[str]:
        """Of the models that take calls."""
        with self._lock:
            return list(self._current)

    def loaded(self, name: str) -> dict[int, Served]:
        """A model's versions that take calls, by number."""
        with self._lock:
            return self._available(name)

    def failed(self, name: str) -> dict[int, Stamp]:
        """What a model's versions looked like when they failed to load."""
        with self._lock:
            return {key[1]: failure.stamp for key, failure in self._failures.items() if key[0] == name}

    def all(self) -> list[Served]:
        """Every version here, in whatever state."""
        with self._lock:
            return list(self._served.values())

    def note(self, on_disk: Mapping[str, tuple[int, ...]]) -> list[Key]:
        """Remember what a look found; returns the failed versions that are gone, and are forgotten."""
        with self._lock:
            self._on_disk = dict(on_disk)
            gone = [key for key in self._failures if key[1] not in self._on_disk.get(key[0], ())]
            for key in gone:
                del self._failures[key]
        return gone

    def want(self, name: str, *, loaded: bool) -> None:
        """Whether somebody wants a model loaded, or unloaded until they say otherwise."""
        with self._lock:
            (self._unloaded.discard if loaded else self._unloaded.add)(name)

    def unwant(self, names: Iterable[str]) -> None:
        """These models, and no others, are wanted unloaded until somebody says otherwise."""
        with self._lock:
            self._unloaded = set(names)

    def unwanted(self, name: str) -> bool:
        """Whether somebody wants a model unloaded."""
        with self._lock:
            return name in self._unloaded

    def begin(self, served: Served) -> None:
        """Show a version that starts to load, unless an older state of it is there."""
        with self._lock:
            self._served.setdefault(served.key, served)

    def give_up(self, served: Served) -> None:
        """Show no longer a version that didn't load."""
        with self._lock:
            if self._served.get(served.key) is served:
                del self._served[served.key]

    def fail(self, key: Key, failure: Failure) -> bool:
        """Remember why a version didn't load; whether an older state of it is here."""
        with self._lock:
            self._failures[key] = failure
            return key in self._served

    def forgive(self, name: str, version: int = 0) -> None:
        """Forget why a version, or 0: any of a model, didn't load."""
        with self._lock:
            for key in [key for key in self._failures if key[0] == name and version in (0, key[1])]:
                del self._failures[key]

    def move(self, served: Served, state: str) -> bool:
        """Put a version into a state; whether it is still the one of its name and number."""
        with self._lock:
            served.state = state
            return self._served.get(served.key, served) is served

    def put(self, served: Served) -> Served | None:
        """Let a version take calls from here on; returns the older state of it that took them, unloading now."""
        with self._lock:
            older = self._served.get(served.key)
            if older is not None and not older.available:  # itself, or on its way already
                older = None
            self._served[served.key] = served
            self._failures.pop(served.key, None)
            served.state = "Available"
            if older is not None:
                _unload(older)
            self._elect(served.name)
        return older

    def retire(self, served: Served) -> None:
        """Let a version take no more calls."""
        with self._lock:
            _unload(served)
            self._elect(served.name)

    def remove(self, served: Served) -> bool:
        """Forget a version that ended; False if another state of it is here."""
        with self._lock:
            if self._served.get(served.key) is not served:
                return False
            del self._served[served.key]
            return True

    # ---- under the lock -------------------------------------------------------------------------

    def _available(self, name: str) -> dict[int, Served]:
        return {key[1]: served for key, served in self._served.items() if key[0] == name and served.available}

    def _elect(self, name: str) -> None:
        available = self._available(name)
        if available:
            self._current[name] = available[max(available)]
        else:
            self._current.pop(name, None)

    def _release(self, served: Served) -> None:
        with self._lock:
            served.handles -= 1
            if served.handles == 0 and served.state == "Unloading":
                served.released.set()

    def _absent(self, name: str, version: int) -> CalotypeError:
        what = f"version {version} of model {name!r}" if version else f"model {name!r}"
        if name not in self._on_disk and name not in self._current:
            return ModelNotFound(f"Request for unknown model: there is no {name!r} in the repository of this server.")
        served = self._served.get((name, version))
        if served is not None:
            return ModelNotReady(f"The {what} is {served.state}; try again.")
        failures = {key[1] for key in self._failures if key[0] == name}
        if version in failures or (not version and failures):
            return ModelNotReady(f"The {what} failed to load; the server's log says why.")
        current: Any = self._current.get(name)
        if version and (current is not None or version not in self._on_disk.get(name, ())):
            now = f"served is {_and(self._available(name))}" if current else "none is served"
            return ModelNotFound(f"Version {version} of model {name!r} isn't loaded; {now} (0 asks for the newest).")
        if name in self._unloaded:
            return ModelNotReady(f"The {what} is unloaded; it needs RepositoryModelLoad.")
        return ModelNotReady(f"The {what} is loading, or has no version that can be loaded; try again.")


def _unload(served: Served) -> None:
    served.state = "Unloading"
    if served.handles == 0:
        served.released.set()


def _and(numbers: Mapping[int, Any]) -> str:
    return ", ".join(map(str, sorted(numbers)))
