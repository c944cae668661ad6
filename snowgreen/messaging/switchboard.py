"""The messages of one life of a node: which frame goes to whom, and how a message finds its link."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import NodeStateError, Unreachable
from ..events import MessagesDropped
from ..link.runtime import say
from ..names import parse_name
from ..protocol.frames import FrameTag
from .calls import Desk
from .codec import Codecs
from .groups import Groups
from .handlers import Handler
from .local import Local
from .traffic import Traffic

if TYPE_CHECKING:
    from ..link.dialer import Dialer
    from ..link.endpoint import Endpoint
    from ..link.session import Session
    from .mailbox import Mailbox

log = logging.getLogger("snowgreen.messaging")

#: Seconds that a link which has to be made first may take, if the sender sets no limit.
_PATIENCE = 10.0


class Switchboard:
    """The messaging of one endpoint.

    :param mailboxes: the node's mailboxes by name.
    :param inboxes: those that have joined a topic, by the topic.
    :param handlers: the node's handlers by name.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        dialer: Dialer,
        codecs: Codecs,
        mailboxes: dict[str, Mailbox],
        inboxes: dict[str, list[Mailbox]],
        handlers: dict[str, Handler],
    ) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name.text
        self.limits = endpoint.config.limits
        self.clock: Callable[[], float] = endpoint.runtime.monotonic
        self.codecs = codecs
        self.mailboxes = mailboxes
        self.sessions = endpoint.table.sessions
        self.desk = Desk(self, handlers, self.limits.handlers, endpoint.config.mailbox_bytes)
        self.local = Local(self)
        self._dialer = dialer
        self._forked = False
        take = {
            FrameTag.OPEN: Traffic.opened,
            FrameTag.CREDIT: Traffic.credited,
            FrameTag.REFUSE: Traffic.refused,
            FrameTag.FINISH: Traffic.finished,
            FrameTag.MESSAGE: Traffic.message,
            FrameTag.CALL: Traffic.called,
            FrameTag.RESULT: Traffic.answered,
            FrameTag.FAULT: Traffic.failed,
            FrameTag.CANCEL: Traffic.cancelled,
            FrameTag.FIRST: Traffic.fragment,
            FrameTag.PART: Traffic.fragment,
        }
        for tag, method in take.items():
            endpoint.receivers[tag] = self._receiver(method)
        endpoint.runs[FrameTag.MESSAGE] = self._messages
        endpoint.receivers[FrameTag.REG_SEND] = lambda session, frame: self.of(session).registered_send(frame)
        endpoint.on_ended.append(self._ended)
        self.groups = Groups(self, inboxes)

    # Sending.

    def countdown(self, timeout: float | None) -> Callable[[], float | None]:
        """What says how much of `timeout` is left."""
        if timeout is None:
            return lambda: None
        until = self.clock() + timeout
        return lambda: until - self.clock()

    def traffic(self, peer: str, timeout: float | None) -> tuple[Traffic, float | None]:
        """The messages of the link with `peer`, made if there is none; and what is left of `timeout`.

        :raises LinkError: if there is no link, and none comes about.
        """
        session = self.endpoint.table.sessions.get(peer)
        if session is None:
            started = self.clock()
            session = self._dial(peer, timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (self.clock() - started))
        return self.of(session), timeout

    def of(self, session: Session) -> Traffic:
        """The messages of `session`."""
        traffic = session.carried
        if not isinstance(traffic, Traffic):
            traffic = Traffic(self, session)
            if session.reason is None:
                session.carried = traffic
        return traffic

    def _dial(self, peer: str, timeout: float | None) -> Session:
        name = parse_name(peer, argument="peer")
        if self.endpoint.stopped:
            raise NodeStateError("the node was stopped")
        if peer in self.endpoint.left:
            raise Unreachable("this node has left it; connect() or keep() asks for it again", peer=peer)
        return self._dialer.connect(name, _PATIENCE if timeout is None else timeout)

    def dropped(self, peer: str, mailbox: str, count: int, reason: str, *, sent: bool) -> None:
        """Tell the subscribers that messages were lost. Never waits."""
        event = MessagesDropped(peer, mailbox, count, reason, sent, self.endpoint.runtime.wall())
        say(log, logging.WARNING, "%s: %s", self.name, event)
        self.endpoint.bus.publish(event)

    # Receiving: in the loop's callbacks.

    def _receiver(self, method: Callable[[Traffic, bytes], None]) -> Callable[[Session, bytes], None]:
        def receive(session: Session, frame: bytes) -> None:
            traffic = session.carried
            if not isinstance(traffic, Traffic):
                traffic = self.of(session)
            if traffic.capable:  # else the tag is one that this link does not know
                method(traffic, frame)

        return receive

    def _messages(self, session: Session, frame: bytes, behind: Iterator[bytes]) -> bytes | None:
        traffic = self.of(session)
        return traffic.messages(frame, behind) if traffic.capable else None

    def dispatch(self, session: Session, frame: bytes) -> None:
        """A frame that came in fragments is complete."""
        self.endpoint.receivers[frame[0]](session, frame)

    def _ended(self, session: Session) -> None:
        if self._forked:
            return
        traffic = session.carried
        if isinstance(traffic, Traffic):
            traffic.ended()

    def let_go(self) -> None:
        """In a child of a fork: whoever waits for something, or works on it, does so in the parent."""
        self._forked = True

    def stop(self) -> None:
        """The node stops: calls that are worked on end, and say so. Never waits."""
        running = list(self.local.running)
        for session in self.endpoint.table.sessions.values():
            if isinstance(session.carried, Traffic):
                running += session.carried.running.values()
        self.desk.stop(running)
        self.local.stop()
