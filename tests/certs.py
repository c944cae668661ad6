"""Certificate authorities for tests: what an operator would issue, and what no operator should."""

from __future__ import annotations

import base64
import datetime
import socket
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from snowgreen import TLSConfig, authority
from snowgreen.names import parse_name

DAY = datetime.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
#: A purpose that has nothing to do with TLS.
OTHER = ExtendedKeyUsageOID.CODE_SIGNING
PEM = serialization.Encoding.PEM


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def free_port() -> int:
    """A port of the loopback interface on which nothing listens: a certificate needs one beforehand."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def node_name(name: str) -> str:
    """A name that a node can listen under."""
    return f"{name}@127.0.0.1:{free_port()}"


class CA:
    """An operator's CA, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        made = authority.make_ca(directory, 30, now())
        self.certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
        self.key = serialization.load_pem_private_key(made.key.read_bytes(), None)
        self._count = 0

    def issue(self, name: str, *, renew: bool = False) -> TLSConfig:
        """What a node of that name is given."""
        made = authority.issue(self.directory, parse_name(name), 10, now(), renew=renew)
        return TLSConfig(ca=self.directory / "ca.pem", cert=made.certificate, key=made.key)

    def odd(
        self,
        *uris: str,
        begins: datetime.datetime | None = None,
        expires: datetime.datetime | None = None,
        purposes: Any = BOTH,
        raw_names: bytes | None = None,
        is_authority: bool = False,
        key: Any = None,
    ) -> TLSConfig:
        """A certificate that this CA has signed, whatever it says."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names: x509.ExtensionType = x509.SubjectAlternativeName(
            [x509.DNSName("node.example"), *map(x509.UniformResourceIdentifier, uris)]
        )
        if raw_names is not None:
            names = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, raw_names)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd")]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins or now() - DAY)
            .not_valid_after(expires or now() + DAY)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self._count += 1
        certificate = self.directory / f"odd{self._count}.pem"
        certificate.write_bytes(made.public_bytes(PEM))
        return TLSConfig(ca=self.directory / "ca.pem", cert=certificate, key=self.write_key(private_pem(key)))

    def write_key(self, pem: bytes) -> Path:
        """A key file, with the mode that a key file should have."""
        self._count += 1
        path = self.directory / f"key{self._count}"
        path.touch(0o600)
        path.write_bytes(pem)
        return path


def deep(root: CA, directory: Path, uri: str) -> TLSConfig:
    """A certificate from an authority that `root` has signed; the config trusts that authority only."""
    key = ec.generate_private_key(ec.SECP256R1())
    directory.mkdir()
    # `root` may sign no authority (its path length is 0), so another one without that bound does.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root without bound")])
    root.certificate = _authority(subject, subject, root.key, root.key)
    (root.directory / "ca.pem").write_bytes(root.certificate.public_bytes(PEM))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "below")])
    below = _authority(name, subject, key, root.key)
    (directory / "ca.pem").write_bytes(below.public_bytes(PEM))
    issuer = CA.__new__(CA)
    issuer.directory, issuer.certificate, issuer.key, issuer._count = directory, below, key, 0
    return issuer.odd(uri)


def _authority(subject: x509.Name, issuer: x509.Name, key: Any, signer: Any) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(signer, hashes.SHA256())
    )


def uri_names(*uris: bytes) -> bytes:
    """The alternative names as DER, for URIs that no library would write."""
    inner = b"".join(bytes([0x86, len(uri)]) + uri for uri in uris)
    return bytes([0x30, len(inner)]) + inner


def private_pem(key: Any) -> bytes:
    """A private key, as files hold it."""
    return bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def key_that_pretends(certificate: Path) -> bytes:
    """A key of the thief's, dressed up as the one of a certificate that he found: OpenSSL loads the two."""
    owner = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    thief = ec.generate_private_key(ec.SECP256R1())
    der = thief.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    mixed = der.replace(_point(thief.public_key()), _point(owner))
    assert mixed != der
    body = base64.encodebytes(mixed)
    return b"-----BEGIN EC PRIVATE KEY-----\n" + body + b"-----END EC PRIVATE KEY-----\n"


def _point(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint))
