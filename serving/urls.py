"""URLs as people give them, and what of them may be told: no user, no password, no signature. Opens nothing."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

MASK: Final = "***"
_SHORTEST: Final = 4  # shorter ones are in any word

# Not of Azure's, where a container stands in that place.
_SCHEME: Final = r"(?<![A-Za-z0-9+.-])(?!(?:abfs|wasb)s?:)[A-Za-z][A-Za-z0-9+.-]*://"
# A password may hold what no URL may, as keys of S3 do and databases' drivers take it; a port is none.
_USERINFO: Final = re.compile(
    rf"({_SCHEME})([^/?#]*|[^/?#@:\s\[]*:(?!:|\d+(?:[/?#]|$))[^@\s]*)@",
    re.IGNORECASE,
)
_QUOTED_USERINFO: Final = re.compile(rf"({_SCHEME})[^/?#\s\"'<>]*@", re.IGNORECASE)
_PARAMETER: Final = (
    r"(?:(?:[a-z0-9-]*[_-])?(?:sig|signature|token|secret|credential|key|auth|pwd|passwd)"
    r"|[a-z0-9_-]*(?:password|apikey|accountkey|accesskeyid))="
)
_SECRET_QUERY: Final = re.compile(
    rf"\?(?=(?:[^#\s\"'<>]*&)?{_PARAMETER})(?:(?!::)[^#\s\"'<>])*",
    re.IGNORECASE,
)


def is_url(text: str) -> bool:
    """Whether a place is a URL for fsspec, and no local folder."""
    return "://" in text


def without_secrets(url: str) -> str:
    """A URL, chained ones too, without the user before its host, and without a query that holds a signature or key."""
    return _SECRET_QUERY.sub("", _USERINFO.sub(r"\1", url))


def masked(url: str) -> str:
    """The same, with a mark that shows where something was."""
    return _SECRET_QUERY.sub(f"?{MASK}", _USERINFO.sub(rf"\1{MASK}@", url))


def scrubbed(text: str, url: str) -> str:
    """What somebody said about a URL, as one line without the secrets in it.

    Args:
        text: of an error, for example, in which the URL, a part of it, or another URL may stand.
        url: as it was given.
    """
    for userinfo in (match[2] for match in _USERINFO.finditer(url)):
        text = text.replace(f"{userinfo}@", f"{MASK}@")
        _, _, password = userinfo.partition(":")
        for secret in sorted({userinfo, password, unquote(password)}, key=len, reverse=True):
            text = text.replace(secret, MASK) if len(secret) >= _SHORTEST else text
    text = _QUOTED_USERINFO.sub(rf"\1{MASK}@", text)
    return " ".join(_SECRET_QUERY.sub(f"?{MASK}", text).split())
