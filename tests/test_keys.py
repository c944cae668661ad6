"""The key schedule and every MAC, against answers that two independent implementations agree on."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol import keys
from snowgreen.protocol.keys import LinkKeys, Secrets

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())["vectors"]
unhex = bytes.fromhex

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=["alice-bob", "edge-values"])


@pytest.fixture(scope="module")
def derived():
    """The keys of each vector's cookie; scrypt is slow by design, so once for all tests here."""
    return {vector["cookie"]: LinkKeys.derive(unhex(vector["cookie"])) for vector in VECTORS}


def transcript(vector):
    """TH as this side computes it from what the vector says was sent."""
    return keys.transcript_hash(
        unhex(vector["bound"]["NAME"]),
        unhex(vector["bound"]["CHALLENGE"]),
        unhex(vector["initiator"]["challenge"]),
        1,
        unhex(vector["acceptor"]["certificate_hash"]),
        unhex(vector["initiator"]["certificate_hash"]),
    )


@every_vector
def test_the_key_schedule(vector, derived):
    """From cookie to master key to the three keys, byte for byte."""
    bound, got = vector["bound"], derived[vector["cookie"]]
    assert got.master.hex() == bound["key"]
    assert got.initiator.hex() == bound["initiator_key"]
    assert got.acceptor.hex() == bound["acceptor_key"]
    assert got.reject.hex() == bound["reject_key"]


@every_vector
def test_the_master_key_alone_gives_the_others(vector):
    """Keys made from a known master key need no scrypt and are the same."""
    got = LinkKeys(unhex(vector["bound"]["key"]))
    assert got.initiator.hex() == vector["bound"]["initiator_key"]
    assert got.acceptor.hex() == vector["bound"]["acceptor_key"]
    assert got.reject.hex() == vector["bound"]["reject_key"]


@every_vector
def test_the_transcript_hash(vector):
    """TH covers both hellos, the initiator's challenge, the kind of binding and both bindings."""
    assert transcript(vector).hex() == vector["bound"]["transcript_hash"]


@every_vector
def test_the_proofs_of_reply_and_ack(vector):
    """What the two sides send as proof, byte for byte."""
    bound = vector["bound"]
    link_keys = LinkKeys(unhex(bound["key"]))
    reply = link_keys.initiator_proof(unhex(bound["transcript_hash"]))
    assert reply == unhex(bound["REPLY"])[1:33]
    assert link_keys.acceptor_proof(unhex(bound["transcript_hash"]), reply) == unhex(bound["ACK"])[1:33]


@every_vector
def test_the_mac_of_a_reject(vector):
    """REJECT(DUPLICATE) without detail, byte for byte."""
    bound = vector["bound"]
    link_keys = LinkKeys(unhex(bound["key"]))
    assert (
        link_keys.reject_mac(unhex(bound["transcript_hash"]), 16, b"") == unhex(bound["REJECT_DUPLICATE"])[4:]
    )


@every_vector
def test_the_classic_proofs(vector):
    """In the classic form a proof is the bare HMAC of the other side's challenge."""
    cookie = unhex(vector["cookie"])
    assert keys.mac(cookie, unhex(vector["acceptor"]["challenge"])) == unhex(vector["classic"]["REPLY"])[1:33]
    assert keys.mac(cookie, unhex(vector["initiator"]["challenge"])) == unhex(vector["classic"]["ACK"])[1:33]


@every_vector
def test_the_prehash_is_the_first_step(vector, derived):
    """It is the HMAC of the specification, differs from the cookie's own, and scrypt takes it further."""
    cookie = unhex(vector["cookie"])
    prehash = hmac.new(b"snowgreen/1 cookie", cookie, hashlib.sha256).digest()
    assert keys.prehash(cookie) == prehash
    master = hashlib.scrypt(prehash, salt=b"snowgreen/1 link auth", n=2**15, r=8, p=1, maxmem=2**27, dklen=32)
    assert derived[vector["cookie"]].master == master


def test_each_input_of_the_transcript_counts():
    """Changing any one of the six changes TH, and moving a byte across a border does too."""
    inputs = [b"name", b"challenge", b"c" * 32, 1, b"a" * 32, b"i" * 32]
    changed = [b"namf", b"challengf", b"d" * 32, 2, b"b" * 32, b""]
    hashes = {keys.transcript_hash(*inputs)}
    for position, value in enumerate(changed):
        hashes.add(keys.transcript_hash(*inputs[:position], value, *inputs[position + 1 :]))
    hashes.add(keys.transcript_hash(b"namec", b"hallenge", *inputs[2:]))
    hashes.add(keys.transcript_hash(*inputs[:4], b"a" * 32 + b"i", b"i" * 31))
    assert len(hashes) == 9


@every_vector
def test_the_fingerprint(vector, derived):
    """48 bits of an HKDF-Expand of its own: public, the same for the same cookie, and none of the keys."""
    got = derived[vector["cookie"]]
    expanded = hmac.digest(got.master, b"snowgreen/1 fingerprint\x01", "sha256")
    assert got.fingerprint.replace("-", "") == expanded.hex()[:12]
    for key in (got.master, got.initiator, got.acceptor, got.reject):
        assert got.fingerprint.replace("-", "") not in key.hex()


def test_keys_are_equal_if_the_cookie_is():
    """Keys compare by what they were made from, whichever derivation made them."""
    assert LinkKeys(bytes(32)) == LinkKeys(bytes(32))
    assert hash(LinkKeys(bytes(32))) == hash(LinkKeys(bytes(32)))
    assert LinkKeys(bytes(32)) != LinkKeys(b"x" * 32)
    assert LinkKeys(bytes(32)) != bytes(32)


def test_the_three_uses_have_three_keys():
    """No proof can stand in for another: same transcript, different keys, different labels."""
    link_keys = LinkKeys(bytes(32))
    th = bytes(32)
    assert len({link_keys.master, link_keys.initiator, link_keys.acceptor, link_keys.reject}) == 4
    assert (
        len(
            {
                link_keys.initiator_proof(th),
                link_keys.acceptor_proof(th, b""),
                link_keys.reject_mac(th, 16, b""),
            }
        )
        == 3
    )


def test_each_input_of_a_reject_counts():
    """Transcript, code and detail are all under the MAC, the detail with its length."""
    link_keys = LinkKeys(bytes(32))
    macs = {
        link_keys.reject_mac(th, code, detail)
        for th in (bytes(32), b"\1" * 32)
        for code in (16, 17)
        for detail in (b"", b"\0", b"x")
    }
    assert len(macs) == 12


def test_an_acks_proof_covers_the_replys():
    """An ACK answers one REPLY and no other."""
    link_keys = LinkKeys(bytes(32))
    assert link_keys.acceptor_proof(bytes(32), b"1" * 32) != link_keys.acceptor_proof(bytes(32), b"2" * 32)


@given(st.binary(max_size=80), st.binary(max_size=80))
@settings(max_examples=50, deadline=None)
def test_mac_is_hmac_sha256(key, message):
    """For any key and message, as Python's own slow path computes it."""
    assert keys.mac(key, message) == hmac.new(key, message, hashlib.sha256).digest()


def test_macs_are_compared_in_constant_time(monkeypatch):
    """Every comparison goes through compare_digest, which does not stop at the first difference."""
    asked = []

    def compare(one, other):
        asked.append((one, other))
        return True

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    assert keys.same(b"a", b"b") is True
    assert asked == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [(b"a", b"a", True), (b"a", b"b", False), (b"a", b"ab", False), (b"", b"", True)],
)
def test_same_is_equality(one, other, equal):
    """It gives what == would give."""
    assert keys.same(one, other) is equal


def test_reprs_show_no_key():
    """Neither LinkKeys nor Secrets shows a secret, by itself or inside another value."""
    link_keys = LinkKeys(b"master key with 32 bytes, exact.")
    both = Secrets((link_keys, link_keys), b"classic cookie")
    for value in (link_keys, both, [both], {"secrets": both}, (link_keys,)):
        for shown in (repr(value), str(value), f"{value}"):
            assert "master key" not in shown
            assert "classic cookie" not in shown
            for key in (link_keys.initiator, link_keys.acceptor, link_keys.reject):
                assert repr(key)[2:10] not in shown
    assert repr(link_keys) == "<LinkKeys>"
    assert repr(both) == "<Secrets: 2 bound, classic on>"
    assert repr(Secrets((), None)) == "<Secrets: 0 bound, classic off>"
    assert not hasattr(link_keys, "__dict__")
