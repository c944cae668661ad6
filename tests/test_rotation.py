"""Secrets that change while nodes run: who can link with whom in which phase, and what becomes of links."""

from __future__ import annotations

import itertools
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp
from snowgreen.cookie import Cookie
from snowgreen.link.keyring import link_keys
from snowgreen.protocol.handshake import Established, Identity, Initiator, Refused
from snowgreen.protocol.keys import Secrets
from tests import raw
from tests.conftest import FAST, MakeNode
from tests.waiting import event_of, until

OLD = "the cookie of all the old days"
NEW = "the cookie of the days to come"
OTHER = "a cookie of neither old nor new"

#: The phases that a rotation takes a node through: its keyring, the primary cookie first.
PHASES = {
    "old": (OLD,),
    "old, accepts new": (OLD, NEW),
    "new, accepts old": (NEW, OLD),
    "new": (NEW,),
}
#: What takes a node from each phase to the next.
STEPS: list[Callable[[snowgreen.Node], object]] = [
    lambda node: node.accept(NEW),
    lambda node: node.rotate(NEW),
    lambda node: node.forget(OLD),
]


def fingerprint(cookie: str) -> str:
    """What stands for `cookie` in public."""
    return raw.keys(cookie).fingerprint


def may_link(initiator: str, acceptor: str) -> bool:
    """The rule: the initiator proves its primary, and the acceptor believes all it has."""
    return PHASES[initiator][0] in PHASES[acceptor]


def linked(one: snowgreen.Node, other: snowgreen.Node) -> bool:
    """Whether both nodes have a session with each other."""
    return other.name in one.sessions and one.name in other.sessions


# Who can link with whom.


@pytest.mark.parametrize("acceptor", PHASES)
@pytest.mark.parametrize("initiator", PHASES)
def test_the_rotation_matrix(make_node: MakeNode, initiator: str, acceptor: str) -> None:
    """For each phase of either side: a link under the initiator's primary, or AuthenticationError on both."""
    (mine, *my_others), (theirs, *their_others) = PHASES[initiator], PHASES[acceptor]
    a, b = make_node(cookie=mine, accept=my_others), make_node(cookie=theirs, accept=their_others)
    with b.subscribe() as events:
        if may_link(initiator, acceptor):
            session = a.connect(b.name)
            assert isinstance(event_of(events, NodeUp), NodeUp)
            assert session.cookie_id == b.sessions[a.name].cookie_id == fingerprint(mine)
            assert session.ping() > 0
        else:
            with pytest.raises(snowgreen.AuthenticationError):
                a.connect(b.name)
            assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)
            assert not a.sessions
            assert not b.sessions


def test_neighbouring_phases_link_both_ways() -> None:
    """What makes the procedure safe: while all nodes are in a phase or in the next, anybody can dial anybody."""
    phases = list(PHASES)
    for one, other in itertools.pairwise(phases):
        assert may_link(one, other)
        assert may_link(other, one)
    assert not may_link("old", "new")
    assert not may_link("new", "old")
    assert not may_link("new, accepts old", "old")  # and so no phase can be left out


def test_the_steps_lead_through_the_phases(make_node: MakeNode) -> None:
    """accept, rotate and forget make of an old node a new one, in exactly the keyrings of the matrix."""
    node = make_node(cookie=OLD)
    for step, ring in zip([lambda _: None, *STEPS], PHASES.values(), strict=True):
        step(node)
        assert node.fingerprints == tuple(map(fingerprint, ring))


# A rotation under way.


def test_a_rotation_across_three_nodes_loses_no_link(make_node: MakeNode) -> None:
    """Through all phases, node by node, every link stays the very same session and answers pings."""
    nodes = [make_node(cookie=OLD) for _ in range(3)]
    pairs = list(itertools.combinations(nodes, 2))
    sessions = {(a.name, b.name): a.connect(b.name) for a, b in pairs}
    until(lambda: all(linked(a, b) for a, b in pairs), "all are linked")
    subscriptions = [node.subscribe() for node in nodes]
    for step, node in itertools.product(STEPS, nodes):
        step(node)
        for (a, b), session in sessions.items():
            assert session.ping() > 0, (a, b)
    assert {node.fingerprints for node in nodes} == {(fingerprint(NEW),)}
    for a, b in pairs:
        assert a.sessions[b.name] is sessions[a.name, b.name]
    for node, events in zip(nodes, subscriptions, strict=True):
        node.stop()
        assert all(isinstance(event, NodeDown) and "stopped" in event.reason for event in events)


def test_at_every_moment_of_a_rotation_anybody_can_dial_anybody(make_node: MakeNode) -> None:
    """After each single change on each node, all pairs link anew in both directions."""
    nodes = [make_node(cookie=OLD) for _ in range(3)]
    for step, node in itertools.product(STEPS, nodes):
        step(node)
        for a, b in itertools.permutations(nodes, 2):
            session = a.connect(b.name)
            assert session.cookie_id == a.fingerprints[0]
            until(lambda a=a, b=b: linked(a, b), "both have it")
            session.close()
            until(lambda a=a, b=b: not a.sessions and not b.sessions, "both lost it")


def test_the_hub_runs_on_while_keys_are_derived(make_node: MakeNode) -> None:
    """Another greenlet pings over a link while rotate() waits for scrypt."""
    a, b = make_node(cookie=OLD), make_node(cookie=OLD)
    session = a.connect(b.name)
    job = gevent.spawn(a.rotate, "a cookie that nobody has derived before")
    until(lambda: job.started, "it began")
    assert session.ping() > 0
    assert not job.ready()
    job.get(timeout=10)


def test_a_restarted_node_has_the_cookie_it_was_rotated_to(make_node: MakeNode) -> None:
    """A new life does not fall back to the cookie of Node(cookie=...)."""
    node, new, old = make_node(cookie=OLD), make_node(cookie=NEW), make_node(cookie=OLD)
    node.rotate(NEW, keep=False)
    node.stop()
    assert node.fingerprints == ()
    node.start()
    assert node.fingerprints == (fingerprint(NEW),)
    assert new.connect(node.name).cookie_id == fingerprint(NEW)
    with pytest.raises(snowgreen.AuthenticationError):
        old.connect(node.name)


# Forgetting during a handshake.

CHANGES: dict[str, tuple[Callable[[snowgreen.Node], object], bool]] = {
    "rotated, old kept": (lambda node: node.rotate(NEW), True),
    "rotated, old not kept": (lambda node: node.rotate(NEW, keep=False), False),
    "rotated and forgotten": (lambda node: (node.rotate(NEW), node.forget(OLD)), False),
    "forgotten and accepted again": (lambda node: (node.rotate(NEW, keep=False), node.accept(OLD)), True),
}


@pytest.mark.parametrize(("change", "links"), CHANGES.values(), ids=CHANGES)
def test_an_inbound_handshake_under_a_change(
    make_node: MakeNode, change: Callable[[snowgreen.Node], object], links: bool
) -> None:
    """A REPLY with a cookie that was forgotten since NAME is refused, and counts as one with a wrong cookie."""
    node = make_node(cookie=OLD)
    with node.subscribe() as events:
        sock = raw.client(node.address)
        machine = raw.initiator(sock, cookie=OLD)
        sock.sendall(machine.start().send)
        machine.feed(raw.read_message(sock))
        change(node)
        sock.sendall(machine.prove().send)
        step = machine.feed(raw.read_message(sock))
        if links:
            assert isinstance(step, Established)
            assert node.sessions["raw@127.0.0.1:0"].cookie_id == fingerprint(OLD)
        else:
            assert isinstance(step, Refused)
            assert step.code == snowgreen.RejectCode.AUTH_FAILED
            error = event_of(events, HandshakeFailed).error
            assert isinstance(error, snowgreen.AuthenticationError)
            assert "forgotten" in error.problem
            assert not node.sessions
        sock.close()


@pytest.mark.parametrize(("change", "links"), CHANGES.values(), ids=CHANGES)
def test_an_outbound_handshake_under_a_change(
    make_node: MakeNode, change: Callable[[snowgreen.Node], object], links: bool
) -> None:
    """An ACK for a cookie that was forgotten since NAME makes no link: connect() says so, and none is tried."""
    node = make_node(cookie=OLD)
    named, changed = Event(), Event()

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor(cookie=OLD)
        name = raw.read_message(sock)
        named.set()
        changed.wait(10)
        sock.sendall(machine.feed(name).send)
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.accept().send)
        while sock.recv(4096):
            pass

    with raw.server(script) as peer, node.subscribe() as events:
        job = gevent.spawn(node.connect, peer.name())
        assert named.wait(10)
        change(node)
        changed.set()
        if links:
            assert job.get(timeout=10).cookie_id == fingerprint(OLD)
        else:
            with pytest.raises(snowgreen.AuthenticationError, match="forgotten here while"):
                job.get(timeout=10)
            assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)
            assert not node.sessions
        node.stop()


def test_a_handshake_keeps_the_keys_it_began_with(make_node: MakeNode) -> None:
    """A cookie that is accepted only since NAME does not help a REPLY; it does the next handshake."""
    node = make_node(cookie=OLD)
    sock = raw.client(node.address)
    machine = raw.initiator(sock, cookie=NEW)
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    node.accept(NEW)
    sock.sendall(machine.prove().send)
    assert isinstance(machine.feed(raw.read_message(sock)), Refused)
    sock.close()
    sock, _ = raw.link(node.address, cookie=NEW)
    sock.close()


# Draining.


def test_drain_closes_what_was_made_with_a_forgotten_cookie(make_node: MakeNode) -> None:
    """Links under accepted cookies and classic links stay; the others end here with the reason, and are counted."""
    classic = b"a cookie of the classic form"
    a = make_node(cookie=OLD, classic={"*": classic})
    old, old_too, new = make_node(cookie=OLD), make_node(cookie=OLD), make_node(cookie=NEW)
    session, session_too = old.connect(a.name), a.connect(old_too.name)
    a.rotate(NEW)
    kept = new.connect(a.name)
    sock = raw.client(a.address)
    machine = Initiator(
        Identity("snow@127.0.0.1:9000", 0),
        Secrets((), classic),
        challenge=b"c" * 32,
        expected=a.name,
        acceptor_binding=b"",
    )
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    sock.sendall(machine.prove().send)
    assert isinstance(machine.feed(raw.read_message(sock)), Established)
    assert a.sessions["snow@127.0.0.1:9000"].cookie_id is None

    assert a.drain() == 0  # the old cookie is accepted still
    assert a.forget() is True
    with a.subscribe() as events:
        assert a.drain("the old cookie leaked") == 2
        downs = {
            event.peer: event.reason for event in (event_of(events, NodeDown), event_of(events, NodeDown))
        }
    assert downs == dict.fromkeys((old.name, old_too.name), "the old cookie leaked")
    assert a.drain() == 0
    assert set(a.sessions) == {new.name, "snow@127.0.0.1:9000"}
    assert kept.ping() > 0
    until(lambda: session.closed and session_too.closed, "the others noticed")
    with pytest.raises(snowgreen.AuthenticationError):
        old.connect(a.name)
    sock.close()


# Reading the file again.


def test_a_node_reads_the_file_again_that_it_found_by_itself(
    make_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cookie argument, the user's cookie file is the source; a stop and start follow it, too."""
    monkeypatch.delenv("SNOWGREEN_COOKIE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    node = make_node(cookie=None)
    (first,) = node.fingerprints
    assert node.reload_cookie() is False
    path = tmp_path / "snowgreen" / "cookie"
    path.write_text(NEW + "\n")
    assert node.reload_cookie() is True
    assert node.fingerprints == (fingerprint(NEW), first)
    old = make_node(cookie=OLD)
    with pytest.raises(snowgreen.AuthenticationError):
        old.connect(node.name)
    path.write_text(OLD + "\n")
    node.stop()
    node.start()
    assert node.fingerprints[0] == fingerprint(OLD)
    assert old.connect(node.name).ping() > 0


# Arguments and secrets.


@pytest.mark.parametrize(
    ("argument", "accept"),
    [
        ("accept", [OLD, NEW, OTHER]),
        ("accept", OLD),
        ("accept", {OLD}),
        ("accept", None),
        ("accept[0]", ["short"]),
        ("accept[1]", [OLD, None]),
        ("accept[1]", (OLD, 7)),
    ],
)
def test_an_accept_it_cannot_use_is_named(argument: str, accept: Any) -> None:
    """Node() refuses more than two further cookies, a bare one, and one that is none."""
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        snowgreen.Node("a@127.0.0.1:0", cookie=OTHER, accept=accept)
    assert caught.value.argument == argument


def test_the_primary_among_the_accepted_does_no_harm(make_node: MakeNode) -> None:
    """Each cookie counts once, wherever else it is listed."""
    assert make_node(cookie=OLD, accept=[OLD, NEW]).fingerprints == (fingerprint(OLD), fingerprint(NEW))


def test_weak_cookies_stay_the_operators_choice(make_node: MakeNode) -> None:
    """rotate() and accept() refuse a short cookie as Node() does, unless the config allows it."""
    node = make_node(cookie=OLD)
    for call in (node.rotate, node.accept):
        with pytest.raises(snowgreen.CookieError, match="shorter than 16"):
            call("short")
        with pytest.raises(snowgreen.CookieError, match="must be str or bytes, not NoneType"):
            call(None)
    assert node.fingerprints == (fingerprint(OLD),)
    weak = make_node(cookie=OLD, config=snowgreen.Config(allow_weak_cookie=True))
    weak.rotate("short")
    assert weak.fingerprints == (
        link_keys(Cookie.wrap("short", "test", weak=True)).fingerprint,
        fingerprint(OLD),
    )


def test_a_node_that_is_not_started_says_so() -> None:
    """All of it asks for a started node, but for a look at the fingerprints."""
    node = snowgreen.Node("a@127.0.0.1:0", cookie=OLD, config=FAST)
    assert node.fingerprints == ()
    calls = [
        lambda: node.rotate(NEW),
        lambda: node.accept(NEW),
        lambda: node.forget(NEW),
        lambda: node.forget(),
        lambda: node.reload_cookie(),
        lambda: node.drain(),
    ]
    for call in calls:
        with pytest.raises(snowgreen.NodeStateError, match="not started"):
            call()


SECRETS = ("secret-cookie-number-one", "secret-cookie-number-two", "secret-cookie-number-three")
FAILURES: dict[str, Callable[[snowgreen.Node, snowgreen.Node], object]] = {
    "too many": lambda *_: snowgreen.Node(cookie=SECRETS[0], accept=SECRETS),
    "a bare one": lambda *_: snowgreen.Node(cookie=SECRETS[0], accept=SECRETS[1]),
    "a bad one": lambda *_: snowgreen.Node(cookie=SECRETS[0], accept=[SECRETS[1], SECRETS[2] + "\0"]),
    "a bad cookie": lambda *_: snowgreen.Node(cookie=SECRETS[0] + "\0", accept=SECRETS[1:]),
    "a bad name": lambda *_: snowgreen.Node("bad", cookie=SECRETS[0], accept=SECRETS[1:]),
    "rotate, bad": lambda node, _: node.rotate(SECRETS[0] + "\0"),
    "rotate, stopped": lambda _, stopped: stopped.rotate(SECRETS[0]),
    "accept, bad": lambda node, _: node.accept(SECRETS[0].encode() + b"\0"),
    "accept, stopped": lambda _, stopped: stopped.accept(SECRETS[0]),
    "forget, bad": lambda node, _: node.forget(SECRETS[0] + "\0"),
    "forget, primary": lambda node, _: node.forget(SECRETS[0]),
    "forget, stopped": lambda _, stopped: stopped.forget(SECRETS[0]),
    "reload": lambda node, _: node.reload_cookie(),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_no_traceback_shows_a_cookie(
    make_node: MakeNode, fail: Callable[[snowgreen.Node, snowgreen.Node], object]
) -> None:
    """A tool that prints every local of every frame of ours shows no cookie, whatever failed."""
    node, stopped = make_node(cookie=SECRETS[0], accept=SECRETS[1:]), make_node(cookie=OTHER, start=False)
    with pytest.raises(snowgreen.SnowgreenError) as caught:
        fail(node, stopped)
    chain: list[BaseException] = [caught.value]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    package = os.path.dirname(snowgreen.__file__)
    shown = ""
    for link in chain:
        shown += repr(link) + str(link)
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename.startswith(package):
                shown += repr(frame.f_locals)
    assert "'self'" in shown
    for secret in SECRETS:
        assert secret not in shown


def test_no_repr_or_log_of_a_rotation_shows_a_cookie(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """What a node says of a rotation are fingerprints; neither a cookie nor a key is in it."""
    caplog.set_level(logging.DEBUG, logger="snowgreen")
    a, b = make_node(cookie=OLD), make_node(cookie=OLD)
    session = a.connect(b.name)
    a.accept(NEW)
    a.rotate(NEW)
    a.forget(OLD)
    a.drain()
    with b.subscribe() as events, pytest.raises(snowgreen.AuthenticationError) as caught:
        a.connect(b.name)
    said = [a, b, a._keychain, a._keychain.ring, a._endpoint, session, caught.value, list(events)]
    text = caplog.text + "".join(map(repr, said)) + str(caught.value)
    assert fingerprint(NEW) in text
    for secret in (OLD, NEW):
        assert secret not in text
        assert raw.keys(secret).master.hex() not in text
        assert repr(raw.keys(secret).master) not in text


def test_a_wrapped_cookie_is_taken_as_it_is(make_node: MakeNode) -> None:
    """rotate(), accept() and forget() take a Cookie as Node() does."""
    node = make_node(cookie=OLD, accept=[Cookie.wrap(OTHER, "test")])
    node.accept(Cookie.wrap(NEW, "test"))
    assert node.forget(Cookie.wrap(OTHER, "test")) is True
    node.rotate(Cookie.wrap(NEW, "test"))
    assert node.fingerprints == (fingerprint(NEW), fingerprint(OLD))
