"""Foreign errors become ours: each kind of failure has its class and says what to do."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

import snowgreen
from snowgreen.link import faults
from snowgreen.protocol.handshake import Cause, Refused
from snowgreen.protocol.messages import RejectCode


def ssl_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] text (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "nothing listens there"),
        (socket.gaierror(-2, "x"), "cannot be resolved"),
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (OSError("odd"), "no TCP connection"),
    ],
)
def test_connecting(error: OSError, text: str) -> None:
    """What keeps TCP from coming about is Unreachable, with the reason."""
    found = faults.connecting(error, "p@h")
    assert type(found) is snowgreen.Unreachable
    assert text in str(found)
    assert str(found).startswith("p@h: ")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ssl_error("WRONG_VERSION_NUMBER"), snowgreen.NotTLSError, "does not speak TLS"),
        (ssl_error("HTTP_REQUEST"), snowgreen.NotTLSError, "does not speak TLS"),
        (ssl_error("TLSV1_ALERT_PROTOCOL_VERSION"), snowgreen.TLSError, "TLS 1.3"),
        (ssl_error("UNSUPPORTED_PROTOCOL"), snowgreen.TLSError, "TLS 1.3"),
        (ssl_error("NO_APPLICATION_PROTOCOL"), snowgreen.TLSError, "application protocol"),
        (ssl_error("UNEXPECTED_EOF_WHILE_READING", ssl.SSLEOFError), snowgreen.TLSError, "closed"),
        (ssl_error("SOMETHING_ELSE"), snowgreen.TLSError, "SOMETHING_ELSE"),
        (ConnectionResetError(errno.ECONNRESET, "x"), snowgreen.TLSError, "ECONNRESET"),
        (
            ssl_error("PEER_DID_NOT_RETURN_A_CERTIFICATE"),
            snowgreen.CertificateError,
            "the other end presented no certificate",
        ),
        (
            ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            snowgreen.CertificateError,
            "this node presented none",
        ),
        (ssl_error("TLSV1_ALERT_UNKNOWN_CA"), snowgreen.CertificateError, "trusts its operator's CA only"),
        (ssl_error("SSLV3_ALERT_CERTIFICATE_EXPIRED"), snowgreen.CertificateError, "has expired"),
        (ssl_error("BAD_SIGNATURE"), snowgreen.CertificateError, "does not have the key"),
    ],
)
def test_securing(error: OSError, kind: type, text: str) -> None:
    """No TLS at all, an old TLS, another protocol, an early end: told apart."""
    found = faults.securing(error, None)
    assert type(found) is kind
    assert text in str(found)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ssl_error("X", ssl.SSLEOFError), "the connection was cut"),
        (ssl_error("X", ssl.SSLZeroReturnError), "the peer closed"),
        (ssl_error("BAD_LENGTH"), "TLS failed: BAD_LENGTH"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "ECONNRESET"),
        (OSError("no number"), "OSError"),
    ],
)
def test_reading(error: OSError, text: str) -> None:
    """Why a live link broke, in words."""
    assert text in faults.reading(error)


@pytest.mark.parametrize("cause", list(Cause))
def test_every_refusal_has_an_error(cause: Cause) -> None:
    """Whatever a machine can end with becomes a LinkError of ours that repeats its words."""
    error = faults.refusal(Refused(cause, "the words", b"", None), "p@h")
    assert isinstance(error, snowgreen.LinkError)
    assert "the words" in str(error)
    assert error.peer == "p@h"


@pytest.mark.parametrize("code", [*RejectCode, 77])
def test_every_authenticated_code_is_explained(code: int) -> None:
    """Every REJECT code, known or not, becomes an error with that code, or the class that stands for it."""
    error = faults.declined(code, "the peer declined: X", None)
    if code == RejectCode.SELF:
        assert isinstance(error, snowgreen.SelfLinkError)
    elif code == RejectCode.AUTH_FAILED:
        assert isinstance(error, snowgreen.AuthenticationError)
    else:
        assert isinstance(error, snowgreen.Rejected)
        assert error.code == code


@pytest.mark.parametrize(
    "error", [ssl_error("BAD_LENGTH"), ConnectionResetError(errno.ECONNRESET, "x"), OSError("no number")]
)
def test_what_has_nothing_to_do_with_certificates(error: OSError) -> None:
    """A link that breaks for another reason is not blamed on a certificate."""
    assert faults.certifying(error, "p@h") is None


@pytest.mark.parametrize(
    "error", [ssl_error("UNEXPECTED_EOF_WHILE_READING"), ConnectionResetError(errno.ECONNRESET, "reset")]
)
def test_only_who_dials_is_told_what_a_door_may_mean(error: OSError) -> None:
    """A connection that ends during TLS may have been refused at the door; who accepted it has closed none."""
    assert "connects too often" in str(faults.securing(error, None))
    assert "too often" not in str(faults.securing(error, None, dialed=False))
