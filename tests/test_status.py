"""What a node is doing, as plain values that can be written as JSON."""

from __future__ import annotations

import typing

import msgspec
import pytest

import snowgreen
from snowgreen import events as all_events
from snowgreen import status
from tests.conftest import COOKIE, MakeNode
from tests.waiting import until


def test_a_linked_node_shows_itself_and_its_link(make_node: MakeNode):
    """Name, life, address and link of a node are what the node itself says."""
    server, client = make_node(), make_node(listen=False)
    session = client.connect(server.name)
    rtt = session.ping()
    shown = status.node_status(client)
    assert (shown.name, shown.incarnation, shown.address) == (client.name, str(client.incarnation), None)
    assert shown.links == 1
    assert shown.started_at is not None
    assert abs(shown.started_at - session.connected_at) < 60
    (link,) = status.links(client)
    assert (link.peer, link.form, link.initiated, link.rtt) == (server.name, "bound", True, rtt)
    assert (link.incarnation, link.address, link.state) == (str(server.incarnation), server.address, "up")
    assert (link.frames_sent, link.frames_received, link.waiting) == (1, 1, 0)
    assert link.serial == session.serial
    newest = status.events(client)[0]
    assert (newest.kind, newest.peer, newest.bad) == ("up", server.name, False)


def test_a_node_that_is_not_started_can_be_shown(make_node: MakeNode):
    """What there is not yet is None."""
    shown = status.node_status(make_node(start=False))
    assert (shown.incarnation, shown.started_at, shown.links) == (None, None, 0)


def test_a_failed_handshake_is_shown_with_its_cause(make_node: MakeNode):
    """Both ends of a link with two cookies show who failed, why, and in words."""
    server = make_node()
    client = make_node(listen=False, cookie=COOKIE + " but another")
    with pytest.raises(snowgreen.AuthenticationError):
        client.connect(server.name)
    until(lambda: status.failures(server), "the server knows")
    for node, initiated in ((client, True), (server, False)):
        (failure,) = status.failures(node)
        assert (failure.cause, failure.host, failure.initiated) == ("authentication", "127.0.0.1", initiated)
        assert failure.count == 1
        assert failure.problem
        assert status.node_status(node).failed == 1
        (event,) = status.events(node)
        assert (event.kind, event.cause, event.bad) == ("handshake_failed", "authentication", True)


def test_peers_tell_of_each_other(make_node: MakeNode):
    """In a mesh a node shows what its peers say of others, and forgets it with the peer."""
    one, two, three = (make_node(mesh=True) for _ in range(3))
    two.connect(one.name)
    three.connect(one.name)
    until(lambda: two.name in three.sessions, "the mesh is whole")
    assert status.mesh(three)[one.name] == [two.name]
    one.stop()
    until(lambda: one.name not in three.sessions, "the peer is gone")
    assert one.name not in status.mesh(three)


def test_kept_peers_without_a_link_are_missing(make_node: MakeNode):
    """Of the peers that are kept by name, those that are not linked are told, and the node itself is not."""
    server = make_node()
    nobody = "nobody@127.0.0.1:1"
    client = make_node("self@127.0.0.1:0", peers=[nobody, server.name, "127.0.0.1:1"], listen=False)
    until(lambda: server.name in client.sessions, "the link is up")
    assert status.missing(client) == [nobody]
    client.keep(client.name)
    assert status.missing(client) == [nobody]


def test_every_event_has_a_word():
    """No event of a node is without a kind."""
    assert set(status.KINDS) == set(typing.get_args(all_events.Event))


def test_what_is_no_utf_8_can_be_written_as_json(make_node: MakeNode):
    """A path of other bytes, in an event's words, is escaped: JSON could not hold it."""
    node = make_node()
    node.journal.record(snowgreen.CertificateProblem("/etc/\udcff.pem is gone", 1.0))
    (event,) = status.events(node)
    assert "/etc/\\udcff.pem is gone" in event.text
    assert msgspec.json.decode(msgspec.json.encode(event), type=status.EventStatus) == event


def test_all_of_it_can_be_written_as_json(make_node: MakeNode):
    """What is shown goes through JSON and back unchanged."""
    server, client = make_node(), make_node(listen=False)
    client.connect(server.name)
    for value, kind in (
        (status.node_status(client), status.NodeStatus),
        (status.links(client), list[status.LinkStatus]),
        (status.events(client), list[status.EventStatus]),
        (status.failures(client), list[status.FailureStatus]),
        (status.mesh(client), dict[str, list[str]]),
    ):
        assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value
