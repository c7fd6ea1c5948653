"""Why a connection may have failed, told from the words of gRPC's core; knows no channel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """What may be wrong.

    Args:
        sentence: for the caller.
        lasting: another attempt will find the same.
    """

    sentence: str
    lasting: bool


_NOT_TRUSTED = Cause(
    "The server's certificate is not trusted here: ca (--ca) names the PEM file of the authority that signed it.", True
)
_OTHER_NAME = Cause(
    "The server's certificate is made out to another name than that of the address: call it by a name that it has.",
    True,
)
_NO_TLS = Cause("The server does not speak TLS at this port: call grpc://host:port, without ca (--ca).", True)
_NO_FIT = Cause("TLS could not begin: does the client's certificate fit its key?", True)
_NO_GRPC = Cause("This is no gRPC port: is it the one of metrics and probes?", True)
_CLOSED = Cause(
    "The server closed the connection at once: does it speak TLS (grpcs://host:port), or ask for a certificate of the "
    "caller's own (--certificate, --key)?",
    False,
)
_REFUSED = Cause("Nobody listens there: is the server running, and is this its address?", False)
# Of the two addresses of localhost the core tells what it tried last, which may be the one where no server was meant.
_REFUSED_HERE = Cause(
    "Nobody listens at [::1], one of the two addresses of localhost: is the server running? Where it is at 127.0.0.1, "
    "call that: what is wrong there, such as TLS, is told then.",
    False,
)
_NO_NAME = Cause("The address names no machine that is known here.", False)

_NEVER_CONNECTED = ("connections to all backends failing", "failed to connect to all addresses", "errors resolving")

# In this order: the words of one cause may go along with those of another below it.
_CAUSES = {
    "CERTIFICATE_VERIFY_FAILED": _NOT_TRUSTED,
    "is not in peer certificate": _OTHER_NAME,
    "Hostname Verification Check failed": _OTHER_NAME,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "Failed to create security handshaker": _NO_FIT,
    "Failed parsing HTTP/2": _NO_GRPC,
    "Socket closed": _CLOSED,
    "Connection reset": _CLOSED,
    "ipv6:%5B::1%5D": _REFUSED_HERE,
    "Connection refused": _REFUSED,
    "Domain name not found": _NO_NAME,
}


def cause(details: str) -> Cause | None:
    """What may be wrong when UNAVAILABLE has these details; None: it can't be told, or a connection was there."""
    if not details.startswith(_NEVER_CONNECTED):
        return None
    return next((found for words, found in _CAUSES.items() if words in details), None)
