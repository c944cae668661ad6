"""Nodes under an operator's CA: who has no certificate of it, or claims another's name, gets nowhere."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent.socket
import gevent.ssl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import snowgreen
from snowgreen import CertificateError, CertificateProblem, HandshakeFailed, NodeUp, TLSConfig
from snowgreen.link import credentials, tls
from snowgreen.link.runtime import Runtime
from snowgreen.protocol import messages
from snowgreen.protocol.handshake import Acceptor, Identity, Refused
from snowgreen.protocol.messages import Challenge, ChallengeExt, RejectCode
from snowgreen.protocol.wire import pack
from tests import certs, raw
from tests.certs import CA, DAY, node_name
from tests.conftest import MakeNode
from tests.waiting import event_of, until

MakeCertified = Callable[..., snowgreen.Node]


@pytest.fixture
def ca(tmp_path: Path) -> CA:
    return CA(tmp_path / "ca")


@pytest.fixture
def certified(make_node: MakeNode, ca: CA) -> MakeCertified:
    """A maker of nodes with certificates of the CA."""

    def make(letter: str, **options: Any) -> snowgreen.Node:
        name = node_name(letter)
        options.setdefault("tls", ca.issue(name))
        return make_node(name, **options)

    return make


def pem_of(config: TLSConfig) -> bytes:
    return Path(config.cert).read_bytes() + Path(config.key).read_bytes()


def fingerprint(config: TLSConfig) -> bytes:
    return x509.load_pem_x509_certificate(Path(config.cert).read_bytes()).fingerprint(hashes.SHA256())


def context(protocol: int, pem: bytes | None, ca: Path | None = None) -> gevent.ssl.SSLContext:
    """An attacker's: it verifies what he wants it to."""
    made = tls.context(protocol)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if pem is not None:
        tls.load_chain(made, pem)
    if ca is not None:
        made.load_verify_locations(ca)
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def client(address: str, pem: bytes | None) -> gevent.ssl.SSLSocket:
    """A connection to a node, showing the certificate in `pem`."""
    sock = gevent.socket.create_connection(raw.split(address), timeout=10)
    return context(ssl.PROTOCOL_TLS_CLIENT, pem).wrap_socket(sock, server_hostname="x")


def answering(
    script: Callable[..., None], config: TLSConfig | Callable[[str], TLSConfig] | bytes, ca: CA
) -> Any:
    """A listener that shows a certificate, asks for one, and runs `script` behind TLS.

    :param config: the certificate, as a config or PEM, or what gives it for the name that leads here.
    """

    def secured(server: raw.RawServer, sock: Any) -> None:
        shown = config(server.name("b")) if callable(config) else config
        pem = shown if isinstance(shown, bytes) else pem_of(shown)
        made = context(ssl.PROTOCOL_TLS_SERVER, pem, ca.directory / "ca.pem")
        with contextlib.closing(made.wrap_socket(sock, server_side=True)) as wrapped:
            script(server, wrapped)

    return raw.server(secured, plain=True)


def everything(sock: Any) -> bytes:
    """All that comes until the other end closes, or TLS fails."""
    data = b""
    with contextlib.suppress(OSError):
        while chunk := sock.recv(4096):
            data += chunk
    return data


def failure(events: Any, *, initiated: bool) -> HandshakeFailed:
    failed = event_of(events, HandshakeFailed)
    assert failed.initiated is initiated
    return failed


def both_fail(dialer: snowgreen.Node, acceptor: snowgreen.Node) -> tuple[str, str]:
    """Dial; both sides must end with a CertificateError: the two texts."""
    with acceptor.subscribe() as events:
        with pytest.raises(CertificateError) as caught:
            dialer.connect(acceptor.name, timeout=5)
        there = failure(events, initiated=False).error
    assert type(there) is CertificateError
    assert not dialer.sessions
    assert not acceptor.sessions
    return str(caught.value), str(there)


# Good certificates


def test_two_certified_nodes_link_either_way(certified: MakeCertified) -> None:
    """Each with its own certificate of the same CA: links come up in both directions, and carry."""
    a, b = certified("a"), certified("b")
    assert a.connect(b.name).ping() > 0
    a.sessions[b.name].close()
    until(lambda: not a.sessions and not b.sessions, "the first link ended")
    assert b.connect(a.name).ping() > 0
    assert b.sessions[a.name].form == "bound"


def test_an_unknown_name_is_learnt_and_certified(certified: MakeCertified) -> None:
    """Dialed by its address, a node is held to the name in its certificate, too."""
    a, b = certified("a"), certified("b")
    assert a.connect(b.address).peer == b.name


def test_a_node_that_only_dials(make_node: MakeNode, certified: MakeCertified, ca: CA) -> None:
    """Port 0 in a certificate is the name of a node that cannot be dialed."""
    name = "ops@127.0.0.1:0"
    ops, b = make_node(name, listen=False, tls=ca.issue(name)), certified("b")
    ops.connect(b.name)
    until(lambda: name in b.sessions, "registered")


def test_the_certificate_names_the_node(make_node: MakeNode, ca: CA) -> None:
    """Where no name is given, it is the certificate's."""
    name = node_name("a")
    assert make_node(None, tls=ca.issue(name)).name == name


def test_the_cookie_is_needed_as_before(certified: MakeCertified) -> None:
    """A good certificate does not make up for another cookie."""
    a, b = certified("a"), certified("b", cookie="another cookie altogether")
    with pytest.raises(snowgreen.AuthenticationError):
        a.connect(b.name)


def test_another_node_with_its_own_certificate_is_a_mismatch(certified: MakeCertified, ca: CA) -> None:
    """Honest, and not the one that was dialed: no word of stolen certificates."""
    a, b = certified("a"), certified("b")
    with pytest.raises(snowgreen.NameMismatch):
        a.connect(f"c@{b.address}")


# No certificate, or another authority's


def test_a_node_without_a_certificate_is_refused(make_node: MakeNode, certified: MakeCertified) -> None:
    """TLS 1.3 tells the dialer only once it reads: it says what is missing, and so does the acceptor."""
    here, there = both_fail(make_node(), certified("b"))
    assert "requires a certificate of its operator's CA, and this node presented none" in here
    assert "presented no certificate" in there


def test_a_node_with_an_ephemeral_certificate_is_not_dialed(
    make_node: MakeNode, certified: MakeCertified
) -> None:
    """The other direction: what vouches for itself is vouched for by nobody."""
    here, there = both_fail(certified("a"), make_node())
    assert "self-signed certificate" in here
    assert "trusts its operator's CA only" in there


def test_a_certificate_of_another_ca(make_node: MakeNode, certified: MakeCertified, tmp_path: Path) -> None:
    """Two clusters, each with a CA of its own, do not mix, whoever dials."""
    name = node_name("b")
    a, b = certified("a"), make_node(name, tls=CA(tmp_path / "other").issue(name))
    for dialer, acceptor in ((a, b), (b, a)):
        here, there = both_fail(dialer, acceptor)
        assert "certificate is not accepted here: self-signed certificate in certificate chain" in here
        assert "does not accept this node's certificate" in there


def test_another_cas_certificate_for_the_right_name_at_the_acceptor(
    certified: MakeCertified, tmp_path: Path
) -> None:
    """A dialer that checks nothing itself, to see the acceptor's own judgement."""
    b, other = certified("b"), CA(tmp_path / "other")
    with b.subscribe() as events:
        sock = client(b.address, pem_of(other.issue("a@127.0.0.1:0")))
        error = failure(events, initiated=False).error
        assert "unable to get local issuer certificate" in str(error)
        assert everything(sock) == b""
        sock.close()
    assert type(error) is CertificateError


def test_the_dialer_is_told_why_it_is_refused(make_node: MakeNode, certified: MakeCertified, ca: CA) -> None:
    """Its own certificate expired while it ran: the alert comes back with its first read, and is put in words."""
    name, b = node_name("a"), certified("b")
    a = make_node(name, tls=ca.issue(name))
    old = ca.odd(f"snowgreen://{name}", expires=certs.now() - DAY / 2)
    stale = tls.End(
        context(ssl.PROTOCOL_TLS_CLIENT, pem_of(old), ca.directory / "ca.pem"), fingerprint(old), True
    )
    a._endpoint.client_end = lambda: stale
    here, there = both_fail(a, b)
    assert "it says that the certificate has expired" in here
    assert "certificate has expired" in there


def test_the_reason_reaches_a_dialer_that_is_slow_to_ask(certified: MakeCertified) -> None:
    """The acceptor leaves its alert time to arrive: had it closed at once, what is sent now would break on it."""
    b = certified("b")
    with b.subscribe() as events:
        sock = client(b.address, None)
        failure(events, initiated=False)  # it has judged, and would be gone
        for _ in range(3):
            sock.sendall(raw.initiator(sock).start().send)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            sock.recv(1)
        sock.close()
    until(lambda: not b._listener.admission.pending, "it has parted")


# What certificates of the right CA must say


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "no URI": ({}, "carries no SAN URI"),
    "two URIs": ({"uris": ["snowgreen://a@h:1", "snowgreen://{}"]}, "carries 2 SAN URIs"),
    "another scheme": ({"uris": ["spiffe://{}"]}, "is not snowgreen://"),
    "no name": ({"uris": ["snowgreen://nobody"]}, "names no node"),
    "no text": ({"raw_names": certs.uri_names(b"snowgreen://\xff@h")}, "cannot be read"),
    "a name with a NUL": ({"raw_names": certs.uri_names(b"snowgreen://a@h:1\0.x")}, "names no node"),
    "expired": ({"uris": ["snowgreen://{}"], "expires": certs.now() - DAY / 2}, "certificate has expired"),
    "early": ({"uris": ["snowgreen://{}"], "begins": certs.now() + DAY / 2}, "certificate is not yet valid"),
    "no purpose": ({"uris": ["snowgreen://{}"], "purposes": [certs.OTHER]}, "purpose"),
}


def odd(ca: CA, case: str, name: str) -> tuple[TLSConfig, str]:
    fields, problem = ODD[case]
    fields = dict(fields)
    uris = [uri.format(name) for uri in fields.pop("uris", [])]
    return ca.odd(*uris, **fields), problem


@pytest.mark.parametrize("case", ODD)
def test_an_acceptor_refuses_a_dialers_certificate(certified: MakeCertified, ca: CA, case: str) -> None:
    """Before it has said anything: what comes back is an end, or an alert of TLS."""
    b = certified("b")
    config, problem = odd(ca, case, "a@127.0.0.1:0")
    with b.subscribe() as events:
        sock = client(b.address, pem_of(config))
        machine = raw.initiator(sock, "a@127.0.0.1:0", binding=fingerprint(config))
        sock.sendall(machine.start().send)
        failed = failure(events, initiated=False)
        assert everything(sock) == b""
        sock.close()
    assert type(failed.error) is CertificateError
    assert problem in str(failed.error)
    assert str(failed).isprintable()


@pytest.mark.parametrize("case", ODD)
def test_a_dialer_refuses_an_acceptors_certificate(certified: MakeCertified, ca: CA, case: str) -> None:
    """Before it has said anything, NAME included."""
    a, heard = certified("a"), []
    config, problem = odd(ca, case, "b@127.0.0.1:1")

    def script(_: raw.RawServer, sock: Any) -> None:
        heard.append(everything(sock))

    with answering(script, config, ca) as peer, pytest.raises(CertificateError) as caught:
        a.connect(f"b@{peer.address}", timeout=5)
    assert problem in str(caught.value)
    assert not any(heard)


# Stolen names and stolen certificates


def test_a_dialer_cannot_take_another_members_name(certified: MakeCertified, ca: CA) -> None:
    """It knows the cookie and has a certificate, for itself: NAME with another's name is the end of it."""
    b, mallory = certified("b"), ca.issue("mallory@127.0.0.1:0")
    with b.subscribe() as events:
        sock = client(b.address, pem_of(mallory))
        machine = raw.initiator(sock, "alice@127.0.0.1:0", binding=fingerprint(mallory))
        sock.sendall(machine.start().send)
        answer = everything(sock)
        failed = failure(events, initiated=False)
        sock.close()
    # The code and nothing else: no name, no incarnation, no challenge.
    assert answer == pack(messages.encode_reject(messages.Reject(RejectCode.AUTH_FAILED, b"", None)))
    assert type(failed.error) is CertificateError
    assert failed.claimed == "alice@127.0.0.1:0"
    assert "claims to be alice@127.0.0.1:0, with the certificate of mallory@127.0.0.1:0" in str(failed.error)
    assert not b.sessions


def test_no_cookie_is_tried_on_who_claims_another_name(certified: MakeCertified, ca: CA) -> None:
    """The same answer whether the claimed name is linked with this node or unknown: nothing is looked up."""
    b, alice = certified("b"), certified("alice")
    alice.connect(b.name)
    answers = set()
    for claimed in (alice.name, "unknown@127.0.0.1:1", b.name):
        sock = client(b.address, pem_of(ca.issue(node_name("mallory"))))
        sock.sendall(raw.initiator(sock, claimed).start().send)
        answers.add(everything(sock))
        sock.close()
    assert len(answers) == 1
    assert alice.sessions[b.name].ping() > 0


def test_an_acceptor_cannot_take_another_members_name(certified: MakeCertified, ca: CA) -> None:
    """A member that answers in another's place, with its own certificate, gets no proof out of the dialer."""
    a, after = certified("a"), []
    mallory = ca.issue("mallory@127.0.0.1:1")

    def script(server: raw.RawServer, sock: Any) -> None:
        raw.read_message(sock)
        challenge = Challenge(server.name("b"), 1, b"c" * 32, ChallengeExt(1, 0, 1 << 40))
        sock.sendall(pack(messages.encode_challenge(challenge)))
        after.append(everything(sock))

    with answering(script, mallory, ca) as peer, a.subscribe() as events:
        for target in (peer.name("b"), str(peer.address)):
            with pytest.raises(CertificateError, match=r"with the certificate of mallory@127\.0\.0\.1:1"):
                a.connect(target, timeout=5)
            failure(events, initiated=True)
        until(lambda: len(after) == 2, "the peer saw our end")
    assert after == [b"", b""]
    assert not a.sessions


def test_a_certificate_without_its_key_is_worth_nothing(certified: MakeCertified, ca: CA) -> None:
    """A certificate is no secret. Shown by somebody with a key of his own, it is refused, in either direction."""
    a, b = certified("a"), certified("b")
    found = ca.issue(node_name("c"))
    stolen = Path(found.cert).read_bytes() + certs.key_that_pretends(Path(found.cert))
    with b.subscribe() as events:
        sock = client(b.address, stolen)
        here = failure(events, initiated=False).error
        assert everything(sock) == b""
        sock.close()
    assert type(here) is CertificateError
    assert "does not have the key" in str(here)
    with answering(lambda _, sock: None, stolen, ca) as peer, pytest.raises(CertificateError) as caught:
        a.connect(peer.name("c"), timeout=5)
    assert "does not have the key" in str(caught.value)


# The certificates in the transcript


def acceptor_of(name: str, binding: bytes, initiator_binding: bytes) -> Acceptor:
    return Acceptor(
        Identity(name, 1 << 40),
        (raw.keys(),),
        challenge=b"a" * 32,
        binding=binding,
        initiator_binding=initiator_binding,
    )


@pytest.mark.parametrize("honest", [True, False])
def test_the_acceptor_binds_the_certificate_that_the_initiator_showed(
    certified: MakeCertified, ca: CA, honest: bool
) -> None:
    """A proof made for another certificate of the same name and CA does not fit; for the one shown it does."""
    b, name = certified("b"), "a@127.0.0.1:0"
    shown, other = ca.issue(name), ca.odd(f"snowgreen://{name}")
    sock = client(b.address, pem_of(shown))
    machine = raw.initiator(sock, name, binding=fingerprint(shown if honest else other))
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    with b.subscribe() as events:
        sock.sendall(machine.prove().send)
        if honest:
            assert event_of(events, NodeUp).peer == name
        else:
            assert type(failure(events, initiated=False).error) is snowgreen.AuthenticationError
            step = machine.feed(raw.read_message(sock))
            assert isinstance(step, Refused)
            assert step.code == RejectCode.AUTH_FAILED
    sock.close()


@pytest.mark.parametrize("honest", [True, False])
def test_the_initiator_binds_the_certificate_that_it_shows(make_node: MakeNode, ca: CA, honest: bool) -> None:
    """An acceptor that saw another certificate in the dialer's place cannot verify its proof."""
    name = node_name("a")
    config = ca.issue(name)
    a, steps = make_node(name, tls=config), []
    seen = fingerprint(config if honest else ca.odd(f"snowgreen://{name}"))

    own: list[bytes] = []

    def issue(target: str) -> TLSConfig:
        issued = ca.issue(target)
        own.append(fingerprint(issued))
        return issued

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = acceptor_of(server.name("b"), own[0], seen)
        assert tls.peer_fingerprint(sock) == fingerprint(config)
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        steps.append(machine.feed(raw.read_message(sock)))
        sock.sendall(steps[0].send)

    with answering(script, issue, ca) as peer, pytest.raises(snowgreen.LinkError):
        a.connect(peer.name("b"), timeout=5)
    assert isinstance(steps[0], Refused) is not honest


def test_a_relay_with_other_valid_certificates_fails(
    make_node: MakeNode, certified: MakeCertified, ca: CA
) -> None:
    """Somebody between the two with certificates of this CA for both names, but not theirs: no proof fits."""
    name = node_name("a")
    a = make_node(name, tls=ca.issue(name))
    for_a = ca.odd(f"snowgreen://{name}")
    real: list[snowgreen.Node] = []

    def relay(_: raw.RawServer, victim: Any) -> None:
        with contextlib.closing(client(real[0].address, pem_of(for_a))) as onward:
            for source, target in ((victim, onward), (onward, victim)) * 2:
                target.sendall(raw.read_message(source))

    with answering(relay, lambda target: ca.odd(f"snowgreen://{target}"), ca) as middle:
        target = middle.name("b")
        real.append(make_node(target, listen="127.0.0.1:0", tls=ca.issue(target)))
        with real[0].subscribe() as events:
            with pytest.raises(snowgreen.AuthenticationError):
                a.connect(target, timeout=5)
            assert type(failure(events, initiated=False).error) is snowgreen.AuthenticationError
    assert not a.sessions
    assert not real[0].sessions


# Renewal


class Clock:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def shown_by(node: snowgreen.Node, config: TLSConfig) -> bytes:
    """The fingerprint that a listening node shows."""
    sock = client(node.address, pem_of(config))
    with contextlib.closing(sock):
        return tls.peer_fingerprint(sock)


def test_a_renewed_certificate_serves_new_links(
    make_node: MakeNode, certified: MakeCertified, ca: CA
) -> None:
    """Accepting and dialing, without a restart; links that are up stay up."""
    clock, name, friend = Clock(), node_name("a"), certified("friend")
    before = ca.issue(name)
    a = make_node(name, tls=before, runtime=Runtime(monotonic=clock))
    session = friend.connect(a.name)
    probe = ca.issue("probe@127.0.0.1:0")
    old = fingerprint(before)
    assert shown_by(a, probe) == old
    ca.issue(name, renew=True)
    clock.ahead += 2
    new = fingerprint(before)  # the same files
    assert new != old
    assert shown_by(a, probe) == new
    assert session.ping() > 0
    dialed: list[bytes] = []

    def script(_: raw.RawServer, sock: Any) -> None:
        dialed.append(tls.peer_fingerprint(sock))

    with answering(script, probe, ca) as peer, pytest.raises(snowgreen.LinkError):
        a.connect(str(peer.address), timeout=5)
    assert dialed == [new]
    a.sessions[friend.name].close()
    until(lambda: not friend.sessions, "the link ended")
    assert friend.connect(a.name).ping() > 0


def test_a_broken_renewal_keeps_the_old_one_in_force(
    make_node: MakeNode, certified: MakeCertified, ca: CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New links are made with the old certificate, and an event says what is wrong, once."""
    monkeypatch.setattr(credentials, "_SETTLE", 0.001)
    clock, name, friend = Clock(), node_name("a"), certified("friend")
    config = ca.issue(name)
    a = make_node(name, tls=config, runtime=Runtime(monotonic=clock))
    os.chmod(config.key, 0o644)
    os.utime(config.key)
    with a.subscribe() as events:
        for _ in range(3):
            clock.ahead += 2
            friend.connect(a.name).close()
            until(lambda: not a.sessions, "the link ended")
        problems = []
        while (event := events.get(0)) is not None:
            problems += [event] if isinstance(event, CertificateProblem) else []
    assert len(problems) == 1
    assert "open to other users" in problems[0].problem


def test_a_node_can_move_to_another_ca(make_node: MakeNode, ca: CA, tmp_path: Path) -> None:
    """Both CAs in the file, then new certificates: at no step is a node cut off."""
    clock, other = Clock(), CA(tmp_path / "other")
    names = [node_name("a"), node_name("b")]
    configs = [ca.issue(name) for name in names]
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes((ca.directory / "ca.pem").read_bytes())
    runtime = Runtime(monotonic=clock)
    nodes = [
        make_node(name, tls=TLSConfig(ca=bundle, cert=config.cert, key=config.key), runtime=runtime)
        for name, config in zip(names, configs, strict=True)
    ]

    def linked() -> None:
        clock.ahead += 2
        nodes[0].connect(names[1]).close()
        until(lambda: not nodes[1].sessions, "the link ended")

    linked()
    bundle.write_bytes(bundle.read_bytes() + (other.directory / "ca.pem").read_bytes())
    linked()
    for name, config in zip(names, configs, strict=True):
        new = other.issue(name)
        os.replace(new.key, config.key)
        os.replace(new.cert, config.cert)
        linked()
    bundle.write_bytes((other.directory / "ca.pem").read_bytes())
    linked()


# What a node refuses to begin with


def test_start_refuses_files_that_cannot_be_used(make_node: MakeNode, ca: CA) -> None:
    """The error names the argument, and the port is left alone: the same node starts once the files are good."""
    name = node_name("a")
    config = ca.issue(name)
    os.chmod(config.key, 0o640)
    node = make_node(name, tls=config, start=False)
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        node.start()
    assert caught.value.argument == "tls.key"
    assert not node.started
    os.chmod(config.key, 0o600)
    assert node.start().started


def test_start_refuses_another_nodes_certificate(make_node: MakeNode, ca: CA) -> None:
    """Every peer would refuse it."""
    node = make_node(node_name("a"), tls=ca.issue(node_name("b")), start=False)
    with pytest.raises(snowgreen.ConfigurationError, match="it is the certificate of b@") as caught:
        node.start()
    assert caught.value.argument == "tls.cert"


def test_start_goes_by_the_nodes_own_clock(make_node: MakeNode, ca: CA) -> None:
    """Expired is what has expired on the clock that the node was given."""
    name = node_name("a")
    runtime = Runtime(wall=lambda: (certs.now() + datetime.timedelta(days=20)).timestamp())
    with pytest.raises(snowgreen.ConfigurationError, match="expired at") as caught:
        make_node(name, tls=ca.issue(name), runtime=runtime)
    assert caught.value.argument == "tls.cert"


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"tls": "ca.pem"}, "tls"),
        ({"classic": {"snow@127.0.0.1:9000": "a cookie of its own"}}, "classic"),
        ({"name": "a@127.0.0.1:0"}, "name"),
    ],
)
def test_arguments_that_exclude_each_other(ca: CA, options: dict[str, Any], argument: str) -> None:
    """A path is no TLSConfig, a classic peer has no certificate, and a free port is in none."""
    name = options.setdefault("name", node_name("a"))
    options.setdefault("tls", ca.issue(name))
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        snowgreen.Node(cookie="correct horse battery staple", **options)
    assert caught.value.argument == argument


def test_without_a_ca_nothing_has_changed(make_node: MakeNode) -> None:
    """No certificate is asked for, and none is shown by the dialer."""
    a, b = make_node(), make_node()
    assert a.connect(b.name).ping() > 0
    assert a._endpoint.client_end() == tls.End(tls.client_context())
