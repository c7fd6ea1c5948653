"""The server's certificate and whose clients it trusts, for both ports; read again when the files change."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from serving.errors import BadSetting
from serving.watched import Watched

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """What a handshake needs, at one moment.

    Args:
        certificate: PEM, the server's first.
        key: PEM, private, of that certificate.
        client_ca: PEM of those who may sign clients' certificates; None: clients need none.
        context: the same for the HTTP port.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class Tls:
    """Certificates of one server.

    Every handshake looks at the files; a pair that doesn't fit, as between two copies, is not taken.

    Args:
        certificate: PEM file of the server's certificate, and those between it and its root.
        key: PEM file of its private key, without a passphrase.
        client_ca: PEM file of those who may sign clients' certificates; None: clients need none.

    Raises:
        BadSetting: a file can't be read or is not what it should be.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        paths = (certificate, key) if client_ca is None else (certificate, key, client_ca)
        self._identity = Watched(paths, self._read)

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC; with `client_ca` no call comes through without a certificate of theirs."""
        handed_over = self._identity.get()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal handed_over
            now = self._identity.get()
            if now is handed_over:
                return None
            handed_over = now
            return _configuration(now)

        first, mutual = _configuration(handed_over), self._client_ca is not None
        # The types that grpcio ships forget the None that its documentation asks for.
        return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=mutual)  # type: ignore[arg-type]

    def context(self) -> ssl.SSLContext:
        """For the HTTP port; a client's certificate is looked at, but not demanded: probes have none."""
        return self._identity.get().context

    @property
    def mutual(self) -> bool:
        """Whether clients need a certificate."""
        return self._client_ca is not None

    def _read(self) -> Identity:
        certificate = _bytes("--tls-certificate", self._certificate)
        key = _bytes("--tls-key", self._key)
        client_ca = None if self._client_ca is None else _bytes("--tls-client-ca", self._client_ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An empty passphrase, so that nobody is asked for one at a terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError) as error:
            raise BadSetting(
                f"--tls-certificate {self._certificate} and --tls-key {self._key} must be PEM files of a certificate "
                f"and of its private key, without a passphrase. Received: {_why(error)}"
            ) from error
        if client_ca is not None:
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii", "replace"))
            except (ssl.SSLError, ValueError) as error:
                raise BadSetting(
                    f"--tls-client-ca {self._client_ca} must be a PEM file of certificates. Received: {_why(error)}"
                ) from error
            context.verify_mode = ssl.CERT_OPTIONAL
        return Identity(certificate, key, client_ca, context)


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], identity.client_ca)


def _bytes(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSetting(f"{flag} {path} can't be read: {error.strerror}.") from error


def _why(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
