"""What messaging keeps of one link: flows that lead out and in, calls under way, unfinished fragments.

The receiving half runs in the loop's callbacks and never waits. The sending half runs in the greenlets of
those who send, and waits while the link or the mailbox pushes back.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from ..errors import (
    MailboxFull,
    MessagingError,
    PayloadTooLarge,
    SendTimeout,
    SessionClosed,
    Unsupported,
)
from ..protocol import mail
from ..protocol.fragments import Assembly
from ..protocol.frames import BadFrame, Capability, FrameTag
from ..protocol.lanes import SMALL
from ..protocol.mail import FlowKind, Mode, Refusal, checked_name
from ..protocol.wire import MAX_FRAME
from .codec import RAW
from .flows import Incoming, Outgoing, Uncredited
from .line import Line
from .losses import Losses

if TYPE_CHECKING:
    from ..link.session import Session
    from .calls import Pending, Running
    from .switchboard import Switchboard

#: Flows open at once on a link, in each direction (specification, section 4).
MAX_FLOWS = 1024
#: Bytes of a payload that surely leaves as a small frame.
_SMALL = SMALL - 1024
#: Beyond the payload: the fields of the frame that carries it.
_HEAD_BYTES = 1024
#: The key under which the flow for calls stands among those of mailboxes; no mailbox has it for a name.
_CALLS = object()
#: The key under which every OPEN is sent: their numbers must not fall.
_OPENS = object()


class Traffic:
    """The messages of one link."""

    __slots__ = (
        "_assembly",
        "_board",
        "_incoming",
        "_last_flow",
        "_losses",
        "_opened",
        "_outgoing",
        "_outgoing_by_number",
        "_sent",
        "_waiting",
        "calls",
        "capable",
        "pending",
        "room_line",
        "running",
        "session",
    )

    def __init__(self, board: Switchboard, session: Session) -> None:
        self._board = board
        self.session = session
        #: Whether the peer knows flows.
        self.capable = bool(session.capabilities & Capability.MESSAGES)
        self._outgoing: dict[object, Outgoing] = {}
        self._outgoing_by_number: dict[int, Outgoing] = {}
        self._last_flow = 0
        self._sent = 0
        self._incoming: dict[int, Incoming] = {}
        self._opened = 0  # the highest number the peer has opened
        self._assembly: Assembly | None = None
        self._losses: Losses | None = None
        self._waiting: dict[Outgoing, None] = {}  # flows with a line of senders
        #: Handlers that wait to send what they return.
        self.room_line = Line()
        #: The number of the last call made on this link.
        self.calls = 0
        #: Calls made, by number: who waits for the outcome.
        self.pending: dict[int, Pending] = {}
        #: Calls worked on, by number.
        self.running: dict[int, Running] = {}

    # Sending: in the senders' greenlets.

    def send(self, mailbox: str, codec: int, payload: bytes, timeout: float | None) -> None:
        """Queue one message, and wait while there is no room for it."""
        flow = self._outgoing.get(mailbox)
        if flow is None:
            if not self.capable:
                self._send_registered(mailbox, codec, payload, timeout)
                return
            flow = self._open(FlowKind.MAILBOX, mailbox)
        granted, session, size = flow.granted, self.session, len(payload)
        # Written out, where others ask granted.open and flow.line: this runs once for each message.
        if (
            granted.sent >= granted.messages
            or granted.sent_bytes >= granted.bytes
            or flow.line.tickets
            or (session.full and self.blocked(mailbox, size))
        ):
            self.await_credit(flow, timeout, "the mailbox has no room", mailbox, size)
        if size > granted.largest:
            raise PayloadTooLarge(
                f"{session.peer} takes at most {granted.largest} bytes in a message, and this one has {size}"
            )
        granted.sent += 1
        granted.sent_bytes += size
        self._sent = flow.used = self._sent + 1
        session.post_message(mailbox, flow.heads.get(codec) or flow.head(codec), payload)

    def handlers_flow(self) -> Outgoing:
        """The flow for calls.

        :raises Unsupported: if the peer knows none.
        """
        flow = self._outgoing.get(_CALLS)
        if flow is None:
            if not self.capable:
                raise Unsupported(f"{self.session.peer} cannot be called: {self._kind()}")
            flow = self._open(FlowKind.CALLS, "")
        return flow

    def blocked(self, key: Hashable, size: int) -> bool:
        """Whether there is no room on the link for `size` bytes more of `key`.

        What is small waits for no large messages, which it goes ahead of, unless they are of its own key.
        """
        session = self.session
        return session.full and (size > _SMALL or session.crowded or session.holds(key))

    def await_credit(
        self, flow: Outgoing, timeout: float | None, lacking: str, key: Hashable, size: int
    ) -> None:
        """Wait until the next message of `flow` may be sent, `size` bytes of `key`; no other comes before it.

        :raises SendTimeout: if it may not in time.
        :raises MessagingError: if it never will.
        """
        peer, granted = self.session.peer, flow.granted

        def ready() -> bool:
            self._check_alive()
            if flow.refusal is not None:
                raise flow.refused(peer)
            if flow.raises and not granted.open:
                raise MailboxFull(peer, flow.name)
            return granted.open and not self.blocked(key, size)

        self._waiting[flow] = None
        flow.small = flow.small or size <= _SMALL
        try:
            gone = not flow.line.wait(ready, self._board.countdown(timeout))
        finally:
            if not flow.line:
                self._waiting.pop(flow, None)
                flow.small = False
        if gone:
            if self.blocked(key, size):
                why = "it does not read"
            else:
                silent = "it has not answered" + (" whether there is such a mailbox" if flow.name else "")
                why = lacking if flow.answered else silent
            raise SendTimeout(f"nothing could be sent to {peer} within {timeout:g} s: {why}")

    def await_room(self, line: Line, timeout: float | None, size: int) -> None:
        """Wait until the link has room for another message, of `size` bytes.

        :raises SendTimeout: if it has not in time.
        :raises SessionClosed: if the link ends.
        """

        def ready() -> bool:
            self._check_alive()
            return not self.blocked(None, size)

        if (line or self.blocked(None, size)) and not line.wait(ready, self._board.countdown(timeout)):
            raise SendTimeout(
                f"nothing could be sent to {self.session.peer} within {timeout:g} s: it does not read"
            )
        self._check_alive()

    def _check_alive(self) -> None:
        ending = self.session.ending
        if ending is not None:
            raise SessionClosed(self.session.peer, ending)

    def _kind(self) -> str:
        if self.session.form == "classic":
            return "it is a classic node"
        return "it runs a version of snowgreen without messages"

    def _send_registered(self, mailbox: str, codec: int, payload: bytes, timeout: float | None) -> None:
        """REG_SEND, the one kind of message that a classic node knows."""
        if self.session.form != "classic":
            raise Unsupported(f"{self.session.peer} takes no messages: {self._kind()}")
        if codec != RAW:
            raise Unsupported(f"{self.session.peer} takes bytes only: {self._kind()}")
        frame = mail.encode_reg_send(checked_name(mailbox, "mailbox"), payload)
        if len(frame) > MAX_FRAME:
            raise PayloadTooLarge(
                f"{self.session.peer} takes no fragments: a message to it has less than {MAX_FRAME} bytes"
            )
        self.await_room(self.room_line, timeout, len(payload))
        self.session.post_whole(frame)

    def _open(self, kind: FlowKind, name: str) -> Outgoing:
        if kind is FlowKind.MAILBOX:
            checked_name(name, "mailbox")
        self._check_alive()
        if len(self._outgoing) >= MAX_FLOWS:
            self._finish(min(self._idle(), key=lambda flow: flow.used, default=None))
        self._last_flow += 1
        flow = self._outgoing[name or _CALLS] = Outgoing(self._last_flow, name)
        flow.used = self._sent
        self._outgoing_by_number[flow.number] = flow
        # Behind the FINISH of the flow that made room for it, which leaves at once; and behind every other
        # OPEN, whatever large messages of a flow that was refused may still wait under the same name.
        self.session.post_message(_OPENS, mail.open_head(flow.number, kind, name), b"")
        return flow

    def _idle(self) -> list[Outgoing]:
        """The flows that can be finished: nobody waits for them, and their FINISH leaves at once."""
        holds = self.session.holds
        return [
            flow
            for flow in self._outgoing.values()
            if flow.answered and not flow.line and flow.name and not holds(flow.name)
        ]

    def _finish(self, flow: Outgoing | None) -> None:
        """Make room for another flow: the one that was used longest ago ends, behind its last message."""
        if flow is None:
            raise MessagingError(
                f"messages to {MAX_FLOWS} mailboxes of {self.session.peer} wait already: no more at once"
            )
        self._drop(flow)
        self.session.post_message(flow.name, mail.finish_head(flow.number), b"")

    def _drop(self, flow: Outgoing) -> None:
        key = flow.name or _CALLS
        if self._outgoing.get(key) is flow:
            del self._outgoing[key]
        self._outgoing_by_number.pop(flow.number, None)

    # Receiving: in the loop's callbacks.

    def room(self) -> None:
        """Something was written: those that wait for it may look again."""
        if not self._waiting and not self.room_line:
            return
        full = self.session.full and self.session.ending is None
        self.room_line.poke()
        for flow in self._waiting:
            if flow.small or not full:
                flow.line.poke()

    def credited(self, frame: bytes) -> None:
        """CREDIT."""
        credit = mail.decode_credit(frame)
        flow = self._outgoing_by_number.get(credit.flow)
        if flow is None:
            self._check_known(credit.flow)
            return
        news = flow.granted.allow(credit.messages, credit.bytes, credit.lost, credit.largest)
        flow.raises = credit.mode is Mode.RAISE
        flow.answered = True
        if news:
            self._board.dropped(
                self.session.peer, flow.name, news, "dropped there; that node's own event says why", sent=True
            )
        flow.line.poke()

    def refused(self, frame: bytes) -> None:
        """REFUSE: there is no such mailbox, or no longer."""
        number, why, received = mail.decode_refuse(frame)
        flow = self._outgoing_by_number.get(number)
        if flow is None:
            self._check_known(number)
            return
        if received > flow.granted.sent:
            raise BadFrame("a REFUSE that counts more messages than were sent")
        self._drop(flow)
        flow.refusal = why
        flow.granted.messages = 0
        lost = flow.granted.sent - received
        if lost:
            self._board.dropped(self.session.peer, flow.name, lost, "the mailbox is closed", sent=True)
        flow.line.poke()

    def _check_known(self, number: int) -> None:
        if number > self._last_flow:
            raise BadFrame("an answer about a flow that was never opened")

    def opened(self, frame: bytes) -> None:
        """OPEN."""
        number, kind, name = mail.decode_open(frame)
        if number <= self._opened:
            raise BadFrame("an OPEN with a number that was used before")
        self._opened = number
        board = self._board
        mailbox = board.mailboxes.get(name) if kind == FlowKind.MAILBOX else None
        room = None if mailbox is None else mailbox.room
        if kind == FlowKind.CALLS:
            room = board.desk.room
        if room is None:
            self._refuse(number, Refusal.UNKNOWN, 0)
        elif len(self._incoming) >= MAX_FLOWS or self in room.flows:
            self._refuse(number, Refusal.LIMIT, 0)
        else:
            self._incoming[number] = Incoming(self, self.session.peer, number, room, mailbox)

    def finished(self, frame: bytes) -> None:
        """FINISH: the peer sends no more on a flow."""
        flow = self._flow_in(mail.decode_finish(frame))
        if flow is not None:
            self._forget(flow)

    def message(self, frame: bytes) -> None:
        """MESSAGE."""
        self.messages(frame, iter(()))

    def messages(self, frame: bytes, behind: Iterator[bytes]) -> bytes | None:
        """MESSAGE, and those of the same flow right behind it; what the next frame is, if there is one."""
        number, codec, payloads, other = mail.decode_messages(frame, behind)
        flow = self._flow_in(number)
        if flow is None:
            return other  # they were on their way when the mailbox was closed
        mailbox, largest = flow.mailbox, self._board.limits.max_message
        if mailbox is None:
            raise BadFrame("a MESSAGE on a flow for calls")
        count, size = len(payloads), sum(map(len, payloads))
        if not mailbox.dropping and size <= largest and flow.given.allows(count, size):
            mailbox.put_run(flow.given, [(flow, codec, payload) for payload in payloads], count, size)
            return other
        for payload in payloads:
            if len(payload) > largest:
                raise BadFrame("a MESSAGE that is too large")
            flow.given.take(len(payload))
            mailbox.put(flow, codec, payload)
            if mailbox.dropping:
                flow.renew()
        return other

    def called(self, frame: bytes) -> None:
        """CALL."""
        call = mail.decode_call(frame)
        flow = self._flow_in(call.flow)
        if flow is None:
            return
        if flow.mailbox is not None or len(call.payload) > self._board.limits.max_message:
            raise BadFrame("a CALL that is too large, or on a flow for messages")
        if call.call in self.running:
            raise BadFrame("a CALL with the number of one that is not done")
        flow.given.take(len(call.payload), ordered=False)
        flow.renew()
        self._board.desk.begin(self, flow, call)

    def cancelled(self, frame: bytes) -> None:
        """CANCEL."""
        self._board.desk.cancel(self, mail.decode_cancel(frame))

    def answered(self, frame: bytes) -> None:
        """RESULT."""
        number, codec, payload = mail.decode_result(frame)
        if len(payload) > self._board.limits.max_message:
            raise BadFrame("a RESULT that is larger than its caller said it takes")
        pending = self.pending.pop(number, None)
        if pending is not None:
            pending.result(codec, payload)

    def failed(self, frame: bytes) -> None:
        """FAULT."""
        fault = mail.decode_fault(frame)
        pending = self.pending.pop(fault.call, None)
        if pending is not None:
            pending.fault(fault)

    def registered_send(self, frame: bytes) -> None:
        """REG_SEND, which has no credit: what a mailbox has no room for is dropped."""
        name, payload = mail.decode_reg_send(frame)
        mailbox = self._board.mailboxes.get(name)
        source = Uncredited(self, self.session.peer)
        if mailbox is None:
            source.lost(name, "there is no such mailbox")
        else:
            mailbox.put(source, RAW, payload)

    def fragment(self, frame: bytes) -> None:
        """FIRST or PART of a message that comes in fragments."""
        if self._assembly is None:
            self._assembly = Assembly(self._board.limits.max_message + _HEAD_BYTES)
        take = self._assembly.first if frame[0] == FrameTag.FIRST else self._assembly.part
        whole = take(frame)
        if whole is not None:
            self._board.dispatch(self.session, whole)

    def mailbox_closed(self, flow: Incoming) -> None:
        """The mailbox that `flow` led to takes no more."""
        if flow.given.lost != flow.told:
            self.tell(flow)
        self._forget(flow)
        self._refuse(flow.number, Refusal.CLOSED, flow.given.received)

    def tell(self, flow: Incoming) -> None:
        """Tell the sender how the credit of `flow` stands."""
        given = flow.given
        flow.told = given.lost
        raises = flow.mailbox is not None and flow.mailbox.full == "error"
        self.session.post_control(
            mail.encode_credit(
                flow.number,
                given.messages,
                given.bytes,
                given.lost,
                self._board.limits.max_message,
                Mode.RAISE if raises else Mode.WAIT,
            )
        )

    def report(self, name: str, reason: str) -> None:
        """A message for `name` was lost. Both sides are told of it soon."""
        if self._losses is None:
            self._losses = Losses(self._report)
        self._losses.add(name, reason)

    def _report(self, lost: dict[tuple[str, str], int]) -> None:
        for (name, reason), count in lost.items():
            self._board.dropped(self.session.peer, name, count, reason, sent=False)
        for flow in self._incoming.values():
            if flow.given.lost != flow.told:
                self.tell(flow)

    def ended(self) -> None:
        """The link is over: everybody who waits for something on it is told."""
        for flow in list(self._incoming.values()):
            self._forget(flow)
        if self._losses is not None:
            self._losses.close()
        for out in self._outgoing.values():
            out.granted.messages = 0
            out.line.poke()
        self.room_line.poke()
        pending, self.pending = self.pending, {}
        for waiting in pending.values():
            waiting.fail(SessionClosed(self.session.peer, self.session.reason or ""))
        for number in list(self.running):
            self._board.desk.cancel(self, number)
        self._assembly = None

    def _flow_in(self, number: int) -> Incoming | None:
        """The flow `number`; None for one that has ended."""
        flow = self._incoming.get(number)
        if flow is None and number > self._opened:
            raise BadFrame("a frame on a flow that was never opened")
        return flow

    def _forget(self, flow: Incoming) -> None:
        self._incoming.pop(flow.number, None)
        flow.end()

    def _refuse(self, number: int, why: Refusal, received: int) -> None:
        self.session.post_control(mail.encode_refuse(number, why, received))
