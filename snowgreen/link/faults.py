"""The seam where foreign errors and refusals become snowgreen's own, each with what to do about it."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping

from ..errors import (
    AuthenticationError,
    CertificateError,
    LinkError,
    NameMismatch,
    NotTLSError,
    PolicyError,
    ProtocolError,
    Rejected,
    SelfLinkError,
    TLSError,
    Unreachable,
)
from ..protocol.handshake import Cause, Refused
from ..protocol.messages import RejectCode

_BY_CAUSE: dict[Cause, type[LinkError]] = {
    Cause.MALFORMED: ProtocolError,
    Cause.CLOSED: ProtocolError,
    Cause.AUTHENTICATION: AuthenticationError,
    Cause.POLICY: PolicyError,
    Cause.MISMATCH: NameMismatch,
    Cause.CERTIFICATE: CertificateError,
    Cause.SELF: SelfLinkError,
}

#: Of a handshake that ended well, under a cookie that this node had stopped accepting meanwhile.
FORGOTTEN = "the cookie that it proved was forgotten here while the handshake was under way"

_DECLINED = {
    RejectCode.DUPLICATE: "it has, or is about to have, another link with this node",
    RejectCode.STALE_INCARNATION: (
        "it has a link with a later life of this node: this process was replaced, another one has the same "
        "name, or this machine's clock went back; in that last case try again in a few seconds"
    ),
    RejectCode.NAME_NOT_ALLOWED: "its operator does not allow this node's name",
    RejectCode.SHUTTING_DOWN: "it is shutting down",
    RejectCode.CAPABILITIES: "it requires a capability that this node lacks",
}

# The same, for who declines.
_DECLINING = {
    RejectCode.STALE_INCARNATION: "this node has a link with a later life of it",
    RejectCode.NAME_NOT_ALLOWED: "its name is not in this node's allow-list, or was left",
    RejectCode.SHUTTING_DOWN: "this node is stopping",
}

# Whether the end or a reset is seen of a connection that is closed unread is a matter of chance.
_AT_THE_DOOR = (
    "a node does so too when this address connects too often, or has too many handshakes under way "
    "(on a network of your own, Limits.trusted() on the other node allows more)"
)

# Reasons, in OpenSSL's words, that mean plain text where TLS was expected.
_NOT_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "BAD_RECORD_TYPE",
    "UNEXPECTED_MESSAGE",
}
# Reasons that mean a version of TLS below 1.3.
_OLD_TLS = {
    "UNSUPPORTED_PROTOCOL",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "INAPPROPRIATE_FALLBACK",
    "VERSION_TOO_LOW",
}
# Alerts by which the other end says that it does not take our certificate, and what they mean.
_ALERTS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it trusts its operator's CA only, which has not issued this one",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that the certificate is revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it says that the certificate is bad",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it says that the certificate is not for this use",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it says that the certificate cannot be used",
    "TLSV1_ALERT_DECRYPT_ERROR": "it says that the certificate's key is not this node's",
}
_BOTH = "both nodes need Node(tls=TLSConfig(...)) with certificates of the same CA, or neither"


def refusal(refused: Refused, peer: str | None) -> LinkError:
    """The error that says what `refused` says."""
    if refused.cause is Cause.BUSY:
        return Rejected(refused.problem, code=RejectCode.BUSY, peer=peer)
    if refused.cause is Cause.DECLINED:
        return declined(refused.code or 0, refused.problem, peer)
    if refused.cause is Cause.WITHDRAWN and refused.code:
        return declined(refused.code, refused.problem, peer, _DECLINING)
    return _BY_CAUSE.get(refused.cause, ProtocolError)(refused.problem, peer=peer)


def declined(
    code: int, problem: str, peer: str | None, reasons: Mapping[RejectCode, str] = _DECLINED
) -> LinkError:
    """The error for an authenticated REJECT; `reasons` are those of the side that is told of it."""
    if code == RejectCode.AUTH_FAILED:
        return AuthenticationError(FORGOTTEN, peer=peer)
    if code == RejectCode.SELF:
        return SelfLinkError("what answers is this node itself", peer=peer)
    try:
        known = RejectCode(code)
    except ValueError:
        return Rejected(problem, code=code, peer=peer)
    why = reasons.get(known)
    return Rejected(f"{problem}: {why}" if why else problem, code=known, peer=peer)


def connecting(error: OSError, peer: str | None) -> Unreachable:
    """A failure to reach the peer by TCP."""
    if isinstance(error, socket.gaierror):
        return Unreachable("its host name cannot be resolved", peer=peer)
    if error.errno == errno.ECONNREFUSED:
        return Unreachable("nothing listens there (connection refused)", peer=peer)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Unreachable("this process has no file descriptor left (see ulimit -n)", peer=peer)
    return Unreachable(f"no TCP connection: {error.strerror or type(error).__name__}", peer=peer)


def certifying(error: OSError, peer: str | None) -> CertificateError | None:
    """A failure over a certificate, ours or the other end's; None if `error` is something else."""
    reason = getattr(error, "reason", None)
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"the other end's certificate is not accepted here: {error.verify_message}"
    elif reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        problem = "the other end presented no certificate, and this node requires one of its operator's CA"
    elif reason == "BAD_SIGNATURE":
        return CertificateError("the other end does not have the key of the certificate it shows", peer=peer)
    elif reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
        problem = "the other end requires a certificate of its operator's CA, and this node presented none"
    elif reason in _ALERTS:
        problem = f"the other end does not accept this node's certificate: {_ALERTS[reason]}"
    else:
        return None
    return CertificateError(f"{problem}; {_BOTH}", peer=peer)


def securing(error: OSError, peer: str | None, *, dialed: bool = True) -> LinkError:
    """A failure during the TLS handshake, of a connection that was `dialed`, or else accepted."""
    door = f"; {_AT_THE_DOOR}" if dialed else ""
    about_certificate = certifying(error, peer)
    if about_certificate is not None:
        return about_certificate
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
            return TLSError(f"the other end closed the connection during the TLS handshake{door}", peer=peer)
        if reason in _NOT_TLS:
            return NotTLSError("the other end does not speak TLS", peer=peer)
        if reason in _OLD_TLS:
            return TLSError("the other end does not speak TLS 1.3, which a link requires", peer=peer)
        if reason in ("NO_APPLICATION_PROTOCOL", "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"):
            return TLSError("the other end does not agree on the application protocol snowgreen/1", peer=peer)
        return TLSError(f"the TLS handshake failed: {reason or 'for an unnamed reason'}", peer=peer)
    return TLSError(f"the connection was lost during the TLS handshake ({_named(error)}){door}", peer=peer)


def reading(error: OSError) -> str:
    """Why a live or half-made link broke, in words."""
    if isinstance(error, ssl.SSLEOFError):
        return "the connection was cut"
    if isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'for an unnamed reason'}"
    return f"the connection was lost ({_named(error)})"


def _named(error: OSError) -> str:
    if error.errno is None:
        return type(error).__name__
    return errno.errorcode.get(error.errno, str(error.errno))
