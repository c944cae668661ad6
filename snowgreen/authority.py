"""A small certificate authority in a directory, for an operator who has none.

There are ``ca.pem``, ``ca.key``, and for each node a certificate with its key. Keys are ECDSA P-256. Files
appear whole or not at all, and keys with mode 0600.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import certificates
from .certificates import SCHEME
from .errors import ConfigurationError
from .names import NodeName, printable

# cryptography is imported where it is used.
if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: How errors name the directory.
_DIRECTORY = "certs"
_BACKDATED = datetime.timedelta(days=1)  # for nodes whose clocks are behind


class Issued(NamedTuple):
    """Where a certificate and its key were written, and how long the certificate lasts."""

    certificate: Path
    key: Path
    expires: datetime.datetime


class Summary(NamedTuple):
    """What a person wants to know of a certificate."""

    subject: str
    issuer: str
    names: list[str]
    begins: datetime.datetime
    expires: datetime.datetime
    fingerprint: str
    is_authority: bool


def make_ca(directory: Path, days: int, now: datetime.datetime, *, force: bool = False) -> Issued:
    """Make a CA that can sign nodes' certificates and no further CA.

    :param force: replace the CA that is there.
    :raises ConfigurationError: if there is one, or the directory cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    certificate_file, key_file = directory / "ca.pem", directory / "ca.key"
    for path in (certificate_file, key_file):
        if os.path.lexists(path) and not force:
            raise ConfigurationError(
                _DIRECTORY,
                f"{path} exists; with --force another CA replaces it, and the certificates of "
                "the old one are worth nothing to nodes that have the new one",
            )
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs must not have one name: which of them signed what could not be told then.
    subject = _subject(f"snowgreen CA {os.urandom(4).hex()}")
    expires = now + datetime.timedelta(days=days)
    builder = _builder(subject, subject, key, now, expires)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
    _write(key_file, _key_pem(key), replace=force)
    _write(certificate_file, _certificate_pem(_sign(builder, key)), replace=force, mode=0o644)
    return Issued(certificate_file, key_file, expires)


def issue(
    directory: Path, name: NodeName, days: int, now: datetime.datetime, *, renew: bool = False
) -> Issued:
    """Issue a certificate for the node `name`, with a fresh key. It does not outlast the CA.

    :param renew: replace the one that is there.
    :raises ConfigurationError: if there is one, or no CA, or the directory cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    certificate_file, key_file = files_of(directory, name)
    _check_place(certificate_file, key_file, name, renew=renew)
    authority, authority_key = _open_ca(directory, now)
    expires = min(now + datetime.timedelta(days=days), authority.not_valid_after_utc)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_subject(name.name), authority.subject, key, now, expires)
    from_ca = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage(purposes), False),
        (from_ca, False),
        (
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SCHEME + name.text), _host(name)]),
            False,
        ),
    ):
        builder = builder.add_extension(extension, critical=critical)
    _write(key_file, _key_pem(key), replace=renew)
    _write(certificate_file, _certificate_pem(_sign(builder, authority_key)), replace=renew, mode=0o644)
    return Issued(certificate_file, key_file, expires)


def files_of(directory: Path, name: NodeName) -> tuple[Path, Path]:
    """Where the certificate and the key of a node stand: without ``@`` and ``:``, which scp would misread."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name.text)
    return directory / f"{stem}.pem", directory / f"{stem}.key"


def summaries(path: Path) -> list[Summary]:
    """What there is to know of each certificate in a file.

    :raises ConfigurationError: if there is none.
    """
    from cryptography.hazmat.primitives import hashes

    return [
        Summary(
            printable(found.subject.rfc4514_string(), 200),
            printable(found.issuer.rfc4514_string(), 200),
            _alternative_names(found),
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            found.fingerprint(hashes.SHA256()).hex(),
            certificates.is_authority(found),
        )
        for found in certificates.parse(certificates.read(path, _DIRECTORY), path, _DIRECTORY)
    ]


def _check_place(certificate_file: Path, key_file: Path, name: NodeName, *, renew: bool) -> None:
    """Refuse to write over what is there, but for an older certificate of the same node when renewing."""
    taken = [path for path in (certificate_file, key_file) if os.path.lexists(path)]
    if taken and not renew:
        raise ConfigurationError(_DIRECTORY, f"{taken[0]} exists; --renew replaces it")
    if certificate_file in taken:
        content = certificates.read(certificate_file, _DIRECTORY)
        found = certificates.parse(content, certificate_file, _DIRECTORY)[0]
        if certificates.san_uris(found) != [SCHEME + name.text]:
            # a_b@h and a@b_h have the same file name.
            raise ConfigurationError(_DIRECTORY, f"{certificate_file} is the certificate of another node")


def _open_ca(directory: Path, now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    certificate_file, key_file = directory / "ca.pem", directory / "ca.key"
    if not certificate_file.exists() and not key_file.exists():
        raise ConfigurationError(
            _DIRECTORY, f"there is no CA in {directory}; `snowgreen certs init` makes one"
        )
    content = certificates.read(certificate_file, _DIRECTORY)
    authority = certificates.parse(content, certificate_file, _DIRECTORY)[0]
    try:
        key = serialization.load_pem_private_key(certificates.read(key_file, _DIRECTORY, secret=True), None)
    except ConfigurationError:
        raise  # it is a ValueError, too
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        raise ConfigurationError(_DIRECTORY, f"{key_file} is not the key of the CA in {certificate_file}")
    if authority.not_valid_after_utc <= now:
        raise ConfigurationError(_DIRECTORY, f"the CA in {certificate_file} has expired")
    return authority, key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    expires: datetime.datetime,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _subject(common_name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(name: NodeName) -> x509.GeneralName:
    """The node's host, which snowgreen does not look at; for tools that do."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name.host))
    except ValueError:
        return x509.DNSName(name.host)


def _alternative_names(found: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds: dict[type, str] = {
        x509.UniformResourceIdentifier: "URI",
        x509.DNSName: "DNS",
        x509.IPAddress: "IP",
    }
    return [printable(f"{kinds.get(type(name), 'other')}:{name.value}", 300) for name in names]


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, *, replace: bool, mode: int = 0o600) -> None:
    """Put a file in place whole, or not at all."""
    temporary: str | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".certs-", dir=path.parent)  # mode 0600
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(temporary, path)
            temporary = None
        else:
            os.link(temporary, path)  # unlike rename, fails where the file exists
    except OSError as error:
        raise ConfigurationError(_DIRECTORY, f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)
