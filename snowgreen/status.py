"""What a node is doing, as plain values: what the dashboard, the control socket and scripts are shown.

Each value is a picture of one moment, and can be written as JSON. Numbers that JavaScript would round are
strings; times are seconds since the epoch. Texts that came from peers are escaped where they were received,
and still are a peer's: whoever puts them on a page escapes them for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from ._version import __version__
from .events import Event, HandshakeFailed, NodeDown, NodeUp
from .link.journal import cause
from .link.logs import KINDS, one_line

if TYPE_CHECKING:
    from .link.session import Session
    from .node import Node


class NodeStatus(msgspec.Struct, frozen=True):
    """One node."""

    name: str
    #: This life of the node, a u64; None while it is not started.
    incarnation: str | None
    #: When this life began; None while it is not started.
    started_at: float | None
    #: Where it is bound, as ``host:port``; None while it does not listen.
    address: str | None
    #: The process, and the version of snowgreen in it.
    pid: int
    version: str
    #: Live links.
    links: int
    #: The peers it keeps a link with, as they were given.
    kept: tuple[str, ...]
    #: How often the event loop was blocked, and for how many seconds in all.
    stalls: int
    stalled: float
    #: Handshakes that failed, and connections refused at the door.
    failed: int
    refused: int
    #: Messages that were not delivered.
    messages_dropped: int


class LinkStatus(msgspec.Struct, frozen=True):
    """One live link."""

    peer: str
    #: The peer's life, a u64; None for a classic peer.
    incarnation: str | None
    #: ``"bound"`` or ``"classic"``.
    form: str
    #: True if this node dialed.
    initiated: bool
    #: The other end, as ``host:port``.
    address: str
    #: When it came up.
    since: float
    #: The last round trip in seconds, None before the first.
    rtt: float | None
    #: Payload bytes and frames since then.
    bytes_received: int
    bytes_sent: int
    frames_received: int
    frames_sent: int
    #: Bytes that wait to be sent.
    waiting: int
    #: ``"up"``, ``"waiting"`` for the peer to read, or ``"parting"``.
    state: str
    #: Tells this link from every other one in this life of the node.
    serial: int


class FailureStatus(msgspec.Struct, frozen=True):
    """Failed handshakes of one cause with one address."""

    #: Such as ``authentication``.
    cause: str
    #: The other end's IP address, or the host that was dialed.
    host: str
    #: True if this node dialed.
    initiated: bool
    count: int
    #: Of the newest: when it was, what the other side claimed to be or whom we dialed, and what was wrong.
    at: float
    claimed: str | None
    problem: str


class EventStatus(msgspec.Struct, frozen=True):
    """One event."""

    #: Such as ``up``, ``down``, ``handshake_failed``.
    kind: str
    #: When it was; None where that is not known.
    at: float | None
    #: The peer it is about, as far as it is known.
    peer: str | None
    #: Whether something went wrong.
    bad: bool
    #: All of it, in words.
    text: str
    #: Why a handshake failed, in a word.
    cause: str | None = None


def node_status(node: Node) -> NodeStatus:
    """What `node` is doing."""
    journal, incarnation = node.journal, node.incarnation
    return NodeStatus(
        name=node.name,
        incarnation=None if incarnation is None else str(incarnation),
        started_at=node.started_at,
        address=node.address,
        pid=os.getpid(),
        version=__version__,
        links=len(node.sessions),
        kept=node.kept,
        stalls=journal.stalls,
        stalled=journal.stalled,
        failed=journal.failed.total(),
        refused=journal.refused,
        messages_dropped=journal.messages_dropped.total(),
    )


def link_status(session: Session) -> LinkStatus:
    """What the link of `session` is doing."""
    return LinkStatus(
        peer=session.peer,
        incarnation=None if session.incarnation is None else str(session.incarnation),
        form=session.form,
        initiated=session.initiated,
        address=session.remote_address,
        since=session.connected_at,
        rtt=session.rtt,
        bytes_received=session.bytes_received,
        bytes_sent=session.bytes_sent,
        frames_received=session.frames_received,
        frames_sent=session.frames_sent,
        waiting=session.bytes_waiting,
        state=session.state,
        serial=session.serial,
    )


def links(node: Node) -> list[LinkStatus]:
    """The live links of `node`, by peer name."""
    return [link_status(session) for _, session in sorted(node.sessions.items())]


def missing(node: Node) -> list[str]:
    """The names of the kept peers with which there is no link, in the order in which they were given.

    A peer that was given as ``host:port`` is not among them: it has no name before it has answered.
    """
    sessions = node.sessions
    return [peer for peer in node.kept if "@" in peer and peer not in sessions and peer != node.name]


def failures(node: Node) -> list[FailureStatus]:
    """The failed handshakes of `node` by cause and address, the newest first."""
    return [
        FailureStatus(
            cause=kind.cause,
            host=kind.host,
            initiated=kind.initiated,
            count=kind.count,
            at=kind.last.at,
            claimed=kind.last.claimed,
            problem=kind.last.error.problem,
        )
        for kind in reversed(node.journal.failures.values())
    ]


def event_status(event: Event) -> EventStatus:
    """`event` as a plain value."""
    peer, why = getattr(event, "peer", None), None
    if isinstance(event, HandshakeFailed):
        peer, why = event.claimed, cause(event.error)
    fine = isinstance(event, NodeUp) or (isinstance(event, NodeDown) and not event.lost)
    return EventStatus(
        kind=KINDS[type(event)],
        at=getattr(event, "at", None),
        peer=peer,
        bad=not fine,
        text=one_line(str(event)),  # the path of a file may be no UTF-8, which JSON cannot hold
        cause=why,
    )


def events(node: Node) -> list[EventStatus]:
    """The events that `node` remembers, the newest first."""
    return [event_status(event) for event in reversed(node.journal.recent)]


def mesh(node: Node) -> dict[str, list[str]]:
    """Peer name → other nodes that this peer says it is linked with, for the peers that said so."""
    return {peer: sorted(others) for peer, others in sorted(node.reported.items())}
