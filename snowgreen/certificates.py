"""Certificates of an operator's CA: which files a node takes, what they must hold, and whose name they carry.

The name stands in the certificate as its one SAN URI, ``snowgreen://<node name>``, byte for byte.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ConfigurationError, InvalidName
from .names import NodeName, parse_name, printable

# cryptography is imported where it is used: a node without a CA of its operator's may never need it.
if TYPE_CHECKING:
    from cryptography import x509

#: What the URI of a node begins with.
SCHEME = "snowgreen://"
_MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSConfig:
    """The operator's CA and a node's own certificate of it; give it as ``Node(tls=TLSConfig(...))``.

    The node then links only with nodes that have a certificate of this CA, too, for the very name that they
    announce. The cookie is needed as before. The files are read at :meth:`snowgreen.Node.start`, and again
    for new links once they have changed. A relative path starts from where the process is now.

    :raises ConfigurationError: naming the argument, if one is no path.
    """

    #: The certificates, in PEM, of whoever may vouch for a node. Nothing else is trusted.
    ca: str | os.PathLike[str]
    #: This node's certificate, in PEM; certificates between it and the CA may follow in the same file.
    cert: str | os.PathLike[str]
    #: Its private key, in PEM without a passphrase, in a file that nobody else can read.
    key: str | os.PathLike[str]

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, str | os.PathLike) or not isinstance(path := os.fspath(value), str):
                kind = type(value).__name__
                raise ConfigurationError(argument(item.name), f"must be the path of a file, not {kind}")
            if not path or "\0" in path:
                raise ConfigurationError(argument(item.name), "must be the path of a file, and is none")
            object.__setattr__(self, item.name, os.path.abspath(path))


class Material(NamedTuple):
    """What the three files held, checked and written anew: in PEM, and what identifies the certificate."""

    ca: bytes
    #: The node's own first.
    chain: bytes
    key: bytes
    #: SHA-256 of the node's own, in DER.
    fingerprint: bytes
    name: NodeName
    expires: datetime.datetime

    def __repr__(self) -> str:  # the key must not show
        return f"<Material for {self.name} {self.fingerprint.hex()[:16]}…>"


def argument(field: str) -> str:
    """How errors name a file of :class:`TLSConfig`."""
    return f"tls.{field}"


def load(config: TLSConfig, now: datetime.datetime) -> Material:
    """Read and check the three files.

    :raises ConfigurationError: naming the file by its argument, and what is wrong with it.
    """
    from cryptography.hazmat.primitives import serialization

    authorities = _authorities(config, now)
    chain = _chain(config)
    leaf = chain[0]
    _check_validity(leaf, "cert", now)
    name = _own_name(leaf)
    key = _key(config)
    if _public(key) != _public(leaf):
        raise ConfigurationError(
            argument("key"), f"{config.key} does not belong to the certificate in {config.cert}"
        )
    pem = serialization.Encoding.PEM
    return Material(
        b"".join(authority.public_bytes(pem) for authority in authorities),
        b"".join(certificate.public_bytes(pem) for certificate in chain),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest(),
        name,
        leaf.not_valid_after_utc,
    )


def own_name(config: TLSConfig) -> NodeName:
    """The name in the node's own certificate, which is not looked at any further.

    :raises ConfigurationError: if there is none.
    """
    return _own_name(_chain(config)[0])


def check_name(material: Material, name: str) -> None:
    """Refuse another node's certificate.

    :raises ConfigurationError: if it is not for `name`.
    """
    if material.name.text != name:
        raise ConfigurationError(
            argument("cert"), f"it is the certificate of {material.name}, and this node is {name}"
        )


def node_name(uris: Iterable[str]) -> NodeName:
    """The node name in the SAN URIs of a certificate.

    :raises ValueError: saying why there is none. With a second URI of any kind there is none either: which
        of two a reader takes must not be a matter of taste.
    """
    found = list(uris)
    if not found:
        raise ValueError(f"it carries no SAN URI {SCHEME}<node name>")
    if len(found) > 1:
        raise ValueError(f"it carries {len(found)} SAN URIs, and may carry {SCHEME}<node name> only")
    if not found[0].startswith(SCHEME):
        raise ValueError(f"its SAN URI '{printable(found[0])}' is not {SCHEME}<node name>")
    try:
        return parse_name(found[0].removeprefix(SCHEME))
    except InvalidName as error:
        raise ValueError(f"its SAN URI names no node: {error.problem}") from None


def peer_name(certificate: Mapping[str, Any] | None) -> NodeName:
    """The node name in a peer's verified certificate, as ``ssl`` describes it.

    :raises ValueError: saying why there is none.
    """
    if not certificate:
        raise ValueError("there is no certificate")
    return node_name(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")


def read(path: Path, source: str, *, secret: bool = False) -> bytes:
    """The content of a small file.

    :param source: how an error names it.
    :param secret: refuse a file that others can read or own.
    :raises ConfigurationError: if it cannot be read, or must not be used.
    """
    try:
        # O_NONBLOCK: a FIFO put in the file's place must not stop the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "does not exist" if missing else f"cannot be opened: {error.strerror}"
        raise ConfigurationError(source, f"{path} {problem}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # before open(), which takes no directory and would leak it
        os.close(descriptor)
        raise ConfigurationError(source, f"{path} is not a regular file")
    with open(descriptor, "rb") as file:
        if secret:
            _check_private(path, source, status)
        try:
            content = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(source, f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigurationError(source, f"{path} is larger than {_MAX_FILE_BYTES} bytes")
    return content


def parse(content: bytes, path: Path, source: str) -> list[x509.Certificate]:
    """The certificates in PEM `content`, one at least, each of which can be read to its end.

    :raises ConfigurationError: if there is none, or one is malformed.
    """
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(content)
        for certificate in found:
            certificate.extensions, certificate.subject, certificate.issuer  # noqa: B018  # parsed when read
    except ValueError:
        raise ConfigurationError(source, f"{path} holds no certificate in PEM that can be read") from None
    return found


def san_uris(certificate: x509.Certificate) -> list[str]:
    """The URIs among a certificate's alternative names."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_private(path: Path, source: str, status: os.stat_result) -> None:
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(
            source, f"{path} is open to other users (mode {mode:04o}); run: chmod 600 '{path}'"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(source, f"{path} belongs to another user (uid {status.st_uid})")


def _authorities(config: TLSConfig, now: datetime.datetime) -> list[x509.Certificate]:
    path = Path(config.ca)
    found = parse(read(path, argument("ca")), path, argument("ca"))
    if not all(is_authority(certificate) for certificate in found):
        # As an anchor, a node's certificate would be trusted without anybody vouching for it.
        raise ConfigurationError(argument("ca"), f"{path} holds a certificate that is no CA's (CA:TRUE)")
    if all(certificate.not_valid_after_utc < now for certificate in found):
        # One of several may have expired: that is how a CA is replaced.
        _check_validity(found[-1], "ca", now)
    return found


def _chain(config: TLSConfig) -> list[x509.Certificate]:
    path = Path(config.cert)
    return parse(read(path, argument("cert")), path, argument("cert"))


def _own_name(leaf: x509.Certificate) -> NodeName:
    try:
        return node_name(san_uris(leaf))
    except ValueError as error:
        raise ConfigurationError(argument("cert"), f"this certificate cannot be used: {error}") from None


def _check_validity(certificate: x509.Certificate, field: str, now: datetime.datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise ConfigurationError(argument(field), f"this certificate expired at {end:%Y-%m-%d %H:%M:%S} UTC")
    if now < begin:
        raise ConfigurationError(
            argument(field), f"this certificate is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC"
        )


def _key(config: TLSConfig) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    path = Path(config.key)
    try:
        return serialization.load_pem_private_key(
            read(path, argument("key"), secret=True), None, unsafe_skip_rsa_key_validation=False
        )
    except ConfigurationError:
        raise  # it is a ValueError, too
    except TypeError:
        problem = "is locked with a passphrase, and nobody is there to enter it"
    except (ValueError, UnsupportedAlgorithm):
        problem = "holds no private key in PEM that can be used"
    # Out here, so that no traceback of the library's hangs on it, with the key in a frame.
    raise ConfigurationError(argument("key"), f"{path} {problem}")


def _public(holder: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
