"""What a client shows of itself and whom it believes: certificates for its channel, a token for its calls."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from serving.authorization import HEADER
from serving.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Sequence

Pem = Path | str | bytes
"""A PEM file's path, or what is in it."""

_SECURE, _PLAIN = "grpcs://", "grpc://"
_BEGIN = "-----BEGIN "
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_LOCKED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")
_SCHEME = re.compile(r"(?!dns:|unix:|unix-abstract:|vsock:|xds:)[^/:]*://")  # those are gRPC's own


def target(address: str) -> tuple[str, bool]:
    """An address as gRPC takes it, and whether it asks for TLS, as `calotype serve` prints it.

    Raises:
        BadSetting: an address of something else.
    """
    where = address.removeprefix(_SECURE).removeprefix(_PLAIN).rstrip("/")
    if not where or _SCHEME.match(where):
        raise BadSetting(
            f"A server's address is host:port, grpc://host:port, or grpcs://host:port with TLS. Received: {address!r}"
        )
    return where, address.startswith(_SECURE)


def channel_credentials(
    *, ca: Pem | None, certificate: Pem | None, key: Pem | None, secure: bool
) -> grpc.ChannelCredentials | None:
    """TLS, if anything of it is asked for; None: plain text.

    Args:
        ca: of the server's certificate; None: the authorities that this machine trusts.
        certificate: the client's own.
        key: of that certificate.
        secure: whether TLS is wanted even so.

    Raises:
        BadSetting: a file that can't be read or is not what it should be, or one of certificate and key without the
            other.
    """
    if (certificate is None) != (key is None):
        raise BadSetting("A client's certificate and its key go together: give both, or neither.")
    if ca is None and certificate is None and not secure:
        return None
    return grpc.ssl_channel_credentials(
        _certificates("ca", ca), _private_key(key), _certificates("certificate", certificate)
    )


def metadata(token: str | None) -> Sequence[tuple[str, str]]:
    """What every call brings along."""
    return () if token is None else ((HEADER, f"Bearer {token}"),)


def _certificates(what: str, pem: Pem | None) -> bytes | None:
    data = _read(pem)
    if data is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise BadSetting(
                f"{what} must be a PEM file of certificates. Received: {_named(pem)}, which holds none."
            ) from error
    return data


def _private_key(pem: Pem | None) -> bytes | None:
    data = _read(pem)
    if data is not None and (_LOCKED.search(data) or not _KEY.search(data)):
        held = "which holds one with a passphrase" if _LOCKED.search(data) else "which holds none"
        raise BadSetting(
            f"key must be a PEM file of a private key, without a passphrase. Received: {_named(pem)}, {held}."
        )
    return data


def _read(pem: Pem | None) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    if isinstance(pem, str) and _BEGIN in pem:
        return pem.encode()
    try:
        return Path(pem).read_bytes()
    except OSError as error:
        raise BadSetting(f"{pem} can't be read: {error.strerror}.") from error


def _named(pem: Pem | None) -> str:
    """A file's name; what a file holds is not told, as it may be a key."""
    return f"{len(pem)} bytes" if isinstance(pem, bytes) else "a text" if _BEGIN in str(pem) else str(pem)
