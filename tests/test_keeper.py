"""Kept peers: dialed, redialed after a loss, left alone after a goodbye, and left for good when told so."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp, RejectCode
from snowgreen.names import parse_name
from tests import raw
from tests.conftest import MakeNode
from tests.proxy import Proxy
from tests.waiting import event_of, until

QUICK = snowgreen.Config(
    redial_base=0.02,
    redial_ceiling=0.1,
    rejoin_wait=0.3,
    duplicate_wait=0.05,
    limits=snowgreen.Limits.trusted(dials=4),
)


def test_a_kept_peer_is_linked_and_linked_again(make_node: MakeNode) -> None:
    """A peer given to Node(peers=...) is dialed at the start, and again after each loss."""
    b = make_node()
    a = make_node(peers=[b.name], config=QUICK)
    assert a.kept == (b.name,)
    for _ in range(3):
        session = until(lambda: a.sessions.get(b.name), "linked")
        until(lambda: b.sessions.get(a.name), "registered")._end("as if cut", orderly=False)
        until(lambda session=session: session.closed, "lost")
    until(lambda: a.sessions.get(b.name), "linked again")


def test_a_peer_that_is_not_there_yet(make_node: MakeNode) -> None:
    """Dials go on until the peer appears; each failure is told."""
    gone = make_node()
    address, name = gone.address, gone.name
    gone.stop()
    a = make_node(peers=[name], config=QUICK)
    with a.subscribe() as events:
        for _ in range(3):
            assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.Unreachable)
        b = make_node(f"{name.partition('@')[0]}@{address}")
        assert event_of(events, NodeUp).peer == b.name


def test_the_same_list_for_all(make_node: MakeNode) -> None:
    """Nodes that are all given the list of all of them form the whole mesh, with one link per pair."""
    names = [make_node().name for _ in range(4)]
    for node_name in names:
        node = next(n for n in _nodes(make_node) if n.name == node_name)
        for name in names:
            node.keep(name)
    nodes = _nodes(make_node)
    until(lambda: all(len(node.sessions) == 3 for node in nodes), "the mesh stands")


def _nodes(make_node: MakeNode) -> list[snowgreen.Node]:
    return make_node.__closure__[
        next(i for i, v in enumerate(make_node.__code__.co_freevars) if v == "nodes")
    ].cell_contents


def test_keep_by_address(make_node: MakeNode) -> None:
    """A bare address is kept, too, once its name is known: a loss is followed by a redial."""
    b = make_node()
    a = make_node(config=QUICK)
    a.keep(b.address)
    session = until(lambda: a.sessions.get(b.name), "linked")
    b.sessions[a.name]._end("as if cut", orderly=False)
    until(lambda: session.closed and a.sessions.get(b.name), "linked again")
    a.leave(b.address)
    assert not a.sessions
    assert a.kept == ()


def test_an_address_that_leads_home_is_dropped(make_node: MakeNode) -> None:
    """Keeping one's own address is noticed and given up, not tried for ever."""
    a = make_node(config=QUICK)
    with a.subscribe() as events:
        a.keep(a.address)
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.SelfLinkError)
        until(lambda: not a._keeper.peers, "dropped")
    a.keep(a.name)
    assert not a._keeper.peers


def test_a_goodbye_is_told_from_a_loss(make_node: MakeNode) -> None:
    """stop() tells the peers: they see that the node left, why, and do not redial at once."""
    b = make_node("b@127.0.0.1:0")
    a = make_node(peers=[b.name], config=QUICK)
    with a.subscribe() as events:
        until(lambda: a.sessions.get(b.name) and b.sessions, "linked")
        at = gevent.get_hub().loop.now()
        address = b.address
        b.stop()
        down = event_of(events, NodeDown)
        assert not down.lost
        assert down.reason == "the peer said goodbye: it was stopped"
        assert str(down) == f"{down.peer} has left: the peer said goodbye: it was stopped"
        again = make_node(f"b@{address}")
        assert event_of(events, NodeUp).incarnation == again.incarnation
        assert gevent.get_hub().loop.now() - at >= 0.15  # half of rejoin_wait, at the least


def test_leaving_stays_left(make_node: MakeNode) -> None:
    """leave() ends the link, stops redialing, and declines the peer, until this node wants it again."""
    b = make_node()
    a = make_node(peers=[b.name], config=QUICK)
    b.keep(a.name)
    until(lambda: a.sessions and b.sessions, "linked")
    with b.subscribe() as events:
        a.leave(b.name)
        assert not a.sessions
        down = event_of(events, NodeDown)
        assert not down.lost
        assert down.reason == f"the peer said goodbye: {a.name} left"
        with pytest.raises(snowgreen.Rejected) as caught:
            b.connect(a.name)
        assert caught.value.code == RejectCode.NAME_NOT_ALLOWED
    assert not a.sessions
    assert a.connect(b.name).ping() > 0
    until(lambda: b.sessions, "b has it again")


def test_how_many_are_kept_and_how_many_of_them_are_linked(make_node: MakeNode) -> None:
    """Also one that was given by its address; this node itself is none, and nobody is without a start."""
    a, b = make_node(), make_node()
    node = make_node("own@127.0.0.1:0", peers=[a.name, str(b.address), "nobody@127.0.0.1:1"], start=False)
    assert node.keeping == (0, 0)
    node.start()
    node.keep(node.name)
    until(lambda: node.keeping == (3, 2), "both are linked", detail=lambda: node.keeping)
    a.stop()
    until(lambda: node.keeping == (3, 1), "one is gone", detail=lambda: node.keeping)
    node.leave(b.name)
    assert node.keeping == (2, 0)
    node.stop()
    assert node.keeping == (0, 0)


def test_leaving_a_stranger_is_harmless(make_node: MakeNode) -> None:
    """A peer that was never linked can be left, before and after the start; a text that is no name is refused."""
    a = make_node(start=False)
    a.keep("x@127.0.0.1:1")
    a.leave("x@127.0.0.1:1")
    a.start()
    a.leave("y@127.0.0.1:1")
    assert a.kept == ()
    for method in (a.keep, a.leave):
        with pytest.raises(snowgreen.InvalidName):
            method("nonsense")


@pytest.mark.parametrize("peers", ["b@h", b"b@h", 7])
def test_peers_must_be_a_list(peers: Any) -> None:
    """A single name in place of a list would be read letter by letter: it is refused."""
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        snowgreen.Node("a@127.0.0.1:0", peers=peers)
    assert caught.value.argument == "peers"


def test_no_more_dials_at_once_than_configured(make_node: MakeNode) -> None:
    """Of a hundred peers that do not answer only as many are dialed at a time as the limit says."""
    held: list[Any] = []
    most = 0

    def script(_: raw.RawServer, sock: Any) -> None:
        nonlocal most
        held.append(sock)
        most = max(most, len(held))
        while sock.recv(4096):
            pass
        held.remove(sock)

    a = make_node(config=QUICK)
    with raw.server(script, plain=True) as peer:
        for number in range(100):
            a.keep(peer.name(f"p{number}"))
        until(lambda: len(held) == 4, "four dials are under way")
        for _ in range(20):
            gevent.sleep(0)
        assert most == 4
        a.stop()


def test_a_thousand_peers_do_not_come_at_once(make_node: MakeNode) -> None:
    """The first dials of a long list are spread over seconds by chance, and so is every return."""
    a = make_node(config=snowgreen.Config(redial_base=1.0))
    for number in range(1000):
        a.keep(f"p{number}@127.0.0.1:1")
    due = sorted(entry[0] for entry in a._keeper._queue)
    assert due[-1] - due[0] > 5
    assert max(sum(1 for at in due if start <= at < start + 0.1) for start in due) < 100
    assert parse_name(a.kept[0]).port == 1


def test_an_inbound_link_of_a_kept_peer_ends_the_dialing(make_node: MakeNode) -> None:
    """When the peer links in by itself, nothing more is dialed; when that link is lost, it is."""
    b = make_node()
    a = make_node(config=QUICK)
    b.connect(a.name)
    a.keep(b.name)
    session = until(lambda: a.sessions.get(b.name), "linked")
    assert not session.initiated
    assert not a._keeper._queue
    session._end("as if cut", orderly=False)
    until(lambda: a.sessions.get(b.name) not in (None, session), "linked again")


def test_stop_flushes_what_waits_and_is_bounded(make_node: MakeNode) -> None:
    """A peer that reads gets everything before the goodbye; one that does not cannot hold up the stop."""
    node, reader = make_node(), make_node()
    session = node.connect(reader.name)
    sock, established = raw.link(node.address, capabilities=1)
    assert established
    other = reader.sessions[node.name]
    for _ in range(20_000):  # more than one turn of the loop can write
        session._send_ping(None)
    job = gevent.spawn(node.stop, 0.3)
    job.get(timeout=5)
    until(lambda: other.closed, "the reader was told")
    assert other.frames_received == 20_001  # every ping, then the goodbye
    assert "it was stopped" in other.reason
    assert raw.read_message(sock)[4:6] == b"\x40\x01"  # GOODBYE, STOPPING
    sock.close()


def test_a_node_kept_under_two_addresses(make_node: MakeNode) -> None:
    """Of two addresses that lead to one node either brings the link back when the other is dead."""
    b = make_node()
    with Proxy(raw.split(b.address)) as proxy:
        a = make_node(config=QUICK)
        a.keep(b.address)
        until(lambda: a.sessions, "linked")
        a.keep(f"127.0.0.1:{proxy.port}")
        until(lambda: len(a._keeper._by_name.get(b.name, ())) == 2, "both are known to lead to b", timeout=20)
        proxy.close()
        until(lambda: b.sessions.get(a.name), "registered")._end("as if cut", orderly=False)
        until(lambda: not a.sessions, "lost")
        until(lambda: a.sessions, "linked again")
        a.leave(b.name)
        assert not a._keeper.peers
