"""The files of an operator's CA: what is taken from them, and that whatever is amiss is named with its file."""

from __future__ import annotations

import datetime
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import snowgreen
from snowgreen import ConfigurationError, TLSConfig, certificates
from tests import certs
from tests.certs import CA, DAY

NAME = "a@127.0.0.1:9100"


@pytest.fixture
def ca(tmp_path: Path) -> CA:
    return CA(tmp_path / "ca")


def refused(config: TLSConfig, now: datetime.datetime | None = None) -> ConfigurationError:
    """The error that says why these files cannot be used."""
    with pytest.raises(ConfigurationError) as caught:
        certificates.load(config, now or certs.now())
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    return caught.value


def changed(config: TLSConfig, **files: Any) -> TLSConfig:
    fields = {"ca": config.ca, "cert": config.cert, "key": config.key}
    return TLSConfig(**{**fields, **files})


# TLSConfig


def test_a_config_is_a_value(tmp_path: Path) -> None:
    """Equal paths are an equal config, which is frozen and can be pickled."""
    one, other = (TLSConfig(ca=tmp_path / "a", cert=f"{tmp_path}/b", key=tmp_path / "c") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError):
        one.ca = "x"  # type: ignore[misc]


def test_relative_paths_survive_a_change_of_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The files are read again much later, when the process may be elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert TLSConfig(ca="ca.pem", cert="x/c", key="k").ca == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("field", ["ca", "cert", "key"])
@pytest.mark.parametrize("value", [None, 7, b"x", "", "a\0b"])
def test_what_is_no_path_is_refused_by_name(field: str, value: Any) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigurationError) as caught:
        TLSConfig(**{"ca": "a", "cert": "b", "key": "c", field: value})
    assert caught.value.argument == f"tls.{field}"


def test_all_three_are_needed_and_by_name() -> None:
    """A CA without a certificate, or paths in any order, would be half a decision."""
    with pytest.raises(TypeError):
        TLSConfig(ca="a")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TLSConfig("a", "b", "c")  # type: ignore[misc]


# load


def test_good_files(ca: CA) -> None:
    """Name, fingerprint, expiry and PEM come out, and the key is not shown."""
    config = ca.issue(NAME)
    found = certificates.load(config, certs.now())
    assert found.name.text == NAME
    own = certificates.parse(Path(config.cert).read_bytes(), Path(config.cert), "x")[0]
    assert found.fingerprint == hashlib.sha256(own.public_bytes(serialization.Encoding.DER)).digest()
    assert found.expires == own.not_valid_after_utc
    assert b"PRIVATE" in found.key
    assert b"PRIVATE" not in found.chain + found.ca
    assert "PRIVATE" not in repr(found)
    assert certificates.own_name(config).text == NAME


@pytest.mark.parametrize("field", ["ca", "cert", "key"])
def test_files_that_cannot_be_read(ca: CA, tmp_path: Path, field: str) -> None:
    """Missing, a directory, a FIFO, too large or empty: one line that names the argument and the file."""
    config = ca.issue(NAME)
    os.mkfifo(tmp_path / "fifo", 0o600)
    large = ca.write_key(b"x" * (1024 * 1024 + 1))
    empty = ca.write_key(b"")
    for path, problem in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (large, "larger than"),
        (empty, "holds no"),
    ):
        error = refused(changed(config, **{field: path}))
        assert error.argument == f"tls.{field}"
        assert str(path) in error.problem
        assert problem in error.problem


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_key_that_others_can_read_is_refused(ca: CA, mode: int) -> None:
    """As with the cookie's file, and with the command that mends it."""
    config = ca.issue(NAME)
    os.chmod(config.key, mode)
    error = refused(config)
    assert error.argument == "tls.key"
    assert f"chmod 600 '{config.key}'" in error.problem


def test_a_key_of_another_user_is_refused(ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """He could put another one in its place."""
    config = ca.issue(NAME)
    os.chown(config.key, 4321, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert "belongs to another user" in refused(config).problem


def locked(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        certs.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda config: b"junk", "holds no private key in PEM"),
        (lambda config: Path(config.cert).read_bytes(), "holds no private key in PEM"),
        (lambda config: locked(ec.generate_private_key(ec.SECP256R1())), "locked with a passphrase"),
        (
            lambda config: certs.private_pem(ec.generate_private_key(ec.SECP256R1())),
            "does not belong to the certificate in",
        ),
        (
            lambda config: certs.private_pem(rsa.generate_private_key(65537, 2048)),
            "does not belong to the certificate in",
        ),
        (lambda config: certs.key_that_pretends(Path(config.cert)), "holds no private key in PEM that can"),
    ],
)
def test_keys_that_do_not_fit(ca: CA, make: Callable[[TLSConfig], bytes], problem: str) -> None:
    """No key, a locked one, another's, and one dressed up as the right one."""
    config = ca.issue(NAME)
    error = refused(changed(config, key=ca.write_key(make(config))))
    assert error.argument == "tls.key"
    assert problem in error.problem


def test_a_certificate_that_is_none(ca: CA) -> None:
    """A key, junk, or a broken certificate in the place of a certificate."""
    config = ca.issue(NAME)
    broken = Path(config.cert).read_bytes().replace(b"M", b"N", 1)
    for content in (Path(config.key).read_bytes(), b"\x30\x82", broken):
        for field in ("ca", "cert"):
            error = refused(changed(config, **{field: ca.write_key(content)}))
            assert error.argument == f"tls.{field}"
            assert "no certificate in PEM" in error.problem


@pytest.mark.parametrize(
    ("uris", "problem"),
    [
        ([], "carries no SAN URI"),
        ([f"snowgreen://{NAME}", "snowgreen://b@127.0.0.1:9100"], "carries 2 SAN URIs"),
        ([f"snowgreen://{NAME}", "spiffe://example/a"], "carries 2 SAN URIs"),
        ([f"snowgreen://{NAME}"] * 2, "carries 2 SAN URIs"),
        ([f"spiffe://{NAME}"], "is not snowgreen://"),
        ([f"SNOWGREEN://{NAME}"], "is not snowgreen://"),
        ([NAME], "is not snowgreen://"),
        (["snowgreen://a b@h"], "names no node"),
        (["snowgreen://"], "names no node"),
        ([f"snowgreen://{NAME}/"], "names no node"),
    ],
)
def test_a_certificate_names_exactly_one_node(ca: CA, uris: list[str], problem: str) -> None:
    """None, two, or one that is no name: refused, in our own certificate as in a peer's."""
    error = refused(ca.odd(*uris))
    assert error.argument == "tls.cert"
    assert problem in error.problem
    described = {"subjectAltName": [("DNS", "h"), *(("URI", uri) for uri in uris)]}
    with pytest.raises(ValueError, match="URI"):
        certificates.peer_name(described)


def test_a_peers_certificate_as_ssl_describes_it() -> None:
    """Its name is read from the URI; without any certificate there is none."""
    described = {"subjectAltName": (("DNS", "h"), ("URI", f"snowgreen://{NAME}"), ("IP Address", "1.2.3.4"))}
    assert certificates.peer_name(described).text == NAME
    for nothing in (None, {}):
        with pytest.raises(ValueError, match="no certificate"):
            certificates.peer_name(nothing)


def test_another_nodes_certificate(ca: CA) -> None:
    """A certificate is for one name, compared byte for byte."""
    found = certificates.load(ca.issue(NAME), certs.now())
    certificates.check_name(found, NAME)
    for other in ("b@127.0.0.1:9100", "A@127.0.0.1:9100", "a@127.0.0.1"):
        with pytest.raises(ConfigurationError, match="and this node is") as caught:
            certificates.check_name(found, other)
        assert caught.value.argument == "tls.cert"


def test_validity_is_checked_against_the_clock_given(ca: CA) -> None:
    """Expired and not valid yet, with the time at which."""
    config = ca.odd(f"snowgreen://{NAME}", begins=certs.now() - DAY, expires=certs.now() + DAY)
    certificates.load(config, certs.now())
    assert "expired at 2" in refused(config, certs.now() + 2 * DAY).problem
    assert "not valid before 2" in refused(config, certs.now() - 2 * DAY).problem
    expired_ca = refused(config, certs.now() + 100 * DAY)
    assert expired_ca.argument == "tls.ca"
    assert "expired" in expired_ca.problem


def test_the_ca_file_may_hold_several_but_no_nodes_certificate(ca: CA, tmp_path: Path) -> None:
    """Two CAs are how one is replaced by the other; a node's certificate would vouch for itself."""
    config, other = ca.issue(NAME), CA(tmp_path / "other")
    both = ca.write_key(Path(config.ca).read_bytes() + (other.directory / "ca.pem").read_bytes())
    assert certificates.load(changed(config, ca=both), certs.now()).ca.count(b"BEGIN") == 2
    mixed = ca.write_key(Path(config.ca).read_bytes() + Path(config.cert).read_bytes())
    error = refused(changed(config, ca=mixed))
    assert error.argument == "tls.ca"
    assert "no CA's" in error.problem


def test_the_config_is_exported() -> None:
    """It is one of the public names."""
    assert snowgreen.TLSConfig is TLSConfig
