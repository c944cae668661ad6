"""What to do about each failure: advice for whoever runs one of the two nodes."""

from __future__ import annotations

import ssl

from ..errors import CertificateError, LinkError, LinkTimeout, NotTLSError
from ..names import NodeName
from ..protocol.handshake import Cause, Refused
from ..protocol.messages import RejectCode

OTHER_PORT = (
    "something else than a node has this port: compare it with what the node says that it listens on; a "
    "proxy in between must pass TCP on as it is"
)
OLD_TLS = (
    "a node speaks TLS 1.3 only: if one is there, a proxy in between ends TLS, and must pass TCP on as it is"
)
NO_ALPN = "a snowgreen node would agree on it: this is a Snow node, or no node, as the next steps tell"
SILENT = (
    "a node that takes in no more connections at the moment, or whose process hangs, looks like this: see "
    "its log and its load, and try again; if it is no node that listens there, check the port"
)
BUSY = (
    "wait a moment and try again; that node's log tells of refused connections; if it is none, check the port"
)
BOTH_CA = (
    "give this command the three --tls-..., with the files of the node that is to link "
    "(docs/operator-ca.md): without them it speaks for a node that has no operator's CA"
)
ISSUE = "give each node a certificate for the very name that it announces (`snowgreen certs issue NAME`)"
SELF = (
    "ask with --tls-cert and --tls-key, or --name, of the node that is to link, not of the one that is asked"
)
FOREIGN_CERTIFICATE = (
    "a node without an operator's CA makes one for itself: if that node has such a CA, give this command "
    "the three --tls-..., too"
)
CLOCKS = "see that both machines keep their clocks by NTP (`timedatectl`)"
CLASSIC = (
    "if it is a Snow node, allow it the classic handshake by name, Node(classic={{'{name}': COOKIE}}), "
    "and read in SECURITY.md what that costs; if it is a snowgreen node, something between the two "
    "removes the offer of the bound form"
)
NO_NODE = (
    "what answers speaks TLS, and is no node: compare the port with what the node says that it listens "
    "on; a proxy in between must pass TCP on as it is"
)
NO_COOKIE = "take over the cookie of the other machine, in a file of mode 0600 or in SNOWGREEN_COOKIE"
COOKIE = (
    "run `snowgreen cookie` on both machines, as the users that run the nodes: it prints where the cookie "
    "comes from, and its fingerprint, which has to be the same. SNOWGREEN_COOKIE comes before the file, "
    "and a node takes a changed file only at SIGHUP or a restart"
)
PROXY = (
    "But the certificate is not one that a node makes for itself: if a proxy between the two ends TLS, it "
    "must pass TCP on as it is"
)
CUT = "see that node's log; it may be stopping, or something between the two cuts connections"
NAMED = (
    "dial {answered}, or start that node with --name {asked}: two names are the same node only if they "
    "are the same to the letter"
)
AS_A_PASSER_BY = (
    "this command has asked as {name}, a passing name, and that node has an allow-list: ask again with "
    "--name and the name of the node that is to link"
)
#: What to do where the peer, having proved the cookie, declines.
DECLINED: dict[int, str] = {
    RejectCode.NAME_NOT_ALLOWED: (
        "add the name to that node's Node(allow=[...]); or, if it left this one, let it connect() or "
        "keep() it again"
    ),
    RejectCode.SHUTTING_DOWN: "wait until it is back",
    RejectCode.CAPABILITIES: "let both run the same version of snowgreen",
}

_VERIFICATION = {
    9: f"{CLOCKS}, and from when on that node's certificate is valid",
    10: "issue a new one for that node, which takes it up without a restart (docs/operator-ca.md); if it "
    "is valid still, put this machine's clock right",
    18: "that node runs without an operator's CA: give it Node(tls=TLSConfig(...)), or leave out --tls-...",
    19: "its CA is not in --tls-ca: all nodes need certificates of the same one",
    20: "its CA is not in --tls-ca: all nodes need certificates of the same one",
}


def verification(error: ssl.SSLCertVerificationError) -> str:
    """What to do where the peer's certificate is not accepted here."""
    return _VERIFICATION.get(error.verify_code, "see `snowgreen certs show FILE` on that node's certificate")


def securing(error: LinkError) -> str:
    """What to do where TLS did not come about."""
    if isinstance(error, NotTLSError):
        return OTHER_PORT
    if isinstance(error, CertificateError):
        return BOTH_CA
    if "TLS 1.3" in error.problem:
        return OLD_TLS
    return BUSY if "connects too often" in error.problem else NO_NODE


def answering(answer: object) -> str:
    """What to do where a message of the handshake was not answered as it should be."""
    if isinstance(answer, LinkTimeout):
        return SILENT
    if isinstance(answer, Refused) and answer.cause is Cause.AUTHENTICATION:
        return COOKIE
    if isinstance(answer, Refused) and answer.cause is Cause.BUSY:
        return BUSY
    return CUT


def differing(asked: NodeName, answered: NodeName) -> str:
    """How the name that answers differs from the one that was asked for."""
    if asked.text.lower() == answered.text.lower():
        return "they differ in upper and lower case, and so are two names"
    parts = [
        f"its {part} is {theirs}, not {ours}"
        for part, ours, theirs in (
            ("part before '@'", asked.name, answered.name),
            ("host", asked.host, answered.host),
            ("port", asked.port, answered.port),
        )
        if ours != theirs
    ]
    return "; ".join(parts) or "both mean the same place, and are two names, as with and without the port"
