"""What can be read off the certificate that a peer shows. It may be anybody's, and hold anything."""

from __future__ import annotations

import datetime
import hashlib
import warnings
from typing import Any, NamedTuple

from .. import certificates
from ..link.tls import SNI
from ..names import printable

_MOST_NAMES = 5


class Shown(NamedTuple):
    """A certificate, as far as it can be read."""

    fingerprint: str
    #: Whether it looks like one that a node makes for itself at its start.
    ephemeral: bool
    issuer: str
    #: For whom it is, each as ``kind:name``.
    names: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if self.ephemeral:
            return "an ephemeral certificate, as a node makes for itself at its start"
        return f"a certificate that {self.issuer} has issued"

    @property
    def details(self) -> tuple[str, ...]:
        """The rest, in lines."""
        # An ephemeral one names nobody: what stands in it is the same for every node.
        names = () if self.ephemeral else (f"for {', '.join(self.names) or 'nobody by name'}",)
        return (
            f"SHA-256 {self.fingerprint}",
            *names,
            f"valid from {self.not_before:%Y-%m-%d %H:%M:%S} to {self.not_after:%Y-%m-%d %H:%M:%S} UTC",
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "fingerprint": self.fingerprint,
            "ephemeral": self.ephemeral,
            "issuer": self.issuer,
            "names": list(self.names),
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
        }


def prepare() -> Any:
    """Load what reads certificates, so that this does not happen while a peer waits."""
    from cryptography import x509

    return x509


def read(der: bytes) -> Shown | None:
    """What the certificate `der` says; None if it cannot be read."""
    x509 = prepare()
    try:
        return _read(x509, der)
    # A TypeError comes of a name that is encoded as what no name is.
    except (
        ValueError,
        TypeError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        return None


def _read(x509: Any, der: bytes) -> Shown:
    with warnings.catch_warnings(action="ignore"):  # of what is odd in it, which is for who made it
        found = x509.load_der_x509_certificate(der)
        names = tuple(printable(name) for name in _names(found)[:_MOST_NAMES])
        subject = found.subject.rfc4514_string()
        return Shown(
            hashlib.sha256(der).hexdigest(),
            found.subject == found.issuer and subject == f"CN={SNI}",
            printable(found.issuer.rfc4514_string()) or "a CA without a name",
            names,
            found.not_valid_before_utc,
            found.not_valid_after_utc,
        )


def _names(certificate: Any) -> list[str]:
    from cryptography import x509

    found = [f"node {uri.removeprefix(certificates.SCHEME)}" for uri in certificates.san_uris(certificate)]
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return found
    return found + [f"host {name}" for name in alternative.get_values_for_type(x509.DNSName)]
