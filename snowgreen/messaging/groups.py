"""Groups: what is broadcast on a topic reaches every inbox that has joined it, on any linked node, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import gevent

from ..errors import PayloadTooLarge
from ..protocol import mail
from ..protocol.frames import BadFrame, Capability, FrameTag
from ..protocol.groups import MAX_BROADCAST, Membership
from ..protocol.wire import pack
from .flows import Uncredited

if TYPE_CHECKING:
    from ..link.session import Session
    from .flows import Teller
    from .mailbox import Mailbox
    from .switchboard import Switchboard

#: Links that a broadcast is put on before others have a turn.
_AT_A_TIME = 500
#: Bytes of a payload that fits one TLS record with its head, whatever the topic.
_AT_ONCE = 15 * 1024
_NEEDED = Capability.MESSAGES | Capability.GROUPS


class Broadcast(NamedTuple):
    """What became of a broadcast."""

    #: The names of the nodes it is on its way to, or was delivered on.
    queued: tuple[str, ...]
    #: Those of the members it was not sent to, because they do not read what was sent to them before.
    dropped: tuple[str, ...]


class Groups:
    """The groups of one endpoint.

    :param inboxes: topic → the mailboxes of this node that have joined it.
    """

    def __init__(self, board: Switchboard, inboxes: dict[str, list[Mailbox]]) -> None:
        self._board = board
        self._inboxes = inboxes
        self._membership: Membership[Session] = Membership()
        endpoint = board.endpoint
        endpoint.receivers[FrameTag.JOIN] = self._joined
        endpoint.receivers[FrameTag.LEAVE] = self._left
        endpoint.receivers[FrameTag.BROADCAST] = self._came
        endpoint.on_registered.append(self._registered)
        endpoint.on_ended.append(self._membership.gone)

    def join(self, topic: str) -> None:
        """The first inbox of this node has joined `topic`: tell the peers."""
        self._tell(mail.encode_join([topic]))

    def leave(self, topic: str) -> None:
        """The last inbox of this node has left `topic`: tell the peers."""
        self._tell(mail.encode_leave([topic]))

    def members(self, topic: str) -> tuple[str, ...]:
        """The linked nodes that have joined `topic`, and before them this one, if it has."""
        own = [self._board.name] if self._inboxes.get(topic) else []
        return (*own, *(session.peer for session in self._membership.members(topic)))

    def broadcast(self, topic: str, codec: int, payload: bytes) -> Broadcast:
        """Send to every member, once. It waits for none of them, but gives others a turn now and then."""
        if len(payload) > MAX_BROADCAST:
            raise PayloadTooLarge(
                f"a broadcast has at most {MAX_BROADCAST} bytes, and this one has {len(payload)}"
            )
        queued, dropped = [], []
        if self._inboxes.get(topic):
            self._deliver(self._board.local, self._board.name, topic, codec, payload)
            queued.append(self._board.name)
        head, key = mail.broadcast_head(topic, codec), ("topic", topic)
        members = self._membership.members(topic)
        # More links than have a turn at once: nothing could gather on any of them.
        frame = pack(head + payload) if len(members) > _AT_A_TIME and len(payload) <= _AT_ONCE else b""
        for number, session in enumerate(members, 1):
            if frame and session.post_at_once(frame):
                queued.append(session.peer)
            elif session.ending is not None or self._board.of(session).blocked(key, len(payload)):
                dropped.append(session.peer)
                reason = "it does not read" if session.ending is None else "its link has ended"
                self._board.dropped(session.peer, topic, 1, reason, sent=True)
            else:
                session.post_message(key, head, payload)
                queued.append(session.peer)
            if number % _AT_A_TIME == 0:
                gevent.sleep(0)
        return Broadcast(tuple(queued), tuple(dropped))

    # In the loop's callbacks.

    def _registered(self, session: Session) -> None:
        if self._inboxes and _knows(session):
            for topics in mail.topic_batches(self._inboxes):
                session.post_control(mail.encode_join(topics))

    def _joined(self, session: Session, frame: bytes) -> None:
        if _knows(session):
            self._membership.join(session, mail.decode_join(frame))

    def _left(self, session: Session, frame: bytes) -> None:
        if _knows(session):
            self._membership.leave(session, mail.decode_leave(frame))

    def _came(self, session: Session, frame: bytes) -> None:
        if not _knows(session):
            return
        topic, codec, payload = mail.decode_broadcast(frame)
        if len(payload) > MAX_BROADCAST:
            raise BadFrame(f"a BROADCAST of {len(payload)} bytes, more than {MAX_BROADCAST}")
        self._deliver(self._board.of(session), session.peer, topic, codec, payload)

    def _deliver(self, teller: Teller, peer: str, topic: str, codec: int, payload: bytes) -> None:
        source = Uncredited(teller, peer)
        for inbox in tuple(self._inboxes.get(topic, ())):
            inbox.put(source, codec, payload)

    def _tell(self, frame: bytes) -> None:
        for session in self._board.endpoint.table.sessions.values():
            if _knows(session):
                session.post_control(frame)


def _knows(session: Session) -> bool:
    return session.capabilities & _NEEDED == _NEEDED
