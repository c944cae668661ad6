"""From a cookie to proofs: the key schedule and every MAC of the handshake (specification, section 3).

HMAC is RFC 2104, HKDF-Expand RFC 5869 section 2.3, scrypt RFC 7914. Comparisons take constant time.
"""

from __future__ import annotations

import hashlib
import hmac

from .wire import lp, lps

SCRYPT_N, SCRYPT_R, SCRYPT_P = 32768, 8, 1
_INITIATOR_PROOF = lp(b"snowgreen/1 initiator proof")
_ACCEPTOR_PROOF = lp(b"snowgreen/1 acceptor proof")
_TRANSCRIPT = lp(b"snowgreen/1 bound transcript")
_SCRYPT_MEMORY = 128 * SCRYPT_N * SCRYPT_R * 2  # what OpenSSL asks for, doubled: its check is strict


def mac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(key, message, "sha256")


def same(one: bytes, other: bytes) -> bool:
    """Whether two MACs are equal, in time that does not tell how far they agree."""
    return hmac.compare_digest(one, other)


class LinkKeys:
    """The keys that one cookie yields for the bound form. Its repr shows none of them."""

    __slots__ = ("acceptor", "fingerprint", "initiator", "master", "reject")

    def __init__(self, master: bytes) -> None:
        self.master = master
        self.initiator = _expand(master, b"snowgreen/1 initiator")
        self.acceptor = _expand(master, b"snowgreen/1 acceptor")
        self.reject = _expand(master, b"snowgreen/1 reject")
        #: 48 bits that tell one cookie from another and may be shown: as behind a handshake, each guess at
        #: the cookie costs one scrypt.
        self.fingerprint = _expand(master, b"snowgreen/1 fingerprint")[:6].hex("-", 2)

    @classmethod
    def derive(cls, cookie: bytes) -> LinkKeys:
        """Run the key schedule: about 0.1 s and 32 MiB, by scrypt's design, so once per cookie."""
        once = [prehash(cookie)]
        del cookie  # if scrypt is refused its memory, the traceback must show neither this nor its hash
        return cls(
            hashlib.scrypt(
                once.pop(),
                salt=b"snowgreen/1 link auth",
                n=SCRYPT_N,
                r=SCRYPT_R,
                p=SCRYPT_P,
                maxmem=_SCRYPT_MEMORY,
                dklen=32,
            )
        )

    def initiator_proof(self, transcript: bytes) -> bytes:
        """What REPLY carries."""
        return mac(self.initiator, _INITIATOR_PROOF + transcript)

    def acceptor_proof(self, transcript: bytes, reply_proof: bytes) -> bytes:
        """What ACK carries."""
        return mac(self.acceptor, _ACCEPTOR_PROOF + transcript + reply_proof)

    def reject_mac(self, transcript: bytes, code: int, detail: bytes) -> bytes:
        """What makes a REJECT binding."""
        return mac(self.reject, lp(b"snowgreen/1 reject") + transcript + bytes([code]) + lp(detail))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinkKeys) and same(self.master, other.master)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return "<LinkKeys>"


class Secrets:
    """What one side may prove and believe in one handshake. No tuple, for tools that print those through.

    :ivar bound: the keys it accepts; the first is the primary, with which it dials.
    :ivar classic: the cookie of the classic form, None where that form is not allowed.
    """

    __slots__ = ("bound", "classic")

    def __init__(self, bound: tuple[LinkKeys, ...], classic: bytes | None) -> None:
        self.bound = bound
        self.classic = classic

    def __repr__(self) -> str:
        return f"<Secrets: {len(self.bound)} bound, classic {'on' if self.classic is not None else 'off'}>"


def prehash(cookie: bytes) -> bytes:
    """The first step of the schedule; also a safe key under which a cache may file the result."""
    return mac(b"snowgreen/1 cookie", cookie)


def transcript_hash(
    name: bytes,
    challenge: bytes,
    initiator_challenge: bytes,
    binding_used: int,
    acceptor_binding: bytes,
    initiator_binding: bytes,
) -> bytes:
    """``TH``: everything both sides saw, and what they say with it about the channel it ran in."""
    return hashlib.sha256(
        _TRANSCRIPT
        + lps(
            name,
            challenge,
            initiator_challenge,
            bytes([binding_used]),
            acceptor_binding,
            initiator_binding,
        )
    ).digest()


def _expand(key: bytes, info: bytes) -> bytes:
    # HKDF-Expand for one block of 32 bytes: T(1) = HMAC(PRK, info ‖ 0x01).
    return mac(key, info + b"\x01")
