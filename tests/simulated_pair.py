"""An Initiator and an Acceptor wired together in memory, with no clock, thread or socket between them.

`run_pair` carries what one side sends to the other, cut as `chunks` says, changed as `tamper` says, until
both have come to an end; its `Outcome` holds what each side sent, received and concluded, so that a test
can compare the two views. Messages are cut out of the stream by this module's own few lines rather than
by the decoder under test.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from snowgreen.protocol.handshake import (
    Acceptor,
    Challenged,
    Established,
    Form,
    Identity,
    Initiator,
    Proved,
    Refused,
    Step,
)
from snowgreen.protocol.keys import LinkKeys, Secrets
from snowgreen.protocol.messages import Tag
from snowgreen.protocol.wire import MAX_FRAME

ALICE = Identity("alice@127.0.0.1:9001", 0x0198F3A1B2C30001, 1, 0b101)
BOB = Identity("bob@127.0.0.1:9002", 0x0198F3A1B2C40002, 1, 0b011)
#: Keys without the cost of scrypt: any 32 bytes are a master key.
KEYS = LinkKeys(bytes(range(32)))
OTHER_KEYS = LinkKeys(bytes(range(1, 33)))
CLASSIC_COOKIE = b"a classic cookie of its own"
CERTIFICATE = b"C" * 32
INITIATOR_CHALLENGE = b"i" * 32
ACCEPTOR_CHALLENGE = b"a" * 32

Chunks = Callable[[bytes], Iterable[bytes]]
Tamper = Callable[[Tag, bytes], bytes | None]


def whole(data: bytes) -> list[bytes]:
    """All in one piece."""
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    """Every byte by itself."""
    return [data[i : i + 1] for i in range(len(data))]


def in_pieces(sizes: Iterable[int]) -> Chunks:
    """Pieces of the given sizes, over and over; a size of 0 gives an empty piece."""
    pattern = list(sizes)
    assert sum(pattern) > 0

    def cut(data: bytes) -> Iterator[bytes]:
        at = turn = 0
        while at < len(data):
            size = pattern[turn % len(pattern)]
            yield data[at : at + size]
            at += size
            turn += 1

    return cut


def framed(payload: bytes) -> bytes:
    """`payload` behind its length."""
    return struct.pack("<I", len(payload)) + payload


def unframed(stream: bytes) -> list[bytes]:
    """The payloads of a stream that holds whole messages only."""
    payloads, at = [], 0
    while at < len(stream):
        (size,) = struct.unpack_from("<I", stream, at)
        payloads.append(stream[at + 4 : at + 4 + size])
        at += 4 + size
    assert at == len(stream), "the stream ends inside a message"
    return payloads


def make_initiator(
    identity: Identity = ALICE,
    *,
    bound: tuple[LinkKeys, ...] = (KEYS,),
    classic: bytes | None = None,
    expected: str | None = BOB.name,
    challenge: bytes = INITIATOR_CHALLENGE,
    acceptor_binding: bytes = CERTIFICATE,
    binding: bytes = b"",
    certified: str | None = None,
    epoch: int = 1,
    attempt: int = 1,
) -> Initiator:
    """An initiator that gets on with `make_acceptor()`, unless told otherwise."""
    return Initiator(
        identity,
        Secrets(bound, classic),
        challenge=challenge,
        expected=expected,
        epoch=epoch,
        attempt=attempt,
        acceptor_binding=acceptor_binding,
        binding=binding,
        certified=certified,
    )


def make_acceptor(
    identity: Identity = BOB,
    *,
    bound: tuple[LinkKeys, ...] = (KEYS,),
    classic: bytes | None = None,
    challenge: bytes = ACCEPTOR_CHALLENGE,
    binding: bytes = CERTIFICATE,
    initiator_binding: bytes = b"",
    certified: str | None = None,
) -> Acceptor:
    """An acceptor that gets on with `make_initiator()`, unless told otherwise."""
    return Acceptor(
        identity,
        bound,
        classic=None if classic is None else lambda name: classic,
        challenge=challenge,
        binding=binding,
        initiator_binding=initiator_binding,
        certified=certified,
    )


@dataclass
class Side:
    """One end: its machine, what it did, and what it concluded."""

    machine: Initiator | Acceptor
    inbox: deque[bytes] = field(default_factory=deque)
    closed_by_peer: bool = False
    #: Every step it took, in order.
    steps: list[Step] = field(default_factory=list)
    #: The payloads it sent, before any tampering, and those that reached it, after.
    sent: list[bytes] = field(default_factory=list)
    arrived: list[bytes] = field(default_factory=list)
    #: What came behind the handshake, as its decoder cut it.
    early: list[bytes] = field(default_factory=list)
    result: Established | Refused | None = None

    @property
    def established(self) -> bool:
        """Whether it believes that there is a link."""
        return isinstance(self.result, Established)

    def refused(self) -> Refused:
        """Its refusal; fails if it did not refuse."""
        assert isinstance(self.result, Refused), self.result
        return self.result


@dataclass
class Outcome:
    """What both sides saw."""

    initiator: Side
    acceptor: Side

    @property
    def linked(self) -> bool:
        """Whether both believe that there is a link."""
        return self.initiator.established and self.acceptor.established

    def check_agreement(self, form: Form = Form.BOUND) -> None:
        """Both are established, and each holds of the other what the other is."""
        for here, there in ((self.initiator, self.acceptor), (self.acceptor, self.initiator)):
            assert isinstance(here.result, Established), here.result
            peer, identity = here.result.peer, there.machine.identity
            assert peer.form is form
            assert (peer.name, peer.creation) == (identity.name, identity.creation)
            assert here.machine.claimed == identity.name
            if form is Form.BOUND:
                assert (peer.incarnation, peer.capabilities) == (identity.incarnation, identity.capabilities)
            else:
                assert (peer.incarnation, peer.capabilities) == (None, 0)
            counters = (None, None)
            if form is Form.BOUND and isinstance(there.machine, Initiator):
                counters = there.machine.epoch, there.machine.attempt
            assert (peer.epoch, peer.attempt) == counters
            assert here.sent == there.arrived, "nobody tampered, so what arrived is what was sent"
            assert here.machine.finished


def run_pair(
    initiator: Initiator,
    acceptor: Acceptor,
    *,
    chunks: Chunks = whole,
    tamper: Tamper | None = None,
    trailing: Mapping[Tag, bytes] | None = None,
    on_challenged: Callable[[Initiator], Step] = Initiator.prove,
    on_proved: Callable[[Acceptor], Step] = Acceptor.accept,
) -> Outcome:
    """Run the handshake to both sides' ends.

    :param chunks: how a stream is cut on its way.
    :param tamper: takes each message as (tag, payload) and gives what arrives instead, None for nothing.
    :param trailing: bytes that its sender sends right behind a message, by the message's tag.
    :param on_challenged: what the initiator's owner does at its stop; `on_proved` likewise.

    A side that refuses closes the connection behind what it sent; where nothing moves any more, both ends
    close.
    """
    sides = Side(initiator), Side(acceptor)

    def carry(here: Side, there: Side, step: Step) -> None:
        here.steps.append(step)
        stream = b""
        for payload in unframed(step.send):
            tag = Tag(payload[0])
            here.sent.append(payload)
            delivered = payload if tamper is None else tamper(tag, payload)
            if delivered is not None:
                there.arrived.append(delivered)
                stream += framed(delivered)
            stream += (trailing or {}).get(tag, b"")
        if stream:
            there.inbox.extend(chunks(stream))
        if isinstance(step, Challenged):
            carry(here, there, on_challenged(initiator))
        elif isinstance(step, Proved):
            carry(here, there, on_proved(acceptor))
        elif isinstance(step, Established | Refused):
            assert here.result is None
            here.result = step
            if isinstance(step, Established):
                step.decoder.limit = MAX_FRAME
                here.early += step.decoder.feed(b"")
            else:
                there.closed_by_peer = True

    def advance(here: Side, there: Side) -> bool:
        if isinstance(here.result, Refused):
            return False
        if here.inbox:
            chunk = here.inbox.popleft()
            if here.result is not None:
                here.early += here.result.decoder.feed(chunk)
            else:
                step = here.machine.feed(chunk)
                carry(here, there, step)
            return True
        if here.closed_by_peer and here.result is None:
            carry(here, there, here.machine.end_of_stream())
            return True
        return False

    first, second = sides
    carry(first, second, initiator.start())
    while True:
        while advance(second, first) or advance(first, second):
            pass
        if all(side.result is not None for side in sides):
            return Outcome(*sides)
        for side in sides:  # nothing moves: the network gives the connection up
            side.closed_by_peer = True
