"""The sweep: who is pinged, who is given up, and whom our own stall must not condemn. The clock is passed in."""

from __future__ import annotations

import itertools
import time
from typing import Any

import gevent
import pytest

import snowgreen
from snowgreen import LoopStalled
from snowgreen.link import heart as heart_module
from snowgreen.link.heart import Heart, heart, sweep
from snowgreen.link.runtime import Runtime
from tests import raw
from tests.conftest import MakeNode
from tests.waiting import event_of, until


class Clock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def silent(make_node: MakeNode) -> Any:
    """A node on a clock of the test's, and a link whose other end answers nothing by itself."""
    clock = Clock()
    config = snowgreen.Config(heartbeat_interval=60, heartbeat_timeout=15)
    node = make_node(runtime=Runtime(monotonic=clock), config=config)
    sock, _ = raw.link(node.address)
    session = node.sessions["raw@127.0.0.1:0"]
    session._spread = 0.0
    yield node, session, sock, clock
    sock.close()


def test_silence_is_pinged_and_an_answer_keeps_the_link(silent: Any) -> None:
    """After 60 s of silence one PING goes out; any byte in answer starts the count anew."""
    node, session, sock, clock = silent
    clock.now += 59.9
    sweep([node._endpoint])
    clock.now += 0.1
    sweep([node._endpoint])
    sweep([node._endpoint])
    ping = raw.read_message(sock)
    assert ping[4] == 0xF0
    clock.now += 5
    sock.sendall(ping.replace(b"\xf0", b"\xf1"))
    until(lambda: session.last_received == clock.now, "the answer arrived")
    assert session.rtt == 5
    clock.now += 59
    sweep([node._endpoint])
    assert not session.closed
    assert session.frames_sent == 1


def test_an_unanswered_ping_ends_the_link(silent: Any) -> None:
    """15 s after a ping without any byte in return the session ends and says so."""
    node, session, _, clock = silent
    clock.now += 60
    sweep([node._endpoint])
    clock.now += 14.9
    sweep([node._endpoint])
    assert not session.closed
    clock.now += 0.2
    sweep([node._endpoint])
    assert session.reason == "no answer to a ping for 15 s"
    assert not node.sessions


def test_a_link_full_of_messages_is_pinged(silent: Any) -> None:
    """The PING goes ahead of messages that wait for a peer that takes its time, so that its answer counts."""
    node, session, sock, clock = silent
    while not session.full:
        session.post_message("bulk", b"\x45", bytes(1024 * 1024))
    clock.now += 60
    sweep([node._endpoint])
    with gevent.Timeout(10):
        ping = next(frame for frame in iter(lambda: raw.read_message(sock), b"") if raw.is_ping(frame))
    assert session._outbox.waiting > 1024 * 1024
    sock.sendall(ping.replace(b"\xf0", b"\xf1"))
    until(lambda: session.rtt is not None, "the answer arrived")


def test_a_stalled_hub_condemns_nobody(silent: Any) -> None:
    """When our own loop was blocked past the deadline, the peer is pinged again instead of given up."""
    node, session, sock, clock = silent
    clock.now += 60
    sweep([node._endpoint])
    clock.now += 1000
    sweep([node._endpoint], late=1000.0)
    assert not session.closed
    for _ in range(2):
        ping = raw.read_message(sock)
    sock.sendall(ping.replace(b"\xf0", b"\xf1"))
    until(lambda: session.last_received == clock.now, "the answer arrived")
    sweep([node._endpoint])
    assert not session.closed


def test_a_pause_inside_a_frame_ends_the_link(silent: Any) -> None:
    """A frame begun and not gone on with for 30 s ends the link, though no ping is due yet."""
    node, session, sock, clock = silent
    sock.sendall(b"\x10\x00\x00\x00half")
    until(lambda: session.bytes_received == 8, "it arrived")
    clock.now += 29.9
    sweep([node._endpoint])
    assert not session.closed
    clock.now += 0.2
    sweep([node._endpoint])
    assert "30 s in the middle of a frame" in session.reason


def test_a_live_node_finds_a_frozen_peer_by_itself(make_node: MakeNode) -> None:
    """Without anybody's help a peer that went silent is given up, and one that answers is kept."""
    config = snowgreen.Config(heartbeat_interval=0.05, heartbeat_timeout=0.1)
    node, peer = make_node(config=config), make_node()
    session = node.connect(peer.name)
    sock, _ = raw.link(node.address)
    frozen = node.sessions["raw@127.0.0.1:0"]
    until(lambda: frozen.closed, "the frozen one was given up")
    until(lambda: session.frames_received >= 5, "the other one is pinged and answers")
    assert not session.closed
    sock.close()


def test_pings_are_spread(make_node: MakeNode) -> None:
    """Links that fell silent together are pinged over the last quarter of the interval, not all at once."""
    clock = Clock()
    node = make_node(
        runtime=Runtime(monotonic=clock), config=snowgreen.Config(heartbeat_interval=60, heartbeat_timeout=60)
    )
    socks = [raw.link(node.address, f"raw{i}@127.0.0.1:0")[0] for i in range(20)]
    pinged = []
    clock.now += 44
    for _ in range(17):
        clock.now += 1
        sweep([node._endpoint])
        pinged.append(sum(session._pinged_at is not None for session in node.sessions.values()))
    assert pinged[0] <= 2
    assert pinged[-1] == 20
    assert max(later - earlier for earlier, later in itertools.pairwise(pinged)) <= 4
    for sock in socks:
        sock.close()


def test_a_blocked_loop_is_told_and_forgiven(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that comes late tells by how much, and gives nobody up for what it could not hear."""
    monkeypatch.setattr("snowgreen.link.heart.STALL", 0.1)
    config = snowgreen.Config(heartbeat_interval=0.05, heartbeat_timeout=0.1)
    node, peer = make_node(config=config), make_node()
    session = node.connect(peer.name)
    until(lambda: session.frames_sent >= 2, "it is pinged")
    with node.subscribe() as events:
        blocked_until = time.monotonic() + 0.5
        while time.monotonic() < blocked_until:
            pass  # what a careless C extension, or a long computation, does to the loop
        stalled = event_of(events, LoopStalled)
    assert 0.3 < stalled.seconds < 5
    assert "blocked for" in str(stalled)
    heard = session.frames_received
    until(lambda: session.frames_received > heard, "it is answered again")
    assert not session.closed


def test_one_heart_serves_all_nodes_and_rests_when_they_stop(make_node: MakeNode) -> None:
    """All nodes of a hub share one greenlet, and with the last of them it ends."""
    before = heart()
    nodes = [make_node() for _ in range(3)]
    assert heart() is before
    assert len(before._endpoints) == 3
    beating = before._greenlet
    for node in nodes:
        node.stop()
    assert before._greenlet is None
    until(lambda: beating.dead, "its greenlet ended")


def test_a_node_with_a_shorter_interval_is_not_kept_waiting(make_node: MakeNode) -> None:
    """A node that must look more often than those before it wakes the sweep that sleeps for them."""
    slow = make_node(config=snowgreen.Config(heartbeat_interval=86_400, heartbeat_timeout=86_400))
    assert heart()._greenlet is not None
    until(lambda: heart()._greenlet.started, "it sleeps")
    quick = make_node(config=snowgreen.Config(heartbeat_interval=0.02, heartbeat_timeout=5))
    sock, _ = raw.link(quick.address)
    assert raw.read_message(sock)[4] == 0xF0
    assert slow.started
    sock.close()


def test_removing_what_was_never_added_is_harmless() -> None:
    """A heart without nodes has nothing to stop."""
    Heart().remove(None)  # type: ignore[arg-type]


def test_only_those_are_looked_at_who_are_due(silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet link costs no look before it may have to be pinged, and a pause inside a frame is still found."""
    node, session, sock, clock = silent
    looks: list[float] = []
    beat = type(session).beat
    monkeypatch.setattr(
        type(session), "beat", lambda self, now, grace: (looks.append(now), beat(self, now, grace=grace))
    )
    for _ in range(45):
        clock.now += 1
        sweep([node._endpoint])
    assert looks == []
    sock.sendall(b"\x10\x00\x00\x00half")
    until(lambda: session.bytes_received == 8, "it arrived")
    for _ in range(30):
        assert not session.closed
        clock.now += 1
        sweep([node._endpoint])
    assert "in the middle of a frame" in session.reason
    assert len(looks) < 10


def test_a_sweep_that_is_ended_loses_nobody(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever the sweep had not come to yet is looked at by the next."""

    def ended(_: float) -> None:
        raise gevent.GreenletExit

    clock = Clock()
    node = make_node(runtime=Runtime(monotonic=clock), config=snowgreen.Config(heartbeat_interval=60))
    socks = [raw.link(node.address, f"raw{number}@127.0.0.1:0")[0] for number in range(6)]
    monkeypatch.setattr(heart_module, "_SLICE", 2)
    monkeypatch.setattr(heart_module.gevent, "sleep", ended)
    clock.now += 60
    with pytest.raises(gevent.GreenletExit):
        sweep([node._endpoint])
    assert sum(session._pinged_at is not None for session in node.sessions.values()) == 2
    monkeypatch.undo()
    sweep([node._endpoint])
    assert all(session._pinged_at is not None for session in node.sessions.values())
    for sock in socks:
        sock.close()


def test_a_heart_without_nodes_ends_before_its_end_comes(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Having lost its last node while it looks, it ends in peace, though it has a turn before it is killed."""
    node = make_node(config=snowgreen.Config(heartbeat_interval=0.02, heartbeat_timeout=5))
    beating = heart()._greenlet
    monkeypatch.setattr(heart_module, "sweep", lambda endpoints, late: heart().remove(node._endpoint))
    beating.join(5)
    assert beating.successful()
