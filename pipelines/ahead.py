"""Files decoded while their source is still listed, so that no processor waits for the last name.

Only where every file of a folder will be read, and nothing of it was yet: in a first ingest, or with `--verify`. It
begins what belongs to a label however the listing ends; the rest is left to `decode.py`, which throws away what was
begun for another size than the whole listing suggests.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from pipelines import decode, manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pipelines.config import DataRecipe
    from pipelines.journal import Canvas
    from pipelines.listing import Listing
    from pipelines.pool import Staff
    from pipelines.walk import Found

CHUNK_FILES: Final = 2048  # few enough that no processor has much left when the others are done
CHUNK_BYTES: Final = 64 * 1024 * 1024
GUESSED_FROM_FILES: Final = 8  # while nobody works yet


class Ahead:
    """What is begun while the source is listed; a context manager that takes it back after an error.

    Mutable: how far it is in the files found, the numbers of those begun, and the canvas once it is chosen.

    Args:
        root: of the source, a folder.
        recipe: of the data.
        task: as in `ingest`.
        canvas: how to store the pixels; None: guessed from the first files.
        journal: where chunks are written; empty.
        staff: the processes.
    """

    def __init__(
        self, root: str, recipe: DataRecipe, *, task: str, canvas: Canvas | None, journal: Path, staff: Staff
    ) -> None:
        self._root = root
        self._recipe = recipe
        self._task = task
        self._canvas = canvas
        self._journal = journal
        self._staff = staff
        self._looked_at = 0
        self._begun: list[int] = []
        self._surely: dict[str, bool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._staff.recall()

    def see(self, found: Sequence[Found], size_bytes: int) -> None:
        """Begin what there is room for.

        Args:
            found: all files by now, in the order in which they are found.
            size_bytes: of them all.
        """
        self._staff.expect(len(found), size_bytes)
        while self._staff.has_room() and len(found) - self._looked_at >= CHUNK_FILES:
            self._begin(found)

    def begun(self, listing: Listing, canvas: Canvas) -> npt.NDArray[np.int64]:
        """Places in the listing of the files begun, in the order of their chunks' `first`; none, if for another canvas.

        Args:
            listing: the whole.
            canvas: how the pixels are to be stored.
        """
        if self._canvas is None or self._canvas.key() != canvas.key():
            self._staff.recall()
            return np.empty(0, dtype=np.int64)
        place = np.empty(len(listing.found), dtype=np.int64)
        place[listing.walked] = np.arange(len(place))
        return place[self._begun]

    def _begin(self, found: Sequence[Found]) -> None:
        some: list[int] = []
        size_bytes = 0
        for number, one in enumerate(found[self._looked_at : self._looked_at + CHUNK_FILES], self._looked_at):
            if some and size_bytes + one.size > CHUNK_BYTES:
                break
            self._looked_at = number + 1
            if self._is_image(one):
                some.append(number)
                size_bytes += one.size
        chosen = [found[number] for number in some]
        if not chosen:
            return
        if self._canvas is None:
            self._canvas = decode.guess_canvas(chosen[:GUESSED_FROM_FILES], root=self._root, recipe=self._recipe)
        chunk = decode.chunk_of(
            chosen, root=self._root, canvas=self._canvas, journal=self._journal, first=len(self._begun)
        )
        if self._staff.begin(chunk):
            self._begun += some

    def _is_image(self, one: Found) -> bool:
        """Whether the file will be read, however the listing ends: a label's folder may yet turn out to be a part's."""
        if one.ignored is not None or one.trouble is not None:
            return False
        if self._task != "classify":
            return True
        head = one.path.rpartition("/")[0]
        if head not in self._surely:
            said = partial(manifest.label_and_part, f"{head}/" if head else "")
            self._surely[head] = said(presplit=True)[0] is not None and said(presplit=False)[0] is not None
        return self._surely[head]
