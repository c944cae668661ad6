"""Nodes in memory for users' tests: real nodes, links that can be cut or silenced, and a clock to put forward."""

from __future__ import annotations

import socket
import time

import pytest

import snowgreen
from snowgreen import testing
from snowgreen.events import HandshakeFailed, LoopStalled, NodeDown, NodeUp
from tests.conftest import MakeNode
from tests.waiting import event_of, until


def test_a_pair_is_two_linked_nodes() -> None:
    """Both are started, know each other by name, and ping; at the end of the block both are stopped."""
    with testing.pair("web", "worker") as (web, worker):
        assert (web.name, worker.name) == ("web@127.0.0.1:1", "worker@127.0.0.1:2")
        session = web.sessions[worker.name]
        assert session.initiated
        assert session.form == "bound"
        assert session.ping(timeout=5) > 0
        back = worker.sessions[web.name]
        assert (session.remote_address, back.local_address) == ("127.0.0.1:2", "127.0.0.1:2")
        assert session.local_address == back.remote_address
    assert not web.started
    assert not worker.started
    assert session.closed


def test_messages_calls_and_groups_work() -> None:
    """What a node can do over a network it can do in memory: send, call, broadcast, and large bodies."""
    with testing.pair() as (a, b):
        inbox, news = b.mailbox("jobs"), b.join("news")
        a.send(b.name, "jobs", {"id": 7})
        a.send(b.name, "jobs", bytes(3 * 2**20), timeout=5)
        assert inbox.get(timeout=5).body == {"id": 7}
        assert len(inbox.get(timeout=5).body) == 3 * 2**20
        b.handler("double")(lambda number: 2 * number)
        assert a.call(b.name, "double", 21) == 42
        with pytest.raises(snowgreen.UnknownHandler):
            a.call(b.name, "halve", 21)
        assert a.broadcast("news", "it works").queued == (b.name,)
        assert news.get(timeout=5).body == "it works"


def test_a_cluster_is_linked_each_with_each() -> None:
    """Three nodes have two links each; names may be given, whole or in part."""
    with testing.cluster(3) as nodes:
        assert [len(node.sessions) for node in nodes] == [2, 2, 2]
        assert [node.name.partition("@")[0] for node in nodes] == ["n1", "n2", "n3"]
        assert len(nodes) == 3
        assert list(nodes[1:]) == [nodes[1], nodes[2]]
        assert repr(nodes) == "<Cluster of n1@127.0.0.1:1, n2@127.0.0.1:2, n3@127.0.0.1:3>"
    with testing.cluster(["api@10.0.0.5:9100", "db"], linked=False) as (api, db):
        assert not api.sessions
        assert api.connect(db.name).remote_address == "127.0.0.1:1"
        assert db.sessions["api@10.0.0.5:9100"].remote_host == "10.0.0.5"


def test_nothing_is_bound_or_left(make_node: MakeNode) -> None:
    """No port of the machine is involved, and afterwards no greenlet, descriptor or session is left."""
    with testing.cluster(3) as nodes:
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", 1)) != 0
        outside = make_node()
        with pytest.raises(snowgreen.Unreachable):
            nodes[0].connect(outside.name)
    nodes.close()


def test_a_node_can_be_added_with_other_options() -> None:
    """A further node is linked with those that are there; one with another cookie is refused, as by real ones."""
    with testing.pair() as cluster:
        a, b = cluster
        c = cluster.add("c")
        assert set(c.sessions) == {a.name, b.name}
        dialer = cluster.add("dialer", listen=False)
        assert dialer.address is None
        assert dialer.name == "dialer@127.0.0.1:0"
        assert len(dialer.sessions) == 3
        stranger = cluster.add("stranger", linked=False, cookie="another cookie than that")
        with pytest.raises(snowgreen.AuthenticationError):
            stranger.connect(a.name)
        with pytest.raises(snowgreen.ConfigurationError, match="taken by another node"):
            cluster.add("again@127.0.0.1:1")


def test_nodes_can_stop_and_start_again() -> None:
    """A node that stops leaves with a goodbye and cannot be dialed; started anew it is another incarnation."""
    with testing.pair() as cluster:
        a, b = cluster
        before, session = b.incarnation, a.sessions[b.name]
        b.stop()
        cluster.settle()
        assert session.closed
        assert not session.lost
        assert not cluster._network.wires
        with pytest.raises(snowgreen.Unreachable, match="nothing listens there"):
            a.connect(b.name)
        b.start()
        assert a.connect(b.name).incarnation != before


def test_a_cut_breaks_links_and_keeps_new_ones_away() -> None:
    """Both ends lose the link, other pairs keep theirs, and no dial succeeds until it is healed."""
    with testing.cluster(3) as cluster:
        a, b, c = cluster
        down = a.subscribe(), b.subscribe()
        cluster.cut(a, b)
        assert all(event_of(events, NodeDown).lost for events in down)
        with pytest.raises(snowgreen.Unreachable, match="No route to host"):
            b.connect(a.name)
        assert set(c.sessions) == {a.name, b.name}
        cluster.heal(a, b)
        assert a.connect(b.name).ping() > 0
        cluster.cut()
        assert [len(node.sessions) for node in cluster] == [0, 0, 0]
        cluster.heal()
        assert c.connect(a.name).ping() > 0


def test_silence_holds_back_what_heal_delivers() -> None:
    """A silent link stays up; what was sent meanwhile arrives in order afterwards, and other pairs notice nothing."""
    with testing.cluster(3) as cluster:
        a, b, c = cluster
        inbox = b.mailbox("jobs")
        a.send(b.name, "jobs", "before")
        assert inbox.get(timeout=5).body == "before"
        cluster.silence(a, b)
        for number in range(3):
            a.send(b.name, "jobs", number, timeout=5)
        with pytest.raises(snowgreen.PingTimeout):
            a.sessions[b.name].ping(timeout=0.05)
        assert c.sessions[b.name].ping() > 0
        assert not len(inbox)
        cluster.heal(a, b)
        assert [inbox.get(timeout=5).body for _ in range(3)] == [0, 1, 2]
        assert a.sessions[b.name].ping() > 0


def test_a_silent_peer_is_found_dead_when_the_clock_is_put_forward() -> None:
    """With the default times, 60 s of silence lead to a ping and 15 s more to the end, in far less real time."""
    with testing.pair() as cluster:
        a, b = cluster
        began = time.monotonic()
        cluster.clock.advance(3600)
        assert a.sessions[b.name].frames_received >= 50  # it is pinged, and answers
        a.sessions[b.name].ping()
        cluster.silence()
        cluster.clock.advance(44)
        assert len(a.sessions) == len(b.sessions) == 1
        cluster.clock.advance(40)
        assert not a.sessions
        assert not b.sessions
        assert time.monotonic() - began < 10


def test_kept_peers_are_redialed_when_the_clock_is_put_forward() -> None:
    """After a cut the dials follow the clock, with delays that grow; after it is healed the next one succeeds."""
    with testing.pair() as cluster:
        a, b = cluster
        a.keep(b.name)
        with a.subscribe() as events:
            cluster.cut()
            cluster.clock.advance(600)
            failed = [
                event for event in iter(lambda: events.get(0), None) if isinstance(event, HandshakeFailed)
            ]
            assert 8 <= len(failed) <= 120
            cluster.heal()
            cluster.clock.advance(60)
            assert isinstance(events.get(0), NodeUp)


def test_a_stop_and_its_return_follow_the_clock() -> None:
    """A kept peer that left is dialed again once the rejoin wait has passed by the clock."""
    with testing.pair() as cluster:
        a, b = cluster
        a.keep(b.name)
        b.stop()
        b.start()
        cluster.clock.advance(4)
        assert not a.sessions
        cluster.clock.advance(12)
        assert set(a.sessions) == {b.name}


def test_a_mesh_follows_the_clock() -> None:
    """Nodes that know one seed only are linked each with each, and again some minutes of the clock after a cut."""
    with testing.cluster(4, mesh=True, linked=False) as cluster:
        for node in cluster[1:]:
            node.connect(cluster[0].name)
        cluster.settle()
        assert [len(node.sessions) for node in cluster] == [3, 3, 3, 3]
        cluster.cut()
        cluster.clock.advance(120)
        assert [len(node.sessions) for node in cluster] == [0, 0, 0, 0]
        cluster.heal()
        cluster.clock.advance(120)
        assert [len(node.sessions) for node in cluster] == [3, 3, 3, 3]


def test_the_clock_is_what_nodes_show() -> None:
    """Events carry the clock's time, and so do the answers of the clock itself."""
    with testing.pair() as cluster:
        a, b = cluster
        with a.subscribe() as events:
            cluster.clock.advance(10_000)
            b.stop()
            down = event_of(events, NodeDown)
            assert 9_000 < down.at - time.time() < 11_000
            assert abs(cluster.clock.time() - time.time() - 10_000) < 1
            assert abs(cluster.clock.monotonic() - time.monotonic() - 10_000) < 1
        assert repr(cluster.clock) == "<Clock 10000 s ahead>"


def test_putting_the_clock_forward_is_no_stall() -> None:
    """The heartbeat that runs by itself goes on as if nothing had been, and tells of no blocked loop."""
    config = snowgreen.Config(heartbeat_interval=0.1, limits=snowgreen.Limits.trusted())
    with testing.pair(config=config) as cluster, cluster[0].subscribe() as events:
        (session,) = cluster[0].sessions.values()
        cluster.clock.advance(5)
        heard = session.frames_received
        assert heard >= 40
        until(lambda: session.frames_received > heard + 2, "it is pinged by itself")
        assert not any(isinstance(event, LoopStalled) for event in iter(lambda: events.get(0), None))


def test_clusters_can_share_a_clock() -> None:
    """A clock of the test's own serves several clusters, and lets go of them when they end."""
    clock = testing.Clock()
    with testing.pair(clock=clock) as one, testing.pair(clock=clock) as other:
        one.silence()
        clock.advance(80)
        assert not one[0].sessions
        assert other[0].sessions
    assert clock.wards == []
    clock.advance(5)


def test_what_cannot_be_used_is_named() -> None:
    """Wrong arguments are refused by name, and what was started for them is stopped."""
    with pytest.raises(snowgreen.ConfigurationError, match="nodes: must be how many"):
        testing.cluster("ab")
    with pytest.raises(snowgreen.InvalidName):
        testing.cluster(["fine", "not fine"])
    with pytest.raises(snowgreen.ConfigurationError, match="seconds: must be a number from 0"):
        testing.Clock().advance(-1)
    with testing.pair() as cluster, testing.pair() as others:
        for between in ((cluster[0],), (cluster[0], cluster[0]), (cluster[0], others[0])):
            with pytest.raises(snowgreen.ConfigurationError, match="between: must be two nodes"):
                cluster.cut(*between)


def test_a_block_that_raises_is_cleaned_up_too(make_node: MakeNode) -> None:
    """The error comes through, and nodes, greenlets and descriptors are gone, with a link cut or silent."""
    for fault in ("cut", "silence"):
        with pytest.raises(ZeroDivisionError), testing.pair() as cluster:
            getattr(cluster, fault)()
            raise ZeroDivisionError
        assert not any(node.started for node in cluster)
    until(lambda: not cluster[0].sessions, "they are closed")
