"""The doctor: one test for each diagnosis, made on a real counterpart that has just that."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import socket
import ssl
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.server
import gevent.socket
import gevent.ssl
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from gevent import pywsgi
from gevent.event import Event
from gevent.subprocess import PIPE, Popen

import snowgreen
from snowgreen import Config, HandshakeFailed, Limits, NodeDown, NodeUp, TLSConfig
from snowgreen.cli import group
from snowgreen.cookie import Cookie
from snowgreen.doctor import STEPS, Outcome, Step, certificate, clocks, examine, words
from snowgreen.doctor.channel import Channel
from snowgreen.errors import CookieError
from snowgreen.link import endpoint, tls
from snowgreen.link.deadline import Deadline
from snowgreen.link.runtime import Runtime
from snowgreen.names import Address, parse_address, parse_name
from snowgreen.protocol.frames import FrameTag, encode, encode_pong
from snowgreen.protocol.messages import Reject, RejectCode, encode_reject
from snowgreen.protocol.wire import pack
from tests import raw
from tests.certs import CA, DAY, free_port, node_name, now
from tests.conftest import COOKIE, MakeNode
from tests.system.processes import Child
from tests.waiting import event_of, until

ROOT = Path(__file__).parents[1]
GOOD = Cookie.wrap(COOKIE, "the tests")
BAD = Cookie.wrap("another cookie altogether", "the tests")


def look(target: str, **options: Any) -> dict[str, Step]:
    """Examine `target`; the steps by name, which have come in their order."""
    parsed = parse_name(target) if "@" in target else parse_address(target)
    options.setdefault("cookie", GOOD)
    steps = list(examine(parsed, timeout=options.pop("timeout", 5.0), **options))
    assert tuple(step.name for step in steps) == STEPS
    return {step.name: step for step in steps}


def fails(steps: dict[str, Step], at: str, text: str, advice: str) -> Step:
    """The step `at` has failed with that, those before it have not, and those behind it were not reached."""
    where = STEPS.index(at)
    outcomes = [steps[name].outcome for name in STEPS]
    assert set(outcomes[:where]) <= {Outcome.OK, Outcome.WARNING}, steps
    assert outcomes[where] is Outcome.FAILED
    assert set(outcomes[where + 1 :]) <= {Outcome.NOT_REACHED}
    step = steps[at]
    assert re.search(text, step.text), step
    assert re.search(advice, step.advice), step
    assert step.seconds is not None
    return step


def works(steps: dict[str, Step], *, minding: str | None = None) -> None:
    """All is well, but for the one step that warns."""
    wrong = [step for step in steps.values() if step.outcome is not Outcome.OK and step.name != minding]
    assert not wrong
    if minding is not None:
        assert steps[minding].outcome is Outcome.WARNING
        assert steps[minding].advice


def came_and_left(events: Any, peer: str | None = None) -> None:
    """The next two events are of a link of the doctor's, which ended with a goodbye."""
    up, down = events.get(5), events.get(5)
    assert isinstance(up, NodeUp)
    assert isinstance(down, NodeDown)
    assert peer in (None, up.peer)
    assert down.peer == up.peer
    assert not down.lost
    assert "snowgreen doctor" in down.reason


@contextlib.contextmanager
def listening(handle: Callable[[Any], None]) -> Iterator[str]:
    """``host:port`` of a plain listener that runs `handle` on each connection."""

    def run(sock: Any, _: Any) -> None:
        with contextlib.suppress(OSError), contextlib.closing(sock):
            handle(sock)

    server = gevent.server.StreamServer(("127.0.0.1", 0), run)
    server.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.stop(0.1)


def sleeping(_: Any) -> None:
    """Say nothing, until the test ends it."""
    Event().wait()


# All well.


def test_a_healthy_node_passes_every_step_and_sees_no_failure(make_node: MakeNode) -> None:
    """Nothing fails or warns, the facts are the node's own, and the node saw a link that came and said goodbye."""
    node = make_node()
    events = node.subscribe()
    steps = look(node.name)
    works(steps)
    assert steps["tls"].facts["version"] == "TLSv1.3"
    assert steps["certificate"].facts["ephemeral"] is True
    assert steps["form"].facts["incarnation"] == node.incarnation
    assert steps["cookie"].facts["fingerprint"] == node.fingerprints[0]
    assert steps["name"].facts["answered"] == node.name
    assert 0 < steps["pairing"].facts["rtt"] < 5
    peer = steps["pairing"].facts["as"]
    assert peer.startswith("doctor-")
    came_and_left(events, peer)
    assert events.get(0) is None


def test_every_step_tells_how_long_it_took(make_node: MakeNode) -> None:
    """The times are those of the runtime's clock, and those of the network are not nothing."""
    steps = look(make_node().name)
    assert all(step.seconds is not None and 0 <= step.seconds < 5 for step in steps.values())
    assert steps["tls"].seconds


def test_an_address_is_enough_and_the_name_is_learnt(make_node: MakeNode) -> None:
    """With host:port the node that answers is named, and nothing is a mismatch."""
    node = make_node()
    steps = look(node.address or "")
    works(steps)
    assert steps["name"].text.startswith(f"{node.name} is who answers")


def test_ipv6(make_node: MakeNode) -> None:
    """A node on an IPv6 address is examined as any other."""
    steps = look(make_node("six@[::1]:0").name)
    works(steps)
    assert steps["tcp"].facts["remote"].startswith("[::1]:")


def test_a_node_with_an_operators_ca(make_node: MakeNode, ca: CA) -> None:
    """With certificates of the same CA on both sides every step passes, and the certificate's name is shown."""
    name = node_name("a")
    make_node(name, tls=ca.issue(name))
    steps = look(name, tls=ca.issue("b@127.0.0.1:0"))
    works(steps)
    assert name in steps["certificate"].text
    assert f"for node {name}" in " ".join(steps["certificate"].details)
    assert steps["pairing"].facts["as"] == "b@127.0.0.1:0"


def test_a_live_link_under_the_same_name_stays(make_node: MakeNode) -> None:
    """Asked under the name of a node that is linked, the peer keeps that very link, and it still works."""
    node, other = make_node(), make_node()
    session = other.connect(node.name)
    until(lambda: other.name in node.sessions, "the link is up on both sides")
    kept = node.sessions[other.name]
    steps = look(node.name, name=other.name)
    works(steps)
    assert "has a link" in steps["pairing"].text
    assert node.sessions[other.name] is kept
    assert session.ping() > 0


def test_a_live_link_under_the_certificates_name_stays(make_node: MakeNode, ca: CA) -> None:
    """The same where the name is the one that the certificate dictates."""
    name = node_name("a")
    node, mine = make_node(name, tls=ca.issue(name)), ca.issue("b@127.0.0.1:0")
    session = make_node("b@127.0.0.1:0", tls=mine, listen=False).connect(name)
    until(lambda: "b@127.0.0.1:0" in node.sessions, "the link is up on both sides")
    works(look(name, tls=mine))
    assert session.ping() > 0


# The way there.


def test_an_unknown_host() -> None:
    """A host that the resolver does not know fails the first step."""
    fails(look("n@nobody.invalid:9000"), "resolution", "nobody.invalid", "resolv|spelling")


@pytest.mark.parametrize(
    ("number", "text", "advice"),
    [(socket.EAI_NONAME, "not known", "spelling"), (socket.EAI_AGAIN, "no name server", "network")],
)
def test_what_the_resolver_says(monkeypatch: pytest.MonkeyPatch, number: int, text: str, advice: str) -> None:
    """A name that does not exist and a resolver that cannot tell are two things."""

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(number, "as the resolver says")

    monkeypatch.setattr(gevent.socket, "getaddrinfo", getaddrinfo)
    fails(look("n@host.example:9000"), "resolution", text, advice)


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver has its time, and no more."""
    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *_, **__: Event().wait())
    fails(look("n@host.example:9000", timeout=0.05), "resolution", "longer than 0.05 s", "resolv")


def test_port_0() -> None:
    """A name that says its node cannot be dialed is not dialed."""
    fails(look("n@127.0.0.1:0"), "resolution", "only dials", "port of its own")


def test_a_refused_port() -> None:
    """Nothing listens there."""
    step = fails(look(f"127.0.0.1:{free_port()}"), "tcp", "connection refused", "listens on")
    assert len(step.facts["tried"]) == 1


def test_an_address_that_does_not_answer() -> None:
    """SYNs that nobody answers are told from a refusal."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # the backlog is full; the kernel drops what comes
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        steps = look(f"127.0.0.1:{listener.getsockname()[1]}", timeout=0.2)
    fails(steps, "tcp", "longer than 0.2 s", "firewalls")


def test_the_second_address_of_a_name_is_tried(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first address refuses, the next one is taken, and that is worth a warning."""
    node = make_node("n@two.example:0", listen="127.0.0.1:0")
    port = parse_name(node.name).port
    found = [(socket.AF_INET, 1, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *_, **__: found)
    steps = look(node.name)
    works(steps, minding="tcp")
    assert steps["resolution"].facts["addresses"] == ["127.0.0.2", "127.0.0.1"]
    assert steps["tcp"].details[0].startswith(f"127.0.0.2:{port}: nothing listens there")


def test_no_address_of_a_name_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address is named, with what became of it."""
    port = free_port()
    found = [(socket.AF_INET, 1, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *_, **__: found)
    step = fails(look(f"n@two.example:{port}"), "tcp", "none of its addresses", "node runs")
    assert len(step.details) == 2


# What is there.


def test_a_silent_port() -> None:
    """Something takes the connection and says nothing."""
    with listening(sleeping) as address:
        fails(look(address, timeout=0.1), "tls", "says nothing", "takes in no more connections")


def test_a_web_server() -> None:
    """A real web server without TLS is recognised by its answer."""
    server = pywsgi.WSGIServer(("127.0.0.1", 0), lambda *_: [], log=None, error_log=None)
    server.start()
    try:
        steps = look(f"127.0.0.1:{server.server_port}")
    finally:
        server.stop()
    fails(steps, "tls", "web server .*HTTP/1.1 400", "something else than a node")


@pytest.mark.parametrize(
    ("banner", "text"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH server answers there: 'SSH-2.0-OpenSSH_9.2'"),
        (b"<!DOCTYPE HTML>\n<html>", "web server"),
        (b"220 mail.example ESMTP\r\n", "plain text: '220 mail.example ESMTP'"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "does not speak TLS$"),
    ],
)
def test_banners(banner: bytes, text: str) -> None:
    """What speaks first, and no TLS, is shown as what it is; bytes that are no text are not."""

    def say(sock: Any) -> None:
        sock.sendall(banner)
        sleeping(sock)

    with listening(say) as address:
        fails(look(address), "tls", text, "something else than a node")


def test_a_banner_is_escaped_and_cut() -> None:
    """What a stranger says cannot drive the terminal."""

    def say(sock: Any) -> None:
        sock.sendall(b"SSH-\x1b[31m" + b"x" * 500 + b"\n")
        sleeping(sock)

    with listening(say) as address:
        step = fails(look(address), "tls", "SSH", "")
    assert "\x1b" not in step.text
    assert len(step.text) < 200


def test_tls_12_only() -> None:
    """A server that has no TLS 1.3."""
    with raw.server(lambda *_: None, version=ssl.TLSVersion.TLSv1_2) as server:
        fails(look(str(server.address)), "tls", "TLS 1.3", "proxy")


def test_a_server_that_closes_at_once() -> None:
    """A connection that is closed unanswered, as a node does to an address that comes too often."""
    with listening(lambda sock: None) as address:
        fails(look(address), "tls", "connects too often", "wait a moment")


def test_another_alpn_and_no_node_behind_it() -> None:
    """A TLS server of another protocol warns at TLS, and fails where a node would have answered."""

    def web(_: Any, sock: Any) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        sleeping(sock)

    with raw.server(web, alpn="http/1.1") as server:
        steps = look(str(server.address))
    assert steps["tls"].outcome is Outcome.WARNING
    fails(steps, "form", "too long", "no node")


def test_no_alpn_and_silence() -> None:
    """A TLS server without ALPN that does not answer."""
    with raw.server(lambda _, sock: sleeping(sock), alpn=None) as server:
        steps = look(str(server.address), timeout=0.1)
    assert steps["tls"].outcome is Outcome.WARNING
    step = fails(steps, "form", "no answer to our name", "hangs")
    assert (step.seconds or 0) >= 0.1
    assert (steps["certificate"].seconds or 0) < 0.1


def test_a_full_node(make_node: MakeNode) -> None:
    """A node that has no place left for a handshake lets the connection wait."""
    limits = Limits.trusted(pending=1, pending_grace=60)
    node = make_node(config=Config(limits=limits))
    with contextlib.closing(gevent.socket.create_connection(raw.split(node.address or ""))):
        until(lambda: node._listener is not None and node._listener.full(), "the place is taken")
        steps = look(node.name, timeout=0.1)
    fails(steps, "tls", "says nothing", "takes in no more connections")


def test_a_node_that_has_enough_of_this_address(make_node: MakeNode) -> None:
    """A node that refuses more of one address closes at the door, and the doctor says so."""
    limits = Limits.trusted(pending_per_source=1)
    node = make_node(config=Config(limits=limits))
    with contextlib.closing(gevent.socket.create_connection(raw.split(node.address or ""))):
        until(lambda: node._listener is not None and node._listener._handlers, "the place is taken")
        steps = look(node.name)
    fails(steps, "tls", "too many handshakes under way", "refused connections")


def test_a_peer_that_closes_before_it_says_who_it_is() -> None:
    """TLS is up, and the peer closes on our NAME."""
    with raw.server(lambda _, sock: raw.read_message(sock)) as server:
        fails(look(str(server.address)), "form", "closed the connection while awaiting CHALLENGE", "log")


def test_a_peer_that_is_busy() -> None:
    """A peer that has no number left for another link says so, and that is passed on."""

    def script(_: Any, sock: Any) -> None:
        raw.read_message(sock)
        sock.sendall(pack(encode_reject(Reject(RejectCode.BUSY, b"", None))))
        sleeping(sock)

    with raw.server(script) as server:
        fails(look(str(server.address)), "form", "busy", "wait a moment")


def test_a_peer_that_closes_in_the_middle() -> None:
    """The peer closes on our proof, without a word."""

    def script(server: raw.RawServer, sock: Any) -> None:
        sock.sendall(server.acceptor().feed(raw.read_message(sock)).send)
        raw.read_message(sock)

    with raw.server(script) as server:
        fails(look(str(server.address)), "cookie", "closed the connection while awaiting ACK", "log")


def test_a_peer_that_closes_the_link_at_once() -> None:
    """The link comes up, and the peer closes it before it answers a ping."""
    with raw.server(lambda server, sock: server.accept(sock) and None) as server:
        fails(look(server.name()), "pairing", "the connection was cut", "log")


def test_a_peer_that_answers_no_ping() -> None:
    """The link comes up, and carries nothing."""

    def script(server: raw.RawServer, sock: Any) -> None:
        server.accept(sock)
        sleeping(sock)

    with raw.server(script) as server:
        fails(look(server.name(), timeout=0.2), "pairing", "carries nothing", "log")


def test_a_peer_that_floods_us_holds_up_no_deadline() -> None:
    """Where there is always more to read, and reading never waits, the time is over all the same."""
    end = time.monotonic() + 5

    class Endless:
        def recv(self, size: int) -> bytes:
            assert time.monotonic() < end, "the deadline has not passed"
            return b"x"

    class Unfinished:
        def read(self, size: int) -> bytes:
            raise ssl.SSLWantReadError

    channel = Channel(Endless(), tls.client_end())  # type: ignore[arg-type]  # all that is used of a socket
    channel._tls = Unfinished()
    with pytest.raises(snowgreen.LinkTimeout), Deadline(0.1, "reading"):
        channel.receive()


def test_a_classic_peer() -> None:
    """A node that speaks the classic form only is named as one, with what to set for it."""
    env = {"SNOW_COOKIE": "a cookie for the snow side"}
    command = ["listen", "--name", "snow@127.0.0.1:0", "--cookie-env", "SNOW_COOKIE"]
    with Child(str(ROOT / "tests" / "classic_peer.py"), *command, env=env) as snow:
        name = snow.expect("listening")["name"]
        steps = look(name)
    assert steps["tls"].outcome is Outcome.WARNING  # it knows no ALPN
    step = fails(steps, "form", "classic handshake only", "Snow node")
    assert f"Node(classic={{'{name}': COOKIE}})" in step.advice


# Clocks.


@pytest.fixture
def _other_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes with a wrong clock leave in this process does not outlast the test."""
    monkeypatch.setattr(endpoint, "_last_incarnation", endpoint._last_incarnation)


@pytest.mark.usefixtures("_other_clocks")
def test_a_clock_that_is_ahead(make_node: MakeNode) -> None:
    """A node that says it started in the future has a clock that is ahead, by at least that."""
    node = make_node(runtime=Runtime(wall=lambda: time.time() + 7260))
    steps = look(node.name)
    works(steps, minding="clock")
    assert "2.0 hours at least" in steps["clock"].text
    assert 7200 < steps["clock"].facts["ahead_by_at_least"] < 7261


def test_a_clock_that_was_never_set() -> None:
    """A start in 1970 is a clock that nobody has set."""
    with raw.server(lambda server, sock: server.accept(sock) and None) as server:
        step = look(server.name())["clock"]
    assert step.outcome is Outcome.WARNING
    assert "1970-01-01" in step.text
    assert "was not set" in step.text


def test_a_start_that_the_certificate_contradicts() -> None:
    """An incarnation of an hour ago beside a certificate of now does not go together."""
    incarnation = int((time.time() - 3600) * 1000) << 16
    with raw.server(lambda server, sock: server.accept(sock, incarnation=incarnation) and None) as server:
        step = look(server.name())["clock"]
    assert step.outcome is Outcome.WARNING
    assert "by its certificate" in step.text


@pytest.mark.usefixtures("_other_clocks")
def test_a_clock_that_was_put_back(make_node: MakeNode) -> None:
    """A process whose clock was put back between two starts gives itself away, though its clock is right now."""
    offset = [7260.0]
    node = make_node(runtime=Runtime(wall=lambda: time.time() + offset[0]))
    node.stop()
    offset[0] = 0.0
    steps = look(node.start().name)
    works(steps, minding="clock")
    assert "put back" in steps["clock"].advice


def test_a_start_in_the_past_is_no_proof_of_a_right_clock() -> None:
    """Where no difference shows, it is said how little that says; whatever number a peer sends can be shown."""
    started = 1_800_000_000.0
    found = clocks.compare(int(started * 1000) << 16, started + 90_000, None)
    assert not found.advice
    assert "25.0 hours ago" in found.text
    assert "cannot be told" in found.details[0]
    assert clocks.compare(int(started * 1000) << 16, started - 0.5, None).advice == ""
    assert "9999" in clocks.compare(2**64 - 1, started, None).text


def test_certificates_are_backdated_by_what_the_clock_step_assumes() -> None:
    """The start that is read off a certificate is the time at which it was made."""
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    pem = tls.ephemeral_certificate(at).pem.decode().split("-----BEGIN PRIVATE")[0]
    shown = certificate.read(ssl.PEM_cert_to_DER_cert(pem))
    assert shown is not None
    assert shown.not_before.timestamp() + clocks.BACKDATED == at.timestamp()


# Certificates.


@pytest.fixture
def ca(tmp_path: Path) -> CA:
    """The operator's CA."""
    return CA(tmp_path / "ca")


def test_a_node_with_a_ca_and_none_given_here(make_node: MakeNode, ca: CA) -> None:
    """A peer that wants a certificate and gets none is told from other failures, at the certificate."""
    name = node_name("a")
    make_node(name, tls=ca.issue(name))
    step = fails(look(name), "certificate", "requires a certificate", "--tls-")
    assert f"for node {name}" in " ".join(step.details)


def test_a_node_without_a_ca_and_one_given_here(make_node: MakeNode, ca: CA) -> None:
    """With a CA on this side only, the peer's own certificate is not accepted."""
    step = fails(
        look(make_node().name, tls=ca.issue("b@127.0.0.1:0")), "certificate", "not accepted", "without"
    )
    assert "self-signed" in step.text or "self signed" in step.text


def test_a_node_of_another_ca(make_node: MakeNode, ca: CA, tmp_path: Path) -> None:
    """A certificate of another CA is not accepted, and that is the reason given."""
    name = node_name("a")
    make_node(name, tls=CA(tmp_path / "other").issue(name))
    fails(look(name, tls=ca.issue("b@127.0.0.1:0")), "certificate", "not accepted", "same one")


def presenting(config: TLSConfig, script: Callable[..., None]) -> Any:
    """A listener that shows the certificate of `config`, whatever it says."""
    made = tls.context(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(config.cert, config.key)

    def secured(server: raw.RawServer, sock: Any) -> None:
        with contextlib.closing(made.wrap_socket(sock, server_side=True)) as wrapped:
            script(server, wrapped)

    return raw.server(secured, plain=True)


@pytest.mark.parametrize(
    ("dates", "text", "advice"),
    [
        ({"begins": now() - 2 * DAY, "expires": now() - DAY}, "expired", "new one"),
        ({"begins": now() + DAY, "expires": now() + 2 * DAY}, "not yet valid", "clocks"),
    ],
)
def test_certificates_out_of_their_time(ca: CA, dates: dict[str, Any], text: str, advice: str) -> None:
    """One that has expired, and one that is not valid yet, are told apart."""
    with presenting(ca.odd("snowgreen://a@127.0.0.1:1", **dates), sleeping) as server:
        fails(look(str(server.address), tls=ca.issue("b@127.0.0.1:0")), "certificate", text, advice)


def test_a_certificate_for_another_name(ca: CA) -> None:
    """A peer that announces another name than its certificate's is found out at the certificate."""

    def script(server: raw.RawServer, sock: Any) -> None:
        sock.sendall(server.acceptor("c@127.0.0.1:1").feed(raw.read_message(sock)).send)
        sleeping(sock)

    with presenting(ca.issue("a@127.0.0.1:1"), script) as server:
        steps = look(str(server.address), tls=ca.issue("b@127.0.0.1:0"))
    fails(steps, "certificate", "claims to be c@127.0.0.1:1", "certs issue")


def test_a_certificate_that_names_no_node(ca: CA) -> None:
    """A certificate of the CA that is for no node does not pass."""
    with presenting(ca.odd("https://example.org"), lambda *_: sleeping(None)) as server:
        steps = look(str(server.address), tls=ca.issue("b@127.0.0.1:0"))
    fails(steps, "certificate", "names no node", "certs issue")


def test_the_peers_own_certificate(make_node: MakeNode, ca: CA) -> None:
    """Asking with the certificate of the very node that is asked is said to be just that."""
    name = node_name("a")
    config = ca.issue(name)
    make_node(name, tls=config)
    fails(look(name, tls=config), "certificate", "the very name", "--name")


def test_files_that_cannot_be_used(ca: CA, tmp_path: Path) -> None:
    """Files that are wrong on this side are an error before anything is dialed."""
    good = ca.issue("b@127.0.0.1:0")
    lost = TLSConfig(ca=tmp_path / "nowhere", cert=good.cert, key=good.key)
    with pytest.raises(snowgreen.ConfigurationError, match="nowhere"):
        look("n@127.0.0.1:1", tls=lost)


def test_a_certificate_that_is_none() -> None:
    """What cannot be read as a certificate is not read."""
    assert certificate.read(b"") is None
    assert certificate.read(b"\x30\x03\x02\x01\x01") is None


def test_a_certificate_whose_name_is_no_text() -> None:
    """One whose name is encoded as a BIT STRING ends nothing; what is odd in another one warns nobody."""
    made = x509.load_pem_x509_certificate(tls.ephemeral_certificate(now()).pem)
    whole = made.public_bytes(serialization.Encoding.DER)
    name = tls.SNI.encode()
    text, bits = b"\x0c%c%b" % (len(name), name), b"\x03%c\0%b" % (len(name), name[1:])
    assert text in whole
    assert certificate.read(whole.replace(text, bits)) is None
    country, name_of = b"\x55\x04\x06", b"\x55\x04\x03"  # a country has two letters
    with warnings.catch_warnings(action="error"):
        assert certificate.read(whole.replace(name_of, country)) is not None


# Cookies, names, pairing.


def test_another_cookie(make_node: MakeNode) -> None:
    """With different cookies the cookie fails, with our fingerprint and never the cookie."""
    node = make_node()
    events = node.subscribe()
    step = fails(look(node.name, cookie=BAD), "cookie", "different cookies", "snowgreen cookie")
    assert step.facts["fingerprint"] == raw.keys("another cookie altogether").fingerprint
    assert "another cookie altogether" not in repr(step)
    assert isinstance(event_of(events, HandshakeFailed).error, snowgreen.AuthenticationError)
    assert not node.sessions


def test_a_peer_that_proves_nothing() -> None:
    """A peer that takes our proof and cannot give its own is found out by us."""

    def script(server: raw.RawServer, sock: Any) -> None:
        sock.sendall(server.acceptor().feed(raw.read_message(sock)).send)
        raw.read_message(sock)
        sock.sendall(b"\x21\0\0\0\x04" + b"x" * 32)
        sleeping(sock)

    with raw.server(script) as server:
        fails(look(server.name()), "cookie", "peer could not prove", "snowgreen cookie")


def test_no_cookie_here(make_node: MakeNode) -> None:
    """Without a cookie the steps before it are taken all the same, and nothing is proved."""
    missing = CookieError("cookie", "there is none")
    step = fails(look(make_node().name, cookie=missing), "cookie", "there is none", "SNOWGREEN_COOKIE")
    assert "fingerprint" not in step.facts


def test_a_proxy_that_ends_tls(make_node: MakeNode, ca: CA) -> None:
    """Behind a proxy that ends TLS the proofs do not fit, and its certificate gives the reason away."""
    node = make_node()

    def relay(_: Any, sock: Any) -> None:
        with contextlib.closing(raw.client(node.address or "")) as inner:
            for source, sink in ((sock, inner), (inner, sock)) * 2:
                sink.sendall(raw.read_message(source))

    with presenting(ca.odd("https://proxy.example"), relay) as server:
        steps = look(str(server.address))
    assert steps["certificate"].outcome is Outcome.WARNING
    fails(steps, "cookie", "different cookies", "proxy between the two")


def test_another_name(make_node: MakeNode) -> None:
    """Another node than the one asked for answers: that is known once the cookie is proved."""
    node = make_node()
    events = node.subscribe()
    asked = node.name.replace("n0@", "other@")
    step = fails(look(asked), "name", "part before '@' is n0, not other", f"dial {node.name}")
    assert step.facts == {"asked": asked, "answered": node.name}
    came_and_left(events)


def test_another_port_in_the_name(make_node: MakeNode) -> None:
    """A node that announces another port than the one it is reached at, as behind NAT."""
    node = make_node("n@127.0.0.1:9", listen="127.0.0.1:0")
    asked = f"n@{node.address}"
    fails(look(asked), "name", rf"port is 9, not {parse_name(asked).port}", "dial n@127.0.0.1:9")


@pytest.mark.parametrize(
    ("asked", "answered", "text"),
    [
        ("a@h:9000", "A@h:9000", "upper and lower case"),
        ("a@h", "a@h:9000", "with and without the port"),
        ("a@h:1", "b@h:1", "part before '@' is b, not a"),
        ("a@h:1", "a@i:2", "host is i, not h; its port is 2, not 1"),
    ],
)
def test_how_names_differ(asked: str, answered: str, text: str) -> None:
    """Each way in which two names differ has its words."""
    assert text in words.differing(parse_name(asked), parse_name(answered))


def test_an_allow_list(make_node: MakeNode) -> None:
    """A node that allows certain names only declines a passing one; asked by an allowed name, it does not."""
    node = make_node(allow=["friend@127.0.0.1:0"])
    step = fails(look(node.name), "pairing", "NAME_NOT_ALLOWED", "--name")
    assert step.facts["code"] == "NAME_NOT_ALLOWED"
    works(look(node.name, name="friend@127.0.0.1:0"))
    fails(look(node.name, name="foe@127.0.0.1:0"), "pairing", "NAME_NOT_ALLOWED", r"Node\(allow=")


def test_given_up_in_the_middle(make_node: MakeNode) -> None:
    """Whoever stops looking at the steps leaves no connection behind, and no failure at the peer."""
    node = make_node()
    events = node.subscribe()
    steps = examine(parse_name(node.name), cookie=GOOD)
    for step in steps:
        if step.name == "cookie":
            break
    steps.close()
    came_and_left(events)


def test_a_failure_ends_the_attempt_before_it_is_told(make_node: MakeNode) -> None:
    """However long somebody takes to read about a failure, the peer does not wait for that."""
    node = make_node()
    events = node.subscribe()
    steps = examine(parse_name(node.name.replace("n0@", "other@")), cookie=GOOD)
    assert any(step.outcome is Outcome.FAILED for step in steps)  # the generator stays where it is
    came_and_left(events)


def test_the_goodbye_arrives_whatever_else_is_on_its_way() -> None:
    """Whatever the peer has sent meanwhile, it gets the goodbye, and then an end in due form."""
    seen: list[Any] = []

    def script(server: raw.RawServer, sock: Any) -> None:
        server.accept(sock)
        ping = raw.read_message(sock)
        sock.sendall(encode_pong(ping[4:]) + encode(0x7F, bytes(50_000)))
        sock.suppress_ragged_eofs = False  # so that an end without TLS's own is an error
        try:
            seen.append(raw.read_message(sock)[4:5])
            seen.append(sock.recv(1))
        except OSError as error:
            seen.append(error)

    with raw.server(script) as server:
        works(look(server.name()), minding="clock")
        until(lambda: len(seen) == 2, "the peer has read to the end")
    assert seen == [bytes([FrameTag.GOODBYE]), b""]


def test_arguments() -> None:
    """What cannot be used is refused at once, by name."""
    target = Address("127.0.0.1", 1)
    with pytest.raises(snowgreen.InvalidName):
        examine(target, cookie=GOOD, name="nobody")
    with pytest.raises(snowgreen.ConfigurationError, match="timeout"):
        examine(target, cookie=GOOD, timeout=-1)


# The command.


def normal(text: str) -> str:
    """A transcript without what differs from one run to the next."""
    for pattern, shown in (
        (r"\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC|\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "DATE"),
        (r"\d+\.\d (ms|s)\b", "TIME"),
        (r"[0-9a-f]{64}", "SHA"),
        (r"\b[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}\b", "FINGERPRINT"),
        (r"doctor-[0-9a-f]{12}", "DOCTOR"),
        (r"/\S*/cookie\b", "FILE"),
        (r":\d{4,5}\b", ":PORT"),
        (r"\s+", " "),
    ):
        text = re.sub(pattern, shown, text)
    return text.strip()


TRANSCRIPTS = re.findall(
    r"^\$ snowgreen doctor (\S+)\n(can .+?)^```$", (ROOT / "docs" / "doctor.md").read_text(), re.M | re.S
)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose cookie file holds the cookie of the tests' nodes."""
    file = tmp_path / "snowgreen" / "cookie"
    file.parent.mkdir()
    file.touch(0o600)
    file.write_text(COOKIE)
    kept = {key: value for key, value in os.environ.items() if key != "SNOWGREEN_COOKIE"}
    return {**kept, "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8"}


@pytest.mark.parametrize(
    ("number", "environ", "status"),
    [(0, {}, 0), (1, {"SNOWGREEN_COOKIE": "another cookie altogether"}, 1), (2, {}, 1)],
)
def test_the_transcripts_of_the_guide(
    make_node: MakeNode, home: dict[str, str], number: int, environ: dict[str, str], status: int
) -> None:
    """The command, as a user runs it, prints what docs/doctor.md shows, and its status says what came of it."""
    assert len(TRANSCRIPTS) == 3
    target, shown = TRANSCRIPTS[number]
    port = parse_name(make_node("worker@127.0.0.1:0").name).port
    target = target.replace(":9101", f":{port}")
    process = Popen(
        [sys.executable, "-m", "snowgreen", "doctor", target],
        env={**home, **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = (stream.decode() for stream in process.communicate(timeout=30))
    assert (process.returncode, err) == (status, "")
    assert out.splitlines()[0] == f"can this machine link with {target}?"
    # What the resolver makes of localhost is the machine's own affair.
    assert normal(out[out.index("tls") :]) == normal(shown[shown.index("tls") :])


def invoke(*arguments: str, charset: str = "utf-8", **environ: str | None) -> tuple[int, str]:
    """Run the command in this process: its status and output."""
    result = CliRunner(charset=charset).invoke(group, ["doctor", *arguments], env=environ)
    return result.exit_code, result.output


def test_json(make_node: MakeNode) -> None:
    """A script gets one document with every step, and the status."""
    node = make_node()
    status, out = invoke(node.name, "--json", SNOWGREEN_COOKIE=COOKIE)
    document = json.loads(out)
    assert (status, document["ok"], document["target"]) == (0, True, node.name)
    assert [step["name"] for step in document["steps"]] == list(STEPS)
    status, out = invoke(f"127.0.0.1:{free_port()}", "--json", SNOWGREEN_COOKIE=COOKIE)
    document = json.loads(out)
    assert (status, document["ok"]) == (1, False)
    assert [step["outcome"] for step in document["steps"]] == ["ok", "failed", *["not reached"] * 7]
    assert COOKIE not in out


def test_a_terminal_without_the_signs(make_node: MakeNode) -> None:
    """Where the encoding lacks the signs, plain words take their place, and all is ASCII."""
    status, out = invoke(make_node().name, charset="ascii", SNOWGREEN_COOKIE="another cookie altogether")
    assert status == 1
    assert out.isascii()
    assert re.search(r"^ok   tls ", out, re.M)
    assert re.search(r"^FAIL cookie ", out, re.M)
    assert re.search(r"^-    pairing ", out, re.M)
    assert "-> run" in out


def test_the_command_warns_and_ends_well(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With warnings only the status is 0, and the last line names them."""
    monkeypatch.setattr(clocks, "_EARLIEST", time.time() + 1000)
    status, out = invoke(make_node().name, SNOWGREEN_COOKIE=COOKIE)
    assert status == 0
    assert re.search(r"^! clock ", out, re.M)
    assert out.endswith("yes, but mind: clock\n")


def test_the_command_makes_no_cookie(make_node: MakeNode, tmp_path: Path) -> None:
    """Where there is no cookie yet, the doctor says so and leaves it at that."""
    home = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "SNOWGREEN_COOKIE": None}
    status, out = invoke(make_node().name, **home)
    assert status == 1
    assert "has none yet on this machine" in " ".join(out.split())
    assert not list(tmp_path.iterdir())
    status, out = invoke(make_node().name, "--cookie-file", str(tmp_path / "lost"), **home)
    assert status == 1
    assert "does not exist" in " ".join(out.split())


def test_what_the_command_refuses() -> None:
    """A target that is none is one line of an error, as of every command."""
    status, out = invoke("no node", SNOWGREEN_COOKIE=COOKIE)
    assert status == 1
    assert out.startswith("error: peer: 'no node' is no node name")
    assert invoke("n@127.0.0.1:1", "--tls-ca", "x")[0] == 2
