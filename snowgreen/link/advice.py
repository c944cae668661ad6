"""What to check when a handshake has failed: for logs and commands alike."""

from __future__ import annotations

from ..errors import (
    AuthenticationError,
    CertificateError,
    LinkError,
    LinkTimeout,
    NameMismatch,
    NotTLSError,
    PolicyError,
    ProtocolError,
    Rejected,
    SelfLinkError,
    TLSError,
    Unreachable,
)
from ..protocol.messages import RejectCode

_COOKIE = "compare the fingerprints that `snowgreen cookie` prints on both, and give both the same cookie"
_ELSEWHERE = "see the log of the other node, which may say why"
_STRANGER = "check what it is that connects from there"

#: For who dialed, and for who accepted. The first that fits is used.
_ADVICE: tuple[tuple[type[LinkError], str, str], ...] = (
    (AuthenticationError, _COOKIE, f"{_COOKIE}; if nothing of yours is at that address, a stranger tries"),
    (
        CertificateError,
        "`snowgreen certs show FILE` prints whom a certificate is for, and until when",
        "`snowgreen certs show FILE` prints whom a certificate is for, and until when",
    ),
    (
        Unreachable,
        "check that the node runs and that this is its host and port, as `snowgreen start` prints",
        _STRANGER,
    ),
    (
        LinkTimeout,
        "check the host and port, and firewalls in between, or allow more time",
        f"{_STRANGER}: health checks and scans connect and say nothing; on a slow network, a longer "
        "Limits.handshake_timeout helps",
    ),
    (
        NameMismatch,
        "dial the node by the name that it prints when it starts",
        "see that the other node dials this one by the name that it prints when it starts",
    ),
    (
        NotTLSError,
        "check the port: something else than a node listens there",
        f"{_STRANGER}: something else than a node, such as a health check or a browser",
    ),
    (
        TLSError,
        "check that a node listens there, and that a proxy in between passes TCP on as it is",
        f"{_STRANGER}, and that a proxy in between passes TCP on as it is",
    ),
    (
        PolicyError,
        "see Node(allow=...) and Node(classic=...) on both nodes",
        "see Node(allow=...) and Node(classic=...) on both nodes",
    ),
    (
        SelfLinkError,
        "check the list of peers: one of its addresses leads back to this node",
        "check the lists of peers: this node's own address is in its own, or its name is taken twice",
    ),
    (
        ProtocolError,
        _ELSEWHERE,
        "see the log of the other node, if it is one, which may say why",
    ),
)

_DECLINED: dict[int, str] = {
    RejectCode.STALE_INCARNATION: "see that no two processes have one name, and that the clocks are right",
    RejectCode.NAME_NOT_ALLOWED: "Node(allow=...) on the node that declines says whom it links with; after "
    "leave(), it takes a connect() or keep() there",
    RejectCode.BUSY: "try again later; see the log and the load of the node that declines",
    RejectCode.CAPABILITIES: "run the same version of snowgreen on both",
    RejectCode.SHUTTING_DOWN: "try again once it has started anew",
}


def advice(error: LinkError, *, initiated: bool) -> str:
    """What to check, in words.

    :param initiated: whether this node dialed.
    """
    if isinstance(error, Rejected):
        return _DECLINED.get(error.code, _ELSEWHERE)
    for kind, dialed, accepted in _ADVICE:
        if isinstance(error, kind):
            return dialed if initiated else accepted
    return _ELSEWHERE
