"""What a handshake machine can be, do and say: its states, its table, and the steps it returns.

`TRANSITIONS` is the whole of what may follow what; the diagram in ``docs/protocol.md`` is drawn from it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from .keys import LinkKeys
from .messages import Tag
from .wire import Decoder


class Form(enum.StrEnum):
    """How the two sides proved the cookie."""

    BOUND = "bound"
    CLASSIC = "classic"


class State(enum.Enum):
    """Where a machine stands."""

    START = "start"
    AWAIT_CHALLENGE = "awaiting CHALLENGE"
    CHALLENGED = "challenged"
    AWAIT_ACK = "awaiting ACK"
    AWAIT_NAME = "awaiting NAME"
    AWAIT_REPLY = "awaiting REPLY"
    PROVED = "proved"
    ESTABLISHED = "established"
    REFUSED = "refused"

    __hash__ = object.__hash__  # Python's own is slow, and each message is looked up in the table


class Move(enum.Enum):
    """What a machine does at its owner's word."""

    SEND_NAME = "send NAME"
    SEND_REPLY = "send REPLY"
    WITHDRAW = "withdraw"
    SEND_ACK = "send ACK"
    SEND_REJECT = "send REJECT"

    __hash__ = object.__hash__  # as above


#: (state, message received or move made) → the next state. What is not here is out of order and
#: refused, as is the end of the stream in any state that awaits something.
TRANSITIONS: dict[str, dict[tuple[State, Tag | Move], State]] = {
    "initiator": {
        (State.START, Move.SEND_NAME): State.AWAIT_CHALLENGE,
        (State.AWAIT_CHALLENGE, Tag.CHALLENGE): State.CHALLENGED,
        (State.AWAIT_CHALLENGE, Tag.REJECT): State.REFUSED,
        (State.CHALLENGED, Move.SEND_REPLY): State.AWAIT_ACK,
        (State.CHALLENGED, Move.WITHDRAW): State.REFUSED,
        (State.AWAIT_ACK, Tag.ACK): State.ESTABLISHED,
        (State.AWAIT_ACK, Tag.REJECT): State.REFUSED,
    },
    "acceptor": {
        (State.AWAIT_NAME, Tag.NAME): State.AWAIT_REPLY,
        (State.AWAIT_REPLY, Tag.REPLY): State.PROVED,
        (State.AWAIT_REPLY, Tag.REJECT): State.REFUSED,
        (State.PROVED, Move.SEND_ACK): State.ESTABLISHED,
        (State.PROVED, Move.SEND_REJECT): State.REFUSED,
    },
}


class Cause(enum.Enum):
    """Why a handshake was refused."""

    MALFORMED = "a message broke the protocol"
    CLOSED = "the peer closed the connection"
    AUTHENTICATION = "the cookie was not proved"
    POLICY = "the form of handshake is not allowed"
    MISMATCH = "another node answered"
    CERTIFICATE = "the certificate is for another name"
    SELF = "the peer is this node itself"
    DECLINED = "the peer, authenticated, declined"
    BUSY = "the peer is busy"
    WITHDRAWN = "we declined"


class Identity(NamedTuple):
    """What a node says of itself in every handshake."""

    name: str
    incarnation: int
    creation: int = 1
    capabilities: int = 0


class Peer(NamedTuple):
    """What the other side said of itself. Claims, until the step that carries them says otherwise."""

    name: str
    creation: int
    form: Form
    #: None in the classic form, as are `epoch` and `attempt`; those two come with NAME only.
    incarnation: int | None = None
    capabilities: int = 0
    epoch: int | None = None
    attempt: int | None = None


class Continue(NamedTuple):
    """Send `send`, then feed what comes."""

    send: bytes


class Challenged(NamedTuple):
    """The initiator's stop: answer with :meth:`Initiator.prove` or :meth:`Initiator.withdraw`. Unproved."""

    peer: Peer
    send: bytes = b""


class Proved(NamedTuple):
    """The acceptor's stop: the peer knows the cookie. Answer with `accept` or `reject`."""

    peer: Peer
    send: bytes


class Established(NamedTuple):
    """Both sides have proved the cookie. `decoder` holds what arrived behind the last message."""

    peer: Peer
    decoder: Decoder
    #: Which of the accepted keys it was, 0 for the primary; None in the classic form.
    key_index: int | None
    send: bytes
    #: That key itself, None in the classic form.
    key: LinkKeys | None


class Refused(NamedTuple):
    """No link comes of it. `send`, if any, is the REJECT for the peer, then close."""

    cause: Cause
    problem: str
    send: bytes = b""
    #: The REJECT code received or sent, if any.
    code: int | None = None


Step: TypeAlias = Continue | Challenged | Proved | Established | Refused


class OutOfTurn(RuntimeError):
    """The machine's owner called a method that its state does not allow: a bug on this side."""
