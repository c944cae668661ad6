"""Meshes of live nodes in one process: they find each other, and no list makes them do more than they may."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp, PeerListRefused
from snowgreen.link.session import Session
from snowgreen.names import parse_name
from snowgreen.protocol import mail
from tests import raw
from tests.conftest import MakeNode
from tests.waiting import event_of, until

QUICK: dict[str, Any] = {
    "redial_base": 0.02,
    "redial_ceiling": 0.1,
    "rejoin_wait": 0.3,
    "duplicate_wait": 0.05,
    "limits": snowgreen.Limits.trusted(dials=4),
}
AFAR = "192.0.2.9"


def config(**changes: Any) -> snowgreen.Config:
    return snowgreen.Config(**{**QUICK, **changes})


def meshed(nodes: list[snowgreen.Node]) -> bool:
    """Whether each is linked with every other."""
    return all({other.name for other in nodes} - {node.name} <= set(node.sessions) for node in nodes)


def lists_are_read(node: snowgreen.Node, peer: snowgreen.Node) -> None:
    """Wait until `node` has read what `peer` sent when they linked: the answer to a ping comes behind it."""

    def answered() -> bool:
        try:
            return node.sessions[peer.name].ping() > 0
        except (KeyError, snowgreen.SessionError):
            return False  # a better link has just taken its place

    until(answered, "a ping is answered")


@pytest.fixture
def tell(make_node: MakeNode) -> Iterator[Any]:
    """Says to a node, as a peer that has linked, what a node never would."""
    socks = []
    numbers = itertools.count()

    def say(node: snowgreen.Node, *lists: list[str]) -> None:
        sock, _ = raw.link(node.address, f"liar{next(numbers)}@127.0.0.1:0")
        socks.append(sock)
        sock.sendall(b"".join(mail.encode_peer_list(names) for names in lists))

    yield say
    for sock in socks:
        sock.close()


@pytest.fixture
def afar(monkeypatch: pytest.MonkeyPatch) -> None:
    """All peers look like peers on other machines."""
    monkeypatch.setattr(Session, "remote_host", property(lambda _: AFAR))


def spy_on_dials(monkeypatch: pytest.MonkeyPatch, node: snowgreen.Node) -> list[str]:
    """The names that `node` dials from now on."""
    dialed: list[str] = []
    connect = node._dialer.connect

    def spy(target: Any, *args: Any) -> Any:
        dialed.append(str(target))
        return connect(target, *args)

    monkeypatch.setattr(node._dialer, "connect", spy)
    return dialed


def test_all_find_each_other_through_one_seed(make_node: MakeNode) -> None:
    """Five nodes that know one of them are soon linked each with each, by one link per pair."""
    seed = make_node(mesh=True, config=config())
    nodes = [seed, *(make_node(mesh=True, config=config(), peers=[seed.name]) for _ in range(4))]
    until(lambda: meshed(nodes), "the mesh stands")
    assert all(len(node.sessions) == 4 for node in nodes)


def test_nobody_meshes_unasked(make_node: MakeNode) -> None:
    """A node without mesh=True tells nobody of anybody, and dials nobody that it is told of."""
    hub = make_node(config=config())
    a, b = (make_node(mesh=True, config=config(), peers=[hub.name]) for _ in range(2))
    until(lambda: len(hub.sessions) == 2, "all are linked with the hub")
    c = make_node(mesh=True, config=config())
    c.connect(a.name)
    hub.connect(c.name)  # which tells the hub of a, whom it knows, and would tell it of others
    for node in (a, b, c):
        hub.sessions[node.name].ping()
    assert b.name not in a.sessions
    assert len(hub.sessions) == 3
    assert set(hub.sessions) == {a.name, b.name, c.name}


def test_a_node_that_only_dials_is_told_of_whoever_comes_later(make_node: MakeNode) -> None:
    """Nobody can dial it, so it hears of newcomers as they come, and dials them."""
    seed = make_node(mesh=True, config=config())
    caller = make_node("caller@127.0.0.1:0", listen=False, mesh=True, config=config(), peers=[seed.name])
    until(lambda: seed.sessions, "the caller is there first")
    late = [make_node(mesh=True, config=config(), peers=[seed.name]) for _ in range(2)]
    until(lambda: meshed([seed, caller, *late]), "the mesh stands")
    assert all(caller.sessions[node.name].initiated for node in late)


def test_a_lost_link_comes_back_and_one_that_said_goodbye_does_not(make_node: MakeNode) -> None:
    """A loss is dialed again without any seed; a node that stops is forgotten, and comes back by itself."""
    seed = make_node(mesh=True, config=config())
    a, b = (make_node(mesh=True, config=config(), peers=[seed.name]) for _ in range(2))
    until(lambda: meshed([seed, a, b]), "the mesh stands")
    lists_are_read(a, b)
    lists_are_read(b, a)
    seed.stop()
    until(lambda: seed.name not in {**a.sessions, **b.sessions}, "the seed is gone")
    for node in (a, b):
        until(lambda node=node: seed.name not in node._mesher._mesh._nodes, "and forgotten")
    lost = a.sessions[b.name]
    b.sessions[a.name]._end("as if cut", orderly=False)
    until(lambda: lost.closed and meshed([a, b]), "linked again")
    b.stop()
    until(lambda: not a.sessions, "b has left")
    assert a._mesher._mesh.known == 0
    again = make_node(b.name, mesh=True, config=config(), peers=[a.name])
    until(lambda: meshed([a, again]), "b has come back")


def test_a_link_that_was_closed_is_made_again(make_node: MakeNode) -> None:
    """Closing ends the one link, as it does with kept peers; a peer is left by leave()."""
    a, b = (make_node(mesh=True, config=config()) for _ in range(2))
    a.connect(b.name).close()
    until(lambda: meshed([a, b]), "linked again")


def test_a_hostile_list_makes_no_more_dials_than_allowed(make_node: MakeNode, tell: Any) -> None:
    """Of 256 names that do not answer four are dialed at a time, and links go on being made meanwhile."""
    held: list[Any] = []
    most = 0

    def script(_: raw.RawServer, sock: Any) -> None:
        nonlocal most
        held.append(sock)
        most = max(most, len(held))
        while sock.recv(4096):
            pass
        held.remove(sock)

    a = make_node(mesh=True, config=config())
    with raw.server(script, plain=True) as silent:
        tell(a, [silent.name(f"p{number}") for number in range(256)])
        until(lambda: len(held) == 4, "four dials are under way")
        b = make_node(mesh=True, config=config())
        assert b.connect(a.name).ping() > 0
        assert a.connect(make_node(config=config()).name).ping() > 0
        assert (most, a._mesher._mesh.in_flight) == (4, 4)
        assert a._mesher._mesh.known == 256 + 3
        a.stop()


def test_names_that_refuse_at_once_cannot_be_dialed_fast(make_node: MakeNode, tell: Any) -> None:
    """Lists of ever new names at one address are not a way to have it dialed a thousand times a second."""
    limits = snowgreen.Limits.trusted(dials=2, known_peers=64)
    a = make_node(mesh=True, config=config(redial_base=30.0, redial_ceiling=30.0, limits=limits))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with a.subscribe() as events:
            lists = [[f"p{n}x{m}@127.0.0.1:{port}" for n in range(200)] for m in range(20)]
            tell(a, *lists)
            for _ in range(2):
                assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.Unreachable)
            until(lambda: not a._mesher._dials, "both are over")
            for _ in range(20):
                gevent.sleep(0)
            assert (a._mesher._mesh.in_flight, a._mesher._mesh.known) == (0, 64)
            assert len(a._mesher._mesh._resting) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]"])
def test_a_peer_elsewhere_cannot_lead_to_local_addresses(
    make_node: MakeNode, tell: Any, afar: None, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A list from another machine with such an address is refused: an event, a warning, and no dial."""
    said: list[str] = []
    monkeypatch.setattr(
        "snowgreen.mesh.say", lambda _log, level, text, *args: said.append(f"{level} {text % args}")
    )
    a = make_node(mesh=True, config=config())
    dialed = spy_on_dials(monkeypatch, a)
    with a.subscribe() as events:
        tell(a, [f"x@{host}:9000"])
        event = event_of(events, PeerListRefused)
        assert event.count == 1
        assert "told of from elsewhere" in event.problem
    assert said == [f"{logging.WARNING} {a.name}: {event}"]
    assert a._mesher._mesh.known == 1  # the liar, who is linked
    assert dialed == []


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host name → its addresses."""
    hosts: dict[str, list[str]] = {}
    real = gevent.socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        return [item for address in hosts.get(host, [host]) for item in real(address, port, *args, **options)]

    monkeypatch.setattr(gevent.socket, "getaddrinfo", getaddrinfo)
    return hosts


def test_dns_is_no_way_around(
    make_node: MakeNode, tell: Any, afar: None, resolver: dict[str, list[str]]
) -> None:
    """A host name told of from elsewhere that turns out to be this machine is not connected to, nor tried again."""
    resolver["node.example"] = ["127.0.0.1", "::1"]
    a = make_node(mesh=True, config=config())
    with raw.server(lambda _, sock: pytest.fail("it was connected to"), plain=True) as victim:
        target = f"x@node.example:{victim.address.port}"
        with a.subscribe() as events:
            tell(a, [target])
            failed = event_of(events, HandshakeFailed)
            assert isinstance(failed.error, snowgreen.Unreachable)
            assert "at the word of a peer elsewhere" in str(failed.error)
        until(lambda: target not in a._mesher._mesh._nodes, "it is forgotten")


def test_of_several_addresses_only_the_forbidden_are_passed_over(
    make_node: MakeNode, resolver: dict[str, list[str]]
) -> None:
    """A host name with a good and a forbidden address is dialed at the good one; a user's own wish at any."""
    resolver["node.example"] = ["127.0.0.1", "127.0.0.2"]
    a, b = make_node(), make_node("b@node.example:0", listen="127.0.0.2:0")
    target = parse_name(b.name)
    asked: list[str] = []

    def vet(address: str) -> bool:
        asked.append(address)
        return address == "127.0.0.2"

    assert a._dialer.connect(target, 5.0, vet).remote_host == "127.0.0.2"
    assert asked == ["127.0.0.1", "127.0.0.2"]
    a.leave(b.name)
    until(lambda: not b.sessions, "left")
    with pytest.raises(snowgreen.Unreachable):
        a._dialer.connect(target, 5.0, lambda _: False)
    assert a.connect(b.name).remote_host == "127.0.0.2"  # nothing listens at the first


def test_a_wish_of_the_users_own_lifts_the_vet(
    make_node: MakeNode, resolver: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who asks for a node that the mesh is dialing gets it, wherever its name leads."""
    resolver["node.example"] = ["127.0.0.1"]
    asked, answer, resolve = Event(), Event(), gevent.socket.getaddrinfo

    def slowly(*args: Any, **options: Any) -> Any:
        asked.set()
        answer.wait(5)
        return resolve(*args, **options)

    a, b = make_node(), make_node("b@node.example:0", listen="127.0.0.1:0")
    monkeypatch.setattr(gevent.socket, "getaddrinfo", slowly)
    vetted = gevent.spawn(a._dialer.connect, parse_name(b.name), 5.0, lambda _: False)
    assert asked.wait(5)
    wanted = gevent.spawn(a.connect, b.name)
    until(lambda: a._dialer.dialing(b.name)._waiters == 2, "both wait for one dial")
    answer.set()
    assert wanted.get(timeout=5) is vetted.get(timeout=5)


def test_a_node_that_was_left_stays_left(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """After leave() no list brings a node back, until connect() or keep() asks for it."""
    seed = make_node(mesh=True, config=config())
    a, b = (make_node(mesh=True, config=config(), peers=[seed.name]) for _ in range(2))
    until(lambda: meshed([seed, a, b]), "the mesh stands")
    a.leave(b.name)
    assert b.name not in a.sessions
    dialed = spy_on_dials(monkeypatch, a)
    with a.subscribe() as events:
        for session in (a.sessions[seed.name], seed.sessions[a.name]):
            session._end("as if cut", orderly=False)
        assert event_of(events, NodeUp).peer == seed.name  # which tells a of b
        lists_are_read(a, seed)
        assert b.name not in dialed
        assert b.name not in a._mesher._mesh._nodes
    a.connect(b.name)
    until(lambda: meshed([seed, a, b]), "the mesh stands again")
    lost = a.sessions[b.name]
    lost._end("as if cut", orderly=False)
    until(lambda: a.sessions.get(b.name) not in (None, lost), "and holds")


def test_leaving_ends_the_dial_under_way(make_node: MakeNode, tell: Any) -> None:
    """A node that is left while the mesh dials it is not linked a moment later."""
    reached, go_on = Event(), Event()

    def script(server: raw.RawServer, sock: Any) -> None:
        reached.set()
        go_on.wait(5)
        server.accept(sock)

    a = make_node(mesh=True, config=config())
    with raw.server(script) as slow, a.subscribe() as events:
        tell(a, [slow.name()])
        assert reached.wait(5)
        a.leave(slow.name())
        until(lambda: not a._mesher._dials and not a._dialer.dialing(slow.name()), "the dial has ended")
        go_on.set()
        event_of(events, NodeUp)  # of who told
        assert events.get(0.0) is None
    assert a._mesher._mesh.in_flight == 0
    assert slow.name() not in a.sessions


def test_a_link_that_comes_in_the_moment_of_leaving_is_parted_from(make_node: MakeNode) -> None:
    """The session that a dial brings is not kept if the node was left in between."""
    a, b = make_node(mesh=True, config=config()), make_node(config=config())
    a._endpoint.left.add(b.name)  # as leave() does, and here without ending the dial
    a._mesher._begin(snowgreen.mesh.Dial(parse_name(b.name), True))
    with b.subscribe() as events:
        down = event_of(events, NodeDown)
    assert down.reason == f"the peer said goodbye: {a.name} left"
    assert not a.sessions


def test_lists_in_quick_succession_are_complained_of_once(make_node: MakeNode, tell: Any) -> None:
    """A flood of bad lists is no flood of events: the numbers are added up and told with the next."""
    a = make_node(mesh=True, config=config())
    now = 1000.0
    endpoint = a._endpoint
    endpoint.runtime = snowgreen.link.runtime.Runtime(monotonic=lambda: now)
    with a.subscribe() as events:
        tell(a, ["bad", "worse"], ["bad"], ["bad"])
        assert event_of(events, PeerListRefused).count == 2
        session = next(iter(a.sessions.values()))
        until(lambda: session.frames_received == 3, "all are read")
        now += 1.0
        a._mesher._received(session, mail.encode_peer_list(["bad"])[4:])
        event = event_of(events, PeerListRefused)
        assert (event.peer, event.count) == (session.peer, 3)
    session.close()
    assert not a._mesher._refusals


def test_a_list_that_is_none_ends_the_link(make_node: MakeNode, tell: Any) -> None:
    """A PEER_LIST of the wrong shape breaks the protocol."""
    a = make_node(mesh=True, config=config())
    sock, _ = raw.link(a.address)
    with a.subscribe() as events:
        sock.sendall(b"\x03\x00\x00\x00\x12\x05\x00")
        assert "broke the protocol" in event_of(events, NodeDown).reason
    sock.close()


def test_what_classic_peers_are_told_and_may_tell(
    make_node: MakeNode, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classic peer is told of classic peers only, and counts for the names that may be classic."""
    a = make_node(mesh=True, config=config(), classic={"snow@127.0.0.1:1": "a cookie for the snow side"})
    bound, classic, other = (make_node(config=config()) for _ in range(3))
    sessions = [a.connect(node.name) for node in (bound, classic, other)]
    sent: list[list[str]] = []
    monkeypatch.setattr(
        Session, "post_control", lambda _, frame: sent.append(mail.decode_peer_list(frame[4:]))
    )
    sessions[1].form = sessions[2].form = "classic"
    a._mesher._registered(sessions[1])
    assert sent == [[other.name]]
    a._mesher._registered(sessions[0])
    assert sorted(sent[1]) == sorted([classic.name, other.name])
    with a.subscribe() as events:
        told = mail.encode_peer_list(["snow@127.0.0.1:1", "b@127.0.0.1:1"])[4:]
        a._mesher._received(sessions[1], told)
        assert event_of(events, PeerListRefused).problem.startswith(
            "1 × name that a classic peer cannot speak of"
        )
    assert "snow@127.0.0.1:1" in a._mesher._mesh._nodes
    assert "b@127.0.0.1:1" not in a._mesher._mesh._nodes


def test_a_wrong_cookie_ends_the_interest_at_once(make_node: MakeNode, tell: Any) -> None:
    """A node that another dial would not reach either is dialed once for a list."""
    stranger = make_node(cookie="another cookie altogether")
    a = make_node(mesh=True, config=config())
    with a.subscribe() as events:
        tell(a, [stranger.name])
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)
        until(lambda: stranger.name not in a._mesher._mesh._nodes, "forgotten")


def test_a_node_that_cannot_be_reached_is_given_up(make_node: MakeNode, tell: Any) -> None:
    """Dials go on, with growing delays, until the patience ends; then it is forgotten."""
    a = make_node(mesh=True, config=config(mesh_patience=0.4))
    gone = make_node()
    name = gone.name
    gone.stop()
    with a.subscribe() as events:
        tell(a, [name])
        for _ in range(3):
            assert event_of(events, HandshakeFailed).claimed == name
        until(lambda: name not in a._mesher._mesh._nodes, "forgotten")


def test_a_stopped_mesh_listens_to_nothing(make_node: MakeNode) -> None:
    """What comes while the node parts from its peers is not acted on, and the next life meshes again."""
    a, b = (make_node(mesh=True, config=config()) for _ in range(2))
    session = a.connect(b.name)
    mesher = a._mesher
    mesher.stop()
    mesher._received(session, mail.encode_peer_list(["x@127.0.0.1:1"])[4:])
    mesher._registered(session)
    assert mesher._mesh.known == 1
    a.stop()
    a.start()
    c = make_node(mesh=True, config=config(), peers=[a.name])
    b.keep(a.name)
    until(lambda: meshed([a, b, c]), "the mesh of the next life")
    assert a._mesher is not mesher


def test_a_node_let_go_of_in_a_fork_dials_no_more(make_node: MakeNode, tell: Any) -> None:
    """The child of a fork has no mesh: whom it was told of is the parent's business."""
    a = make_node(mesh=True, config=config())
    tell(a, ["x@127.0.0.1:1"])
    until(lambda: a._mesher._greenlet, "it dials")
    mesher = a._mesher
    a.let_go()
    assert a._mesher is None
    assert mesher._greenlet is None


@pytest.mark.parametrize("value", [1, "yes", None])
def test_mesh_is_true_or_false(value: Any) -> None:
    """A value that only looks like a yes is refused by its name."""
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        snowgreen.Node("a@127.0.0.1:0", mesh=value)
    assert caught.value.argument == "mesh"
