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
    │   ├── PolicyError             the form of handshake, or the peer, is not allowed
    │   ├── NameMismatch            dialed one node, met another
    │   ├── SelfLinkError           dialed oneself
    │   └── Rejected                the peer declined; see ``code``
    ├── SessionError                a live session could not do what was asked
    │   ├── SessionClosed           it has ended; see ``reason``
    │   ├── PingTimeout             no answer in time (also a TimeoutError)
    │   └── OutboxFull              the peer does not read fast enough (also a TimeoutError)
    └── MessagingError              a message or call did not come about
        ├── PayloadError            a body that cannot be encoded, or is not what its reader wants
        │   └── PayloadTooLarge     more bytes than the limit here, or there
        ├── SendTimeout             no room on the link, or in the mailbox, in time (also a TimeoutError)
        ├── UnknownMailbox          the peer has no mailbox of that name, or has closed it
        ├── MailboxFull             ... has one that is full, and that says so rather than wait
        ├── MailboxClosed           a mailbox of this node was closed
        ├── MailboxEmpty            no message came in time (also a TimeoutError and a queue.Empty)
        ├── Unsupported             the peer is of a kind, or version, that cannot do this
        └── CallError               a call failed; see ``peer`` and ``handler``
            ├── CallTimeout         its deadline passed (also a TimeoutError)
            ├── UnknownHandler      the peer has no handler of that name
            └── RemoteError         the handler raised; see ``kind`` and ``text``

Messages never hold a secret nor bytes as a peer sent them; what a peer claims is escaped and cut.
"""

from __future__ import annotations

from queue import Empty
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
    """The form of handshake is not allowed on one side, or ``allow`` here does not have the dialed node."""


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


class MessagingError(SnowgreenError):
    """A message was not sent or received, or a call failed."""


class PayloadError(MessagingError):
    """A body cannot be encoded or decoded, nests too deep, or is not of the type its reader wants."""


class PayloadTooLarge(PayloadError):
    """An encoded body has more bytes than this node sends, or than its receiver takes."""


class SendTimeout(MessagingError, TimeoutError):
    """A message was not sent, because the link or the mailbox had no room for it in time."""


class UnknownMailbox(MessagingError):
    """There is no such mailbox, or no longer.

    :ivar peer: the node that was asked.
    :ivar mailbox: its name.
    """

    def __init__(self, peer: str, mailbox: str, problem: str = "there is none of that name") -> None:
        super().__init__(f"the mailbox {mailbox!r} of {peer}: {problem}")
        self.peer = peer
        self.mailbox = mailbox


class MailboxFull(MessagingError):
    """The mailbox takes no more, and was made to say so (``full="error"``).

    :ivar peer: the node it is on.
    :ivar mailbox: its name.
    """

    def __init__(self, peer: str, mailbox: str) -> None:
        super().__init__(f"the mailbox {mailbox!r} of {peer} is full")
        self.peer = peer
        self.mailbox = mailbox


class MailboxClosed(MessagingError):
    """The mailbox was closed, or its node stopped, and what it held has been read."""


class MailboxEmpty(MessagingError, Empty, TimeoutError):
    """No message came within the time that the reader would wait."""


class Unsupported(MessagingError):
    """The peer cannot do what was asked: it is a classic node, or one of an earlier version."""


class CallError(MessagingError):
    """A call failed.

    :ivar peer: the node that was called.
    :ivar handler: the name of the handler.
    """

    def __init__(self, peer: str, handler: str, problem: str) -> None:
        super().__init__(f"{handler!r} on {peer}: {problem}")
        self.peer = peer
        self.handler = handler
        self.problem = problem


class CallTimeout(CallError, TimeoutError):
    """The deadline of the call passed. Its handler is ended, too, if it had begun."""


class UnknownHandler(CallError):
    """The peer has no handler of that name."""


class RemoteError(CallError):
    """The handler raised an exception, of which the name and the text have crossed the link.

    :ivar kind: the name of the exception's type there, such as ``"ValueError"``.
    :ivar text: its text, at most 1,024 bytes of it, as the peer sent it.
    """

    def __init__(self, peer: str, handler: str, kind: str, text: str) -> None:
        shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
        super().__init__(peer, handler, f"it raised {kind}: {shown}" if shown else f"it raised {kind}")
        self.kind = kind
        self.text = text
