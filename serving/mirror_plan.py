"""What a bucket's repository holds by its listing, and what a copy of it lacks; pure: fetches nothing.

A version is whole in a bucket when its `checksums` is there, which is written last, and its bytes are right, which
whoever fetches it sees. One that is a lone `model.onnx` says nothing of that: it is taken when two listings found it
the same. What is mirrored and not whole any more stays; what is gone goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from serving import bundle as bundles
from serving.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Key = tuple[str, int]
"""A model's name and a version."""
Stamp = tuple[int, str]
"""A file's bytes, and whatever else its listing says that changes with its content."""
Files = dict[str, Stamp]
"""The files of a version folder by name."""

_TAGS: Final = ("ETag", "etag", "md5Hash", "content_md5")  # of the content: the same when it is uploaded once more
_TIMES: Final = ("LastModified", "last_modified", "updated", "mtime", "created")
_IN_MODEL, _IN_VERSION = 2, 3  # parts of a path: name/config.pbtxt, name/version/file


@dataclass(frozen=True, slots=True)
class Listing:
    """One look at a repository in a bucket, or at what of it was mirrored.

    Args:
        versions: the files of each version folder.
        configs: the `config.pbtxt` of each model that has one.
    """

    versions: dict[Key, Files] = field(default_factory=dict)
    configs: dict[str, Stamp] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Of the models."""
        return {name for name, _ in self.versions} | self.configs.keys()


@dataclass(frozen=True, slots=True)
class Decision:
    """What there is to do, each tuple in the order in which it is best done.

    Args:
        configs: models whose `config.pbtxt` is new or another one.
        fetch: versions to be fetched, each model's newest before anybody's older ones.
        gone: versions that are to go.
        configs_gone: models whose `config.pbtxt` is to go.
        unready: versions that can't be taken as they are, each with the reason, a sentence.
        settling: versions that are taken if the next look finds them the same.
    """

    configs: tuple[str, ...]
    fetch: tuple[Key, ...]
    gone: tuple[Key, ...]
    configs_gone: tuple[str, ...]
    unready: tuple[tuple[Key, str], ...]
    settling: tuple[Key, ...]


def listing(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> Listing:
    """What a file system's listing means.

    Args:
        entries: path relative to the repository, and what is told of it: `size`, and times or tags.
    """
    found = Listing()
    for path, told in entries:
        parts = path.split("/")
        if told.get("type") == "directory" or any(not part or part.startswith(".") for part in parts):
            continue
        stamp = int(told.get("size") or 0), _tag(told)
        if len(parts) == _IN_MODEL and parts[1] == bundles.CONFIG and _is_name(parts[0]):
            found.configs[parts[0]] = stamp
        elif len(parts) == _IN_VERSION and _is_name(parts[0]) and (number := bundles.version_number(parts[1])):
            found.versions.setdefault((parts[0], number), {})[parts[2]] = stamp
    return found


def _tag(told: Mapping[str, Any]) -> str:
    """What is told of a file that changes when its content does."""
    tag = next((str(told[name]) for name in _TAGS if told.get(name)), None)
    return tag or "|".join(str(told[name]) for name in _TIMES if told.get(name) is not None)


def _is_name(name: str) -> bool:
    try:
        bundles.check_name(name)
    except BadInput:
        return False
    return True


def decide(now: Listing, *, before: Listing, mirrored: Listing, refused: Mapping[Key, Files]) -> Decision:
    """What a copy lacks of a repository.

    Args:
        now: what is in the bucket.
        before: what was in it at the look before.
        mirrored: what was in it of all that the copy has.
        refused: what was fetched and found damaged; not tried again while it is the same.
    """
    fetch, unready, settling = [], [], []
    for key, files in now.versions.items():
        if files in (mirrored.versions.get(key), refused.get(key)):
            continue
        reason = _fault(files)
        if reason:
            unready.append((key, reason))
        elif bundles.CHECKSUMS in files or before.versions.get(key) == files:
            fetch.append(key)
        else:
            settling.append(key)
    newest = {name: max(number for other, number in now.versions if other == name) for name, _ in now.versions}
    return Decision(
        configs=tuple(sorted(name for name, stamp in now.configs.items() if mirrored.configs.get(name) != stamp)),
        fetch=tuple(sorted(fetch, key=lambda key: (key[1] != newest[key[0]], -key[1], key[0]))),
        gone=tuple(sorted(mirrored.versions.keys() - now.versions.keys())),
        configs_gone=tuple(sorted(mirrored.configs.keys() - now.configs.keys())),
        unready=tuple(unready),
        settling=tuple(settling),
    )


def _fault(files: Files) -> str:
    """Why a version can't be taken as it is; empty: it may be."""
    missing = [name for name in (bundles.MODEL, bundles.JSON, bundles.CHECKSUMS) if name not in files]
    is_bundle = bundles.JSON in files or bundles.CHECKSUMS in files
    if bundles.MODEL in missing or (missing and is_bundle):
        return f"It is not whole: {' and '.join(missing if is_bundle else missing[:1])} is missing."
    return ""
