"""Every error snowgreen raises, in one tree under :class:`SnowgreenError`.

::

    SnowgreenError
    ├── ConfigurationError          an argument, variable or file that cannot be used
    │   ├── InvalidName             a node name, with its defect
    │   └── CookieError             no usable cookie
    ├── NodeStateError              the node is not started, or stopped meanwhile
    ├── LinkError                   one attempt to link failed
    │   ├── Unreachable             no TCP connection
    │   ├── LinkTimeout             a deadline passed (also a TimeoutError)
    │   ├── TLSError                TLS did not come about, or not as required
    │   │   ├── NotTLSError         what answers does not speak TLS at all
    │   │   └── CertificateError    no certificate of the operator's CA, or not for that name
    │   ├── AuthenticationError     one side could not prove the cookie
    │   ├── ProtocolError           a message broke the protocol
    │   ├── PolicyError             the form of handshake is not allowed here or there
    │   ├── NameMismatch            dialed one node, met another
    │   ├── SelfLinkError           dialed oneself
    │   └── Rejected                the peer declined; see ``code``
    └── SessionError                a live session could not do what was asked
        ├── SessionClosed           it has ended; see ``reason``
        ├── PingTimeout             no answer in time (also a TimeoutError)
        └── OutboxFull              the peer does not read fast enough (also a TimeoutError)

Messages never hold a secret nor bytes as a peer sent them; what a peer claims is escaped and cut.
"""

from __future__ import annotations

from typing import Any


class SnowgreenError(Exception):
    """The root: catching it catches all that snowgreen raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class again: a constructor's own arguments are not what `args` holds.
        return _restored, (type(self), self.args, vars(self))


def _restored(
    cls: type[SnowgreenError], args: tuple[object, ...], state: dict[str, object]
) -> SnowgreenError:
    error = cls.__new__(cls)
    error.args = args
    vars(error).update(state)
    return error


class ConfigurationError(SnowgreenError, ValueError):
    """An argument, environment variable or file cannot be used.

    :ivar argument: which one, by the name its user gave it.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


class InvalidName(ConfigurationError):
    """A text is no node name; ``problem`` names the first defect."""


class CookieError(ConfigurationError):
    """The cookie is missing, too weak, or kept where others can read it."""


class NodeStateError(SnowgreenError):
    """The node is not in the state this call needs: not started yet, or already stopped."""


class LinkError(SnowgreenError):
    """One attempt to link with a peer failed.

    :ivar peer: the dialed name or address; for an inbound link, what the peer claimed (or None).
    """

    def __init__(self, problem: str, *, peer: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.peer = peer

    def __str__(self) -> str:
        return f"{self.peer}: {self.problem}" if self.peer else self.problem


class Unreachable(LinkError):
    """No TCP connection: refused, no route, no such host, or cut before TLS began."""


class LinkTimeout(LinkError, TimeoutError):
    """A deadline passed before the link was made; the message says at which step."""


class TLSError(LinkError):
    """TLS failed or came out other than required (TLS 1.3, ALPN ``snowgreen/1``)."""


class NotTLSError(TLSError):
    """The other end does not speak TLS at all."""


class CertificateError(TLSError):
    """Under an operator's CA: a side has no certificate of it, or one for another name than it claims."""


class AuthenticationError(LinkError):
    """One side could not prove that it knows the cookie: the two cookies differ."""


class ProtocolError(LinkError):
    """A handshake message was malformed, too long, out of order or missing."""


class PolicyError(LinkError):
    """One side requires the bound handshake and the other offered the classic form only."""


class NameMismatch(LinkError):
    """The node that answered has another name than the one dialed."""


class SelfLinkError(LinkError):
    """The dialed node is the dialing node."""


class Rejected(LinkError):
    """The peer declined the link. It had proved the cookie, unless the code is BUSY.

    :ivar code: the REJECT code, a member of :class:`snowgreen.RejectCode`.
    """

    def __init__(self, problem: str, *, code: int, peer: str | None = None) -> None:
        super().__init__(problem, peer=peer)
        self.code = code


class SessionError(SnowgreenError):
    """A live session could not do what was asked of it."""


class SessionClosed(SessionError):
    """The session has ended.

    :ivar reason: why, in words.
    """

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"the session with {peer} is closed: {reason}")
        self.peer = peer
        self.reason = reason


class PingTimeout(SessionError, TimeoutError):
    """A ping was not answered in time."""


class OutboxFull(SessionError, TimeoutError):
    """The outbox stayed full for as long as the sender would wait."""
