"""The classic form against an independent peer on blocking sockets and threads, which shares no code with us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp
from tests.conftest import MakeNode
from tests.system.processes import Child
from tests.waiting import event_of, until

PEER = str(Path(__file__).parents[1] / "classic_peer.py")
SECRET = "a cookie for the snow side"
ENV = {"SNOW_COOKIE": SECRET}


@pytest.fixture
def snow() -> Iterator[Child]:
    """A classic peer that listens."""
    with Child(PEER, "listen", "--name", "snow@127.0.0.1:0", "--cookie-env", "SNOW_COOKIE", env=ENV) as child:
        yield child


def dialing(target: str, *options: str, env: dict[str, str] = ENV) -> Child:
    return Child(
        PEER,
        "dial",
        "--name",
        "snow@127.0.0.1:9000",
        "--target",
        target,
        "--cookie-env",
        "SNOW_COOKIE",
        *options,
        env=env,
    )


def test_the_independent_peer_knows_the_vectors() -> None:
    """The stand-in reproduces the known answers by itself: it is a second opinion, not an echo."""
    vectors = Path(__file__).parents[1] / "vectors.json"
    child = Child(PEER, "--selftest", str(vectors))
    assert child._process.wait(timeout=20) == 0
    child.finish()


@pytest.mark.parametrize("allowed", ["name", "*"])
def test_we_dial_a_classic_peer(make_node: MakeNode, snow: Child, allowed: str) -> None:
    """Allowed by its name or by "*", a classic listener is linked with, pinged, and seen to leave."""
    name = snow.expect("listening")["name"]
    node = make_node(classic={name if allowed == "name" else "*": SECRET})
    with node.subscribe() as events:
        session = node.connect(name)
        linked = snow.expect("linked")
        assert linked["peer"] == node.name
        assert linked["peer_creation"] == node._endpoint.identity.creation
        assert event_of(events, NodeUp).form == "classic"
        assert (session.form, session.incarnation, session.creation) == ("classic", None, 1)
        assert session.ping() > 0
        snow.tell(do="ping")
        assert snow.expect("pong")["rtt"] > 0
        snow.tell(do="send", tag=0x11, body="0100417878")  # a REG_SEND; unknown frames are ignored
        assert session.ping() > 0
        snow.tell(do="close")
        assert event_of(events, NodeDown).peer == name
    assert not node.sessions


@pytest.mark.parametrize("allowed", ["name", "*"])
def test_a_classic_peer_dials_us(make_node: MakeNode, allowed: str) -> None:
    """The other direction: every message of ours arrives whole at a reader that drops partial ones."""
    node = make_node(classic={"snow@127.0.0.1:9000" if allowed == "name" else "*": SECRET})
    with node.subscribe() as events, dialing(node.address, "--expect", node.name) as snow:
        linked = snow.expect("linked")
        assert linked["peer"] == node.name
        assert linked["lost_bytes"] == 0
        up = event_of(events, NodeUp)
        assert (up.peer, up.form, up.incarnation) == ("snow@127.0.0.1:9000", "classic", None)
        assert node.sessions[up.peer].ping() > 0
        snow.tell(do="ping")
        snow.expect("pong")


def test_off_by_default_in_both_directions(make_node: MakeNode, snow: Child) -> None:
    """Unless allowed, a classic peer is refused before any proof, with a PolicyError that says how to allow it."""
    name = snow.expect("listening")["name"]
    node = make_node()
    with pytest.raises(snowgreen.SnowgreenError) as caught:
        node.connect(name)
    # It agrees on no ALPN either, which is the first thing that shows.
    assert isinstance(caught.value, snowgreen.TLSError | snowgreen.PolicyError)
    with node.subscribe() as events, dialing(node.address) as dialer:
        dialer.expect("refused")
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.TLSError | snowgreen.PolicyError)
    assert not node.sessions


def test_allowed_for_one_is_not_allowed_for_another(make_node: MakeNode, snow: Child) -> None:
    """A cookie for one classic name opens no other name, in neither direction."""
    name = snow.expect("listening")["name"]
    node = make_node(classic={"other@127.0.0.1:9000": SECRET})
    with pytest.raises(snowgreen.TLSError):
        node.connect(name)
    with node.subscribe() as events, dialing(node.address) as dialer:
        dialer.expect("refused")
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)


def test_a_wrong_classic_cookie(make_node: MakeNode, snow: Child) -> None:
    """The classic cookie is its own: the node's main cookie does not open it, nor any other."""
    name = snow.expect("listening")["name"]
    node = make_node(classic={"*": "not the right one"})
    with pytest.raises(snowgreen.LinkError) as caught:
        node.connect(name)
    assert isinstance(caught.value, snowgreen.AuthenticationError | snowgreen.ProtocolError)
    with node.subscribe() as events, dialing(node.address) as dialer:
        dialer.expect("refused")
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)
    assert not node.sessions


def test_a_classic_peer_that_lies_in_its_proof(make_node: MakeNode) -> None:
    """A listener that sends a wrong ACK is not linked with."""
    command = ["listen", "--name", "snow@127.0.0.1:0", "--cookie-env", "SNOW_COOKIE", "--wrong-proof"]
    with Child(PEER, *command, env=ENV) as snow:
        name = snow.expect("listening")["name"]
        node = make_node(classic={name: SECRET})
        with pytest.raises(snowgreen.AuthenticationError):
            node.connect(name)


def test_a_stripped_offer_is_noticed(make_node: MakeNode) -> None:
    """A classic CHALLENGE that bears a bound node's mark means that our offer was cut out: refused."""
    command = ["listen", "--name", "snow@127.0.0.1:0", "--cookie-env", "SNOW_COOKIE", "--mark-challenge"]
    with Child(PEER, *command, env=ENV) as snow:
        name = snow.expect("listening")["name"]
        node = make_node(classic={name: SECRET})
        with pytest.raises(snowgreen.PolicyError, match="removed it"):
            node.connect(name)
        assert not any(event["event"] == "linked" for event in snow.seen)


def test_tls_1_2_is_refused_for_a_classic_peer_too(make_node: MakeNode) -> None:
    """The classic form loosens the handshake, not TLS."""
    node = make_node(classic={"*": SECRET})
    with node.subscribe() as events, dialing(node.address, "--tls12") as snow:
        snow.expect("refused")
        assert "TLS 1.3" in str(event_of(events, HandshakeFailed))


def test_a_redial_finds_the_old_link_silent_and_replaces_it(make_node: MakeNode) -> None:
    """A classic peer cannot say which link is newer: the old one is probed, and goes if it does not answer."""
    node = make_node(classic={"*": SECRET})
    with node.subscribe() as events, dialing(node.address) as snow:
        event_of(events, NodeUp)
        old = node.sessions["snow@127.0.0.1:9000"]
        snow.expect("linked")
        snow.tell(do="silence")
        with dialing(node.address) as again:
            again.expect("linked")
            until(lambda: old.closed, "the silent one went")
            assert "no answer" in old.reason
            assert event_of(events, NodeUp).peer == "snow@127.0.0.1:9000"
            assert node.sessions["snow@127.0.0.1:9000"].ping() > 0


def test_a_redial_beside_a_live_link_is_declined(make_node: MakeNode) -> None:
    """While the old classic link answers, a second one is not taken."""
    node = make_node(classic={"*": SECRET})
    with dialing(node.address) as snow:
        snow.expect("linked")
        session = until(lambda: node.sessions.get("snow@127.0.0.1:9000"), "registered")
        with dialing(node.address) as again:
            again.expect("refused")
        assert node.sessions["snow@127.0.0.1:9000"] is session
        assert session.ping() > 0


@pytest.mark.parametrize("ours", ["aaa", "zzz"])
def test_simultaneous_classic_dials_end_with_one_link(make_node: MakeNode, snow: Child, ours: str) -> None:
    """When both dial at once a link stands on both sides, whichever name is the smaller."""
    name = snow.expect("listening")["name"]
    node = make_node(f"{ours}@127.0.0.1:0", classic={"*": SECRET})
    import gevent

    snow.tell(do="dial", target=node.address)
    job = gevent.spawn(node.connect, name)
    session = job.get(timeout=15)
    assert until(lambda: node.sessions.get(name), "registered").ping() > 0
    assert session.peer == name


def test_both_forms_beside_each_other(make_node: MakeNode) -> None:
    """A node that allows classic still links in bound form with those that can."""
    node, other = make_node(classic={"*": SECRET}), make_node(classic={"*": SECRET})
    assert node.connect(other.name).form == "bound"
    assert json.dumps(list(node.sessions)) == json.dumps([other.name])


def test_an_address_that_leads_to_a_linked_classic_peer(make_node: MakeNode, snow: Child) -> None:
    """A dial by address ends with the link that is there, and only after the peer has proved its name."""
    started = snow.expect("listening")
    node = make_node(classic={"*": SECRET})
    session = node.connect(started["name"])
    assert node.connect(f"127.0.0.1:{started['port']}") is session
    assert session.ping() > 0
    assert len(node.sessions) == 1
