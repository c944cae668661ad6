"""What a node tells its subscribers: small frozen values, each with a text that a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .errors import LinkError


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A link to `peer` is up and registered."""

    #: The peer's node name, proved by the cookie.
    peer: str
    #: The peer's incarnation (u64); None for a classic peer, which has none.
    incarnation: int | None
    #: ``"bound"`` or ``"classic"``.
    form: str
    #: True if this node dialed.
    initiated: bool
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        arrow = "dialed" if self.initiated else "accepted"
        return f"{self.peer} is up ({arrow}, {self.form})"


@dataclass(frozen=True, slots=True)
class NodeDown:
    """The link to `peer` has ended."""

    peer: str
    #: The incarnation that is gone, None for a classic peer.
    incarnation: int | None
    #: Why, in words.
    reason: str
    #: Wall-clock time, seconds since the epoch.
    at: float
    #: True if nobody meant it to end; False if one side closed it, with a goodbye or at least in order.
    lost: bool = True

    def __str__(self) -> str:
        return f"{self.peer} {'is down' if self.lost else 'has left'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """An attempt to link, by us or by a peer, came to nothing."""

    #: Inbound: what the other side says it is, escaped; nothing about it was proved. For a dial: whom we
    #: dialed. None if that is not known.
    claimed: str | None
    #: The other end, as ``host:port``.
    address: str
    #: True if this node dialed.
    initiated: bool
    #: The error; for a dial the one that ``connect`` raised.
    error: LinkError
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        if self.initiated:
            who = f"to {self.claimed} at {self.address}" if self.claimed else f"to {self.address}"
        else:
            who = f"from {self.address}" + (f", which claims to be {self.claimed}," if self.claimed else "")
        return f"the link {who} failed: {self.error.problem}"


@dataclass(frozen=True, slots=True)
class LoopStalled:
    """This process's event loop was blocked: no greenlet ran, and no link was read, for `seconds`.

    Something called code that does not give way to gevent. Peers that could not be heard meanwhile are not
    given up for it, but pinged once more.
    """

    #: For how long, about.
    seconds: float
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        return f"this process's event loop was blocked for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class CertificateProblem:
    """The files of ``Node(tls=...)`` have changed and cannot be used: what they held stays in force."""

    #: Which file, and what is wrong with it.
    problem: str
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        return f"the renewed certificate cannot be used, and the former one stays in force: {self.problem}"


@dataclass(frozen=True, slots=True)
class EventsDropped:
    """The subscriber fell behind: `count` events, older than the next one, are lost to it."""

    count: int

    def __str__(self) -> str:
        what = "1 event was" if self.count == 1 else f"{self.count} events were"
        return f"{what} dropped: this subscriber reads too slowly"


@dataclass(frozen=True, slots=True)
class ConnectionsRefused:
    """Connections were closed at the door, before TLS; told at most once a second, with their number."""

    #: How many.
    count: int
    #: Where the last one came from, as ``host:port``.
    address: str
    #: Why that one was refused, in words.
    reason: str
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        return (
            f"{self.count} connections were refused at the door, the last from {self.address}: {self.reason}"
        )


@dataclass(frozen=True, slots=True)
class MessagesDropped:
    """Messages were sent, and not delivered to anybody. Told on both sides of the link."""

    #: The other node.
    peer: str
    #: The mailbox, or the topic, they were for.
    mailbox: str
    #: How many.
    count: int
    #: Why, in words.
    reason: str
    #: True if this node sent them, False if the mailbox is this node's.
    sent: bool
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        what = "1 message" if self.count == 1 else f"{self.count} messages"
        were = "was" if self.count == 1 else "were"
        way = f"to {self.peer} for" if self.sent else f"from {self.peer} to"
        return f"{what} {way} {self.mailbox!r} {were} not delivered: {self.reason}"


@dataclass(frozen=True, slots=True)
class PeerListRefused:
    """A list of nodes that a peer sent for the mesh was refused, or some of its names were."""

    #: Who sent it.
    peer: str
    #: How many names were refused.
    count: int
    #: Why, in words.
    problem: str
    #: Wall-clock time, seconds since the epoch.
    at: float

    def __str__(self) -> str:
        what = "1 name" if self.count == 1 else f"{self.count} names"
        return f"{what} in the peer list of {self.peer} refused: {self.problem}"


#: Any of these: what :meth:`snowgreen.Node.subscribe` gives.
Event: TypeAlias = (
    NodeUp
    | NodeDown
    | HandshakeFailed
    | ConnectionsRefused
    | LoopStalled
    | CertificateProblem
    | MessagesDropped
    | PeerListRefused
    | EventsDropped
)
