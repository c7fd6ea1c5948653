"""What a client shows of itself and whom it believes: certificates for its channel, a token for its calls."""

from __future__ import annotations

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


def target(address: str) -> tuple[str, bool]:
    """An address as gRPC takes it, and whether it asks for TLS, as `calotype serve` prints it."""
    return address.removeprefix(_SECURE).removeprefix(_PLAIN).rstrip("/"), address.startswith(_SECURE)


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
        BadSetting: a file that can't be read, or one of certificate and key without the other.
    """
    if (certificate is None) != (key is None):
        raise BadSetting("A client's certificate and its key go together: give both, or neither.")
    if ca is None and certificate is None and not secure:
        return None
    return grpc.ssl_channel_credentials(_read(ca), _read(key), _read(certificate))


def metadata(token: str | None) -> Sequence[tuple[str, str]]:
    """What every call brings along."""
    return () if token is None else ((HEADER, f"Bearer {token}"),)


def _read(pem: Pem | None) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    try:
        return Path(pem).read_bytes()
    except OSError as error:
        raise BadSetting(f"{pem} can't be read: {error.strerror}.") from error
