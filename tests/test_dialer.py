"""The dialing side against what may answer: each is told apart by its error, with its cause, and leaves nothing."""

from __future__ import annotations

import ssl
import struct
from typing import Any

import gevent
import gevent.event
import pytest

import snowgreen
from snowgreen import HandshakeFailed, RejectCode
from snowgreen.protocol import messages
from snowgreen.protocol.messages import Ack, Challenge, ChallengeExt, Name, Reject, Reply
from snowgreen.protocol.wire import pack
from tests import raw
from tests.conftest import MakeNode
from tests.proxy import Proxy
from tests.waiting import event_of, until

EXT = ChallengeExt(1, 0, 1 << 40)


def challenge(name: str, ext: ChallengeExt | None = EXT, value: bytes = bytes(32)) -> bytes:
    """A whole CHALLENGE."""
    return pack(messages.encode_challenge(Challenge(name, 1, value, ext)))


def dial(make_node: MakeNode, script: Any, **options: Any) -> Any:
    """Dial a peer that runs `script`; return the error and the event about it."""
    node = make_node()
    with raw.server(script, **options) as peer, node.subscribe() as events:
        with pytest.raises(snowgreen.SnowgreenError) as caught:
            node.connect(peer.name(), timeout=5)
        event = event_of(events, HandshakeFailed)
    assert event.error is caught.value
    assert event.initiated
    assert not node.sessions
    assert node._endpoint.table.pair(peer.name()).idle
    assert not node._dialer._all()
    return caught.value


@pytest.mark.parametrize("sent", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_plain_text_is_not_tls(make_node: MakeNode, sent: bytes) -> None:
    """A listener that greets in plain text is NotTLSError, caused by what ssl said."""
    error = dial(make_node, lambda _, sock: (sock.sendall(sent), sock.recv(9999)), plain=True)
    assert type(error) is snowgreen.NotTLSError
    assert isinstance(error.__cause__, ssl.SSLError)


def test_tls_1_2_is_refused(make_node: MakeNode) -> None:
    """A listener that speaks nothing newer than TLS 1.2 is told apart from one without TLS."""
    error = dial(make_node, lambda _, sock: None, version=ssl.TLSVersion.TLSv1_2)
    assert type(error) is snowgreen.TLSError
    assert "TLS 1.3" in str(error)


@pytest.mark.parametrize("alpn", [None, "h2"])
def test_another_application_protocol_is_refused(make_node: MakeNode, alpn: str | None) -> None:
    """A TLS listener that is no snowgreen node, a web server for one, is not spoken to."""
    got: list[bytes] = []
    error = dial(make_node, lambda _, sock: got.append(sock.recv(100)), alpn=alpn)
    assert type(error) is snowgreen.TLSError
    assert "snowgreen/1" in str(error)
    assert not any(got)


def test_a_listener_that_closes_at_once(make_node: MakeNode) -> None:
    """Closed during TLS."""
    error = dial(make_node, lambda _, sock: None, plain=True)
    assert type(error) is snowgreen.TLSError
    assert error.__cause__ is not None


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stage", ["tls", "name", "half a challenge", "reply"])
def test_a_peer_that_goes_away_at_each_step(make_node: MakeNode, stage: str, reset: bool) -> None:
    """Gone after TLS, after NAME, inside CHALLENGE, after REPLY: a ProtocolError that says where."""

    def script(server: raw.RawServer, sock: Any) -> None:
        if stage != "tls":
            raw.read_message(sock)
        if stage == "half a challenge":
            sock.sendall(challenge(server.name())[:20])
        if stage == "reply":
            sock.sendall(challenge(server.name()))
            raw.read_message(sock)
        if reset:
            sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, struct.pack("ii", 1, 0))

    error = dial(make_node, script)
    assert type(error) is snowgreen.ProtocolError
    if not reset and stage != "tls":  # there our NAME is on its way, unread, and closing over it resets
        where = {"half a challenge": "in the middle of a message", "reply": "awaiting ACK"}
        assert where.get(stage, "awaiting CHALLENGE") in str(error)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (struct.pack("<I", 4097), snowgreen.ProtocolError, "4097 bytes where at most 4096"),
        (pack(b""), snowgreen.ProtocolError, "empty"),
        (pack(b"\x02"), snowgreen.ProtocolError, "truncated"),
        (pack(messages.encode_name(Name("a@h", 1, None))), snowgreen.ProtocolError, "NAME is out of order"),
        (
            pack(messages.encode_reply(Reply(bytes(32), bytes(32)))),
            snowgreen.ProtocolError,
            "REPLY is out of order",
        ),
        (pack(messages.encode_ack(Ack(bytes(32)))), snowgreen.ProtocolError, "ACK is out of order"),
        (challenge("{}", None), snowgreen.PolicyError, "classic handshake only"),
        (challenge("{}", ChallengeExt(2, 0, 1)), snowgreen.ProtocolError, "binding 2"),
        (challenge("other@h"), snowgreen.NameMismatch, "other@h"),
        (pack(messages.encode_reject(Reject(RejectCode.BUSY, b"", None))), snowgreen.Rejected, "busy"),
        (
            pack(messages.encode_reject(Reject(RejectCode.VERSION, b"", None))),
            snowgreen.ProtocolError,
            "version",
        ),
        (
            pack(messages.encode_reject(Reject(RejectCode.BOUND_REQUIRED, b"", None))),
            snowgreen.PolicyError,
            "bound",
        ),
        (
            pack(messages.encode_reject(Reject(RejectCode.DUPLICATE, b"", bytes(32)))),
            snowgreen.ProtocolError,
            "without proving",
        ),
        (pack(messages.encode_reject(Reject(99, b"evil\x1b[31m", None))), snowgreen.ProtocolError, "code 99"),
    ],
)
def test_a_bad_answer_to_name(make_node: MakeNode, answer: bytes, kind: type, text: str) -> None:
    """Whatever answers NAME with anything but a good CHALLENGE gets no proof from us, and a named error."""
    after: list[bytes] = []

    def script(server: raw.RawServer, sock: Any) -> None:
        raw.read_message(sock)
        name = server.name().encode()
        if b"{}" in answer:  # the payload with the server's own name in it
            old = answer[4:].replace(b"\x02\x00{}", struct.pack("<H", len(name)) + name)
            sock.sendall(pack(old))
        else:
            sock.sendall(answer)
        after.append(raw.read_message(sock))

    error = dial(make_node, script)
    assert type(error) is kind
    assert text in str(error)
    assert str(error).isprintable()
    until(lambda: after, "the peer saw our end")
    assert not after[0] or after[0][4] == 5  # nothing, or a REJECT: never a REPLY


def test_a_wrong_acknowledgement(make_node: MakeNode) -> None:
    """A peer that cannot prove the cookie in its ACK is not linked with, though it took our proof."""

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor()
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        raw.read_message(sock)
        sock.sendall(pack(messages.encode_ack(Ack(bytes(32)))))
        raw.read_message(sock)

    assert type(dial(make_node, script)) is snowgreen.AuthenticationError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (RejectCode.NAME_NOT_ALLOWED, snowgreen.Rejected),
        (RejectCode.SHUTTING_DOWN, snowgreen.Rejected),
        (RejectCode.CAPABILITIES, snowgreen.Rejected),
        (RejectCode.STALE_INCARNATION, snowgreen.Rejected),
        (RejectCode.SELF, snowgreen.SelfLinkError),
    ],
)
def test_an_authenticated_rejection_carries_its_code(
    make_node: MakeNode, code: RejectCode, kind: type
) -> None:
    """A peer that proved the cookie and declines is told by its code, in words."""

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor()
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.reject(code, "").send)

    error = dial(make_node, script)
    assert type(error) is kind
    if kind is snowgreen.Rejected:
        assert error.code is code


def test_a_duplicate_is_waited_for_and_then_dialed_again(make_node: MakeNode) -> None:
    """After REJECT(DUPLICATE) the dialer leaves the peer's own link time to come, then tries again, by the rule."""
    seen: list[tuple[int, int]] = []

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor()
        message = raw.read_message(sock)
        ext = messages.decode_name(message[4:]).ext
        seen.append((ext.epoch, ext.attempt))
        sock.sendall(machine.feed(message).send)
        machine.feed(raw.read_message(sock))
        if len(seen) < 3:
            sock.sendall(machine.reject(RejectCode.DUPLICATE, "").send)
            return
        sock.sendall(machine.accept().send)
        raw.read_message(sock)

    node = make_node()
    with raw.server(script) as peer:
        assert node.connect(peer.name()).peer == peer.name()
        assert seen == [(1, 1), (1, 2), (1, 3)]
        node.stop()


def test_the_epoch_grows_with_each_link(make_node: MakeNode) -> None:
    """A redial after a lost link outranks whatever half-open rest of it the peer may still hold."""
    epochs: list[int] = []

    def script(server: raw.RawServer, sock: Any) -> None:
        message = raw.read_message(sock)
        epochs.append(messages.decode_name(message[4:]).ext.epoch)
        machine = server.acceptor()
        sock.sendall(machine.feed(message).send)
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.accept().send)

    node = make_node()
    with raw.server(script) as peer:
        for _ in range(3):
            session = node.connect(peer.name())
            until(lambda session=session: session.closed, "the link was lost")
    assert epochs == [1, 2, 3]


def test_an_inbound_link_serves_who_is_waiting_for_a_dial(make_node: MakeNode) -> None:
    """While our dial hangs, the same peer links in: connect() returns that session."""
    node = make_node()

    def script(server: raw.RawServer, sock: Any) -> None:
        raw.read_message(sock)
        while sock.recv(100):  # never answers NAME
            pass

    with raw.server(script) as peer:
        waiting = gevent.spawn(node.connect, peer.name())
        until(lambda: node._dialer._all() and node._endpoint.table.pair(peer.name()).own, "the dial began")
        sock, _ = raw.link(node.address, peer.name())
        session = waiting.get(timeout=5)
        assert session is node.sessions[peer.name()]
        assert not session.initiated
        sock.close()


def test_tiny_timeouts_and_no_timeout(make_node: MakeNode) -> None:
    """A timeout of 0 fails at once unless the link is there; None waits."""
    a, b = make_node(), make_node()
    with pytest.raises(snowgreen.LinkTimeout):
        a.connect(b.name, timeout=0)
    session = a.connect(b.name, timeout=None)
    assert a.connect(b.name, timeout=0) is session


def test_a_dial_by_address_does_not_end_the_rules_own(make_node: MakeNode) -> None:
    """A dial that has sent its proof goes on to its ACK though a dial by address has made a link meanwhile.

    The peer may have replaced that link by ours already: ended here, neither side would have any.
    """
    proved, go = gevent.event.Event(), gevent.event.Event()

    def script(server: raw.RawServer, sock: Any) -> None:
        message = raw.read_message(sock)
        by_rule = messages.decode_name(message[4:]).ext.epoch > 0
        machine = server.acceptor()
        sock.sendall(machine.feed(message).send)
        machine.feed(raw.read_message(sock))
        if by_rule:
            proved.set()
            go.wait()
        else:
            proved.wait()
        sock.sendall(machine.accept().send)
        while sock.recv(4096):
            pass

    node = make_node()
    with raw.server(script) as peer, Proxy(tuple(peer.address)) as elsewhere:
        by_name = gevent.spawn(node.connect, peer.name())
        by_address = gevent.spawn(node.connect, f"127.0.0.1:{elsewhere.port}")
        first = by_address.get(timeout=5)
        assert node.sessions[peer.name()] is first
        assert not by_name.ready()
        go.set()
        second = by_name.get(timeout=5)
        assert second is not first
        assert node.sessions[peer.name()] is second
        assert "replaced" in first.reason
        node.stop()
