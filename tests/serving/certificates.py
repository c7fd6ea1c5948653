"""Certificates for tests: an authority, and what it signs, in files of a folder."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """Signs certificates of 127.0.0.1; its own is `ca`, in `folder`/`name`-ca.pem."""

    def __init__(self, folder: Path, name: str = "root") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._serial = 1
        own = self._build(self._name, self._key, authority=True)
        self.ca = folder / f"{name}-ca.pem"
        self.ca.write_bytes(own)

    def sign(self, name: str) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key, over what is there; returns both paths."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        made, private = self.pair(name)
        certificate.write_bytes(made)
        key.write_bytes(private)
        return certificate, key

    def pair(self, name: str) -> tuple[bytes, bytes]:
        """A new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        return self._build(_name(name), key, authority=False), private

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        now = dt.datetime.now(dt.UTC)
        self._serial += 1
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(self._serial)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
