"""The attacks that the protocol was made against, kept: real nodes, real TLS, and Mallory between or beside them.

Mallory never has the cookie, except where a test says so. For each attack the tests say which error appears
on which side; where the classic form falls to it they show that, too, since it is why that form is opt-in.

The names: `alice` dials, `bob` is dialed, `snow` is a classic peer, `mallory` is who attacks.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp, RejectCode
from snowgreen.link import tls
from snowgreen.protocol import messages
from snowgreen.protocol.frames import Capability, Farewell, FrameTag, encode_goodbye, encode_pong
from snowgreen.protocol.handshake import Acceptor, Established, Identity, Initiator
from snowgreen.protocol.keys import Secrets
from snowgreen.protocol.messages import DOWNGRADE_MARK, Ack, Name, NameExt, Reject, Reply, Tag
from snowgreen.protocol.wire import pack
from tests import raw
from tests.conftest import MakeNode
from tests.misbehaving import server_context
from tests.waiting import event_of, until

CLASSIC = "a cookie for the snow side"
SNOW = "snow@127.0.0.1:9000"
BOUND = NameExt(1, 0, 1 << 40, 1, 1)

#: Takes who sent a message and its payload; gives what is passed on, None to pass nothing.
Change = Callable[[str, bytes], bytes | None]


def unchanged(_sender: str, payload: bytes) -> bytes:
    """A relay that only listens."""
    return payload


class Relay:
    """Mallory between two TLS connections, with a certificate of her own, reading and changing what passes."""

    def __init__(self, server: raw.RawServer, context: gevent.ssl.SSLContext, change: Change) -> None:
        self.server = server
        self.context = context
        self.change = change
        self.target = ""
        #: Who sent what, before any change.
        self.seen: list[tuple[str, bytes]] = []
        #: The connections passing through now, the initiator's end and the acceptor's.
        self.ends: dict[str, Any] = {}

    def sent(self, sender: str) -> list[bytes]:
        """The payloads of one side."""
        return [payload for who, payload in self.seen if who == sender]

    def run(self, sock: Any) -> None:
        """Relay one connection to its end."""
        with contextlib.ExitStack() as stack:
            victim = stack.enter_context(contextlib.closing(self.context.wrap_socket(sock, server_side=True)))
            target = stack.enter_context(contextlib.closing(raw.client(self.target)))
            self.ends = {"initiator": victim, "acceptor": target}
            back = gevent.spawn(self._pump, target, victim, "acceptor")
            stack.callback(back.kill)
            self._pump(victim, target, "initiator")
            back.join(2)

    def _pump(self, source: Any, sink: Any, sender: str) -> None:
        while message := raw.read_message(source):
            self.seen.append((sender, message[4:]))
            passed = self.change(sender, message[4:])
            if passed is not None:
                with contextlib.suppress(OSError):
                    sink.sendall(pack(passed))
        with contextlib.suppress(OSError):
            sink.shutdown(gevent.socket.SHUT_RDWR)


def own_context(node: snowgreen.Node) -> gevent.ssl.SSLContext:
    """What a node presents itself, key and all: the one thing that opens the bound form to a relay."""
    context: gevent.ssl.SSLContext = node._listener.server().context
    return context


@contextlib.contextmanager
def relaying(
    change: Change = unchanged, context: gevent.ssl.SSLContext | None = None
) -> Iterator[tuple[Relay, Any]]:
    """A relay, and where a node must announce itself to be dialed through it: pass both to :func:`behind`."""
    context = context or server_context(tls.ephemeral_certificate(datetime.datetime.now(datetime.UTC)).pem)
    relays: list[Relay] = []
    with raw.server(lambda _, sock: relays[0].run(sock), plain=True) as server:
        relays.append(Relay(server, context, change))
        yield relays[0], server


def behind(relay: Relay, make_node: MakeNode, name: str = "bob", **options: Any) -> snowgreen.Node:
    """A node whose name leads to the relay, which leads to it: Mallory owns the way there."""
    node = make_node(relay.server.name(name), listen="127.0.0.1:0", **options)
    relay.target = node.address
    return node


@contextlib.contextmanager
def forwarder(target: str) -> Iterator[raw.RawServer]:
    """TCP passed on untouched, TLS and all: what a redirected port, or a NAT, does."""

    def run(_: raw.RawServer, sock: Any) -> None:
        def pump(source: Any, sink: Any) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(gevent.socket.SHUT_WR)

        with contextlib.closing(gevent.socket.create_connection(raw.split(target))) as other:
            back = gevent.spawn(pump, other, sock)
            pump(sock, other)
            back.join(2)
            back.kill()

    with raw.server(run, plain=True) as server:
        yield server


class Snow:
    """A classic listener: it knows nothing of the bound form, and keeps the frames it was sent."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.linked: list[str] = []

    def run(self, server: raw.RawServer, sock: Any) -> None:
        """Answer one connection: the four messages, then pings."""
        machine = Acceptor(
            Identity(server.name("snow"), 0),
            (),
            classic=lambda _name: CLASSIC.encode(),
            challenge=os.urandom(32),
            binding=b"",
        )
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        machine.feed(raw.read_message(sock))
        established = machine.accept()
        sock.sendall(established.send)
        self.linked.append(established.peer.name)
        while message := raw.read_message(sock):
            self.frames.append(message[4:])
            if message[4] == FrameTag.PING:
                sock.sendall(encode_pong(message[4:]))


def snow_initiator(challenge: bytes = b"s" * 32) -> Initiator:
    """A classic dialer's machine."""
    return Initiator(
        Identity(SNOW, 0),
        Secrets((), CLASSIC.encode()),
        challenge=challenge,
        expected=None,
        acceptor_binding=b"",
    )


def failing(dial: Callable[[], Any], kind: type[snowgreen.LinkError]) -> snowgreen.LinkError:
    """The error with which `dial` fails; it must be of exactly this kind."""
    with pytest.raises(snowgreen.LinkError) as caught:
        dial()
    assert type(caught.value) is kind, repr(caught.value)
    return caught.value


def assert_unlinked(*nodes: snowgreen.Node) -> None:
    """Nobody linked with anybody, and nobody has anything under way."""
    for node in nodes:
        assert not node.sessions
        until(lambda node=node: not node._listener.admission.pending, "no handshake is left under way")


# A man in the middle


def test_a_relay_with_its_own_certificate_gets_no_bound_link(make_node: MakeNode) -> None:
    """The four messages passed on unchanged: AuthenticationError on both sides, both naming what may be the cause."""
    with relaying() as (relay, _):
        alice, bob = make_node("alice@127.0.0.1:0"), behind(relay, make_node)
        with bob.subscribe() as at_bob, alice.subscribe() as at_alice:
            error = failing(lambda: alice.connect(bob.name), snowgreen.AuthenticationError)
            failed = event_of(at_bob, HandshakeFailed)
            assert type(failed.error) is snowgreen.AuthenticationError
            assert failed.claimed == alice.name
            assert event_of(at_alice, HandshakeFailed).error is error
        assert "something between them ends the TLS connection" in str(error)
        assert "something between them ends the TLS connection" in str(failed)
        assert [payload[0] for payload in relay.sent("acceptor")] == [Tag.CHALLENGE, Tag.REJECT]
        assert [payload[0] for payload in relay.sent("initiator")] == [Tag.NAME, Tag.REPLY]
        assert_unlinked(alice, bob)


def test_it_is_the_certificate_that_stops_the_relay(make_node: MakeNode) -> None:
    """The same relay with the key of bob's own certificate is not noticed: the binding is all that stops it."""
    with relaying() as (relay, _):
        alice, bob = make_node("alice@127.0.0.1:0"), behind(relay, make_node)
        relay.context = own_context(bob)
        assert alice.connect(bob.name).ping() > 0
        assert FrameTag.PING in [payload[0] for payload in relay.sent("initiator")]
        alice.stop()


def test_a_relay_owns_a_classic_link_that_we_dial(make_node: MakeNode) -> None:
    """Why classic is opt-in: neither side sees an error, while Mallory reads pings and puts in frames of her own."""
    snow, kinds = Snow(), []

    def change(sender: str, payload: bytes) -> bytes:
        if sender == "initiator" and payload[0] == FrameTag.PING:
            relay.ends["acceptor"].sendall(pack(b"\x10" + bytes(8) + b"mallory was here"))
        kinds.append(payload[0])
        return payload

    with raw.server(snow.run) as target, relaying(change) as (relay, _):
        relay.target = str(target.address)
        alice = make_node("alice@127.0.0.1:0", classic={target.name("snow"): CLASSIC, "*": CLASSIC})
        session = alice.connect(str(relay.server.address))
        assert (session.form, session.peer) == ("classic", target.name("snow"))
        assert session.ping() > 0
        assert snow.linked == [alice.name]
        assert kinds[:4] == [Tag.NAME, Tag.CHALLENGE, Tag.REPLY, Tag.ACK]
        assert snow.frames[0].endswith(b"mallory was here")
        alice.stop()


def test_a_relay_owns_a_classic_link_that_dials_us(make_node: MakeNode) -> None:
    """The other way round it succeeds as well: bob's NodeUp shows snow, and Mallory answers its pings herself."""

    def change(sender: str, payload: bytes) -> bytes | None:
        if sender == "acceptor" and payload[0] == FrameTag.PING:
            relay.ends["acceptor"].sendall(encode_pong(payload))
            return None
        return payload

    with relaying(change) as (relay, _):
        bob = make_node("bob@127.0.0.1:0", classic={SNOW: CLASSIC})
        relay.target = bob.address
        with bob.subscribe() as events:
            sock = raw.client(str(relay.server.address))
            machine = snow_initiator()
            sock.sendall(machine.start().send)
            machine.feed(raw.read_message(sock))
            sock.sendall(machine.prove().send)
            assert isinstance(machine.feed(raw.read_message(sock)), Established)
            up = event_of(events, NodeUp)
            assert (up.peer, up.form) == (SNOW, "classic")
        assert bob.sessions[SNOW].ping() > 0
        sock.close()


@pytest.mark.parametrize(
    ("sender", "field"),
    [
        *[("initiator", field) for field in Name._fields[:1] + NameExt._fields[1:]],
        *[("acceptor", field) for field in ("name", "challenge", "capabilities", "incarnation")],
    ],
)
def test_a_changed_field_is_noticed_even_by_a_relay_with_the_certificate(
    make_node: MakeNode, sender: str, field: str
) -> None:
    """Whoever has bob's TLS key can pass messages on and change none: AuthenticationError on both sides."""

    def change(who: str, payload: bytes) -> bytes:
        if who != sender or payload[0] not in (Tag.NAME, Tag.CHALLENGE):
            return payload
        message: Any = messages.decode_name(payload) if payload[0] == Tag.NAME else None
        message = message or messages.decode_challenge(payload)
        if field in message._fields:
            old = getattr(message, field)
            changed = message._replace(**{field: "x" + old[1:] if field == "name" else bytes(32)})
        else:
            changed = message._replace(ext=message.ext._replace(**{field: getattr(message.ext, field) ^ 1}))
        encode: Any = messages.encode_name if payload[0] == Tag.NAME else messages.encode_challenge
        return bytes(encode(changed))

    with relaying(change) as (relay, _):
        alice, bob = make_node("alice@127.0.0.1:0"), behind(relay, make_node)
        relay.context = own_context(bob)
        with bob.subscribe() as events:
            if (sender, field) == ("acceptor", "name"):
                failing(lambda: alice.connect(bob.name), snowgreen.NameMismatch)
                assert type(event_of(events, HandshakeFailed).error) is snowgreen.ProtocolError
            else:
                failing(lambda: alice.connect(bob.name), snowgreen.AuthenticationError)
                assert type(event_of(events, HandshakeFailed).error) is snowgreen.AuthenticationError
        assert_unlinked(alice, bob)


# Reflection, and the initiator as an oracle


def twice_dialed(make_node: MakeNode, *, classic: bool) -> tuple[list[Any], snowgreen.Node]:
    """Alice dials Mallory under two names; Mallory has the second dial answer the first one's challenge."""
    reply_of: dict[str, Reply] = {}
    first, second = (gevent.event.AsyncResult() for _ in range(2))

    def script(server: raw.RawServer, sock: Any) -> None:
        ext = None if classic else messages.ChallengeExt(1, 0, 1 << 40)
        raw.read_message(sock)
        who = "one" if not first.ready() and "one" not in reply_of else "two"
        reply_of[who] = Reply(b"", b"")
        challenge = b"1" * 32 if who == "one" else first.get()
        name = server.name(who)
        sock.sendall(pack(messages.encode_challenge(messages.Challenge(name, 1, challenge, ext))))
        reply = messages.decode_reply(raw.read_message(sock)[4:])
        if who == "one":
            first.set(reply.challenge)
            sock.sendall(pack(messages.encode_ack(Ack(second.get(timeout=5)))))
        else:
            second.set(reply.proof)
        raw.read_message(sock)

    alice = make_node("alice@127.0.0.1:0", classic={"*": CLASSIC} if classic else None)
    outcome: list[Any] = []

    def dial(name: str) -> None:
        try:
            outcome.append(alice.connect(name, timeout=5))
        except snowgreen.LinkError as error:
            outcome.append(error)

    with raw.server(script) as mallory:
        one = gevent.spawn(dial, mallory.name("one"))
        until(first.ready, "the first dial has sent its proof")
        two = gevent.spawn(dial, mallory.name("two"))
        one.join()
        two.kill()
        alice.stop()
    return outcome, alice


def test_a_reflected_challenge_proves_nothing(make_node: MakeNode) -> None:
    """Alice's answer to her own challenge, from another of her dials, is no ACK: AuthenticationError at alice."""
    outcome, _ = twice_dialed(make_node, classic=False)
    assert [type(one) for one in outcome[:1]] == [snowgreen.AuthenticationError]


def test_a_reflected_challenge_links_a_classic_dialer_with_nobody(make_node: MakeNode) -> None:
    """In the classic form it is one: alice believes in a link with Mallory, who has no cookie. Nobody sees an error."""
    outcome, _ = twice_dialed(make_node, classic=True)
    assert isinstance(outcome[0], snowgreen.Session)
    assert (outcome[0].form, outcome[0].peer.partition("@")[0]) == ("classic", "one")


def as_oracle(make_node: MakeNode, target: str, *, classic: bool, claim: str | None) -> Any:
    """Alice dials Mallory, who hands her the challenge of `target` and brings her REPLY there.

    Returns what alice met, and the kind of message with which `target` answered, None if Mallory got no REPLY.
    """
    answers: list[int | None] = []

    def script(_: raw.RawServer, sock: Any) -> None:
        victims = messages.decode_name(raw.read_message(sock)[4:])
        name = victims._replace(name=claim or victims.name, ext=None if classic else victims.ext)
        with contextlib.closing(raw.client(target)) as other:
            other.sendall(pack(messages.encode_name(name)))
            sock.sendall(raw.read_message(other))
            reply = raw.read_message(sock)
            if reply[4:5] != bytes([Tag.REPLY]):
                answers.append(None)
                return
            other.sendall(reply)
            answers.append(raw.read_message(other)[4])

    node = make_node("alice@127.0.0.1:0", classic={"*": CLASSIC} if classic else None)
    with raw.server(script) as mallory:
        error = None
        try:
            node.connect(str(mallory.address))
        except snowgreen.LinkError as caught:
            error = caught
        until(lambda: answers, "Mallory had her answer")
        node.stop()
    return error, answers[0]


@pytest.mark.parametrize("claim", [None, "mallory@127.0.0.1:1"])
def test_an_initiator_is_no_oracle(make_node: MakeNode, claim: str | None) -> None:
    """A REPLY is worth nothing on another connection: AUTH_FAILED and AuthenticationError at bob, alice sees a close."""
    bob = make_node("bob@127.0.0.1:0")
    with bob.subscribe() as events:
        error, answer = as_oracle(make_node, bob.address, classic=False, claim=claim)
        assert answer == Tag.REJECT
        failed = event_of(events, HandshakeFailed)
        assert type(failed.error) is snowgreen.AuthenticationError
        assert type(error) is snowgreen.ProtocolError
    assert_unlinked(bob)


@pytest.mark.parametrize("claim", [None, "mallory@127.0.0.1:1"])
def test_a_classic_initiator_is_an_oracle(make_node: MakeNode, claim: str | None) -> None:
    """Whoever is dialed in the classic form opens any classic peer with the answer, under any name: no error there."""
    snow = Snow()
    with raw.server(snow.run) as target:
        _, answer = as_oracle(make_node, str(target.address), classic=True, claim=claim)
    assert answer == Tag.ACK
    assert snow.linked[0].partition("@")[0] == ("mallory" if claim else "alice")


def test_a_node_is_no_classic_oracle_against_a_node(make_node: MakeNode) -> None:
    """Between nodes that allow classic the mark in bob's challenge stops it: PolicyError at alice, no proof sent."""
    bob = make_node("bob@127.0.0.1:0", classic={"*": CLASSIC})
    with bob.subscribe() as events:
        error, answer = as_oracle(make_node, bob.address, classic=True, claim=None)
        assert answer is None
        assert type(error) is snowgreen.PolicyError
        assert "removed it" in str(error)
        assert type(event_of(events, HandshakeFailed).error) is snowgreen.ProtocolError
    assert_unlinked(bob)


# Replay


@pytest.mark.parametrize("classic", [False, True])
def test_a_replayed_initiator_proves_nothing(make_node: MakeNode, classic: bool) -> None:
    """NAME and REPLY of a link that stood, byte for byte on a new connection: AuthenticationError at bob, AUTH_FAILED."""
    bob = make_node("bob@127.0.0.1:0", classic={SNOW: CLASSIC} if classic else None)
    sock = raw.client(bob.address)
    machine = snow_initiator() if classic else raw.initiator(sock, SNOW)
    recorded = [machine.start().send]
    sock.sendall(recorded[0])
    machine.feed(raw.read_message(sock))
    recorded.append(machine.prove().send)
    sock.sendall(recorded[1])
    assert isinstance(machine.feed(raw.read_message(sock)), Established)
    sock.close()
    until(lambda: not bob.sessions, "the recorded link has ended")
    with bob.subscribe() as events, contextlib.closing(raw.client(bob.address)) as again:
        again.sendall(recorded[0])
        assert raw.read_message(again)[4] == Tag.CHALLENGE
        again.sendall(recorded[1])
        assert rejected(again) is RejectCode.AUTH_FAILED
        assert type(event_of(events, HandshakeFailed).error) is snowgreen.AuthenticationError
    assert_unlinked(bob)


@pytest.mark.parametrize("classic", [False, True])
def test_a_replayed_acceptor_proves_nothing(make_node: MakeNode, classic: bool) -> None:
    """CHALLENGE and ACK of a link that stood, sent to a new dial of the same peer: AuthenticationError at alice."""
    recorded: list[bytes] = []

    def script(server: raw.RawServer, sock: Any) -> None:
        name = raw.read_message(sock)
        if len(recorded) == 2:
            sock.sendall(recorded[0])
            raw.read_message(sock)
            sock.sendall(recorded[1])
            raw.read_message(sock)
            return
        machine = server.acceptor()
        if classic:
            machine = Acceptor(
                machine.identity, (), classic=lambda _: CLASSIC.encode(), challenge=b"s" * 32, binding=b""
            )
        recorded.append(machine.feed(name).send)
        sock.sendall(recorded[0])
        machine.feed(raw.read_message(sock))
        recorded.append(machine.accept().send)
        sock.sendall(recorded[1])

    with raw.server(script) as mallory:
        alice = make_node("alice@127.0.0.1:0", classic={mallory.name(): CLASSIC} if classic else None)
        session = alice.connect(mallory.name())
        until(lambda: session.closed, "the recorded link has ended")
        failing(lambda: alice.connect(mallory.name()), snowgreen.AuthenticationError)
        assert_unlinked(alice)


# Downgrade

#: What a node allows: only bound; classic for the other one; classic for anybody.
POLICIES = ("bound", "named", "any")


def strip(*senders: str, unmark: bool = False) -> Change:
    """Cut the bound extension out of what these senders say; perhaps the mark in a challenge, too."""

    def change(sender: str, payload: bytes) -> bytes:
        if payload[0] == Tag.NAME and sender in senders:
            return messages.encode_name(messages.decode_name(payload)._replace(ext=None))
        if payload[0] == Tag.CHALLENGE:
            message = messages.decode_challenge(payload)
            if sender in senders:
                message = message._replace(ext=None)
            if unmark and message.challenge.endswith(DOWNGRADE_MARK):
                message = message._replace(challenge=message.challenge[:-8] + bytes(8))
            return messages.encode_challenge(message)
        return payload

    return change


@pytest.mark.parametrize("acceptor", POLICIES)
@pytest.mark.parametrize("initiator", POLICIES)
@pytest.mark.parametrize("cut", ["NAME", "NAME and mark", "CHALLENGE"])
@pytest.mark.parametrize("owned", [False, True], ids=["own certificate", "stolen TLS key"])
def test_a_stripped_offer_ends_in_no_link(
    make_node: MakeNode, cut: str, initiator: str, acceptor: str, owned: bool
) -> None:
    """Two nodes that can do the bound form never link in the other, whatever they allow: the matrix is `expected`."""
    change = {
        "NAME": strip("initiator"),
        "NAME and mark": strip("initiator", unmark=True),
        "CHALLENGE": strip("acceptor"),
    }[cut]
    policy, authentication = snowgreen.PolicyError, snowgreen.AuthenticationError
    if cut != "CHALLENGE" and acceptor == "bound":
        expected = (policy, policy, "the peer says")  # bob refuses before any challenge
    elif initiator == "bound":
        expected = (policy, policy, "classic handshake only")  # alice refuses before any proof
    elif cut == "NAME":
        expected = (policy, policy, "removed it")  # alice sees bob's mark, and sends no proof
    else:
        expected = (
            authentication,
            authentication,
            "different cookies",
        )  # a classic proof over the wrong bytes
    with relaying(change) as (relay, _):

        def classic(kind: str, peer: str) -> dict[str, str] | None:
            return {"bound": None, "named": {peer: CLASSIC}, "any": {"*": CLASSIC}}[kind]

        name = relay.server.name("bob")
        alice = make_node("alice@127.0.0.1:0", classic=classic(initiator, name))
        bob = behind(relay, make_node, classic=classic(acceptor, alice.name))
        if owned:
            relay.context = own_context(bob)
        with bob.subscribe() as events:
            error = failing(lambda: alice.connect(bob.name), expected[0])
            assert type(event_of(events, HandshakeFailed).error) is expected[1]
        assert expected[2] in str(error)
        proofs = [payload for payload in relay.sent("initiator") if payload[0] == Tag.REPLY]
        assert bool(proofs) == (expected[0] is authentication)
        assert_unlinked(alice, bob)


# Certificates


def impostor(victim: bytes) -> gevent.ssl.SSLContext:
    """A context that presents the certificate `victim` (DER), and signs with a key that is not its own.

    OpenSSL compares the public half of a key with the certificate, and believes the file about it: so the
    file holds Mallory's private half and the victim's public one.
    """
    public = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    presented = x509.load_der_x509_certificate(victim)
    mallory = ec.generate_private_key(ec.SECP256R1())
    key = mallory.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).replace(mallory.public_key().public_bytes(*public), presented.public_key().public_bytes(*public))
    pem = presented.public_bytes(serialization.Encoding.PEM)
    pem += b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(key) + b"-----END EC PRIVATE KEY-----\n"
    return server_context(pem)


def certificate_of(node: snowgreen.Node) -> bytes:
    """The certificate that a node shows to anybody, in DER."""
    with node.subscribe() as events:
        with contextlib.closing(raw.client(node.address)) as sock:
            der = sock.getpeercert(True)
        event_of(events, HandshakeFailed)
    assert der
    return der


def test_the_victims_certificate_without_its_key_does_not_get_through_tls(make_node: MakeNode) -> None:
    """Mallory shows bob's own certificate: CertificateError at alice, before a message; bob sees nothing."""
    with relaying() as (relay, _):
        alice, bob = make_node("alice@127.0.0.1:0"), behind(relay, make_node)
        relay.context = impostor(certificate_of(bob))
        with alice.subscribe() as events:
            error = failing(lambda: alice.connect(bob.name), snowgreen.CertificateError)
            assert event_of(events, HandshakeFailed).error is error
        assert "does not have the key" in str(error)
        assert relay.seen == []
        assert_unlinked(alice, bob)


def test_a_certificate_that_looks_like_the_victims_is_another(make_node: MakeNode) -> None:
    """Same subject, serial number and dates around Mallory's key: AuthenticationError at both, as with any other."""
    with relaying() as (relay, _):
        alice, bob = make_node("alice@127.0.0.1:0"), behind(relay, make_node)
        theirs = x509.load_der_x509_certificate(certificate_of(bob))
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder(
            theirs.issuer, theirs.subject, key.public_key(), theirs.serial_number
        )
        builder = builder.not_valid_before(theirs.not_valid_before_utc)
        builder = builder.not_valid_after(theirs.not_valid_after_utc)
        for extension in theirs.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        pem += key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        relay.context = server_context(pem)
        with bob.subscribe() as events:
            failing(lambda: alice.connect(bob.name), snowgreen.AuthenticationError)
            assert type(event_of(events, HandshakeFailed).error) is snowgreen.AuthenticationError
        assert_unlinked(alice, bob)


# Who is there?


def rejected(sock: Any) -> RejectCode | None:
    """The code of the REJECT that comes next, None if the connection just ends."""
    message = raw.read_message(sock)
    return RejectCode(messages.decode_reject(message[4:]).code) if message else None


def everything_said_to(node: snowgreen.Node, hello: bytes, reply: bytes | None) -> tuple[Any, ...]:
    """All that a node answers to someone without the cookie; of its challenge, what is not random."""
    with contextlib.closing(raw.client(node.address)) as sock:
        sock.sendall(pack(hello))
        answer = raw.read_message(sock)
        if answer[4] == Tag.CHALLENGE:
            challenge = messages.decode_challenge(answer[4:]).challenge
            masked = bytes(24) + (challenge[24:] if challenge.endswith(DOWNGRADE_MARK) else bytes(8))
            answer = answer.replace(challenge, masked)
        if reply is not None:
            sock.sendall(pack(reply))
        return len(answer), answer, raw.read_message(sock), raw.read_exactly(sock, 1)


@pytest.mark.parametrize("form", ["bound", "classic"])
@pytest.mark.parametrize(
    "reply",
    [None, messages.encode_reply(Reply(bytes(32), bytes(32))), b"\x03", b"", b"\x09", b"\x01"],
    ids=["silence", "a wrong proof", "half a REPLY", "nothing", "an unknown kind", "a second NAME"],
)
def test_nobody_can_probe_who_is_known_or_linked(make_node: MakeNode, form: str, reply: bytes | None) -> None:
    """Linked, once linked, configured, unknown and bob's own names all hear the very same bytes until the proof."""
    seconds = 0.5 if reply is None else 10  # silence is heard out to the deadline
    config = snowgreen.Config(limits=snowgreen.Limits.trusted(handshake_timeout=seconds))
    classic = {SNOW: CLASSIC} if form == "classic" else None
    bob = make_node("bob@127.0.0.1:0", classic=classic, config=config)
    linked, gone = make_node("linked@127.0.0.1:0"), make_node("gone@127.0.0.1:0")
    session = linked.connect(bob.name)
    gone.connect(bob.name)
    gone.stop()
    until(lambda: list(bob.sessions) == [linked.name], "one link stands, the other has ended")
    ext = BOUND if form == "bound" else None
    names = [linked.name, gone.name, SNOW, bob.name, "unknown@127.0.0.1:1", "x@y"]
    answers = [everything_said_to(bob, messages.encode_name(Name(name, 1, ext)), reply) for name in names]
    assert answers[0][1][4] == Tag.CHALLENGE
    assert answers == [answers[0]] * len(names)
    assert session.ping() > 0
    assert bob.sessions[linked.name].ping() > 0


def test_nobody_who_is_dialed_by_address_can_probe_who_is_linked(make_node: MakeNode) -> None:
    """Mallory, dialed by address, claims a linked or an unknown name: both must get the same answer, a REPLY."""
    alice, linked = make_node("alice@127.0.0.1:0"), make_node("linked@127.0.0.1:0")
    alice.connect(linked.name)
    kinds: list[bytes] = []
    for claim in (linked.name, "unknown@127.0.0.1:1"):

        def script(_: raw.RawServer, sock: Any, claim: str = claim) -> None:
            raw.read_message(sock)
            ext = messages.ChallengeExt(1, 0, 1 << 40)
            sock.sendall(pack(messages.encode_challenge(messages.Challenge(claim, 1, bytes(32), ext))))
            kinds.append(raw.read_message(sock)[4:5])

        with raw.server(script) as mallory, contextlib.suppress(snowgreen.LinkError):
            alice.connect(str(mallory.address), timeout=2)
    alice.stop()
    assert kinds == [bytes([Tag.REPLY])] * 2


# Log injection

EVIL = [
    b"evil\r\nCRITICAL root: pwned@127.0.0.1:9000",
    b"\x1b[2J\x1b[31mevil@127.0.0.1:9000",
    b"\x9b31mevil@127.0.0.1:9000",
    b"evil\x00@127.0.0.1:9000",
    b"%s%n{0.__class__}@127.0.0.1:9000",
    "evil\u202egpj@127.0.0.1".encode(),
    b"e" * 4000,
    b"evil@" + b"h" * 240,
]


def assert_harmless(lines: list[str]) -> None:
    """Each is one short printable line, and holds nothing of what was sent."""
    assert lines
    for line in lines:
        assert line.isprintable(), ascii(line)
        assert line.isascii(), line
        assert len(line) < 400
        assert not any(word in line for word in ("evil", "pwned", "__class__", "eeee", "hhhh"))


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("name", EVIL, ids=lambda name: ascii(name[:12]))
def test_a_claimed_name_cannot_write_into_log_or_events(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture, name: bytes, classic: bool
) -> None:
    """Line breaks, terminal escapes, 4,000 bytes, as NAME and as CHALLENGE: ProtocolError, without a byte of it."""
    caplog.set_level(logging.DEBUG, "snowgreen")
    head = len(name).to_bytes(2, "little") + name + b"\x01"
    bob = make_node("bob@127.0.0.1:0", classic={"*": CLASSIC} if classic else None)

    def script(_: raw.RawServer, sock: Any) -> None:
        raw.read_message(sock)
        sock.sendall(pack(b"\x02" + head + bytes(32)))
        raw.read_message(sock)

    with bob.subscribe() as events:
        with contextlib.closing(raw.client(bob.address)) as sock:
            sock.sendall(pack(b"\x01" + head))
            assert rejected(sock) is RejectCode.MALFORMED
        failed = event_of(events, HandshakeFailed)
        with raw.server(script) as mallory:
            error = failing(lambda: bob.connect(mallory.name()), snowgreen.ProtocolError)
        dialed = event_of(events, HandshakeFailed)
    assert type(failed.error) is snowgreen.ProtocolError
    assert failed.claimed is None
    lines = [*map(str, (failed, failed.error, dialed, error)), repr(failed), repr(dialed)]
    assert_harmless(lines + [record.getMessage() for record in caplog.records])


def test_the_longest_name_is_cut_where_it_is_shown(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """A name of 255 good bytes whose owner cannot prove the cookie takes 80 characters of the log, not more."""
    name = "n" * 64 + "@" + ".".join(["h" * 62] * 3) + ".i"
    bob = make_node("bob@127.0.0.1:0")
    with bob.subscribe() as events, contextlib.closing(raw.client(bob.address)) as sock:
        sock.sendall(pack(messages.encode_name(Name(name, 1, BOUND))))
        raw.read_message(sock)
        sock.sendall(pack(messages.encode_reply(Reply(bytes(32), bytes(32)))))
        failed = event_of(events, HandshakeFailed)
    assert len(failed.claimed) <= 80
    assert "claims to be nnnn" in str(failed)
    assert all(len(record.getMessage()) < 500 for record in caplog.records)


@pytest.mark.parametrize("code", [*range(1, 6), 99, 255])
def test_the_detail_of_a_rejection_is_not_shown(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """What a stranger writes into REJECT reaches neither log nor error, on the dialing and the accepting side."""
    caplog.set_level(logging.DEBUG, "snowgreen")
    message = pack(messages.encode_reject(Reject(code, b"\r\nevil \x1b[31mpwned", None)))
    bob = make_node("bob@127.0.0.1:0")

    def script(_: raw.RawServer, sock: Any) -> None:
        raw.read_message(sock)
        sock.sendall(message)
        raw.read_message(sock)

    with bob.subscribe() as events:
        with contextlib.closing(raw.client(bob.address)) as sock:
            sock.sendall(pack(messages.encode_name(Name("raw@127.0.0.1:0", 1, BOUND))))
            raw.read_message(sock)
            sock.sendall(message)
            failed = event_of(events, HandshakeFailed)
        with raw.server(script) as mallory, pytest.raises(snowgreen.LinkError) as caught:
            bob.connect(mallory.name())
    lines = [str(failed), repr(failed), str(caught.value)]
    assert_harmless(lines + [record.getMessage() for record in caplog.records])


def test_a_members_goodbye_cannot_write_into_log_or_events(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """Even from a member the reason of a GOODBYE is escaped and cut, in NodeDown and in the log."""
    caplog.set_level(logging.DEBUG, "snowgreen")
    bob = make_node("bob@127.0.0.1:0")
    with bob.subscribe() as events:
        sock, _ = raw.link(bob.address, capabilities=int(Capability.GOODBYE))
        with contextlib.closing(sock):
            sock.sendall(encode_goodbye(Farewell.CLOSING, "\r\n\x1b[31mCRITICAL \u202e" + "x" * 250))
            down = event_of(events, NodeDown)
    assert "said goodbye" in down.reason
    for line in (str(down), down.reason, *(record.getMessage() for record in caplog.records)):
        assert line.isprintable(), ascii(line)
        assert len(line) < 400


# Oneself, and others in the place of others


@pytest.mark.parametrize("how", ["name", "address", "redirected name", "redirected address"])
def test_a_node_does_not_link_with_itself(make_node: MakeNode, how: str) -> None:
    """However it comes to its own port: SelfLinkError for the dialer; at its listener a close before any proof."""
    alice = make_node("alice@127.0.0.1:0")
    with forwarder(alice.address) as redirect, alice.subscribe() as events:
        target = {
            "name": alice.name,
            "address": alice.address,
            "redirected name": redirect.name("other"),
            "redirected address": str(redirect.address),
        }[how]
        failing(lambda: alice.connect(target), snowgreen.SelfLinkError)
        if how != "name":  # by its own name it does not even connect
            seen = [event_of(events, HandshakeFailed) for _ in range(2)]
            (inbound,) = [event for event in seen if not event.initiated]
            assert type(inbound.error) is snowgreen.ProtocolError
            assert "awaiting REPLY" in str(inbound)
        assert_unlinked(alice)


def test_a_redirected_dial_proves_nothing_to_another_node(make_node: MakeNode) -> None:
    """Alice dials bob, carol answers: NameMismatch at alice; carol sees a close where the proof would have come."""
    alice, carol = make_node("alice@127.0.0.1:0"), make_node("carol@127.0.0.1:0")
    with forwarder(carol.address) as redirect, carol.subscribe() as events:
        error = failing(lambda: alice.connect(redirect.name("bob")), snowgreen.NameMismatch)
        failed = event_of(events, HandshakeFailed)
    assert carol.name in str(error)
    assert type(failed.error) is snowgreen.ProtocolError
    assert "while awaiting REPLY; an initiator does so if it dialed another name" in str(failed)
    assert_unlinked(alice, carol)


@pytest.mark.parametrize("classic", [False, True])
def test_no_proof_is_sent_to_another_name(make_node: MakeNode, classic: bool) -> None:
    """Every byte that a stranger is sent who answers under a name that was not dialed: NAME, and the end."""
    said: list[bytes] = []

    def script(_: raw.RawServer, sock: Any) -> None:
        said.append(raw.read_message(sock))
        ext = None if classic else messages.ChallengeExt(1, 0, 1 << 40)
        answer = messages.Challenge("stranger@127.0.0.1:1", 1, bytes(32), ext)
        sock.sendall(pack(messages.encode_challenge(answer)))
        said.append(raw.read_exactly(sock, 1))

    alice = make_node("alice@127.0.0.1:0", classic={"*": CLASSIC} if classic else None)
    with raw.server(script) as mallory:
        failing(lambda: alice.connect(mallory.name()), snowgreen.NameMismatch)
        until(lambda: len(said) == 2, "the stranger saw the end")
    assert said[0][4] == Tag.NAME
    assert said[1] == b""


# REJECT


@pytest.mark.parametrize("mac", [None, b"m" * 32], ids=["no MAC", "a wrong MAC"])
@pytest.mark.parametrize("code", [code for code in RejectCode if code.authenticated])
@pytest.mark.parametrize("stage", [Tag.CHALLENGE, Tag.ACK])
def test_a_forged_rejection_is_not_acted_on(
    make_node: MakeNode, stage: Tag, code: RejectCode, mac: bytes | None
) -> None:
    """In place of CHALLENGE or ACK: ProtocolError at alice, who neither waits for bob nor dials again."""
    names: list[bytes] = []
    forged = messages.encode_reject(Reject(code, b"", mac))

    def change(sender: str, payload: bytes) -> bytes:
        if payload[0] == Tag.NAME:
            names.append(payload)
        return forged if sender == "acceptor" and payload[0] == stage else payload

    with relaying(change) as (relay, _):
        alice, bob = make_node("alice@127.0.0.1:0"), behind(relay, make_node)
        relay.context = own_context(bob)  # or the link would fail before there is an ACK
        with bob.subscribe() as events:
            error = failing(lambda: alice.connect(bob.name), snowgreen.ProtocolError)
            if stage is Tag.ACK:  # bob had registered the link, and sees it end
                assert event_of(events, NodeUp).peer == alice.name
                assert event_of(events, NodeDown).peer == alice.name
            else:
                assert type(event_of(events, HandshakeFailed).error) is snowgreen.ProtocolError
        assert f"{code.name} without proving it" in str(error)
        assert len(names) == 1
        assert_unlinked(alice)
        until(lambda: not bob.sessions, "bob has let the link go, too")


@pytest.mark.parametrize("code", [code for code in RejectCode if code.authenticated])
def test_an_initiator_cannot_reject_with_a_proof(make_node: MakeNode, code: RejectCode) -> None:
    """In place of REPLY: ProtocolError at bob, and the link it has with the claimed name stands."""
    bob, friend = make_node("bob@127.0.0.1:0"), make_node("friend@127.0.0.1:0")
    session = friend.connect(bob.name)
    with bob.subscribe() as events, contextlib.closing(raw.client(bob.address)) as sock:
        sock.sendall(pack(messages.encode_name(Name(friend.name, 1, BOUND))))
        raw.read_message(sock)
        sock.sendall(pack(messages.encode_reject(Reject(code, b"", b"m" * 32))))
        failed = event_of(events, HandshakeFailed)
    assert type(failed.error) is snowgreen.ProtocolError
    assert session.ping() > 0
    assert list(bob.sessions) == [friend.name]


# A member who lies


def test_a_member_can_take_another_members_name_and_it_shows(make_node: MakeNode) -> None:
    """Documented as possible, with the cookie: NodeDown "replaced" and NodeUp with another incarnation tell of it."""
    bob, carol = make_node("bob@127.0.0.1:0"), make_node("carol@127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        at_bob, at_carol = stack.enter_context(bob.subscribe()), stack.enter_context(carol.subscribe())
        carol.connect(bob.name)
        before = event_of(at_bob, NodeUp)
        sock, _ = raw.link(bob.address, carol.name, incarnation=carol.incarnation + (1 << 16))
        stack.callback(sock.close)
        down, up = event_of(at_bob, NodeDown), event_of(at_bob, NodeUp)
        assert (down.peer, down.incarnation) == (carol.name, carol.incarnation)
        assert down.reason == "replaced by a newer link with the same peer"
        assert (up.peer, up.incarnation) == (carol.name, carol.incarnation + (1 << 16))
        assert before.incarnation == carol.incarnation != up.incarnation
        assert event_of(at_carol, NodeDown).peer == bob.name


def test_a_member_with_an_older_incarnation_takes_no_name(make_node: MakeNode) -> None:
    """A lie that is not newer than the truth is declined (STALE_INCARNATION at the liar) and the link stands."""
    bob, carol = make_node("bob@127.0.0.1:0"), make_node("carol@127.0.0.1:0")
    session = carol.connect(bob.name)
    with bob.subscribe() as events, contextlib.closing(raw.client(bob.address)) as sock:
        machine = raw.initiator(sock, carol.name, incarnation=carol.incarnation - 1)
        sock.sendall(machine.start().send)
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.prove().send)
        assert machine.feed(raw.read_message(sock)).code == RejectCode.STALE_INCARNATION
        assert type(event_of(events, HandshakeFailed).error) is snowgreen.Rejected
    assert session.ping() > 0
    assert bob.sessions[carol.name].incarnation == carol.incarnation
