"""Messages and calls of a node to itself: the same bounds, codecs and errors, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CallTimeout, MailboxFull, SendTimeout, UnknownMailbox
from ..protocol import mail
from ..protocol.mail import Fault, checked_name
from .calls import Pending
from .flows import Incoming
from .line import Line
from .losses import Losses

if TYPE_CHECKING:
    from .calls import Running
    from .mailbox import Mailbox
    from .switchboard import Switchboard


class Local:
    """The sending and the receiving end in one."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._flows: dict[str, tuple[Incoming, Line]] = {}
        self._losses = Losses(self._report)
        #: The calls under way. They count to none of the limits: whoever makes them is this node's own.
        self.running: set[Running] = set()

    def send(self, name: str, codec: int, payload: bytes, timeout: float | None) -> None:
        """Put one message into the mailbox `name`, and wait while there is no room for it."""
        mailbox = self._board.mailboxes.get(name)
        if mailbox is None:
            raise UnknownMailbox(self._board.name, checked_name(name, "mailbox"))
        flow, line = self._flow(mailbox)
        if not flow.given.open or line:
            self._await(flow, line, mailbox, timeout)
        flow.given.take(len(payload))
        mailbox.put(flow, codec, payload)
        if mailbox.dropping:
            flow.renew()

    def call(
        self, handler: str, encoded: tuple[int, bytes], timeout: float | None
    ) -> tuple[int, bytes] | Fault:
        """Run `handler` in a greenlet of its own, and wait for the outcome."""
        board = self._board
        answer = LocalAnswer(board.limits.max_message)
        running = board.desk.prepare(board.name, handler, timeout, encoded, answer)
        self.running.add(running)
        running.greenlet.rawlink(lambda _: self.running.discard(running))
        running.begun = True
        running.greenlet.start()
        try:
            outcome = answer.wait(timeout)
            if outcome is None:
                raise CallTimeout(board.name, handler, f"no answer within {timeout:g} s")
            return outcome
        finally:
            running.end()

    def stop(self) -> None:
        """The node stops: tell what was lost, and nothing more. Never waits."""
        self._losses.close()

    def tell(self, flow: Incoming) -> None:
        """There is more credit."""
        assert flow.mailbox is not None  # noqa: S101  # calls have no flow here
        known = self._flows.get(flow.mailbox.name)
        if known is not None:
            known[1].poke()

    def report(self, name: str, reason: str) -> None:
        """A message was lost; told soon."""
        self._losses.add(name, reason)

    def _report(self, lost: dict[tuple[str, str], int]) -> None:
        for (name, reason), count in lost.items():
            self._board.dropped(self._board.name, name, count, reason, sent=False)

    def mailbox_closed(self, flow: Incoming) -> None:
        """The mailbox that `flow` led to takes no more."""
        assert flow.mailbox is not None  # noqa: S101  # as above
        _, line = self._flows.pop(flow.mailbox.name)
        flow.end()
        line.poke()

    def _flow(self, mailbox: Mailbox) -> tuple[Incoming, Line]:
        known = self._flows.get(mailbox.name)
        if known is None:
            known = Incoming(self, self._board.name, 0, mailbox.room, mailbox), Line()
            self._flows[mailbox.name] = known
        return known

    def _await(self, flow: Incoming, line: Line, mailbox: Mailbox, timeout: float | None) -> None:
        def ready() -> bool:
            if mailbox.closed:
                raise UnknownMailbox(self._board.name, mailbox.name, "it is closed")
            if mailbox.full == "error" and not flow.given.open:
                raise MailboxFull(self._board.name, mailbox.name)
            return flow.given.open

        if not line.wait(ready, self._board.countdown(timeout)):
            raise SendTimeout(
                f"nothing could be sent to {mailbox.name!r} within {timeout:g} s: the mailbox has no room"
            )


class LocalAnswer(Pending):
    """The outcome of a call of this node's own."""

    __slots__ = ("largest", "wanted")

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest
        self.wanted = True

    def result(self, codec: int, payload: bytes, seconds: float | None = None) -> None:
        """The handler has returned."""
        if self.wanted:
            self.wanted = False
            super().result(codec, payload)

    def fault(self, fault: Fault) -> None:
        """There is no result. The caller gets as much of the text as from a peer."""
        if self.wanted:
            self.wanted = False
            super().fault(mail.cut(fault))
