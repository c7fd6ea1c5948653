"""What can go wrong, in the words of this house; knows no transport and no exit status.

Every error is one sentence for the person who reads it: what is wrong, what was expected, what was
received, and the cure. `interceptors.py` holds the one table from these to gRPC status codes.
"""

from __future__ import annotations


class CalotypeError(Exception):
    """The root of every error that is meant to be read by a caller, a user or an operator."""


class BadInput(CalotypeError):
    """The caller sent something that no retry will mend: undecodable, wrong shape, wrong task, too large."""


class ModelNotFound(CalotypeError):
    """No such model, or no such version of it."""


class ModelNotReady(CalotypeError):
    """The model exists and is loading, unloading, or failed to load; a retry may succeed."""


class Overloaded(CalotypeError):
    """The queue is full; refused at once, nothing was computed.

    Args:
        message: the sentence.
        retry_after_ms: how long a client should wait before it tries again.
    """

    def __init__(self, message: str, *, retry_after_ms: int = 50) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class TooLarge(CalotypeError):
    """A message over the limit, the caller's or the answer to it."""


class Draining(CalotypeError):
    """The server is stopping and takes no new calls."""


class DeadlineExceeded(CalotypeError):
    """The caller's deadline passed before its rows were computed; nothing was spent on them."""


class Unauthenticated(CalotypeError):
    """No credentials, or credentials that nobody issued."""


class PermissionDenied(CalotypeError):
    """Good credentials that don't allow this."""


class BadBundle(CalotypeError):
    """A version folder that is damaged, incomplete, or written by a newer schema."""


class BadRepository(CalotypeError):
    """The path given as a model repository is missing or is not a folder."""


class Unreachable(CalotypeError):
    """What a URL names can't be had; a clause, for whoever knows what the URL is to tell in a sentence."""


class VersionsChanged(CalotypeError):
    """Somebody published or withdrew a version between a publisher's look and its publishing."""


class BadSetting(CalotypeError):
    """A flag or environment variable out of its bounds."""
