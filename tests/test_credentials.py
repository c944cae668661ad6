"""Keeping up with certificates on disk: when they are looked at, what is taken over, and what is told."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from gevent.event import Event

from snowgreen import CertificateProblem, ConfigurationError, TLSConfig
from snowgreen.link import credentials
from snowgreen.link.bus import Bus
from snowgreen.link.credentials import CredentialWatch
from snowgreen.link.runtime import Runtime
from tests import certs
from tests.certs import CA, DAY
from tests.waiting import until

NAME = "a@127.0.0.1:9100"


class Watched:
    """A watch, on a clock that the test moves."""

    def __init__(self, ca: CA) -> None:
        self.ca = ca
        self.config = ca.issue(NAME)
        self.elapsed = 0.0
        bus = Bus(100)
        self.events = bus.subscribe()
        runtime = Runtime(monotonic=lambda: self.elapsed, wall=lambda: time.time() + self.elapsed)
        self.watch = CredentialWatch(self.config, NAME, runtime, bus)

    def look(self, seconds: float = 1.0) -> bytes:
        """The fingerprint in force, that much later."""
        self.elapsed += seconds
        return self.watch.current().server.fingerprint

    def told(self) -> list[str]:
        """The problems published since the last look."""
        found = []
        while (event := self.events.get(0)) is not None:
            assert isinstance(event, CertificateProblem)
            found.append(event.problem)
        return found

    def break_key(self) -> None:
        """Put a key in place that does not belong to the certificate."""
        other = self.ca.odd("snowgreen://b@h:1")
        os.replace(other.key, self.config.key)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(credentials, "_SETTLE", 0.001)
    return Watched(CA(tmp_path))


def counting(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Count the calls of a function of the module."""
    calls: list[int] = []
    original: Callable[..., object] = getattr(credentials, name)
    monkeypatch.setattr(credentials, name, lambda *args: (calls.append(1), original(*args))[1])
    return calls


def test_a_renewed_certificate_is_taken_over(watched: Watched) -> None:
    """Once its files have changed, new links get both ends with the new one."""
    before = watched.look()
    watched.ca.issue(NAME, renew=True)
    after = watched.look()
    assert after != before
    now = watched.watch.current()
    assert now.client.fingerprint == now.server.fingerprint == after
    assert now.server.certified
    assert now.client.certified
    assert watched.told() == []


def test_the_files_are_looked_at_once_a_second_at_most(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storm of links costs three stat calls a second, and no reading while nothing has changed."""
    looks, loads = counting(monkeypatch, "_state"), counting(monkeypatch, "load")
    for _ in range(100):
        watched.look(0.009)
    assert len(looks) == 0
    watched.look(0.2)
    watched.look(0.2)
    assert len(looks) == 1
    assert len(loads) == 0


@pytest.mark.parametrize("how", ["key", "missing", "name", "ca"])
def test_a_broken_renewal_leaves_the_old_one_in_force(
    watched: Watched, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, in the log and as an event, and mended files are taken over."""
    before = watched.look()
    if how == "key":
        watched.break_key()
        expected = "tls.key"
    elif how == "missing":
        os.unlink(watched.config.cert)
        expected = "does not exist"
    elif how == "name":
        other = watched.ca.issue("b@127.0.0.1:9100")
        os.replace(other.cert, watched.config.cert)
        os.replace(other.key, watched.config.key)
        expected = "it is the certificate of b@127.0.0.1:9100"
    else:
        os.replace(CA(watched.ca.directory / "x").directory / "ca.pem", watched.config.ca)
        expected = "under this CA, a peer would not accept"
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert watched.look() == before
        until(lambda: caplog.records, "it is logged")
    (problem,) = watched.told()
    assert expected in problem
    assert len(caplog.records) == 1
    assert problem in caplog.text
    if how == "ca":
        (watched.ca.directory / "ca.pem").write_bytes(watched.ca.certificate.public_bytes(certs.PEM))
    if how == "missing":
        os.unlink(watched.config.key)
        watched.ca.issue(NAME)
    else:
        for path in (watched.config.cert, watched.config.key):
            os.unlink(path)
        watched.ca.issue(NAME)
    assert watched.look() != before
    assert watched.told() == []


def test_the_same_broken_files_are_told_once_however_often_they_are_tried(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried again every minute, in silence."""
    watched.break_key()
    watched.look()
    assert len(watched.told()) == 1
    loads = counting(monkeypatch, "load")
    for _ in range(3):
        watched.look(61)
    assert len(loads) == 3
    assert watched.told() == []


def test_each_broken_renewal_is_told(watched: Watched) -> None:
    """A second attempt that fails, too, is news; the return of the old files ends the matter in silence."""
    before = watched.look()
    saved = Path(watched.config.key).read_bytes()
    status = os.stat(watched.config.key)
    watched.break_key()
    watched.look()
    assert len(watched.told()) == 1
    watched.break_key()
    watched.look()
    assert len(watched.told()) == 1
    Path(watched.config.key).write_bytes(saved)
    os.utime(watched.config.key, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert watched.look() == before
    assert watched.told() == []


def test_the_moment_between_two_files_is_no_problem(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal writes the key and then the certificate: who looks in between looks again before it complains."""
    before = watched.look()
    certificate = Path(watched.config.cert).read_bytes()
    fresh = watched.ca.issue(NAME, renew=True)
    new_certificate = Path(fresh.cert).read_bytes()
    Path(fresh.cert).write_bytes(certificate)

    def second_file(_: float) -> None:
        Path(fresh.cert).write_bytes(new_certificate)

    monkeypatch.setattr(gevent, "sleep", second_file)
    assert watched.look() != before
    assert watched.told() == []


def test_files_that_become_valid_are_tried_again(watched: Watched) -> None:
    """A certificate laid in place before its time is told once, and taken over within a minute of it."""
    before = watched.look()
    # 30 seconds on the watch's clock, on which OpenSSL's does not move: what OpenSSL would accept is moved.
    watched.elapsed -= 90
    early = watched.ca.odd(f"snowgreen://{NAME}", begins=certs.now() - 60 * DAY / 86400)
    os.replace(early.cert, watched.config.cert)
    os.replace(early.key, watched.config.key)
    watched.watch._looked_at = watched.elapsed - 1
    assert watched.look(0) == before
    assert "not valid before" in watched.told()[0]
    assert watched.look(30) == before
    assert watched.look(59) != before
    assert watched.told() == []


def test_who_comes_while_files_are_read_waits_for_them(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are read once for all links that begin meanwhile, and none of these uses the old one."""
    before = watched.look()
    watched.ca.issue(NAME, renew=True)
    watched.elapsed += 1
    go, loads = Event(), counting(monkeypatch, "load")
    original = watched.watch._load
    monkeypatch.setattr(watched.watch, "_load", lambda: (go.wait(), original())[1])
    links = [gevent.spawn(watched.look, 0) for _ in range(5)]
    until(lambda: watched.watch._looked_at == watched.elapsed, "the first has begun")
    assert not any(link.ready() for link in links)
    go.set()
    results = {link.get(timeout=5) for link in links}
    assert len(results) == len(loads) == 1
    assert before not in results


def test_a_link_that_ends_while_it_waits_leaves_the_watch_usable(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handshake's deadline may pass in the middle of reading: the next link reads again."""
    before = watched.look()
    watched.ca.issue(NAME, renew=True)
    with monkeypatch.context() as patch:
        patch.setattr(watched.watch, "_load", lambda: Event().wait())
        link = gevent.spawn(watched.look)
        until(lambda: watched.watch._looked_at == watched.elapsed, "it has begun")
        link.kill()
    assert watched.look() != before


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
def test_a_certificate_for_one_direction_only_is_refused(tmp_path: Path, purpose: object) -> None:
    """It is tried out in both directions before any peer sees it."""
    config = CA(tmp_path).odd(f"snowgreen://{NAME}", purposes=[purpose])
    with pytest.raises(ConfigurationError, match="purpose") as caught:
        credentials.load(config, NAME, certs.now())
    assert caught.value.argument == "tls.cert"


def test_a_certificate_of_another_ca_is_refused(tmp_path: Path) -> None:
    """The CA that a node trusts must vouch for the node itself: it would be alone otherwise."""
    one, other = CA(tmp_path / "one"), CA(tmp_path / "other")
    config = one.issue(NAME)
    with pytest.raises(ConfigurationError, match="under this CA"):
        credentials.load(
            TLSConfig(ca=other.directory / "ca.pem", cert=config.cert, key=config.key), NAME, certs.now()
        )


def test_an_authority_below_another_is_the_end_of_the_matter(tmp_path: Path) -> None:
    """What stands in the CA's file is trusted, with no root beside it; and the root alone needs it in the chain."""
    root = CA(tmp_path / "root")
    deep = certs.deep(root, tmp_path / "below", f"snowgreen://{NAME}")
    below, root_file = deep.ca, root.directory / "ca.pem"
    assert credentials.load(deep, NAME, certs.now()).server.certified
    chained = root_file.parent / "chained.pem"
    chained.write_bytes(Path(deep.cert).read_bytes() + Path(below).read_bytes())
    credentials.load(TLSConfig(ca=root_file, cert=chained, key=deep.key), NAME, certs.now())
    with pytest.raises(ConfigurationError, match="unable to get local issuer"):
        credentials.load(TLSConfig(ca=root_file, cert=deep.cert, key=deep.key), NAME, certs.now())


def test_both_contexts_demand_certificates(watched: Watched) -> None:
    """TLS 1.3, verification on either side, no tickets, no host names."""
    found = watched.watch.current()
    for end in (found.server, found.client):
        assert end.context.verify_mode == ssl.CERT_REQUIRED
        assert end.context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert not end.context.check_hostname
    assert found.server.context.num_tickets == 0


def test_the_repr_says_whose_it_is(watched: Watched) -> None:
    """And nothing of the key."""
    assert repr(watched.watch) == f"<CredentialWatch of {NAME}>"
