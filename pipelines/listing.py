"""The files of a source, and what their paths say of label and part; reads no file."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from pipelines import manifest
from pipelines.errors import BadSource, EmptyFolder
from pipelines.reading import is_url, without_userinfo
from pipelines.remote import walk_url
from pipelines.walk import Found, is_hidden_folder, printable, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from pipelines.manifest import PartName

OUTSIDE_LABELS = "lies outside any label's folder"
SEEN_FILES = 1024  # how often the listing says how far it is


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source and what their paths say: all columns have one entry per file, by path.

    Attributes:
        found: the files.
        labels: None: outside any label's folder.
        parts: None: the source gives none.
        presplit: whether it gives parts.
        walked: int64 [files], the number of each in the order in which they were found.
    """

    found: list[Found]
    labels: list[str | None]
    parts: list[PartName | None]
    presplit: bool
    walked: npt.NDArray[np.int64]

    @property
    def candidates(self) -> npt.NDArray[np.int64]:
        """Places of the files that are worth reading."""
        worth = [found.ignored is None and found.trouble is None for found in self.found]
        return np.flatnonzero(np.array(worth, dtype=np.bool_))


def list_source(
    root: str,
    *,
    task: str,
    see: Callable[[Sequence[Found], int], None] | None = None,
    barred: Iterable[str] = (),
) -> Listing:
    """Every file of a source, in order of the paths.

    Args:
        root: a folder or a URL.
        task: as in `ingest`.
        see: told at first and from time to time which files there are by then, and of how many bytes.
        barred: folders that no link leads into.

    Raises:
        BadSource: it can't be listed.
        EmptyFolder: it holds no file that could be an image, or for classify none in a label's folder.
    """
    found = _walked(walk_url(root) if is_url(root) else walk(root, barred=barred), root, see)
    walked = sorted(range(len(found)), key=[one.path for one in found].__getitem__)
    found = [found[number] for number in walked]
    heads = [one.path.rpartition("/")[0] for one in found]
    folders = {head for head, one in zip(heads, found, strict=True) if one.ignored is None}
    presplit = manifest.is_presplit(f"{folder}/" for folder in folders if folder)
    said = {head: manifest.label_and_part(f"{head}/" if head else "", presplit=presplit) for head in set(heads)}
    labels = [said[head][0] for head in heads]
    if task == "classify":
        found = [
            one._replace(ignored=OUTSIDE_LABELS) if label is None and not (one.ignored or one.trouble) else one
            for one, label in zip(found, labels, strict=True)
        ]
    else:
        labels = [label or "" for label in labels]
    listing = Listing(
        found=found,
        labels=labels,
        parts=[said[head][1] for head in heads],
        presplit=presplit,
        walked=np.array(walked, dtype=np.int64),
    )
    if not len(listing.candidates):
        outside = sum(one.ignored == OUTSIDE_LABELS for one in found)
        what = f"{len(found)} files, none of which could be one"
        if outside:
            what = f"{outside} files outside any such folder (--task reconstruct needs no labels)"
        raise EmptyFolder(
            f"The source {without_userinfo(root)} holds no image{' of a label' if outside else ''}. Expected one "
            f"subfolder of images per label. Received: {what}."
        )
    return listing


def empty_labels(root: str, listing: Listing) -> tuple[str, ...]:
    """Labels that a local source has folders for, and no file that could be an image; buckets have no empty folders."""
    if is_url(root):
        return ()
    folders = _folders(root)
    if listing.presplit:
        folders = [f"{part}/{folder}" for part in folders for folder in _folders(f"{root}/{part}")]
    named = {manifest.label_and_part(f"{printable(folder)}/", presplit=listing.presplit)[0] for folder in folders}
    there = {label for label, found in zip(listing.labels, listing.found, strict=True) if found.ignored is None}
    return tuple(sorted(label for label in named - there if label is not None))


def _folders(folder: str) -> list[str]:
    """Names of the folders in a folder that are looked into; links aside, which may lead to what is read already."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [one.name for one in entries if one.is_dir(follow_symlinks=False) and not is_hidden_folder(one.name)]
    return []


def _walked(walker: Iterator[Found], root: str, see: Callable[[Sequence[Found], int], None] | None) -> list[Found]:
    found: list[Found] = []
    size_bytes = 0
    while True:
        if see is not None:
            see(found, size_bytes)
        try:
            some = list(islice(walker, SEEN_FILES))
        except OSError as error:
            raise BadSource(f"The folder {root} can't be listed: {error.strerror}.") from error
        if not some:
            return found
        found += some
        size_bytes += sum(one.size for one in some)
