"""The node as its user meets it: defaults, linking, errors that say why, and what its arguments may be."""

from __future__ import annotations

import logging
import os
import re
import traceback
from typing import Any

import gevent
import pytest

import snowgreen
from snowgreen import HandshakeFailed, NodeDown, NodeUp
from snowgreen.link.runtime import Runtime
from tests import raw
from tests.conftest import COOKIE, FAST, MakeNode
from tests.waiting import event_of, until


def ends(session: snowgreen.Session) -> tuple[str, str]:
    """Both ends of the session's TCP connection, the dialing one first."""
    ends = (session.local_address, session.remote_address)
    return ends if session.initiated else ends[::-1]


def test_no_arguments_are_needed(make_node: MakeNode, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare Node has a name, a free loopback port, and a cookie file that only its user can read."""
    monkeypatch.delenv("SNOWGREEN_COOKIE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    one, two = make_node(None, cookie=None, config=None), make_node(None, cookie=None, config=None)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+-[0-9a-f]{6}@127\.0\.0\.1:[1-9][0-9]*", one.name)
    assert one.name.endswith(f":{one.address.rsplit(':')[-1]}")
    file = tmp_path / "snowgreen" / "cookie"
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(file.read_text())) == 32
    assert one.connect(two.name).peer == two.name


def test_the_first_link(make_node: MakeNode) -> None:
    """connect() returns the session that both sides then have, and both are told of."""
    a, b = make_node("a@127.0.0.1:0"), make_node("b@127.0.0.1:0")
    with a.subscribe() as at_a, b.subscribe() as at_b:
        session = a.connect(b.name, timeout=10)
        assert a.sessions[b.name] is session
        assert session.peer == b.name
        assert session.incarnation == b.incarnation
        assert session.form == "bound"
        assert session.initiated
        assert not session.closed
        assert event_of(at_a, NodeUp) == NodeUp(b.name, b.incarnation, "bound", True, session.connected_at)
        up = event_of(at_b, NodeUp)
    assert (up.peer, up.incarnation, up.initiated) == (a.name, a.incarnation, False)
    assert not b.sessions[a.name].initiated
    assert ends(session) == ends(b.sessions[a.name])


def test_a_second_connect_gives_the_same_session(make_node: MakeNode) -> None:
    """Whoever asks again, from either side, by name or by address, gets the link that is there."""
    a, b = make_node(), make_node()
    session = a.connect(b.name)
    assert a.connect(b.name) is session
    assert a.connect(b.address) is session
    assert b.connect(a.name) is until(lambda: b.sessions.get(a.name), "b registered")
    assert len(a.sessions) == len(b.sessions) == 1


def test_an_address_alone_learns_the_name(make_node: MakeNode) -> None:
    """connect("host:port") links with whoever proves the cookie there and tells its name."""
    a, b = make_node(), make_node()
    session = a.connect(b.address)
    assert session.peer == b.name
    assert a.sessions[b.name] is session


def test_an_address_is_dialed_again_by_the_rule_after_a_first_link(make_node: MakeNode) -> None:
    """A bare address works the second time, too, when the peer is known but no longer linked."""
    a, b = make_node(), make_node()
    a.connect(b.address).close()
    until(lambda: not b.sessions, "b noticed")
    assert a.connect(b.address).ping() >= 0


def test_many_waiters_share_one_dial(make_node: MakeNode) -> None:
    """Twenty greenlets that connect at once, by name and by address, cause one link and get it."""
    a, b = make_node(), make_node()
    with b.subscribe() as events:
        waiting = [gevent.spawn(a.connect, b.name if i % 2 else b.address) for i in range(20)]
        sessions = {id(job.get(timeout=10)) for job in waiting}
        assert sessions == {id(a.sessions[b.name])}
        until(lambda: b.sessions, "b registered")
        b.stop()
        assert [type(event) for event in events].count(NodeUp) == 1


@pytest.mark.parametrize("round_", range(10))
def test_simultaneous_dials_end_with_one_link(make_node: MakeNode, round_: int) -> None:
    """Two nodes that dial each other at once keep one connection, the same, and are told once."""
    a, b = make_node(), make_node()
    at_a, at_b = a.subscribe(), b.subscribe()
    jobs = [gevent.spawn(a.connect, b.name), gevent.spawn(b.connect, a.name)]
    found = [job.get(timeout=10) for job in jobs]
    until(lambda: a.sessions and b.sessions, "both registered")
    assert found[0] is a.sessions[b.name]
    assert found[1] is b.sessions[a.name]
    assert ends(found[0]) == ends(found[1])
    assert found[0].ping() >= 0
    assert not found[0].closed
    assert [type(at_a.get(0)), at_a.get(0)] == [NodeUp, None]
    assert [type(at_b.get(0)), at_b.get(0)] == [NodeUp, None]


@pytest.mark.parametrize("round_", range(6))
def test_simultaneous_dials_by_address(make_node: MakeNode, round_: int) -> None:
    """Where neither side knew the other's name the same holds: one link in the end, the same on both sides."""
    a, b = make_node(), make_node()
    jobs = [gevent.spawn(a.connect, b.address), gevent.spawn(b.connect, a.address if round_ % 2 else a.name)]
    for job in jobs:
        assert job.get(timeout=10).peer in (a.name, b.name)

    def same() -> bool:
        at_a, at_b = a.sessions.get(b.name), b.sessions.get(a.name)
        return at_a is not None and at_b is not None and ends(at_a) == ends(at_b)

    until(same, "one link, the same on both sides")
    assert a.sessions[b.name].ping() > 0


def test_a_stranger_cannot_take_a_members_place(make_node: MakeNode) -> None:
    """Who answers a bare address with a member's name, and proves nothing, neither blocks nor becomes that member."""
    a, victim = make_node(), make_node()
    answered: list[bytes] = []

    def stranger(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor(victim.name, cookie="not the cookie of this cluster")
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        answered.append(raw.read_message(sock)[4:5])
        while sock.recv(4096):  # and never an ACK
            pass

    with raw.server(stranger) as evil:
        lured = gevent.spawn(a.connect, str(evil.address))
        until(lambda: answered, "it was dialed")
        with gevent.Timeout(2):
            session = a.connect(victim.name)
        assert session.ping() > 0
        assert not lured.ready()
        again = gevent.spawn(a.connect, str(evil.address), 0.5)
        with pytest.raises(snowgreen.LinkTimeout):
            again.get(timeout=5)
        assert set(answered) == {bytes([3])}  # the same answer, whether or not the name is linked
        lured.kill()


def test_a_storm_of_dials_ends_with_one_link_per_pair(make_node: MakeNode) -> None:
    """Six nodes that all dial all others at once end with the fifteen links there are."""
    nodes = [make_node() for _ in range(6)]
    jobs = [gevent.spawn(x.connect, y.name) for x in nodes for y in nodes if x is not y]
    for job in jobs:
        assert job.get(timeout=20).peer
    until(lambda: all(len(node.sessions) == 5 for node in nodes), "everybody has everybody")
    for x in nodes:
        for y in nodes:
            if x is not y:
                assert ends(x.sessions[y.name]) == ends(y.sessions[x.name])
                assert x.sessions[y.name].ping() >= 0


def test_a_wrong_cookie_is_told_on_both_sides(make_node: MakeNode) -> None:
    """Both ends say AuthenticationError, and neither keeps anything."""
    a, b = make_node(), make_node(cookie="another cookie altogether")
    with a.subscribe() as at_a, b.subscribe() as at_b:
        with pytest.raises(snowgreen.AuthenticationError, match="different cookies") as caught:
            a.connect(b.name)
        failed = event_of(at_a, HandshakeFailed)
        assert failed.error is caught.value
        assert failed.initiated
        refused = event_of(at_b, HandshakeFailed)
    assert isinstance(refused.error, snowgreen.AuthenticationError)
    assert refused.claimed == a.name
    assert "different cookies" in str(refused)
    assert not a.sessions
    assert not b.sessions


def test_another_name_than_dialed(make_node: MakeNode) -> None:
    """Dialing x and meeting y is a NameMismatch that names both."""
    a, b = make_node(), make_node()
    dialed = f"other@{b.address}"
    with pytest.raises(snowgreen.NameMismatch, match=re.escape(b.name)) as caught:
        a.connect(dialed)
    assert caught.value.peer == dialed


def test_oneself(make_node: MakeNode) -> None:
    """A node does not link with itself, whether it says its name or only its address."""
    a = make_node()
    for target in (a.name, a.address):
        with pytest.raises(snowgreen.SelfLinkError):
            a.connect(target)
    assert not a.sessions


def test_nobody_there(make_node: MakeNode) -> None:
    """A closed port, a name that does not resolve and a dial-only peer are Unreachable, each saying why."""
    a, gone = make_node(), make_node()
    address = gone.address
    gone.stop()
    with pytest.raises(snowgreen.Unreachable, match="nothing listens there") as caught:
        a.connect(f"x@{address}")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(snowgreen.Unreachable, match="cannot be resolved"):
        a.connect("x@no-such-host.invalid:9000", timeout=30)
    with pytest.raises(snowgreen.Unreachable, match="only dials"):
        a.connect("x@127.0.0.1:0")


def test_a_silent_listener_runs_into_the_callers_timeout(make_node: MakeNode) -> None:
    """connect() gives up after its timeout and says how far it came."""
    a = make_node()
    with (
        raw.server(lambda _, sock: [1 for _ in iter(lambda: sock.recv(1), b"")], plain=True) as peer,
        a.subscribe() as events,
    ):
        with pytest.raises(snowgreen.LinkTimeout, match="TLS handshake"):
            a.connect(peer.name(), timeout=0.1)
        assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.LinkTimeout)


def test_a_silent_listener_runs_into_the_tls_deadline(make_node: MakeNode) -> None:
    """However patient the caller, TLS has a deadline of its own."""
    config = snowgreen.Config(limits=snowgreen.Limits(tls_timeout=0.1))
    a = make_node(config=config)
    with (
        raw.server(lambda _, sock: [1 for _ in iter(lambda: sock.recv(1), b"")], plain=True) as peer,
        pytest.raises(snowgreen.LinkTimeout, match=r"the TLS handshake took longer than 0\.1 s"),
    ):
        a.connect(peer.name(), timeout=None)


def test_a_timeout_of_the_caller_passes_through(make_node: MakeNode) -> None:
    """A gevent.Timeout around connect() is the caller's own and arrives as such."""
    a = make_node()
    with (
        raw.server(lambda _, sock: [1 for _ in iter(lambda: sock.recv(1), b"")], plain=True) as peer,
        pytest.raises(gevent.Timeout) as caught,
        gevent.Timeout(0.05) as timeout,
    ):
        a.connect(peer.name())
    assert caught.value is timeout


def test_killing_a_connecting_greenlet_ends_its_dial(make_node: MakeNode) -> None:
    """Nobody waits any more: the dial is given up, and its socket closed."""
    a = make_node()
    hung: list[Any] = []

    def script(_: Any, sock: Any) -> None:
        hung.append(sock)
        while sock.recv(4096):
            pass
        hung.clear()

    with raw.server(script, plain=True) as peer:
        job = gevent.spawn(a.connect, peer.name())
        until(lambda: hung, "the dial arrived")
        job.kill()
        until(lambda: not hung, "its connection was closed", timeout=1)  # long before TLS's own deadline


def test_one_impatient_waiter_does_not_end_the_others_dial(make_node: MakeNode) -> None:
    """A dial goes on while anybody waits for it."""
    a = make_node()
    gate = gevent.event.Event()

    def script(server: raw.RawServer, sock: Any) -> None:
        gate.wait()
        server.accept(sock)
        while sock.recv(4096):
            pass

    with raw.server(script) as peer:
        patient = gevent.spawn(a.connect, peer.name())
        with pytest.raises(snowgreen.LinkTimeout):
            a.connect(peer.name(), timeout=0.05)
        gate.set()
        assert patient.get(timeout=10).peer == peer.name()
        a.stop()


def test_not_started_and_stopped(make_node: MakeNode) -> None:
    """Before its start and after its stop a node has no sessions and says so when asked to connect."""
    node = make_node(start=False)
    assert dict(node.sessions) == {}
    assert node.incarnation is None
    for _ in range(2):
        with pytest.raises(snowgreen.NodeStateError):
            node.connect("x@127.0.0.1:1")
        node.start()
        node.stop()
        node.stop()


def test_stop_ends_a_dial_under_way(make_node: MakeNode) -> None:
    """Who waits for a link when the node stops is told so at once."""
    a = make_node()
    with raw.server(lambda _, sock: [1 for _ in iter(lambda: sock.recv(1), b"")], plain=True) as peer:
        job = gevent.spawn(a.connect, peer.name())
        until(lambda: job.started and a._dialer._all(), "the dial began")
        a.stop()
        with pytest.raises(snowgreen.NodeStateError):
            job.get(timeout=5)


def test_with_starts_and_stops(make_node: MakeNode) -> None:
    """``with Node(...) as node`` is a whole life."""
    with make_node(start=False) as node:
        assert node.started
        assert node.start() is node
    assert not node.started
    assert "not started" in repr(node)


def test_a_second_life_is_another_incarnation(make_node: MakeNode) -> None:
    """A restarted node has a greater incarnation, and its peer replaces the old link by the new one."""
    a, b = make_node(), make_node("b@127.0.0.1:0")
    first = a.connect(b.name)
    address, incarnation = b.address, b.incarnation
    b.stop()
    until(lambda: first.closed, "a noticed")
    assert first.reason == "the peer said goodbye: it was stopped"
    b2 = make_node(f"b@{address}")
    second = a.connect(b2.name)
    assert b2.incarnation > incarnation
    assert second is not first
    assert second.incarnation == b2.incarnation


def test_a_new_life_replaces_a_half_open_link(make_node: MakeNode) -> None:
    """A peer that comes back while its old link still looks alive gets in at once, and only it is left."""
    a = make_node()
    with a.subscribe() as events:
        old_sock, _ = raw.link(a.address, incarnation=1 << 40)
        old = event_of(events, NodeUp)
        new_sock, _ = raw.link(a.address, incarnation=2 << 40)
        down, up = event_of(events, NodeDown), event_of(events, NodeUp)
    assert old.incarnation == down.incarnation == 1 << 40
    assert "replaced" in down.reason
    assert up.incarnation == 2 << 40
    assert a.sessions["raw@127.0.0.1:0"].incarnation == 2 << 40
    old_sock.close()
    new_sock.close()


def test_an_older_life_does_not_come_back(make_node: MakeNode) -> None:
    """STALE_INCARNATION: an earlier life cannot take the place of a link that answers."""
    a = make_node()
    sock, _ = raw.link(a.address, incarnation=2 << 40)
    session = a.sessions["raw@127.0.0.1:0"]
    ghost = raw.client(a.address)
    machine = raw.initiator(ghost, incarnation=1 << 40)
    ghost.sendall(machine.start().send)
    machine.feed(raw.read_message(ghost))
    ghost.sendall(machine.prove().send)
    refused = machine.feed(raw.read_message(ghost))
    assert refused.code == snowgreen.RejectCode.STALE_INCARNATION
    ghost.close()
    assert a.sessions["raw@127.0.0.1:0"] is session
    # Our silence proves the registered link dead: the peer's clock went back, and it gets in.
    until(lambda: session.closed, "the silent link was found out")
    assert "no answer to a ping" in (session.reason or "")
    again, _ = raw.link(a.address, incarnation=1 << 40)
    for item in (sock, again):
        item.close()


def test_announced_and_bound_address_may_differ(make_node: MakeNode) -> None:
    """``listen`` binds elsewhere than the name says, as behind NAT; a dial to the bound address links."""
    a, b = make_node(), make_node("b@public.example:9100", listen="127.0.0.1:0")
    assert b.name == "b@public.example:9100"
    assert a.connect(b.address).peer == b.name


def test_a_dial_only_node(make_node: MakeNode) -> None:
    """``listen=False`` opens nothing, announces port 0, and links all the same."""
    a, b = make_node(listen=False), make_node()
    assert a.address is None
    assert a.name.endswith(":0")
    a.connect(b.name)
    until(lambda: a.name in b.sessions, "b has it")
    assert "dial-only" in repr(a)
    session = b.sessions[a.name]
    a.stop()
    until(lambda: session.closed, "b was told")
    with pytest.raises(snowgreen.SessionClosed, match="said goodbye"):
        session.ping()


def test_ipv6(make_node: MakeNode) -> None:
    """Bracketed IPv6 works in names, in listen and in addresses."""
    a, b = make_node(), make_node("b@[::1]:0")
    assert b.address.startswith("[::1]:")
    session = a.connect(b.name)
    assert session.remote_address == b.address
    a.stop()
    assert make_node(listen="[::1]:0").connect(b.address).peer == b.name


def test_a_taken_port_is_named(make_node: MakeNode) -> None:
    """Binding where somebody listens already is a ConfigurationError about ``listen``."""
    a = make_node()
    with pytest.raises(snowgreen.ConfigurationError, match="taken by another process") as caught:
        make_node(f"b@{a.address}")
    assert caught.value.argument == "listen"


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("name", {"name": "no-at-sign"}),
        ("name", {"name": 7}),
        ("cookie", {"cookie": "short"}),
        ("cookie", {"cookie": b"with\0nul-----------"}),
        ("cookie", {"cookie": 42}),
        ("listen", {"listen": "not an address"}),
        ("listen", {"listen": 9000}),
        ("listen", {"name": "a@203.0.113.5:9000"}),
        ("config", {"config": {"heartbeat": 3}}),
        ("classic", {"classic": "cookie"}),
        ("classic", {"classic": {"no-at-sign": "c"}}),
        ("classic['*']", {"classic": {"*": ""}}),
        ("runtime", {"runtime": object()}),
    ],
)
def test_an_argument_it_cannot_use_is_named(argument: str, options: dict[str, Any]) -> None:
    """Node() refuses each wrong argument with a ConfigurationError that names it."""
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        snowgreen.Node(options.pop("name", "a@127.0.0.1:0"), **{"cookie": COOKIE, **options})
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "wrong", [{"name": "bad"}, {"listen": 7}, {"config": 1}, {"classic": {"bad": "x" * 20}}]
)
def test_no_traceback_shows_a_cookie(wrong: dict[str, Any]) -> None:
    """A tool that prints every local of every frame of ours shows no cookie, whatever failed."""
    secret, other = "a-very-secret-cookie-value", "another-secret-cookie-value"
    options = {"cookie": secret, "classic": {"*": other}, **wrong}
    try:
        snowgreen.Node(**options)
    except snowgreen.ConfigurationError as error:
        shown = repr(error) + str(error)
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ or chain[-1].__context__:
            chain.append(chain[-1].__cause__ or chain[-1].__context__)
        for link in chain:
            for frame, _ in traceback.walk_tb(link.__traceback__):
                if "/snowgreen/" in frame.f_code.co_filename:
                    shown += repr(frame.f_locals)
        assert secret not in shown
        assert other not in shown
        assert "x" * 20 not in shown
    else:
        raise AssertionError("it was accepted")


def test_no_repr_log_or_event_shows_a_cookie(make_node: MakeNode, caplog: pytest.LogCaptureFixture) -> None:
    """Everything a node prints in a failed and a good link leaves the cookies out."""
    caplog.set_level(logging.DEBUG, logger="snowgreen")
    wrong = "the-wrong-cookie-of-the-third"
    a, b = make_node(classic={"*": "classic-cookie-0"}), make_node()
    c = make_node(cookie=wrong)
    with b.subscribe() as events:
        session = a.connect(b.name)
        with pytest.raises(snowgreen.AuthenticationError) as caught:
            c.connect(b.name)
        event_of(events, HandshakeFailed)
        text = "".join(map(repr, (a, b, c, session, caught.value, a._endpoint, a._keychain, a._classic)))
    text += caplog.text + str(caught.value)
    assert b.name in text
    for secret in (COOKIE, wrong, "classic-cookie-0"):
        assert secret not in text


def test_sessions_is_read_only(make_node: MakeNode) -> None:
    """Nobody outside can put a session in or take one out."""
    node = make_node()
    with pytest.raises(TypeError):
        node.sessions["x"] = 1  # type: ignore[index]


def test_node_ids_are_reused_and_never_zero(make_node: MakeNode) -> None:
    """A released number is given out again, and 0 stays the local node's."""
    a, b, c = make_node(), make_node(), make_node()
    first = a.connect(b.name)
    assert first.node_id == 1
    assert a.connect(c.name).node_id == 2
    first.close()
    until(lambda: not b.sessions, "b noticed")
    assert a.connect(b.name).node_id == 1


def test_quiet_by_default(make_node: MakeNode, capfd: pytest.CaptureFixture[str]) -> None:
    """Without logging set up, neither a good nor a failed link prints anything."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        a, b = make_node(), make_node(cookie="another cookie altogether")
        with pytest.raises(snowgreen.AuthenticationError):
            a.connect(b.name)
    finally:
        root.handlers = handlers
    assert capfd.readouterr() == ("", "")


def test_subscribers_hear_from_their_call_on_and_each_for_itself(make_node: MakeNode) -> None:
    """Each subscriber gets every event since it subscribed, however slow the other is."""
    a, b, c = make_node(), make_node(), make_node()
    early = a.subscribe()
    a.connect(b.name)
    late = a.subscribe()
    a.connect(c.name)
    a.stop()
    assert [type(e).__name__ + e.peer[:2] for e in early] == [
        "NodeUpn1",
        "NodeUpn2",
        "NodeDownn1",
        "NodeDownn2",
    ]
    assert [type(e).__name__ + e.peer[:2] for e in late] == ["NodeUpn2", "NodeDownn1", "NodeDownn2"]


def test_config_is_the_defaults_with_changes() -> None:
    """The tests' quick settings differ from the defaults only where they say so."""
    assert FAST.heartbeat_timeout == snowgreen.Config().heartbeat_timeout == 15


def test_a_stopped_life_registers_nothing(make_node: MakeNode) -> None:
    """A handshake that comes to its end while the node stops, before it could be ended, leaves no session behind."""
    node, peer = make_node(), make_node()
    sock = raw.client(node.address)
    machine = raw.initiator(sock)
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    node._endpoint.stopped = True  # as stop() does first; the handler has its turn before its end
    sock.sendall(machine.prove().send)
    refused = machine.feed(raw.read_message(sock))
    assert refused.code == snowgreen.RejectCode.SHUTTING_DOWN
    with pytest.raises(snowgreen.LinkTimeout):
        node.connect(peer.name, timeout=0.3)
    assert not node.sessions
    sock.close()


def test_a_life_that_begins_while_the_last_one_ends(make_node: MakeNode) -> None:
    """start() during stop() waits for its end; the new life's subscriptions are its own."""
    node, peer = make_node("a@127.0.0.1:0"), make_node()
    sock, _ = raw.link(node.address, capabilities=1)  # does not answer the goodbye: stop() has to wait
    stopping = gevent.spawn(node.stop, 0.2)
    until(lambda: not node.started, "it stops")
    node.start()
    assert stopping.ready()
    with node.subscribe() as events:
        peer.connect(node.name)
        assert event_of(events, NodeUp).peer == peer.name
    sock.close()


def test_starts_at_once_make_one_life(make_node: MakeNode) -> None:
    """Greenlets that start a node together share one start; one that stops it meanwhile has its way in the end."""
    node = make_node(start=False, cookie="a cookie nobody has derived keys of")
    jobs = [gevent.spawn(node.start) for _ in range(5)]
    gevent.joinall(jobs, raise_error=True)
    assert node.started
    other = make_node(start=False, cookie="another one nobody has derived keys of")
    starting = gevent.spawn(other.start)
    gevent.sleep(0)  # it has begun, and waits for its keys
    other.stop()
    starting.get(timeout=5)
    assert not other.started


def test_a_view_of_the_sessions_stays_live(make_node: MakeNode) -> None:
    """node.sessions, taken before the start, shows the sessions of every life."""
    node, peer = make_node("a@127.0.0.1:0", start=False), make_node()
    view = node.sessions
    for _ in range(2):
        node.start()
        session = node.connect(peer.name)
        assert dict(view) == {peer.name: session}
        node.stop()
        assert not view


def test_lives_are_ordered_however_quick(make_node: MakeNode) -> None:
    """Each life's incarnation is greater than the last one's, within a millisecond and when the clock goes back."""
    wall = [1_800_000_000.0]
    node = make_node(start=False, listen=False, runtime=Runtime(wall=lambda: wall[0]))
    lives = []
    for _ in range(50):
        lives.append(node.start().incarnation)
        node.stop()
        wall[0] -= 0.5
    assert lives == sorted(set(lives))


def test_a_logging_handler_that_waits_or_fails_breaks_no_link(make_node: MakeNode, monkeypatch: Any) -> None:
    """Handlers are the user's: one that gives way, or raises, has no part in what a link does."""

    class Rude(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0)
            raise RuntimeError("a handler of the user's")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)
    log, rude = logging.getLogger("snowgreen"), Rude()
    log.addHandler(rude)
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        a, b = make_node(), make_node()
        with a.subscribe() as events:
            session = a.connect(b.name)
            assert session.ping() > 0
            assert event_of(events, NodeUp).peer == b.name
            b.sessions[a.name].close()
            assert event_of(events, NodeDown).peer == b.name
        gevent.sleep(0)
    finally:
        log.removeHandler(rude)
        log.setLevel(level)


def test_a_name_too_long_for_its_port_is_refused_at_once() -> None:
    """With port 0 the name grows by the port it gets: that it will not fit is told before anything is bound."""
    name = "a@" + ".".join(["h" * 60] * 4) + ".hhhhhh:0"
    assert len(name) == 254
    with pytest.raises(snowgreen.InvalidName):
        snowgreen.Node(name, cookie=COOKIE, listen="127.0.0.1:0")


@pytest.mark.parametrize("timeout", ["5", -1, float("nan"), True])
def test_a_timeout_that_is_none_is_refused(make_node: MakeNode, timeout: Any) -> None:
    """connect() and ping() name the argument they cannot use."""
    a, b = make_node(), make_node()
    session = a.connect(b.name)
    for call in (lambda: a.connect(b.name, timeout), lambda: session.ping(timeout)):
        with pytest.raises(snowgreen.ConfigurationError) as caught:
            call()
        assert caught.value.argument == "timeout"
    with pytest.raises(snowgreen.InvalidName) as named:
        a.connect(123)  # type: ignore[arg-type]
    assert named.value.argument == "peer"
