"""The two ends of a flow: from the senders of one node to a mailbox, or to the handlers, of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import UnknownMailbox
from ..protocol.credit import Given, Granted
from ..protocol.mail import Refusal, message_head
from .line import Line

if TYPE_CHECKING:
    from .mailbox import Mailbox

_WHY: dict[int | None, str] = {
    Refusal.UNKNOWN: "there is none of that name",
    Refusal.CLOSED: "it is closed",
    Refusal.LIMIT: "too many of this node's flows lead there",
}


class Target(Protocol):
    """Where a flow leads: a mailbox, or the handlers of calls."""

    #: What one flow may have under way.
    window: int
    window_bytes: int

    @property
    def dropping(self) -> bool:
        """Whether what it holds does not count."""

    def attach(self, flow: object) -> None:
        """`flow` leads here from now on."""

    def detach(self, flow: object) -> None:
        """`flow` leads here no longer."""


class Teller(Protocol):
    """The receiving side of a link."""

    def tell(self, flow: Incoming) -> None:
        """Tell the sender how its credit stands."""

    def report(self, name: str, reason: str) -> None:
        """Tell both sides, soon, that a message for `name` was lost."""

    def mailbox_closed(self, flow: Incoming) -> None:
        """The mailbox that `flow` led to takes no more."""


class Incoming:
    """The receiver's end of a flow."""

    __slots__ = ("given", "mailbox", "number", "peer", "target", "teller", "told")

    credited = True

    def __init__(
        self, teller: Teller, peer: str, number: int, target: Target, mailbox: Mailbox | None
    ) -> None:
        self.teller = teller
        self.peer = peer
        self.number = number
        self.target = target
        #: None if it leads to the handlers.
        self.mailbox = mailbox
        self.given = Given()
        #: The losses that the sender has been told of.
        self.told = 0
        target.attach(self)
        self.renew()

    def arrived(self, size: int) -> None:
        """A message of `size` bytes has come.

        :raises BadFrame: if it was not allowed to.
        """
        self.given.take(size)

    def consumed(self, size: int) -> None:
        """A message has left the mailbox, or a call was worked on."""
        given = self.given
        given.consumed += 1
        given.consumed_bytes += size
        self.renew()

    def renew(self) -> None:
        """Allow the sender more, if it is time to."""
        target = self.target
        if self.given.renew(target.window, target.window_bytes, dropping=target.dropping):
            self.teller.tell(self)

    def lost(self, mailbox: str, reason: str) -> None:
        """No reader got one of the messages."""
        self.given.lost += 1
        self.teller.report(mailbox, reason)


class Uncredited:
    """Whom a message came from that no flow carried: a broadcast, or a registered send."""

    __slots__ = ("peer", "teller")

    credited = False

    def __init__(self, teller: Teller, peer: str) -> None:
        self.teller = teller
        self.peer = peer

    def consumed(self, size: int) -> None:
        """There is nothing to account for."""

    def lost(self, mailbox: str, reason: str) -> None:
        """No reader got it."""
        self.teller.report(mailbox, reason)


class Outgoing:
    """The sender's end of a flow."""

    __slots__ = ("answered", "granted", "heads", "line", "name", "number", "raises", "refusal", "used")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        #: The mailbox; empty for calls.
        self.name = name
        self.granted = Granted()
        #: Those that wait for credit, or for room on the link.
        self.line = Line()
        #: Whether the receiver has said anything of it yet.
        self.answered = False
        #: Whether to raise, rather than wait, when the credit is used up.
        self.raises = False
        #: Why the receiver will have none of it.
        self.refusal: int | None = None
        #: When it was used last, in messages of the link.
        self.used = 0
        self.heads: dict[int, bytes] = {}

    def head(self, codec: int) -> bytes:
        """What a MESSAGE of this flow begins with."""
        head = self.heads[codec] = message_head(self.number, codec)
        return head

    def refused(self, peer: str) -> UnknownMailbox:
        """What a sender is told."""
        return UnknownMailbox(peer, self.name, _WHY.get(self.refusal, "the peer refuses it"))
