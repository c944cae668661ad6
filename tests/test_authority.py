"""A small CA in a directory: what it makes is right, kept to its owner, and never lost by accident."""

from __future__ import annotations

import datetime
import os
import re
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from snowgreen import ConfigurationError, authority, certificates
from snowgreen.names import parse_name
from tests import certs

NOW = certs.now().replace(microsecond=0)
DAY = datetime.timedelta(days=1)
NAME = parse_name("a@node.example:9100")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    authority.make_ca(tmp_path / "ca", 100, NOW)
    return tmp_path / "ca"


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_ca_can_sign_nodes_and_no_further_ca(directory: Path) -> None:
    """P-256, CA with path length 0, for signing certificates only; both critical, so that nobody overlooks it."""
    found = loaded(directory / "ca.pem")
    assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
    assert found.public_key().curve.name == "secp256r1"
    bounds = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (bounds.value.ca, bounds.value.path_length, bounds.critical) == (True, 0, True)
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert found.not_valid_after_utc == NOW + 100 * DAY
    assert found.not_valid_before_utc < NOW
    found.verify_directly_issued_by(found)


def test_keys_are_for_their_owner_alone(directory: Path) -> None:
    """Whatever the umask: the directory 0700, keys 0600; certificates may be read by anybody."""
    old = os.umask(0)
    try:
        made = authority.issue(directory, NAME, 10, NOW)
        fresh = authority.make_ca(directory / "x" / "y", 10, NOW)
    finally:
        os.umask(old)
    assert mode(directory) == mode(directory / "x" / "y") == 0o700
    assert mode(directory / "ca.key") == mode(made.key) == mode(fresh.key) == 0o600
    assert mode(directory / "ca.pem") == mode(made.certificate) == 0o644


def test_a_ca_is_not_replaced_by_accident(directory: Path) -> None:
    """With either of its files there, only force makes another; and that has another name."""
    before = content(directory)
    with pytest.raises(ConfigurationError, match="--force"):
        authority.make_ca(directory, 10, NOW)
    assert content(directory) == before
    os.unlink(directory / "ca.pem")
    with pytest.raises(ConfigurationError, match="--force"):
        authority.make_ca(directory, 10, NOW)
    authority.make_ca(directory, 10, NOW, force=True)
    after = content(directory)
    assert after["ca.key"] != before["ca.key"]
    old = x509.load_pem_x509_certificate(before["ca.pem"])
    assert loaded(directory / "ca.pem").subject != old.subject


def test_a_certificate_is_for_one_node_in_both_roles(directory: Path) -> None:
    """The name as its URI, the host for other tools, both purposes, signed by the CA."""
    made = authority.issue(directory, NAME, 10, NOW)
    found = loaded(made.certificate)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["snowgreen://a@node.example:9100"]
    assert names.get_values_for_type(x509.DNSName) == ["node.example"]
    purposes = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificates.is_authority(found)
    assert made.expires == found.not_valid_after_utc == NOW + 10 * DAY
    found.verify_directly_issued_by(loaded(directory / "ca.pem"))


@pytest.mark.parametrize(
    "name",
    ["a@10.0.0.5:1", "a@[::1]:9000", "a@h", "ops@127.0.0.1:0", "x" * 64 + "@" + "h." * 80 + "h:65535"],
)
def test_every_kind_of_name_can_have_one(directory: Path, name: str) -> None:
    """IPv4, IPv6, no port, port 0, and the longest: what was issued is what a node loads."""
    made = authority.issue(directory, parse_name(name), 10, NOW)
    config = certificates.TLSConfig(ca=directory / "ca.pem", cert=made.certificate, key=made.key)
    assert certificates.load(config, NOW).name.text == name
    assert re.fullmatch(r"[A-Za-z0-9_.-]+\.pem", made.certificate.name)


def test_a_certificate_does_not_outlast_its_ca(directory: Path) -> None:
    """Later than that nobody would accept it."""
    assert authority.issue(directory, NAME, 1000, NOW).expires == NOW + 100 * DAY
    with pytest.raises(ConfigurationError, match="expired"):
        authority.issue(directory, NAME, 10, NOW + 101 * DAY, renew=True)


def test_a_certificate_is_replaced_when_asked(directory: Path) -> None:
    """Not otherwise; then with a fresh key, in the same files, with nothing else left there."""
    made = authority.issue(directory, NAME, 10, NOW)
    before = content(directory)
    with pytest.raises(ConfigurationError, match="--renew"):
        authority.issue(directory, NAME, 10, NOW)
    assert content(directory) == before
    again = authority.issue(directory, NAME, 20, NOW, renew=True)
    assert (again.certificate, again.key) == (made.certificate, made.key)
    after = content(directory)
    assert after.keys() == before.keys()
    assert after[made.key.name] != before[made.key.name]
    assert mode(made.key) == 0o600
    assert loaded(made.certificate).not_valid_after_utc == NOW + 20 * DAY


def test_another_node_whose_files_are_named_alike(directory: Path) -> None:
    """a_b@h and a@b_h share a file name: the second is refused, even when renewing."""
    authority.issue(directory, parse_name("a_b@h"), 10, NOW)
    with pytest.raises(ConfigurationError, match="certificate of another node"):
        authority.issue(directory, parse_name("a@b_h"), 10, NOW, renew=True)


def test_a_ca_that_cannot_sign(directory: Path, tmp_path: Path) -> None:
    """None there, another's key, a key that others can read: said before anything is written."""
    with pytest.raises(ConfigurationError, match="snowgreen certs init"):
        authority.issue(tmp_path / "nowhere", NAME, 10, NOW)
    os.chmod(directory / "ca.key", 0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        authority.issue(directory, NAME, 10, NOW)
    other = certs.CA(tmp_path / "other")
    os.replace(other.directory / "ca.key", directory / "ca.key")
    with pytest.raises(ConfigurationError, match="is not the key of the CA"):
        authority.issue(directory, NAME, 10, NOW)
    (directory / "ca.key").write_bytes(b"junk")
    with pytest.raises(ConfigurationError, match="is not the key of the CA"):
        authority.issue(directory, NAME, 10, NOW)
    assert sorted(content(directory)) == ["ca.key", "ca.pem"]


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """One error that names the file."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"ca\.key cannot be written"):
        authority.make_ca(tmp_path / "file", 10, NOW)


def test_a_summary_has_what_a_person_wants_to_know(directory: Path) -> None:
    """Of each certificate in the file, with nothing in it that a terminal would obey."""
    made = authority.issue(directory, NAME, 10, NOW)
    both = directory / "both.pem"
    both.write_bytes(made.certificate.read_bytes() + (directory / "ca.pem").read_bytes())
    own, above = authority.summaries(both)
    assert own.subject == "CN=a"
    assert own.issuer == above.subject == above.issuer
    assert own.names == ["URI:snowgreen://a@node.example:9100", "DNS:node.example"]
    assert (own.is_authority, above.is_authority) == (False, True)
    assert (own.expires, above.expires) == (NOW + 10 * DAY, NOW + 100 * DAY)
    assert re.fullmatch("[0-9a-f]{64}", own.fingerprint)
    with pytest.raises(ConfigurationError, match="no certificate"):
        authority.summaries(made.key)
