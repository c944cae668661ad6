"""What both roles of the handshake share: the decoder, the table of transitions, and the ways to refuse."""

from __future__ import annotations

from . import messages
from .messages import Malformed, Reject, RejectCode, Tag
from .steps import TRANSITIONS, Cause, Continue, Identity, Move, OutOfTurn, Refused, State, Step
from .wire import Decoder, TooLong, pack


class Machine:
    """What both roles share: the decoder, the table, and the ways to refuse."""

    role: str
    state: State

    def __init__(self, identity: Identity, limit: int) -> None:
        self.identity = identity
        self._decoder = Decoder(limit)
        #: What the peer says its name is, as soon as it said so.
        self.claimed: str | None = None
        self._name_payload = b""
        self._challenge_payload = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}>"

    @property
    def finished(self) -> bool:
        """Whether the machine has come to its end, one way or the other."""
        return self.state in (State.ESTABLISHED, State.REFUSED)

    def feed(self, data: bytes) -> Step:
        """Take what arrived; say what follows. Empty `data` looks at what is already here."""
        if self.finished:
            raise OutOfTurn(f"{self!r} takes no more data")
        send = b""
        while True:
            try:
                payload = self._decoder.feed_one(data)
            except TooLong as error:
                return self._refuse(
                    Cause.MALFORMED, f"a message is too long: {error}", RejectCode.MALFORMED, send
                )
            data = b""
            if payload is None:
                return Continue(send)
            step = self._receive(payload)
            if send:
                step = step._replace(send=send + step.send)
            if not isinstance(step, Continue) or not self._decoder.mid_message:
                return step
            send = step.send

    def end_of_stream(self) -> Refused:
        """The peer closed. Whatever it was in the middle of, this handshake is over."""
        if self.finished:
            raise OutOfTurn(f"{self!r} has ended already")
        where = "in the middle of a message" if self._decoder.mid_message else f"while {self.state.value}"
        if self.state is State.AWAIT_REPLY:
            where += "; an initiator does so if it dialed another name, or has a link already"
        return self._refuse(Cause.CLOSED, f"the peer closed the connection {where}")

    def _receive(self, payload: bytes) -> Step:
        try:
            tag = messages.tag_of(payload)
            if (self.state, tag) not in TRANSITIONS[self.role]:
                raise Malformed(f"{tag.name} is out of order while {self.state.value}")
            if tag is Tag.REJECT:
                return self._rejected(messages.decode_reject(payload))
            return self._take(tag, payload)
        except messages.UnknownVersion as error:
            return self._refuse(Cause.MALFORMED, str(error), RejectCode.VERSION)
        except Malformed as error:
            return self._refuse(Cause.MALFORMED, str(error), RejectCode.MALFORMED)

    def _take(self, tag: Tag, payload: bytes) -> Step:
        raise NotImplementedError

    def _rejected(self, reject: Reject) -> Refused:
        return self._refused_by_hint(reject)

    def _move(self, event: Tag | Move) -> None:
        try:
            self.state = TRANSITIONS[self.role][self.state, event]
        except KeyError:
            raise OutOfTurn(f"{self!r} cannot {event.name}") from None

    def _refuse(
        self, cause: Cause, problem: str, code: RejectCode | None = None, send: bytes = b""
    ) -> Refused:
        self.state = State.REFUSED
        if code is not None:
            send += pack(messages.encode_reject(Reject(code, b"", None)))
        return Refused(cause, problem, send, code)

    def _refused_by_hint(self, reject: Reject) -> Refused:
        """A REJECT that carries no proof: good for a message, and for nothing else."""
        self.state = State.REFUSED
        try:
            code = RejectCode(reject.code)
        except ValueError:
            return Refused(
                Cause.MALFORMED, f"the peer refused with unknown code {reject.code}", b"", reject.code
            )
        if code.authenticated:
            return Refused(Cause.MALFORMED, f"the peer sent {code.name} without proving it", b"", code)
        cause, problem = _HINTS[code]
        return Refused(cause, problem, b"", code)


_HINTS = {
    RejectCode.MALFORMED: (Cause.MALFORMED, "the peer says that our message is malformed"),
    RejectCode.VERSION: (Cause.MALFORMED, "the peer says that it does not speak our version"),
    RejectCode.BOUND_REQUIRED: (
        Cause.POLICY,
        "the peer says that it allows the bound handshake only; "
        "if we offered that, something between us removed the offer",
    ),
    RejectCode.BUSY: (Cause.BUSY, "the peer says that it is busy; try again later"),
    RejectCode.AUTH_FAILED: (
        Cause.AUTHENTICATION,
        "the peer says that our proof of the cookie is wrong: the two nodes have different cookies "
        "(or something between them ends the TLS connection)",
    ),
}
