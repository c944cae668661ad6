"""The two ends of a flow: from the senders of one node to a mailbox, or to the handlers, of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import UnknownMailbox
from ..protocol.credit import LEAST_WINDOW_BYTES, Given, Granted, window
from ..protocol.mail import Refusal, message_head
from .line import Line

if TYPE_CHECKING:
    from .mailbox import Mailbox

_WHY: dict[int | None, str] = {
    Refusal.UNKNOWN: "there is none of that name",
    Refusal.CLOSED: "it is closed",
    Refusal.LIMIT: "too many of this node's flows lead there",
}


class Teller(Protocol):
    """The receiving side of a link."""

    def tell(self, flow: Incoming) -> None:
        """Tell the sender how its credit stands."""

    def report(self, name: str, reason: str) -> None:
        """Tell both sides, soon, that a message for `name` was lost."""

    def mailbox_closed(self, flow: Incoming) -> None:
        """The mailbox that `flow` led to takes no more."""


class Room:
    """What the flows to one place share, a mailbox or the handlers: so many messages, so many bytes.

    :param dropping: what finds no room there is dropped, so that what is there does not count.
    :param urgent: what is there may stay for long, and leaves in any order.
    """

    def __init__(self, size: int, max_bytes: int, *, dropping: bool = False, urgent: bool = False) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self.dropping = dropping
        self.urgent = urgent
        #: The flows that lead here, at most one of each link.
        self.flows: dict[Teller, Incoming] = {}
        # What flows that have ended left here. It goes on to count: else who ends flow after flow, or link
        # after link, would have the whole room each time.
        self._left = self._left_bytes = 0
        self._share()

    def attach(self, flow: Incoming) -> None:
        """`flow` leads here from now on."""
        self.flows[flow.teller] = flow
        self._share()

    def detach(self, flow: Incoming) -> None:
        """`flow` leads here no longer."""
        if self.flows.pop(flow.teller, None) is None:
            return  # the room was cleared
        given = flow.given
        self._left += given.received - given.consumed
        self._left_bytes += given.received_bytes - given.consumed_bytes
        before = self.window
        self._share()
        if self.window > before:  # only where they are few
            self._renew()

    def released(self, size: int) -> None:
        """A message of `size` bytes is gone that had been left here."""
        self._left -= 1
        self._left_bytes -= size
        self._share()
        self._renew()

    def clear(self) -> None:
        """In a child of a fork: everything here is the parent's."""
        self.flows.clear()
        self._left = self._left_bytes = 0
        self._share()

    def _renew(self) -> None:
        for flow in list(self.flows.values()):
            flow.renew()

    def _share(self) -> None:
        left, left_bytes = (0, 0) if self.dropping else (self._left, self._left_bytes)
        #: What one flow may have under way.
        self.window = window(max(0, self._size - left), len(self.flows))
        self.window_bytes = window(max(0, self._max_bytes - left_bytes), len(self.flows), LEAST_WINDOW_BYTES)


class Incoming:
    """The receiver's end of a flow."""

    __slots__ = ("_ended", "given", "mailbox", "number", "peer", "room", "teller", "told")

    credited = True

    def __init__(self, teller: Teller, peer: str, number: int, room: Room, mailbox: Mailbox | None) -> None:
        self.teller = teller
        self.peer = peer
        self.number = number
        self.room = room
        #: None if it leads to the handlers.
        self.mailbox = mailbox
        self.given = Given()
        #: The losses that the sender has been told of.
        self.told = 0
        self._ended = False
        room.attach(self)
        self.given.renew(room.window, room.window_bytes, dropping=room.dropping, urgent=room.urgent)
        teller.tell(self)  # even if there is no room yet: it is the answer to OPEN

    def consumed(self, size: int) -> None:
        """A message has left the mailbox, or a call was worked on."""
        given = self.given
        given.consumed += 1
        given.consumed_bytes += size
        if self._ended:
            self.room.released(size)
        elif given.consumed >= given.due or given.consumed_bytes >= given.due_bytes:
            self.renew()

    def renew(self) -> None:
        """Allow the sender more, if it is time to."""
        room = self.room
        if self.given.renew(room.window, room.window_bytes, dropping=room.dropping, urgent=room.urgent):
            self.teller.tell(self)

    def end(self) -> None:
        """Nothing comes on it any more; what has come can still be read."""
        self._ended = True
        self.room.detach(self)

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

    __slots__ = (
        "answered",
        "granted",
        "heads",
        "line",
        "name",
        "number",
        "raises",
        "refusal",
        "small",
        "used",
    )

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
        #: Whether somebody in the line may have a small message, which need not wait for large ones.
        self.small = False
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
