"""TLS: contexts, the ephemeral certificate, and what a finished TLS handshake must look like.

TLS encrypts; it does not tell who is there. The certificate is made afresh at every start and nobody
validates it: the bound handshake proves, with the cookie, that both ends saw the same one. Where the
operator has a CA, :mod:`~snowgreen.link.credentials` makes ends that validate, too.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import gevent.socket
import gevent.ssl

from .secured import Plain, Secured, secured

ALPN = "snowgreen/1"
#: The same for every node: a name here would tell an onlooker who is being dialed.
SNI = "snowgreen"
_VALIDITY = datetime.timedelta(days=3650)
_BACKDATED = datetime.timedelta(days=1)  # for peers that do check, and whose clocks are behind


class Certificate(NamedTuple):
    """A certificate and its key, in PEM, and what identifies the certificate in the handshake."""

    pem: bytes
    #: SHA-256 of the DER form.
    fingerprint: bytes

    def __repr__(self) -> str:
        return f"<Certificate {self.fingerprint.hex()[:16]}…>"


class End(NamedTuple):
    """This node's end of TLS, as a server or as a client."""

    context: gevent.ssl.SSLContext
    #: SHA-256 of the certificate that it presents, in DER; empty for a client that presents none.
    fingerprint: bytes = b""
    #: Whether it demands of the other end a certificate of the operator's CA.
    certified: bool = False


class Seen(NamedTuple):
    """What TLS has shown of the other end."""

    #: SHA-256 of the certificate that it presented, in DER; empty if it presented none.
    fingerprint: bytes
    #: The node name in it, for which the operator's CA vouches; None without such a CA.
    name: str | None = None


def ephemeral_certificate(now: datetime.datetime) -> Certificate:
    """A fresh ECDSA P-256 key and a certificate signed by itself. Its subject names nobody."""
    # Only a node that listens pays for this import.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SNI)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SNI)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Certificate(pem + private, hashlib.sha256(der).digest())


def server_end(certificate: Certificate) -> End:
    """A listener's end, with `certificate`."""
    return End(server_context(certificate.pem), certificate.fingerprint)


def client_end() -> End:
    """A dialer's end, without a certificate."""
    return End(client_context())


def server_context(pem: bytes) -> gevent.ssl.SSLContext:
    """A listener's context, with the certificate and key in `pem`."""
    made = context(ssl.PROTOCOL_TLS_SERVER)
    load_chain(made, pem)
    # Sessions are not resumed, so a ticket would only cost the listener 12% of the handshake.
    made.num_tickets = 0
    return made


@functools.cache
def client_context() -> gevent.ssl.SSLContext:
    """The dialers' context: one for the process, because one costs 20 KB and they are all alike."""
    made = context(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE  # the bound handshake authenticates the certificate instead
    return made


def context(protocol: int) -> gevent.ssl.SSLContext:
    """What the contexts of both ends have in common: TLS 1.3 and nothing older, and the ALPN."""
    made = gevent.ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols([ALPN])
    return made


def load_chain(made: gevent.ssl.SSLContext, pem: bytes) -> None:
    """Give a context the certificates and the key in `pem`."""
    with _as_file(pem) as path:
        made.load_cert_chain(path)


def no_delay(sock: gevent.socket.socket | Plain) -> None:
    """Send small frames at once: what can be coalesced the outbox has coalesced already."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def wrap_server(sock: gevent.socket.socket | Plain, end: End) -> Secured:
    """`sock` as the server's end, its handshake still to be done. `sock` itself is spent."""
    return secured(end.context, sock)


def wrap_client(sock: gevent.socket.socket | Plain, end: End) -> Secured:
    """`sock` as the client's end, its handshake still to be done. `sock` itself is spent."""
    return secured(end.context, sock, SNI)


def peer_fingerprint(sock: Secured) -> bytes:
    """SHA-256 of the certificate the other end presented; empty if it presented none."""
    der = sock.getpeercert(True)
    return hashlib.sha256(der).digest() if der else b""


def alpn_problem(sock: Secured, *, classic: bool) -> str | None:
    """What is wrong with the application protocol agreed on, if anything.

    Python's ssl goes on in silence where the two sides have none in common, so each side looks.

    :param classic: whether a peer without ALPN may be a classic one.
    """
    chosen = sock.selected_alpn_protocol()
    if chosen == ALPN or (chosen is None and classic):
        return None
    return f"the other end did not agree on the application protocol {ALPN} (ALPN): it is no snowgreen node"


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path that leads to `content` while the block runs: load_cert_chain takes nothing else.

    Where the system can, the bytes never reach a file system.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("snowgreen", os.MFD_CLOEXEC)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        return
    with tempfile.NamedTemporaryFile(prefix="snowgreen-") as named:  # mode 0600
        named.write(content)
        named.flush()
        yield named.name
