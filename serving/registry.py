"""What is loaded: one-way states per version, handles that keep a version alive, load before unload.

The face that services see; the state is the shelf's, the work the keeper's. Knows no transport.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from serving.keeper import Keeper
from serving.served import Handle, ModelStatus
from serving.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from serving.loading import Loaded
    from serving.model_config import Tuning
    from serving.repository import Version
    from serving.telemetry import Telemetry

__all__ = ["Handle", "ModelStatus", "Registry"]


class Registry:
    """The models of one repository, kept as its folder says.

    Args:
        models: the repository.
        load: version folder, and how it is served -> model, in the keeper's thread; raises CalotypeError.
        tuning: how models are served whose `config.pbtxt` doesn't say.
        poll_seconds: pause between two looks.
        telemetry: told of states, reloads and batches.
    """

    def __init__(
        self,
        models: Path,
        *,
        load: Callable[[Version, Tuning], Loaded],
        tuning: Tuning,
        poll_seconds: float,
        telemetry: Telemetry,
    ) -> None:
        self._shelf = Shelf()
        self._keeper = Keeper(
            models, self._shelf, load=load, tuning=tuning, poll_seconds=poll_seconds, telemetry=telemetry
        )

    def start(self) -> None:
        """Begin to load and to poll; returns at once, `wait_ready` waits for the first round.

        Raises:
            BadRepository: there is no such folder.
        """
        self._keeper.start()

    def unwanted(self, names: Iterable[str]) -> None:
        """Before `start`: don't load these models until somebody wants them loaded."""
        self._shelf.unwant(names)

    def look_again(self, unloaded: Iterable[str]) -> None:
        """Not ready, and again in the first round of loading: these models, and no others, are to be unloaded now."""
        self._shelf.unwant(unloaded)
        self._keeper.look_again()

    def stop(self, drain_seconds: float) -> None:
        """Stop polling, let accepted work finish for so long, and fail the rest. May be called twice."""
        self._keeper.stop()
        batchers = [served.batcher for served in self._shelf.all() if served.batcher is not None]
        for batcher in batchers:
            batcher.close()
        end = time.monotonic() + drain_seconds
        for batcher in batchers:
            if not batcher.join(max(0.0, end - time.monotonic())):
                batcher.abandon()
        self._keeper.join(max(0.0, end - time.monotonic()))

    def wait_ready(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every model found at the start was loaded, or failed to."""
        return self._keeper.looked.wait(timeout_seconds)

    def ready(self) -> bool:
        """Whether calls may come: from the first round of loading until `stop`, whatever single models do."""
        return self._keeper.looked.is_set() and not self._keeper.stopped.is_set()

    def acquire(self, name: str, version: int = 0) -> Handle:
        """A handle on a model; the version lives at least until the handle is released.

        Args:
            name: of the model.
            version: an exact one, or 0 for the newest of those served.

        Raises:
            ModelNotFound: no such model or version, or one that this server doesn't keep loaded.
            ModelNotReady: it is loading, unloading, or failed to load.
        """
        return self._shelf.acquire(name, version)

    def models(self) -> list[ModelStatus]:
        """Every version that is loaded, loading, unloading, or failed to load, by name and number."""
        return self._shelf.statuses()

    def index(self) -> list[ModelStatus]:
        """As `models`, with the versions that are in the repository only, whose state is End."""
        return self._shelf.index()

    def load(self, name: str) -> None:
        """Load what a model's policy wants now, failed and unloaded versions too; blocks until that is done.

        Raises:
            ModelNotFound: no such model in the repository.
            ModelNotReady: none of its versions loads.
            Draining: the registry stopped meanwhile.
        """
        self._keeper.order(partial(self._keeper.load, name))

    def unload(self, name: str) -> None:
        """Unload a model; it stays unloaded, whatever appears on disk, until `load`. Raises as `load` does."""
        self._keeper.order(partial(self._keeper.unload, name))

    def poll(self) -> None:
        """Look at the repository now instead of at the end of the pause; blocks until that is done."""
        self._keeper.order(self._keeper.look)

    def watch(self, callback: Callable[[str, bool], None]) -> None:
        """Call `callback(name, ready)` for every model now, and whenever that changes, from the keeper's thread."""
        self._keeper.watch(callback)
