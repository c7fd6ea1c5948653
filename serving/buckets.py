"""Buckets, and whatever else a URL for fsspec can name: opened, and what goes wrong with them told in a clause.

The only room that imports fsspec, and only when a URL is opened. Credentials and endpoints come from where fsspec's
file systems look for them themselves: the environment, their own settings files.
"""

from __future__ import annotations

from typing import Any, Final

from serving.errors import Unreachable
from serving.urls import scrubbed

_S3: Final = ("s3", "s3a")
# By name, as these libraries are not imported here: whatever a URL's kind needs may be installed or not.
_NO_CREDENTIALS: Final = frozenset(
    {
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),  # botocore
        *("DefaultCredentialsError", "ClientAuthenticationError"),  # Google's, Azure's
    }
)
_NOBODY_THERE: Final = frozenset(
    {
        *("ConnectionError", "TimeoutError", "gaierror"),  # Python's, and botocore's of the same name
        *("HTTPClientError", "ClientConnectionError", "ServiceRequestError"),  # botocore's, aiohttp's, Azure's
    }
)


def open_url(url: str) -> tuple[Any, str]:
    """The file system that a URL names, with nothing remembered of former listings, and the path in it.

    Raises:
        Unreachable: its kind is unknown or not installed, or it can't be opened; the clause says what to do.
    """
    try:
        import fsspec  # noqa: PLC0415 - whoever has folders only needs none

        system, root = fsspec.url_to_fs(url)
        system.invalidate_cache()
    except Exception as error:  # what file systems raise has no common root
        raise Unreachable(why(error, url)) from error
    return system, root.rstrip("/")


def why(error: Exception, url: str) -> str:  # noqa: PLR0911 - a table
    """What is wrong with a URL and what mends it: one clause without secrets, to follow a colon.

    Args:
        error: what its file system raised.
        url: as it was given.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = scrubbed(str(error), url).rstrip(".") or type(error).__name__
    scheme = url.partition("://")[0].rpartition(":")[2].lower()
    if isinstance(error, ImportError):
        return _uninstalled(error, scheme, said)
    if isinstance(error, ValueError) and "Protocol not known" in said:
        return f"it is of no known kind ({said})."
    if kinds & _NO_CREDENTIALS:
        return f"no credentials were found ({said}). {_credentials(scheme)}"
    if isinstance(error, PermissionError):
        return f"access is refused ({said}). Check the credentials and what they may do. {_credentials(scheme)}"
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket, folder or file ({said})."
    if kinds & _NOBODY_THERE:
        cure = "the network and the endpoint (AWS_ENDPOINT_URL)" if scheme in _S3 else "the network and the address"
        return f"nobody answers ({said}). Check {cure}."
    return f"{type(error).__name__}: {said}."


def _uninstalled(error: ImportError, scheme: str, said: str) -> str:
    if scheme in _S3 or error.name == "fsspec":
        package = error.name if error.name == "fsspec" else "s3fs"
        return f"that needs the package {package}, which isn't installed: pip install 'calotype[bucket]' brings it."
    return f"that needs a package which isn't installed ({said})."


def _credentials(scheme: str) -> str:
    if scheme in _S3:
        return (
            "S3 takes them from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws (AWS_PROFILE); "
            "a public bucket needs none with FSSPEC_S3_ANON=true."
        )
    return "They come from where the file system's own package looks for them."
