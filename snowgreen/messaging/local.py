"""Messages and calls of a node to itself: the same bounds, codecs and errors, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent

from ..errors import CallTimeout, MailboxFull, SendTimeout, UnknownMailbox
from .calls import Call, Pending
from .flows import Incoming
from .line import Line

if TYPE_CHECKING:
    from ..protocol.mail import Fault
    from .mailbox import Mailbox
    from .switchboard import Switchboard


class Local:
    """The sending and the receiving end in one."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._flows: dict[str, tuple[Incoming, Line]] = {}
        self._lost: dict[tuple[str, str], int] = {}

    def send(self, name: str, codec: int, payload: bytes, timeout: float | None) -> None:
        """Put one message into the mailbox `name`, and wait while there is no room for it."""
        mailbox = self._board.mailboxes.get(name)
        if mailbox is None:
            raise UnknownMailbox(self._board.name, name)
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
        context = Call(board.name, handler, timeout, board.clock)
        answer = LocalAnswer(board.limits.max_message)
        greenlet = gevent.spawn(board.desk.work, context, *encoded, answer)
        try:
            outcome = answer.wait(timeout)
            if outcome is None:
                raise CallTimeout(board.name, handler, f"no answer within {timeout:g} s")
            return outcome
        finally:
            if not board.desk.shielded(handler):
                greenlet.kill(block=False)

    def tell(self, flow: Incoming) -> None:
        """There is more credit."""
        assert flow.mailbox is not None  # noqa: S101  # calls have no flow here
        known = self._flows.get(flow.mailbox.name)
        if known is not None:
            known[1].poke()

    def report(self, name: str, reason: str) -> None:
        """A message was lost; told at the end of this turn of the loop."""
        if not self._lost:
            gevent.get_hub().loop.run_callback(self._report)
        self._lost[name, reason] = self._lost.get((name, reason), 0) + 1

    def _report(self) -> None:
        lost, self._lost = self._lost, {}
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

    __slots__ = ("largest",)

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest: Any = largest
