"""A node against the peer of `tests/misbehaving.py`, in either role: what comes of each fault at each step.

Each table below has a row per fault and a column per step; a cell is one word for what becomes of the node's
side. The words before "fine" end the handshake with an error, the ones behind it a link that stood:

    tls-late   LinkTimeout: the total deadline of TLS passed
    late       LinkTimeout: the total deadline of TLS and the four messages together passed
    tls        TLSError: TLS came to nothing
    not-tls    NotTLSError: the bytes were no TLS at all
    protocol   ProtocolError: a message was malformed, out of order, or missing
    auth       AuthenticationError: the proof was wrong
    fine       there is a link, and it answers pings: the fault does no harm
    cut        NodeDown: the connection was cut, or lost, without a word of TLS
    middle     NodeDown: it closed in the middle of a frame
    stopped    NodeDown: it stopped in the middle of a frame, and the frame's deadline passed
    silent     NodeDown: no answer to a ping
    broken     NodeDown: it broke the protocol
    -          the peer says nothing at this step

In every cell another link of the same node answers pings all along, and nothing is left over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp
from tests import misbehaving
from tests.conftest import MakeNode
from tests.misbehaving import FAULTS, Step
from tests.waiting import event_of, until

#: The peer dials the node.
ACCEPTOR = """
               TLS hello   TLS finish   hello      proof      frame
drop           tls-late    tls          late       late       fine
duplicate      not-tls     protocol     protocol   fine       fine
reorder        not-tls     not-tls      protocol   protocol   fine
truncate       tls         tls          protocol   protocol   middle
stall          tls-late    tls-late     late       late       stopped
oversize       not-tls     not-tls      protocol   protocol   broken
drip           fine        fine         fine       fine       fine
replay         tls         tls          fine       auth       fine
wrong role     not-tls     not-tls      protocol   protocol   fine
stop reading   tls-late    late         late       silent     silent
half close     tls         protocol     protocol   cut        cut
reset          tls         tls          protocol   protocol   cut
"""

#: The node dials the peer.
INITIATOR = """
               TLS hello   TLS finish   hello      proof      frame
drop           tls-late    -            late       protocol   fine
duplicate      protocol    -            protocol   fine       fine
reorder        not-tls     -            protocol   protocol   fine
truncate       tls         -            protocol   protocol   middle
stall          tls-late    -            late       late       stopped
oversize       not-tls     -            protocol   protocol   broken
drip           fine        -            fine       fine       fine
replay         tls         -            auth       auth       fine
wrong role     not-tls     -            protocol   protocol   fine
stop reading   late        -            late       silent     silent
half close     protocol    -            protocol   cut        cut
reset          tls         -            protocol   protocol   cut
"""


ERRORS: dict[str, type[snowgreen.LinkError]] = {
    "tls-late": snowgreen.LinkTimeout,
    "late": snowgreen.LinkTimeout,
    "tls": snowgreen.TLSError,
    "not-tls": snowgreen.NotTLSError,
    "protocol": snowgreen.ProtocolError,
    "auth": snowgreen.AuthenticationError,
}
REASONS = {
    "tls-late": "the TLS handshake took longer than 0.3 s",
    "late": "the handshake took longer than 0.5 s",
    "cut": "the connection was (cut|lost)",
    "middle": "in the middle of a frame",
    "stopped": "the peer stopped for 0.3 s in the middle of a frame",
    "silent": "no answer to a ping",
    "broken": "the peer broke the protocol",
}


def config(expected: str) -> snowgreen.Config:
    """The node's config in a cell: what is to pass a deadline gets a short one, and nothing else does."""
    limits = snowgreen.Limits.trusted(
        tls_timeout=0.3 if expected == "tls-late" else 20,
        handshake_timeout=0.5 if expected == "late" else 20,
        frame_timeout=0.3 if expected == "stopped" else 30,
    )
    interval = 0.2 if expected == "silent" else 30
    return snowgreen.Config(heartbeat_interval=interval, heartbeat_timeout=0.3, limits=limits)


def cells(table: str) -> Iterator[Any]:
    """(step, fault, word) of each cell in which the peer has something to say."""
    columns = list(Step)
    for row in table.strip().splitlines()[1:]:
        fault, words = row[:15].strip(), row[15:].split()
        assert len(words) == len(columns), row
        for step, word in zip(columns, words, strict=True):
            if word != "-":
                yield pytest.param(step, fault, word, id=f"{fault}-{step.value}")


def check(expected: str, node: snowgreen.Node, peer: str, events: Any, friend: snowgreen.Session) -> Any:
    """Wait for what becomes of the link with `peer` and hold it against the word; the friend answers meanwhile."""
    awaited = NodeUp if expected == "fine" else HandshakeFailed | NodeDown
    event = None
    for _ in range(600):
        assert friend.ping() > 0
        event = events.get(0.05)
        if isinstance(event, awaited):
            break
        assert expected != "fine" or not isinstance(event, HandshakeFailed | NodeDown), event
    if isinstance(event, HandshakeFailed):
        assert type(event.error) is ERRORS.get(expected), event
        assert REASONS.get(expected, "") in event.error.problem
        assert not node.sessions.get(peer)
    elif isinstance(event, NodeDown):
        assert event.peer == peer
        assert re.search(REASONS[expected], event.reason), event
    else:
        assert expected == "fine", f"within 30 s: {event}"
    assert friend.ping() > 0
    return event


@pytest.fixture
def meeting(make_node: MakeNode, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """A maker of the node under test, with a friend that must have noticed nothing in the end."""
    nodes: list[snowgreen.Node] = []

    def make(expected: str) -> tuple[snowgreen.Node, snowgreen.Session]:
        node, friend = make_node(config=config(expected)), make_node()
        nodes.extend((node, friend))
        friend.connect(node.name)
        until(lambda: friend.name in node.sessions, "the friend is registered")
        return node, friend.sessions[node.name]

    yield make
    node, friend = nodes
    assert friend.sessions[node.name].ping() > 0
    until(lambda: list(node.sessions) == [friend.name], "the friend is all that is left")
    until(lambda: not node._listener.admission.pending, "no handshake is under way")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("step", "fault", "expected"), list(cells(ACCEPTOR)))
def test_a_peer_that_dials_and_misbehaves(meeting: Any, step: Step, fault: str, expected: str) -> None:
    """The node as acceptor ends each cell of its table as documented, and undisturbed."""
    node, friend = meeting(expected)
    name, recorded = "raw@127.0.0.1:0", None
    with node.subscribe() as events:
        if fault == "replay":
            with misbehaving.dialing(node.address, name) as earlier:
                event_of(events, NodeUp)
                assert earlier.linked.wait(10)
            event_of(events, NodeDown)
            recorded = earlier.said
        with misbehaving.dialing(node.address, name, step=step, fault=fault, recorded=recorded) as peer:
            check(expected, node, name, events, friend)
            if expected == "fine":
                assert peer.linked.wait(10)
                assert node.sessions[name].ping() > 0


@pytest.mark.parametrize(("step", "fault", "expected"), list(cells(INITIATOR)))
def test_a_peer_that_is_dialed_and_misbehaves(meeting: Any, step: Step, fault: str, expected: str) -> None:
    """The node as initiator does so too, and connect() raises the error of the event."""
    node, friend = meeting(expected)
    rehearsals = 1 if fault == "replay" else 0
    with (
        misbehaving.listening(rehearsals, step=step, fault=fault) as (name, peers),
        node.subscribe() as events,
    ):
        if rehearsals:
            session = node.connect(name)
            assert peers[0].linked.wait(10)
            session.close()
            event_of(events, NodeDown)
        dial = gevent.spawn(outcome, node, name)
        event = check(expected, node, name, events, friend)
        if expected == "fine":
            assert peers[-1].linked.wait(10)
            assert dial.get(timeout=10).ping() > 0
            node.sessions[name].close()
        elif isinstance(event, HandshakeFailed):
            assert dial.get(timeout=10) is event.error
        else:
            assert isinstance(dial.get(timeout=10), snowgreen.Session)
        assert not node._dialer._all()
        assert node._endpoint.table.pair(name).idle


def outcome(node: snowgreen.Node, name: str) -> snowgreen.Session | snowgreen.LinkError:
    """What connect() returns or raises."""
    try:
        return node.connect(name)
    except snowgreen.LinkError as error:
        return error


@pytest.mark.parametrize("table", [ACCEPTOR, INITIATOR], ids=["acceptor", "initiator"])
def test_the_table_is_whole(table: str) -> None:
    """Every fault has its row, in the order of the peer's own list, and every word its meaning."""
    rows = [row[:15].strip() for row in table.strip().splitlines()[1:]]
    assert rows == list(FAULTS)
    words = {cell.values[2] for cell in cells(table)}
    assert words <= {"fine", *ERRORS, *REASONS}
    assert table.strip().splitlines()[0].split() == " ".join(step.value for step in Step).split()
