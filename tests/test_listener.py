"""The accepting side against what may come to a port: each is told apart, and disturbs nobody else."""

from __future__ import annotations

import contextlib
import errno
import ssl
import struct
from typing import Any

import gevent
import gevent.socket
import pytest

import snowgreen
from snowgreen import ConnectionsRefused, HandshakeFailed, RejectCode
from snowgreen.link import listener, secured, tls
from snowgreen.protocol import messages
from snowgreen.protocol.messages import Ack, Name, NameExt, Reply
from snowgreen.protocol.wire import pack
from tests import raw
from tests.conftest import FAST, MakeNode
from tests.waiting import event_of, until

BOUND = NameExt(1, 0, 1 << 40, 1, 1)


@pytest.fixture
def watched(make_node: MakeNode) -> Any:
    """A node with a live link, and its events; the link must outlast whatever the test does."""
    node, friend = make_node(), make_node()
    session = friend.connect(node.name)
    until(lambda: friend.name in node.sessions, "registered")
    with node.subscribe() as events:
        yield node, events
        assert session.ping() > 0
        assert list(node.sessions) == [friend.name]


def rejected(sock: Any) -> int | None:
    """The code of the REJECT that comes next, None if the connection just ends."""
    message = raw.read_message(sock)
    return messages.decode_reject(message[4:]).code if message else None


def hello(name: str = "raw@127.0.0.1:0") -> bytes:
    """A good bound NAME."""
    return pack(messages.encode_name(Name(name, 1, BOUND)))


def named(name: bytes) -> bytes:
    """A NAME that carries any bytes as its name."""
    return pack(b"\x01" + struct.pack("<H", len(name)) + name + b"\x01")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"SSH-2.0-x\r\n"])
def test_plain_text_is_not_tls(watched: Any, sent: bytes) -> None:
    """A peer that does not speak TLS is named as such."""
    node, events = watched
    sock = gevent.socket.create_connection(raw.split(node.address))
    sock.sendall(sent)
    error = event_of(events, HandshakeFailed).error
    assert isinstance(error, snowgreen.NotTLSError)
    sock.close()


def test_tls_1_2_is_refused(watched: Any) -> None:
    """A peer that speaks nothing newer than TLS 1.2 is told apart from one without TLS."""
    node, events = watched
    with pytest.raises(ssl.SSLError):
        raw.client(node.address, version=ssl.TLSVersion.TLSv1_2)
    error = event_of(events, HandshakeFailed).error
    assert type(error) is snowgreen.TLSError
    assert "TLS 1.3" in str(error)


@pytest.mark.parametrize("alpn", [None, "h2"])
def test_a_missing_application_protocol_is_refused(watched: Any, alpn: str | None) -> None:
    """A TLS client that is no snowgreen node, a browser for one, gets no further than TLS."""
    node, events = watched
    try:
        sock = raw.client(node.address, alpn=alpn)
    except ssl.SSLError:
        sock = None  # OpenSSL may refuse it before we do
    error = event_of(events, HandshakeFailed).error
    assert type(error) is snowgreen.TLSError
    assert "snowgreen/1" in str(error)
    if sock is not None:
        sock.close()


@pytest.mark.parametrize(
    ("sent", "code", "text"),
    [
        (struct.pack("<I", 513), RejectCode.MALFORMED, "513 bytes where at most 512"),
        (b"\xff\xff\xff\xff", RejectCode.MALFORMED, "4294967295 bytes"),
        (pack(b""), RejectCode.MALFORMED, "an empty handshake message"),
        (pack(b"\x09"), RejectCode.MALFORMED, "unknown kind 9"),
        (pack(b"\x01"), RejectCode.MALFORMED, "truncated before its name"),
        (pack(b"\x01\xff\xff"), RejectCode.MALFORMED, "65535 bytes, at most 255"),
        (named(b"a@h")[:-1] + b"", None, "in the middle of a message"),
        (named(b"evil\r\nname@h"), RejectCode.MALFORMED, "no node name"),
        (named(b"no at sign"), RejectCode.MALFORMED, "no node name"),
        (named(b"\xff\xfe@h"), RejectCode.MALFORMED, "no node name"),
        (named(b"x" * 4000), RejectCode.MALFORMED, "where at most 512"),
        (named(b"raw@h"), RejectCode.BOUND_REQUIRED, "classic handshake only"),
        (
            pack(messages.encode_reply(Reply(bytes(32), bytes(32)))),
            RejectCode.MALFORMED,
            "REPLY is out of order",
        ),
        (pack(messages.encode_ack(Ack(bytes(32)))), RejectCode.MALFORMED, "ACK is out of order"),
        (pack(hello()[4:] + b"\0"), RejectCode.MALFORMED, "announces 22 bytes of extension and carries 23"),
    ],
)
def test_a_bad_first_message(watched: Any, sent: bytes, code: int | None, text: str) -> None:
    """Whatever is wrong with the first message is told to the peer by code and to us in words, escaped."""
    node, events = watched
    sock = raw.client(node.address)
    sock.sendall(sent)
    if code is None:
        sock.unwrap()
    else:
        assert rejected(sock) == code
    sock.close()
    failed = event_of(events, HandshakeFailed)
    assert text in str(failed)
    assert str(failed).isprintable()
    assert isinstance(failed.error, snowgreen.PolicyError if code == 3 else snowgreen.ProtocolError)
    assert failed.error.__cause__ is None


@pytest.mark.parametrize("second", [hello(), pack(messages.encode_ack(Ack(bytes(32)))), pack(bytes(65))])
def test_messages_out_of_order(watched: Any, second: bytes) -> None:
    """After NAME only REPLY may come."""
    node, events = watched
    sock = raw.client(node.address)
    sock.sendall(hello())
    assert raw.read_message(sock)[4] == 2
    sock.sendall(second)
    assert rejected(sock) == RejectCode.MALFORMED
    failed = event_of(events, HandshakeFailed)
    assert failed.claimed == "raw@127.0.0.1:0"
    assert isinstance(failed.error, snowgreen.ProtocolError)
    sock.close()


def test_a_wrong_proof(watched: Any) -> None:
    """A proof made without the cookie gets AUTH_FAILED, and nothing of this node beside it."""
    node, events = watched
    sock = raw.client(node.address)
    sock.sendall(hello())
    raw.read_message(sock)
    sock.sendall(pack(messages.encode_reply(Reply(bytes(32), bytes(32)))))
    assert rejected(sock) == RejectCode.AUTH_FAILED
    assert raw.read_exactly(sock, 1) == b""
    assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)
    sock.close()


@pytest.mark.parametrize("how", ["reset", "close", "unwrap"])
@pytest.mark.parametrize("stage", ["tcp", "tls", "name", "half a reply"])
def test_a_peer_that_goes_away_at_each_step(watched: Any, stage: str, how: str) -> None:
    """Gone before TLS, after TLS, after NAME, inside REPLY: each is one event, and nothing is left."""
    node, events = watched
    if stage == "tcp":
        sock = gevent.socket.create_connection(raw.split(node.address))
    else:
        sock = raw.client(node.address)
        if stage != "tls":
            sock.sendall(hello())
            raw.read_message(sock)
        if stage == "half a reply":
            sock.sendall(pack(bytes([3]) + bytes(64))[:30])
    if how == "reset":
        sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "unwrap" and stage != "tcp":
        sock.unwrap() if stage != "half a reply" else sock.shutdown(gevent.socket.SHUT_WR)
    sock.close()
    failed = event_of(events, HandshakeFailed)
    assert isinstance(failed.error, snowgreen.TLSError if stage == "tcp" else snowgreen.ProtocolError)
    assert failed.address == failed.address.strip()
    assert not failed.initiated


@pytest.mark.parametrize("stage", ["tcp", "tls", "name"])
def test_a_dripping_peer_runs_into_the_total_deadline(make_node: MakeNode, stage: str) -> None:
    """A peer that sends a byte now and again never starts the clock anew: one total deadline ends it."""
    node = make_node(
        config=snowgreen.Config(limits=snowgreen.Limits(tls_timeout=0.15, handshake_timeout=0.3))
    )
    with node.subscribe() as events:
        if stage == "tcp":
            sock = gevent.socket.create_connection(raw.split(node.address))
            drip = iter(b"\x16\x03\x01\x02\x00\x01" + bytes(1000))
        else:
            sock = raw.client(node.address)
            drip = iter(pack(hello()[4:] + bytes(400)) if stage == "name" else b"")
        failed = None
        while failed is None:
            with contextlib.suppress(OSError, StopIteration):
                sock.send(bytes([next(drip)]))
            failed = events.get(0.02)
    assert isinstance(failed, HandshakeFailed)
    expected = (
        "the TLS handshake took longer than 0.15 s"
        if stage == "tcp"
        else "the handshake took longer than 0.3 s"
    )
    assert isinstance(failed.error, snowgreen.LinkTimeout)
    assert expected in str(failed)
    sock.close()


def test_silent_connections_do_not_stop_a_good_one(make_node: MakeNode) -> None:
    """Handshakes run beside each other: fifty peers that say nothing delay nobody."""
    node, friend = make_node(), make_node()
    silent = [gevent.socket.create_connection(raw.split(node.address)) for _ in range(50)]
    assert friend.connect(node.name, timeout=2).ping() > 0
    for sock in silent:
        sock.close()


def test_a_bound_acceptor_says_so_to_a_classic_peer(watched: Any) -> None:
    """BOUND_REQUIRED comes before any challenge: a classic peer gets nothing to compute a proof over."""
    node, _ = watched
    sock = raw.client(node.address)
    sock.sendall(pack(messages.encode_name(Name("raw@127.0.0.1:0", 1, None))))
    assert rejected(sock) == RejectCode.BOUND_REQUIRED
    sock.close()


def test_the_acceptor_does_not_tell_which_classic_names_it_knows(make_node: MakeNode) -> None:
    """A configured name and any other get the same kind of answer, up to the failing proof."""
    node = make_node(classic={"snow@127.0.0.1:9000": "the snow cookie itself"})
    answers = []
    for name in ("snow@127.0.0.1:9000", "stranger@127.0.0.1:9000"):
        sock = raw.client(node.address, alpn=None)
        sock.sendall(pack(messages.encode_name(Name(name, 1, None))))
        challenge = raw.read_message(sock)
        sock.sendall(pack(messages.encode_reply(Reply(bytes(32), bytes(32)))))
        answers.append((len(challenge), challenge[4], challenge[-8:], rejected(sock)))
        sock.close()
    assert answers[0] == answers[1]
    assert answers[0][2:] == (messages.DOWNGRADE_MARK, RejectCode.AUTH_FAILED)


def test_a_stolen_name_cannot_be_our_own(make_node: MakeNode) -> None:
    """A peer that knows the cookie and calls itself by our name is declined, once it has proved the cookie."""
    node = make_node()
    with node.subscribe() as events:
        sock = raw.client(node.address)
        machine = raw.initiator(sock, node.name)
        sock.sendall(machine.start().send)
        # The raw machine would stop at its own name: what matters is what the node does.
        machine.identity = machine.identity._replace(name="somebody@127.0.0.1:0")
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.prove().send)
        refused = machine.feed(raw.read_message(sock))
        assert refused.code == RejectCode.SELF
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.SelfLinkError)
        sock.close()
    assert not node.sessions


def test_running_out_of_numbers_is_told(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all 65,535 session numbers taken, a newcomer hears BUSY and the dialer says why."""
    a, b = make_node(), make_node()
    monkeypatch.setattr(b._endpoint.table.ids, "take", lambda: None)
    with pytest.raises(snowgreen.Rejected) as caught:
        a.connect(b.name)
    assert caught.value.code == RejectCode.BUSY
    with pytest.raises(snowgreen.Rejected) as caught:
        b.connect(a.name)
    assert caught.value.code == RejectCode.BUSY
    assert not b.sessions
    until(lambda: not a.sessions, "what b did not keep is gone at a, too")


def test_connections_accepted_while_stopping_are_closed(make_node: MakeNode) -> None:
    """A handshake under way when the node stops ends with it."""
    node = make_node()
    sock = raw.client(node.address)
    until(lambda: node._listener.admission.pending, "it is being handled")
    node.stop()
    assert raw.read_exactly(sock, 1) == b""
    sock.close()


def test_the_certificate_is_fresh_and_names_nobody(make_node: MakeNode) -> None:
    """Each start makes a certificate of its own, P-256, whose subject tells nothing about the node."""
    seen = set()
    node = make_node(start=False)
    for _ in range(2):
        node.start()
        sock = raw.client(node.address)
        seen.add(tls.peer_fingerprint(sock))
        from cryptography import x509

        certificate = x509.load_der_x509_certificate(sock.getpeercert(True))
        assert certificate.subject.rfc4514_string() == "CN=snowgreen"
        assert certificate.public_key().curve.name == "secp256r1"
        assert sock.version() == "TLSv1.3"
        sock.close()
        node.stop()
    assert len(seen) == 2
    assert FAST.limits.tls_timeout == 2


def test_a_full_listener_pauses_and_the_oldest_makes_room(make_node: MakeNode) -> None:
    """With every place taken nothing is accepted; past its grace a silent one goes, and an honest peer gets in."""
    limits = snowgreen.Limits.trusted(pending=3, pending_grace=0.4)
    node, friend = make_node(config=snowgreen.Config(limits=limits)), make_node()
    with node.subscribe() as events:
        silent = [gevent.socket.create_connection(raw.split(node.address)) for _ in range(3)]
        until(lambda: node._listener.admission.pending == 3, "every place is taken")
        session = friend.connect(node.name, timeout=5)
        assert session.ping() > 0
        failed = event_of(events, HandshakeFailed)
        assert "made room" in str(failed)
        assert node._listener.admission.pending <= 3
    assert silent[0].recv(1) == b""  # the oldest went, and it alone
    for sock in silent:
        sock.close()


def test_a_paused_listener_goes_on_when_a_place_is_free(make_node: MakeNode) -> None:
    """The pause ends with its cause, without anybody being thrown out."""
    limits = snowgreen.Limits.trusted(pending=2, pending_grace=60)
    node, friend = make_node(config=snowgreen.Config(limits=limits)), make_node()
    silent = [gevent.socket.create_connection(raw.split(node.address)) for _ in range(2)]
    until(lambda: node._listener.admission.pending == 2, "every place is taken")
    waiting = gevent.spawn(friend.connect, node.name)
    until(lambda: node._listener._watcher is None, "nothing is accepted")
    assert not waiting.ready()
    silent[0].close()
    assert waiting.get(timeout=5).ping() > 0
    silent[1].close()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"pending_per_source": 2}, "its share"),
        ({"connections_per_second": 0.01, "connections_burst": 2}, "too often"),
    ],
)
def test_what_is_refused_at_the_door_is_told_and_costs_no_greenlet(
    make_node: MakeNode, limits: dict[str, Any], reason: str
) -> None:
    """A source past its share or its pace is closed without a word; an event says how many, and why."""
    node = make_node(config=snowgreen.Config(limits=snowgreen.Limits.trusted(**limits)))
    with node.subscribe() as events:
        socks = [gevent.socket.create_connection(raw.split(node.address)) for _ in range(5)]
        refused = event_of(events, ConnectionsRefused)
        assert reason in refused.reason
        until(lambda: [raw.read_exactly(sock, 1) for sock in socks[2:]] == [b""] * 3, "three were closed")
        assert node._listener.admission.pending == 2
        assert len(node._listener._handlers) == 2
    for sock in socks:
        sock.close()


def test_without_a_descriptor_it_waits_for_one(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE on accept is told once, prints no traceback, and is over when descriptors are there again."""
    node, friend = make_node(), make_node()
    fails = [OSError(errno.EMFILE, "Too many open files")] * 3

    def scarce(listening: Any) -> Any:
        if fails and listening is node._listener.socket:
            raise fails.pop()
        return secured.accept(listening)

    monkeypatch.setattr(listener, "accept", scarce)
    with node.subscribe() as events:
        assert friend.connect(node.name, timeout=5).ping() > 0
        assert "no descriptor left" in event_of(events, ConnectionsRefused).reason
    assert not fails


def test_a_guesser_is_slowed_and_an_honest_neighbour_forgiven(make_node: MakeNode) -> None:
    """Wrong proofs use a source's pace up; a proof that holds, from the same address, restores it."""
    limits = snowgreen.Limits.trusted(connections_per_second=50, connections_burst=8)
    node, friend = make_node(config=snowgreen.Config(limits=limits)), make_node()
    guesser = make_node(cookie="one wrong cookie of many")
    refused = 0
    for _ in range(12):
        try:
            guesser.connect(node.name, timeout=2)
        except snowgreen.AuthenticationError:
            pass
        except snowgreen.TLSError:
            refused += 1
    assert refused
    (source,) = node._listener.admission._sources.values()
    assert source.failures >= 3

    def gets_in() -> bool:
        try:
            return friend.connect(node.name, timeout=2).ping() > 0
        except snowgreen.LinkError:
            return False

    until(gets_in, "the honest one gets in")
    until(lambda: source.failures == 0, "and its source is forgiven")


def test_a_handshake_ended_before_it_began_leaves_nothing(make_node: MakeNode) -> None:
    """A connection taken in, and ended in the same turn of the loop, is closed; its place is free at once."""
    node = make_node()
    listening = node._listener
    ended: list[int] = []
    handle = listening.handle

    def at_once(sock: Any, address: Any) -> None:
        handle(sock, address)
        (inbound,) = listening._handlers.values()
        inbound.end(gevent.GreenletExit())
        ended.append(listening.admission.pending)

    listening.handle = at_once
    sock = gevent.socket.create_connection(raw.split(node.address))
    assert raw.read_exactly(sock, 1) == b""
    assert (ended, listening._handlers) == ([0], {})
    sock.close()
    listening.handle = handle
    assert make_node().connect(node.name).ping() > 0


def test_a_bug_in_a_handshake_ends_its_connection_only(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An internal error is logged with its traceback; the connection is closed, and the next one gets in."""
    node, friend = make_node(), make_node()
    acceptor = node._endpoint.acceptor
    monkeypatch.setattr(node._endpoint, "acceptor", lambda *_: 1 / 0)
    with pytest.raises(snowgreen.LinkError):
        friend.connect(node.name)
    until(lambda: "internal error in a handshake" in caplog.text, "it is logged")
    assert "ZeroDivisionError" in caplog.text
    until(lambda: not node._listener._handlers, "nothing is left")
    monkeypatch.setattr(node._endpoint, "acceptor", acceptor)
    assert friend.connect(node.name).ping() > 0
