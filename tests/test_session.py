"""One live link: pings, counters, what a peer may send, how it ends and that it ends once."""

from __future__ import annotations

import struct
from typing import Any

import gevent
import pytest
from gevent.event import Event

import snowgreen
from snowgreen import NodeDown
from snowgreen.link.outbox import Outbox
from snowgreen.protocol.flight import LEAST
from snowgreen.protocol.frames import Capability, encode, encode_ping
from tests import raw
from tests.conftest import MakeNode
from tests.waiting import event_of, until


@pytest.fixture
def linked(make_node: MakeNode) -> Any:
    """A node, its session, and the bare connection at the session's other end."""
    node = make_node()
    sock, established = raw.link(node.address)
    session = until(lambda: node.sessions.get("raw@127.0.0.1:0"), "registered")
    yield node, session, sock, established
    sock.close()


def test_ping_measures_the_round_trip(make_node: MakeNode) -> None:
    """ping() returns seconds, keeps them as rtt, and counts frames and bytes on both sides."""
    a, b = make_node(), make_node()
    session = a.connect(b.name)
    assert session.rtt is None
    measured = [session.ping(timeout=5) for _ in range(3)]
    assert 0 < min(measured) < 5
    assert session.rtt == measured[-1]
    other = b.sessions[a.name]
    assert (session.frames_sent, session.frames_received) == (3, 3)
    assert (other.frames_sent, other.frames_received) == (3, 3)
    assert session.bytes_received == other.bytes_sent == other.bytes_received == session.bytes_sent == 3 * 13


def test_many_pings_at_once(make_node: MakeNode) -> None:
    """A hundred greenlets that ping over one link are each answered."""
    a, b = make_node(), make_node()
    session = a.connect(b.name)
    jobs = [gevent.spawn(session.ping) for _ in range(100)]
    assert all(job.get(timeout=10) > 0 for job in jobs)
    assert session.frames_sent == session.frames_received == 100


def test_a_ping_goes_ahead_of_messages_that_wait(linked: Any) -> None:
    """With as many messages queued as the limits allow a ping is sent all the same, and before most of them."""
    _, session, sock, _ = linked
    while not session.full:
        session.post_message("bulk", b"\x45", bytes(1024 * 1024))
    job = gevent.spawn(session.ping)
    with gevent.Timeout(10):
        ping = next(frame for frame in iter(lambda: raw.read_message(sock), b"") if raw.is_ping(frame))
    assert session._outbox.waiting > 1024 * 1024
    sock.sendall(ping.replace(b"\xf0", b"\xf1"))
    assert job.get(timeout=5) >= 0


def test_an_unanswered_ping_times_out_and_the_link_goes_on(linked: Any) -> None:
    """PingTimeout is the ping's failure, not the session's."""
    _, session, sock, _ = linked
    with pytest.raises(snowgreen.PingTimeout, match=r"within 0\.05 s"):
        session.ping(timeout=0.05)
    assert not session.closed
    ping = raw.read_message(sock)
    sock.sendall(ping.replace(b"\xf0", b"\xf1"))  # too late: nobody waits, and nothing happens
    job = gevent.spawn(session.ping)
    sock.sendall(raw.read_message(sock).replace(b"\xf0", b"\xf1"))
    assert job.get(timeout=5) == session.rtt


def test_the_callers_timeout_passes_through_ping(linked: Any) -> None:
    """A gevent.Timeout around ping() arrives as the caller's own."""
    _, session, _, _ = linked
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.02) as timeout:
        session.ping(timeout=5)
    assert caught.value is timeout


def test_closing_wakes_a_waiting_ping(linked: Any) -> None:
    """Who waits for an answer when the session ends is told why, at once."""
    _, session, _, _ = linked
    job = gevent.spawn(session.ping, timeout=None)
    until(lambda: session.frames_sent, "the ping left")
    session.close("enough of this")
    with pytest.raises(snowgreen.SessionClosed, match="enough of this"):
        job.get(timeout=5)
    with pytest.raises(snowgreen.SessionClosed, match="enough of this"):
        session.ping()


def test_close_is_told_and_done_once(linked: Any) -> None:
    """The first reason stands, one NodeDown tells it, and the peer sees an orderly end."""
    node, session, sock, _ = linked
    with node.subscribe() as events:
        session.close("first")
        session.close("second")
        assert event_of(events, NodeDown).reason == "first"
        assert events.get(0) is None
    assert session.closed
    assert session.reason == "first"
    assert sock.recv(100) == b""  # close_notify, where a bare end of the stream would raise
    assert not node.sessions


def test_repr_tells_the_state(linked: Any) -> None:
    """A session shows its peer, form, direction, number and round trip, and once closed the reason."""
    _, session, _, _ = linked
    assert repr(session) == "<Session raw@127.0.0.1:0 up bound accepted node_id=1>"
    session.close("the tests are\nover")
    assert repr(session) == "<Session raw@127.0.0.1:0 closed: the tests are\\nover>"


def test_addresses_outlive_the_socket(linked: Any) -> None:
    """Both ends can still be asked for when the session has ended."""
    node, session, sock, _ = linked
    local = sock.getpeername()
    session.close()
    assert session.local_address == f"127.0.0.1:{local[1]}" == node.address
    assert session.remote_address == "{}:{}".format(*sock.getsockname())


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_in_any_pieces(linked: Any, step: int) -> None:
    """Pings cut at any byte, with empty frames and unknown tags between them, are all answered."""
    _, session, sock, _ = linked
    stream = b""
    for number in range(20):
        stream += encode_ping(number) + struct.pack("<I", 0) + encode(0x7E, b"unknown" * number)
    for at in range(0, len(stream), step):
        sock.sendall(stream[at : at + step])
    pongs = [raw.read_message(sock) for _ in range(20)]
    assert [struct.unpack("<Q", pong[5:])[0] for pong in pongs] == list(range(20))
    until(lambda: session.frames_received == 60, "the last ones were counted")


def test_data_behind_the_last_handshake_message_is_not_lost(make_node: MakeNode) -> None:
    """Frames that arrive in one piece with REPLY, before the session exists, are its first frames."""
    node = make_node()
    sock = raw.client(node.address)
    machine = raw.initiator(sock)
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    sock.sendall(machine.prove().send + encode_ping(1) + encode_ping(2) + encode_ping(3)[:5])
    assert raw.read_message(sock)[4] == 4  # ACK
    assert raw.read_message(sock) == encode_ping(1).replace(b"\xf0", b"\xf1")
    assert raw.read_message(sock) == encode_ping(2).replace(b"\xf0", b"\xf1")
    sock.sendall(encode_ping(3)[5:])
    assert raw.read_message(sock) == encode_ping(3).replace(b"\xf0", b"\xf1")
    sock.close()


def test_more_early_data_than_one_read(make_node: MakeNode) -> None:
    """Early data that fills many records, part of it still inside OpenSSL, all arrives."""
    node = make_node()
    sock = raw.client(node.address)
    machine = raw.initiator(sock)
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    sock.sendall(machine.prove().send + encode(0x7E, b"x" * 50_000) + encode_ping(9))
    raw.read_message(sock)
    assert raw.read_message(sock) == encode_ping(9).replace(b"\xf0", b"\xf1")
    sock.close()


def test_early_data_behind_ack(make_node: MakeNode) -> None:
    """Frames that an acceptor sends in one piece with its ACK reach the dialer's session."""
    node = make_node()
    answered: list[bytes] = []

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor()
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.accept().send + encode_ping(5) + encode_ping(6))
        answered.extend(raw.read_message(sock) for _ in range(2))

    with raw.server(script) as peer:
        node.connect(peer.name())
        until(lambda: len(answered) == 2, "both were answered")
    assert answered == [encode_ping(n).replace(b"\xf0", b"\xf1") for n in (5, 6)]


def test_a_large_frame_arrives(linked: Any) -> None:
    """A frame of the full 16 MiB passes, and what follows it is still understood."""
    _, session, sock, _ = linked
    body = bytes(16 * 1024 * 1024 - 1)
    writer = gevent.spawn(sock.sendall, encode(0x7E, body) + encode_ping(1))
    assert raw.read_message(sock) == encode_ping(1).replace(b"\xf0", b"\xf1")
    writer.get()
    assert session.bytes_received == len(body) + 5 + 13


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (struct.pack("<I", 16 * 1024 * 1024 + 1), "16777217 bytes where at most 16777216"),
        (b"\xff\xff\xff\xff", "4294967295 bytes"),
        (encode(0xF0, b"seven b"), "a PING of 7 bytes"),
        (encode(0xF1, b""), "a PONG of 0 bytes"),
    ],
)
def test_a_frame_that_breaks_the_protocol_ends_the_link(linked: Any, sent: bytes, reason: str) -> None:
    """The session ends with a reason that holds numbers and none of the peer's bytes; other links stay."""
    node, session, sock, _ = linked
    other, _ = raw.link(node.address, "other@127.0.0.1:0")
    sock.sendall(sent)
    until(lambda: session.closed, "the session ended")
    assert reason in session.reason
    assert "broke the protocol" in session.reason
    assert node.sessions["other@127.0.0.1:0"].closed is False
    other.sendall(encode_ping(1))
    assert raw.read_message(other)[4] == 0xF1
    other.close()


def test_an_end_inside_a_frame_is_an_error(linked: Any) -> None:
    """A close in the middle of a frame is told as such, orderly as TLS may find it."""
    _, session, sock, _ = linked
    sock.sendall(encode_ping(1)[:6])
    until(lambda: session.bytes_received == 6, "it arrived")
    sock.unwrap()
    sock.close()
    until(lambda: session.closed, "the session ended")
    assert session.reason == "the peer closed the connection in the middle of a frame"


def test_a_cut_is_told_from_a_close(linked: Any) -> None:
    """An end of TCP without TLS's own goodbye is a cut; anybody on the way could have made it."""
    _, session, sock, _ = linked
    sock.close()
    until(lambda: session.closed, "the session ended")
    assert session.reason == "the connection was cut"


def test_a_peer_that_pings_and_never_reads_costs_no_memory(make_node: MakeNode) -> None:
    """With its outbox full the session stops reading from that peer, serves others, and later goes on."""
    limits = snowgreen.Limits(outbox_bytes=4096)
    node = make_node(config=snowgreen.Config(limits=limits))
    sock, _ = raw.link(node.address)
    session = node.sessions["raw@127.0.0.1:0"]
    ping, sent = encode_ping(7) * 1000, 0
    with gevent.Timeout(20):
        while not session._paused:
            with gevent.Timeout(0.05, False):
                sock.send(ping)
            sent += 1
    assert session._outbox.waiting < 4096 + 64 * 1024 + len(ping)
    with pytest.raises(snowgreen.OutboxFull):
        session.ping()
    other, _ = raw.link(node.address, "other@127.0.0.1:0")
    other.sendall(encode_ping(1))
    assert raw.read_message(other)[4] == 0xF1
    before = session.frames_received
    pong = encode_ping(7).replace(b"\xf0", b"\xf1")
    with gevent.Timeout(20):
        for _ in range(before):  # whole, in order, none lost
            assert raw.read_exactly(sock, len(pong)) == pong
    until(lambda: not session._paused, "it reads again")
    other.close()
    sock.close()


def test_a_replaced_session_cannot_remove_its_successor(make_node: MakeNode) -> None:
    """Cleanup goes by identity: the late end of the old link leaves the new one registered."""
    node = make_node()
    first, _ = raw.link(node.address, incarnation=1 << 40)
    old = node.sessions["raw@127.0.0.1:0"]
    second, _ = raw.link(node.address, incarnation=2 << 40)
    new = until(lambda: old.closed and node.sessions.get("raw@127.0.0.1:0"), "the new one is in")
    node._endpoint.session_ended(old)
    old.close()
    assert node.sessions["raw@127.0.0.1:0"] is new
    assert "replaced by a newer link" in old.reason
    assert not new.closed
    first.close()
    second.close()


def test_an_error_at_the_very_beginning_leaves_no_link(make_node: MakeNode, monkeypatch: Any) -> None:
    """Whatever goes wrong as the last message of a handshake is written, the link is gone, and the next one lives."""
    node, peer = make_node(), make_node()

    def broken(self: Outbox, handshake: bytes) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "begin", broken)
        with pytest.raises(snowgreen.LinkError):
            peer.connect(node.name)
        until(lambda: not node.sessions, "it is taken out")
    assert peer.connect(node.name).ping() > 0
    assert list(node.sessions) == [peer.name]


def test_an_internal_error_ends_only_its_link(linked: Any, caplog: Any, monkeypatch: Any) -> None:
    """A bug of ours on one link is logged with its traceback and ends that link, and the loop goes on."""
    node, session, sock, _ = linked

    def broken(_self: Any, _frame: bytes, _behind: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(snowgreen.Session, "_dispatch", broken)
    sock.sendall(encode_ping(1))
    until(lambda: session.closed, "the session ended")
    assert "internal error" in session.reason
    assert "a bug" in caplog.text
    monkeypatch.undo()
    other, _ = raw.link(node.address, "other@127.0.0.1:0")
    other.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_in_the_middle_of_reading_ends_the_link(
    linked: Any, error: type[BaseException]
) -> None:
    """Ctrl-C reaches the main greenlet, and the link whose frame was half taken is closed, and taken out."""
    node, session, sock, _ = linked

    def interrupted(*_: object) -> None:
        raise error

    session._owner.receivers[0x70] = interrupted
    with node.subscribe() as events:
        sock.sendall(encode(0x70, b"half taken"))
        with pytest.raises(error):
            Event().wait(10)
        assert "interrupted" in event_of(events, NodeDown).reason
    assert session.closed
    assert not node.sessions


def test_a_node_that_was_interrupted_before_it_read_leaves_at_once(make_node: MakeNode) -> None:
    """Where Ctrl-C has stopped the watching of a socket, stop() still hears the peer close, and does not wait."""
    node, peer = make_node(), make_node()
    peer.connect(node.name)
    session = node.sessions[peer.name]
    session._read_watcher.stop()
    with gevent.Timeout(30):
        node.stop(timeout=60)
    assert session.reason == "this node was stopped"


# Bulk, and the end of a link that is in the middle of it.


def test_large_messages_wait_for_the_peer_to_have_read(make_node: MakeNode) -> None:
    """To a peer that answers no marks a window of them is sent; small ones go on, and the state tells."""
    node = make_node()
    sock, _ = raw.link(node.address, capabilities=Capability.GOODBYE)
    session = until(lambda: node.sessions.get("raw@127.0.0.1:0"), "registered")
    assert session.state == "up"
    for _ in range(20):
        session.post_message("bulk", b"\x45", bytes(60_000))
    got: list[bytes] = []

    def read() -> None:
        while frame := raw.read_message(sock):
            got.append(frame)

    reader = gevent.spawn(read)
    until(lambda: sum(len(frame) > 60_000 for frame in got) >= LEAST // 60_000, "a window of it came")
    session.post_message("small", b"\x45", b"small")
    until(lambda: got[-1].endswith(b"small"), "the small one came")
    assert session.state == "waiting"
    bulk = sum(len(frame) > 60_000 for frame in got)
    assert LEAST <= 60_000 * bulk < LEAST + 3 * 60_000
    assert session._outbox.owing == 0  # marks are not owed to the peer
    marks = [frame for frame in got if frame[4] == 0xF0]
    sock.sendall(b"".join(frame.replace(b"\xf0", b"\xf1", 1) for frame in marks))
    until(lambda: sum(len(frame) > 60_000 for frame in got) > bulk, "more came")
    assert session.rtt is None  # nobody has asked for it
    session.close()
    reader.join(timeout=10)
    sock.close()


def test_what_was_written_arrives_although_the_peer_goes_on_sending(make_node: MakeNode) -> None:
    """close() in the middle of bulk: a peer that sends meanwhile still gets every byte that was written, and no reset."""
    node = make_node()
    sock, _ = raw.link(node.address, capabilities=Capability.GOODBYE)
    session = until(lambda: node.sessions.get("raw@127.0.0.1:0"), "registered")
    for _ in range(40):
        session.post_message("bulk", b"\x45", bytes(60_000))
    until(lambda: session.state == "waiting", "as much as may be is on its way")
    session.close()
    assert session.closed
    for number in range(3):
        sock.sendall(encode_ping(number))
        gevent.idle()
    got = b"".join(iter(lambda: raw.read_message(sock), b""))
    sock.close()
    assert session.bytes_sent > 100_000
    assert len(got) == session.bytes_sent


def test_a_goodbye_arrives_although_the_peer_goes_on_sending(linked: Any) -> None:
    """The last that a session says comes behind what was written, whatever the peer sends by then."""
    node = linked[0]
    sock, _ = raw.link(node.address, name="other@127.0.0.1:0", capabilities=Capability.GOODBYE)
    session = until(lambda: node.sessions.get("other@127.0.0.1:0"), "registered")
    session.post_message("bulk", b"\x45", bytes(60_000))
    session.close()
    sock.sendall(encode_ping(1))
    gevent.idle()
    sock.sendall(encode_ping(2))
    got = list(iter(lambda: raw.read_message(sock), b""))
    sock.close()
    assert [frame[4] for frame in got] == [0x45, 0x40]
