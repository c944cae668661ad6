"""One peer that does everything by the book but for one thing, at one step: the script is (step, fault).

It speaks TLS itself, through memory, so that the bytes of TLS are in its hands as much as the messages.

A connection has these steps; at each the peer has one thing to say, and a fault is a way to say it wrongly:

    TLS hello    ClientHello, or all that a TLS server says
    TLS finish   the dialer's second flight; a server has none
    hello        NAME or CHALLENGE
    proof        REPLY or ACK
    frame        a PING, once the link stands

The faults are the functions under `FAULTS`, each with its meaning in a sentence. After a fault that leaves the
connection usable the peer goes on as if nothing had happened, and on a link that stands it answers pings.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import functools
import hashlib
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import gevent.socket
import gevent.ssl

from snowgreen.link import tls
from snowgreen.protocol import messages
from snowgreen.protocol.frames import FrameTag, encode_ping, encode_pong
from snowgreen.protocol.handshake import Acceptor, Identity, Initiator, Proved
from snowgreen.protocol.keys import Secrets
from snowgreen.protocol.messages import Ack, Challenge, ChallengeExt, Name, NameExt, Reply
from snowgreen.protocol.wire import pack
from tests import raw

INCARNATION = 1 << 40
#: Above what a handshake message, a frame under test and a TLS record may have.
TOO_LONG, TOO_LONG_RECORD = (1 << 24) + 1, b"\x16\x03\x03\xff\xff"


class Step(enum.Enum):
    """Where in a connection."""

    TLS_HELLO = "TLS hello"
    TLS_FINISH = "TLS finish"
    HELLO = "hello"
    PROOF = "proof"
    FRAME = "frame"

    @property
    def in_tls(self) -> bool:
        """Whether what is said here is TLS's own, not a message inside."""
        return self in (Step.TLS_HELLO, Step.TLS_FINISH)


class Over(Exception):
    """The peer has nothing more to do on this connection."""


Put = Callable[[bytes], None]


class Peer:
    """The peer on one connection.

    :param dials: whether it dialed, and so is the initiator and TLS's client.
    :param recorded: what an earlier peer `said`, for the replays.
    """

    def __init__(
        self,
        sock: gevent.socket.socket,
        name: str,
        *,
        dials: bool,
        context: ssl.SSLContext,
        fingerprint: bytes = b"",
        step: Step | None = None,
        fault: str | None = None,
        recorded: dict[Step, bytes] | None = None,
    ) -> None:
        self.sock = sock
        self.name = name
        self.dials = dials
        self.step = step
        self.fault = fault
        self.recorded = recorded or {}
        #: What it had to say at each step, said or not.
        self.said: dict[Step, bytes] = {}
        #: Set by faults: nothing more is sent, nothing more is read.
        self.mute = False
        self.deaf = False
        #: Set once the link stands, as far as this side can tell.
        self.linked = gevent.event.Event()
        self._fingerprint = fingerprint
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        side: dict[str, Any] = {"server_hostname": tls.SNI} if dials else {"server_side": True}
        self._tls = context.wrap_bio(self._incoming, self._outgoing, **side)

    def run(self) -> None:
        """Play the script to the end of the connection."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(self.sock), contextlib.suppress(Over, OSError):
            self._secure()
            self._introduce()
            self._say(Step.FRAME, encode_ping(7))
            self.linked.set()
            while True:
                frame = self._message()
                if frame[:1] == bytes([FrameTag.PING]):
                    self.put(encode_pong(frame))

    # What the faults use.

    def put(self, data: bytes) -> None:
        """Send `data` through TLS."""
        self._tls.write(data)
        self.put_raw(self._outgoing.read())

    def put_raw(self, data: bytes) -> None:
        """Send `data` as it is."""
        if not self.mute:
            self.sock.sendall(data)

    def hang_up(self, *, orderly: bool) -> None:
        """Say that no more comes, to TLS too if `orderly`, and read on."""
        if orderly:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self.put_raw(self._outgoing.read())
        self.sock.shutdown(socket.SHUT_WR)

    def drain(self) -> None:
        """Read until the other end has closed."""
        while self.sock.recv(65536):
            pass
        raise Over

    # The script.

    def _say(self, step: Step, data: bytes) -> None:
        self.said[step] = data
        put = self.put_raw if step.in_tls else self.put
        if step is self.step and self.fault is not None:
            FAULTS[self.fault](self, step, data, put)
        else:
            put(data)

    def _secure(self) -> None:
        steps = [Step.TLS_HELLO, Step.TLS_FINISH]
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                self.put_raw(self._outgoing.read())  # the alert
                raise
            said = self._outgoing.read()
            if said:
                self._say(steps.pop(0), said)
            if done:
                return
            self._fill()

    def _introduce(self) -> None:
        if self.dials:
            certificate = self._tls.getpeercert(True)
            assert certificate
            machine = Initiator(
                Identity(self.name, INCARNATION),
                Secrets((raw.keys(),), None),
                challenge=os.urandom(32),
                expected=None,
                acceptor_binding=hashlib.sha256(certificate).digest(),
            )
            self._say(Step.HELLO, machine.start().send)
            machine.feed(pack(self._message()))
            self._say(Step.PROOF, machine.prove().send)
            self._message()
        else:
            acceptor = Acceptor(
                Identity(self.name, INCARNATION),
                (raw.keys(),),
                challenge=os.urandom(32),
                binding=self._fingerprint,
            )
            self._say(Step.HELLO, acceptor.feed(pack(self._message())).send)
            step = acceptor.feed(pack(self._message()))
            if not isinstance(step, Proved):
                self.put(step.send)
                self.drain()
            self._say(Step.PROOF, acceptor.accept().send)

    def _message(self) -> bytes:
        (size,) = struct.unpack("<I", self._exactly(4))
        message = self._exactly(size)
        if message[:1] == b"\x05":
            self.drain()  # a REJECT: nothing follows it
        return message

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                chunk = self._tls.read(count - len(data))
            except ssl.SSLWantReadError:
                self._fill()
                continue
            if not chunk:
                raise Over
            data += chunk
        return data

    def _fill(self) -> None:
        if self.deaf:
            gevent.event.Event().wait()  # until the test ends this greenlet
        data = self.sock.recv(65536)
        if not data:
            raise Over
        self._incoming.write(data)


# The faults: each says `data`, which is due at `step`, in its own way.


def drop(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Does not say it, and waits for the answer."""


def duplicate(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says it twice."""
    put(data + data)


def reorder(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says what comes next before it; of a flight of TLS, the second half before the first."""
    if step.in_tls:
        put(data[len(data) // 2 :] + data[: len(data) // 2])
    else:
        put(_AFTER[step, peer.dials] + data)


def truncate(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says half of it and closes in due form."""
    put(data[: len(data) // 2])
    peer.hang_up(orderly=not step.in_tls)
    peer.drain()


def stall(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says half of it and then nothing more, while it reads on."""
    put(data[: len(data) // 2])
    peer.mute = True


def oversize(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Announces more than is allowed, and begins to send it."""
    put((TOO_LONG_RECORD if step.in_tls else struct.pack("<I", TOO_LONG)) + bytes(1000))


def drip(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says it byte by byte, each in a packet, and in a TLS record, of its own."""
    for at in range(len(data)):
        put(data[at : at + 1])
        gevent.idle()  # the other end has read it


def replay(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says what was said at this step on an earlier connection."""
    put(peer.recorded[step])


def wrong_role(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says what the other role would say at this step."""
    put(_flights()[not peer.dials] if step.in_tls else _OTHERS[step, peer.dials])


def stop_reading(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says it, and reads nothing from then on."""
    put(data)
    peer.deaf = True


def half_close(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Says it, shuts its sending side without a word of TLS, and reads on."""
    put(data)
    peer.hang_up(orderly=False)


def reset(peer: Peer, step: Step, data: bytes, put: Put) -> None:
    """Resets the connection instead."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Over


FAULTS: dict[str, Callable[[Peer, Step, bytes, Put], None]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        drop,
        duplicate,
        reorder,
        truncate,
        stall,
        oversize,
        drip,
        replay,
        wrong_role,
        stop_reading,
        half_close,
        reset,
    )
}

_NAME = pack(messages.encode_name(Name("raw@127.0.0.1:0", 1, NameExt(1, 0, INCARNATION, 1, 1))))
_CHALLENGE = pack(
    messages.encode_challenge(Challenge("raw@127.0.0.1:0", 1, bytes(32), ChallengeExt(1, 0, INCARNATION)))
)
_REPLY = pack(messages.encode_reply(Reply(bytes(32), bytes(32))))
_ACK = pack(messages.encode_ack(Ack(bytes(32))))
#: (step, whether the peer dials) → the message after the one that is due.
_AFTER = {
    (Step.HELLO, True): _REPLY,
    (Step.HELLO, False): _ACK,
    (Step.PROOF, True): encode_ping(1),
    (Step.PROOF, False): encode_ping(1),
    (Step.FRAME, True): encode_pong(encode_ping(99)[4:]),
    (Step.FRAME, False): encode_pong(encode_ping(99)[4:]),
}
#: … → what the other role says there. Frames have no roles: a message of the handshake stands in.
_OTHERS = {
    (Step.HELLO, True): _CHALLENGE,
    (Step.HELLO, False): _NAME,
    (Step.PROOF, True): _ACK,
    (Step.PROOF, False): _REPLY,
    (Step.FRAME, True): _ACK,
    (Step.FRAME, False): _REPLY,
}


# TLS of the peer's own: it must not depend on how a node makes its contexts.


def server_context(pem: bytes, kind: type[ssl.SSLContext] = gevent.ssl.SSLContext) -> Any:
    """A server's context that presents what is in `pem`, a certificate and a key."""
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([tls.ALPN])
    context.num_tickets = 0
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


@functools.cache
def client_context() -> ssl.SSLContext:
    """A client's context that validates nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([tls.ALPN])
    return context


@functools.cache
def certificate() -> tls.Certificate:
    """The certificate of the peers that are dialed: one for all of them."""
    return tls.ephemeral_certificate(datetime.datetime.now(datetime.UTC))


@functools.cache
def own_server_context() -> ssl.SSLContext:
    """The context around it."""
    context = server_context(certificate().pem, ssl.SSLContext)
    assert isinstance(context, ssl.SSLContext)
    return context


@functools.cache
def _flights() -> dict[bool, bytes]:
    """The first flight of a TLS client (True) and of a server, from a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(to_client, to_server, server_hostname=tls.SNI)
    server = own_server_context().wrap_bio(to_server, to_client, server_side=True)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = to_server.read()
    to_server.write(hello)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    return {True: hello, False: to_client.read()}


# A peer for a node to meet.


@contextlib.contextmanager
def dialing(address: str, name: str, **script: Any) -> Iterator[Peer]:
    """A peer that has dialed the node at `address` and plays its script beside the block."""
    sock = gevent.socket.create_connection(raw.split(address))
    peer = Peer(sock, name, dials=True, context=client_context(), **script)
    player = gevent.spawn(peer.run)
    try:
        yield peer
    finally:
        player.kill()
        sock.close()


@contextlib.contextmanager
def listening(rehearsals: int = 0, **script: Any) -> Iterator[tuple[str, list[Peer]]]:
    """The name of a peer to dial, and the peer on each connection so far.

    On the first `rehearsals` connections it does everything by the book; what it says there is what it replays.
    """
    peers: list[Peer] = []

    def play(server: raw.RawServer, sock: gevent.socket.socket) -> None:
        by_the_book = len(peers) < rehearsals
        peer = Peer(
            sock,
            server.name(),
            dials=False,
            context=own_server_context(),
            fingerprint=certificate().fingerprint,
            recorded=peers[0].said if peers else None,
            **({} if by_the_book else script),
        )
        peers.append(peer)
        peer.run()

    with raw.server(play, plain=True) as server:
        yield server.name(), peers
