"""URLs for fsspec: opened, or one clause that says what is wrong and what to do."""

from __future__ import annotations

import errno
import sys

import pytest

from serving.buckets import open_url, why
from serving.errors import Unreachable


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_package_that_is_missing_is_named_with_its_cure(monkeypatch, missing):
    """Without fsspec, or without s3fs, a bucket's URL says which `pip install` brings it."""
    import fsspec.registry  # noqa: F401 - `sys.modules` has it from here on

    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Unreachable, match=rf"the package {missing}, .* pip install 'calotype\[bucket\]' brings it"):
        open_url("s3://bucket/models")


class NoCredentialsError(Exception):
    """As botocore calls its own."""


class EndpointConnectionError(ConnectionError):
    """The same."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NoCredentialsError("Unable to locate"), "AWS_ACCESS_KEY_ID"),
        (EndpointConnectionError("Could not connect"), "nobody answers (Could not connect). Check the network"),
        (PermissionError("Forbidden"), "access is refused (Forbidden)"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket"),
        (OSError(errno.EIO, "broken\nat s3://me:passport@x"), "OSError: [Errno 5] broken at s3://***@x."),
    ],
)
def test_what_is_wrong_is_one_clause(error, says):
    """What a file system raises becomes one line with what to do about it, and nothing secret."""
    told = why(error, "s3://me:passport@bucket/models")
    assert says in told
    assert "\n" not in told
    assert "passport" not in told


def test_a_kind_that_nobody_knows():
    """A URL of no known kind says so."""
    with pytest.raises(Unreachable, match="of no known kind"):
        open_url("nosuchkind://x")
