"""The handshake on a real TLS connection: the machine says what to send, this sends it and reads on."""

from __future__ import annotations

import contextlib
import socket
import ssl

import gevent.ssl

from .. import certificates
from ..errors import CertificateError, LinkTimeout, TLSError
from ..protocol.handshake import Acceptor, Challenged, Continue, Established, Initiator, Proved, Refused, Step
from ..protocol.wire import MAX_HANDSHAKE
from . import faults, tls
from .deadline import Deadline

_READ_BYTES = MAX_HANDSHAKE + 4
#: What is still read after a REJECT, so that closing does not reset the connection under it.
_LINGER_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0


def secure(
    sock: gevent.ssl.SSLSocket, seconds: float, peer: str | None, *, classic: bool, certified: bool = False
) -> tls.Seen:
    """Do the TLS handshake, within `seconds` in all, and look at what came of it.

    :param classic: whether the other end may be a classic peer.
    :param certified: whether it had to present a certificate of the operator's CA.
    :raises LinkError: as the case may be; `sock` is left for the caller to close.
    """
    try:
        with Deadline(seconds, "the TLS handshake", peer):
            sock.do_handshake()
    except LinkTimeout:
        raise  # it is an OSError too, being a TimeoutError
    except OSError as error:
        raise faults.securing(error, peer) from error
    problem = tls.alpn_problem(sock, classic=classic)
    if problem is not None:
        raise TLSError(problem, peer=peer)
    seen = tls.Seen(tls.peer_fingerprint(sock))
    if not certified:
        return seen
    try:
        # A name that is no text raises an error of Python's own, which is a ValueError, too.
        return seen._replace(name=certificates.peer_name(sock.getpeercert()).text)
    except ValueError as error:
        problem = "it cannot be read" if isinstance(error, UnicodeError) else str(error)
        raise CertificateError(f"the other end's certificate names no node: {problem}", peer=peer) from None


def converse(
    sock: gevent.ssl.SSLSocket, machine: Initiator | Acceptor, step: Step, peer: str | None = None
) -> Challenged | Proved | Established | Refused:
    """Send what `step` says and feed what comes, until the machine stops or ends.

    :raises CertificateError: if only now the other end says what it thinks of our certificate: in TLS 1.3 a
        client's handshake is over before the server has looked at it.
    """
    while True:
        broken: OSError | None = None
        try:
            if step.send:
                sock.sendall(step.send)
            if not isinstance(step, Continue):
                return step
            data = sock.recv(_READ_BYTES)
        except OSError as error:
            data, broken = b"", error
        if data:
            step = machine.feed(data)
            continue
        if isinstance(step, Refused):
            return step  # its REJECT could not be sent; the refusal stands
        about_certificate = None if broken is None else faults.certifying(broken, peer)
        if about_certificate is not None:
            raise about_certificate from broken
        refused = machine.end_of_stream()
        if broken is not None and not isinstance(broken, ssl.SSLEOFError):
            refused = refused._replace(problem=f"{faults.reading(broken)} while the handshake was under way")
        return refused


def part(sock: gevent.ssl.SSLSocket) -> None:
    """Close after a REJECT was sent: let it arrive, for at most a second, then close."""
    try:
        with contextlib.suppress(OSError, ValueError), Deadline(_LINGER_SECONDS, "parting"):
            _drain(sock)
    finally:
        sock.close()


def _drain(sock: gevent.ssl.SSLSocket) -> None:
    """Say that no more comes, and read on until the peer has closed: closing over unread bytes is a reset."""
    sock.settimeout(0.0)
    with contextlib.suppress(ssl.SSLError):
        sock.unwrap()  # one attempt: a silent peer would hold a second one for ever
    sock.settimeout(None)
    sock.shutdown(socket.SHUT_WR)  # from here on `sock` reads plain bytes, which nobody looks at
    left = _LINGER_BYTES
    while left > 0:
        count = len(sock.recv(4096))
        if not count:
            break
        left -= count
