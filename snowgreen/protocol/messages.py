"""The five handshake messages as values, and their bytes (specification, section 3).

Decoding is strict: a field that is short, long or out of range raises :class:`Malformed`, whose text
holds numbers and field names but never the peer's bytes.
"""

from __future__ import annotations

import enum
import functools
import struct
from typing import NamedTuple

from ..names import MAX_NAME_BYTES, is_name
from .wire import MAX_BOUND_HELLO

VERSION = 1
BINDING_CERTIFICATE = 1
BINDING_EXPORTER = 2
PROOF_BYTES = 32
CHALLENGE_BYTES = 32
MAX_DETAIL = 256

#: The last challenge bytes of an acceptor that could have answered in bound form: who offered the
#: bound form and meets them in a classic CHALLENGE knows that somebody stripped the offer.
DOWNGRADE_MARK = b"SGBOUND1"

_MAGIC = b"SGX1"
_NAME_BODY = struct.Struct("<BBIQII")
_CHALLENGE_BODY = struct.Struct("<BBIQ")
_U16 = struct.Struct("<H")


class Tag(enum.IntEnum):
    """The first byte of a handshake message."""

    NAME = 1
    CHALLENGE = 2
    REPLY = 3
    ACK = 4
    REJECT = 5


_TAGS = {int(tag): tag for tag in Tag}


class RejectCode(enum.IntEnum):
    """Why a side declines. Codes from 16 on carry a MAC and are believed; the others are hints."""

    MALFORMED = 1
    VERSION = 2
    BOUND_REQUIRED = 3
    BUSY = 4
    AUTH_FAILED = 5
    DUPLICATE = 16
    STALE_INCARNATION = 17
    NAME_NOT_ALLOWED = 18
    SELF = 19
    SHUTTING_DOWN = 20
    CAPABILITIES = 21

    @property
    def authenticated(self) -> bool:
        """Whether this code comes with a MAC, and only after the initiator proved the cookie."""
        return self >= 16


class Malformed(ValueError):
    """A handshake message breaks the specification."""


class UnknownVersion(Malformed):
    """The bound extension is of a version this side does not speak."""


class NameExt(NamedTuple):
    """The bound form's part of NAME."""

    bindings: int
    capabilities: int
    incarnation: int
    epoch: int
    attempt: int


class ChallengeExt(NamedTuple):
    """The bound form's part of CHALLENGE."""

    binding: int
    capabilities: int
    incarnation: int


class Name(NamedTuple):
    """NAME, from the initiator. `ext` is None in the classic form."""

    name: str
    creation: int
    ext: NameExt | None


class Challenge(NamedTuple):
    """CHALLENGE, from the acceptor. `ext` is None in the classic form."""

    name: str
    creation: int
    challenge: bytes
    ext: ChallengeExt | None


class Reply(NamedTuple):
    """REPLY, from the initiator: its proof, and its own challenge."""

    proof: bytes
    challenge: bytes


class Ack(NamedTuple):
    """ACK, from the acceptor: its proof."""

    proof: bytes


class Reject(NamedTuple):
    """REJECT, from either. `code` may be one this side does not know."""

    code: int
    detail: bytes
    mac: bytes | None


def encode_name(message: Name) -> bytes:
    """The payload of NAME."""
    head = _head(Tag.NAME, message.name, message.creation)
    ext = message.ext
    if ext is None:
        return head
    return head + _ext(
        _NAME_BODY.pack(VERSION, ext.bindings, ext.capabilities, ext.incarnation, ext.epoch, ext.attempt)
    )


def encode_challenge(message: Challenge) -> bytes:
    """The payload of CHALLENGE."""
    head = _head(Tag.CHALLENGE, message.name, message.creation) + message.challenge
    ext = message.ext
    if ext is None:
        return head
    return head + _challenge_ext(ext)


def encode_reply(message: Reply) -> bytes:
    """The payload of REPLY."""
    return bytes([Tag.REPLY]) + message.proof + message.challenge


def encode_ack(message: Ack) -> bytes:
    """The payload of ACK."""
    return bytes([Tag.ACK]) + message.proof


def encode_reject(message: Reject) -> bytes:
    """The payload of REJECT."""
    detail = message.detail[:MAX_DETAIL]
    return bytes([Tag.REJECT, message.code]) + _U16.pack(len(detail)) + detail + (message.mac or b"")


def tag_of(payload: bytes) -> Tag:
    """The tag of a handshake payload.

    :raises Malformed: if it is empty or of no known kind.
    """
    if not payload:
        raise Malformed("an empty handshake message")
    tag = _TAGS.get(payload[0])
    if tag is None:
        raise Malformed(f"a message of unknown kind {payload[0]}")
    return tag


def decode_name(payload: bytes) -> Name:
    """NAME from its payload.

    :raises Malformed: naming the defect.
    """
    name, creation, at = _decode_head(payload, "NAME")
    body = _decode_ext(payload, at, "NAME", _NAME_BODY.size)
    if body is None:
        return Name(name, creation, None)
    return Name(name, creation, NameExt(*_NAME_BODY.unpack_from(body)[1:]))


def decode_challenge(payload: bytes) -> Challenge:
    """CHALLENGE from its payload.

    :raises Malformed: naming the defect.
    """
    name, creation, at = _decode_head(payload, "CHALLENGE")
    challenge = payload[at : at + CHALLENGE_BYTES]
    if len(challenge) < CHALLENGE_BYTES:
        raise Malformed("CHALLENGE is truncated inside its challenge")
    body = _decode_ext(payload, at + CHALLENGE_BYTES, "CHALLENGE", _CHALLENGE_BODY.size)
    if body is None:
        return Challenge(name, creation, challenge, None)
    return Challenge(name, creation, challenge, ChallengeExt(*_CHALLENGE_BODY.unpack_from(body)[1:]))


def decode_reply(payload: bytes) -> Reply:
    """REPLY from its payload.

    :raises Malformed: naming the defect.
    """
    _exact(payload, 1 + PROOF_BYTES + CHALLENGE_BYTES, "REPLY")
    return Reply(payload[1 : 1 + PROOF_BYTES], payload[1 + PROOF_BYTES :])


def decode_ack(payload: bytes) -> Ack:
    """ACK from its payload.

    :raises Malformed: naming the defect.
    """
    _exact(payload, 1 + PROOF_BYTES, "ACK")
    return Ack(payload[1:])


def decode_reject(payload: bytes) -> Reject:
    """REJECT from its payload.

    :raises Malformed: naming the defect.
    """
    if len(payload) < 4:
        raise Malformed("REJECT is truncated")
    code = payload[1]
    (size,) = _U16.unpack_from(payload, 2)
    if size > MAX_DETAIL:
        raise Malformed(f"REJECT has {size} bytes of detail, at most {MAX_DETAIL} are allowed")
    detail, tail = payload[4 : 4 + size], payload[4 + size :]
    if len(detail) < size:
        raise Malformed("REJECT is truncated inside its detail")
    if len(tail) not in (0, PROOF_BYTES):
        raise Malformed(f"REJECT ends in {len(tail)} bytes that are no MAC")
    return Reject(code, detail, tail or None)


@functools.lru_cache(maxsize=64)  # of this process's own names; each is said in every handshake
def _head(tag: Tag, name: str, creation: int) -> bytes:
    encoded = name.encode("ascii")
    return bytes([tag]) + _U16.pack(len(encoded)) + encoded + bytes([creation])


@functools.lru_cache(maxsize=64)  # as above
def _challenge_ext(ext: ChallengeExt) -> bytes:
    return _ext(_CHALLENGE_BODY.pack(VERSION, ext.binding, ext.capabilities, ext.incarnation))


def _ext(body: bytes) -> bytes:
    return _MAGIC + _U16.pack(len(body)) + body


def _decode_head(payload: bytes, kind: str) -> tuple[str, int, int]:
    if len(payload) < 3:
        raise Malformed(f"{kind} is truncated before its name")
    (size,) = _U16.unpack_from(payload, 1)
    if size > MAX_NAME_BYTES:
        raise Malformed(f"{kind} has a name of {size} bytes, at most {MAX_NAME_BYTES} are allowed")
    end = 3 + size
    if len(payload) < end + 1:
        raise Malformed(f"{kind} is truncated inside its name")
    name = payload[3:end].decode("ascii", "replace")
    if not is_name(name):
        # Without the defect: it would repeat the peer's bytes.
        raise Malformed(f"{kind} carries what is no node name")
    return name, payload[end], end + 1


def _decode_ext(payload: bytes, at: int, kind: str, least: int) -> bytes | None:
    ext = payload[at:]
    if not ext:
        return None
    if len(ext) < 6 or ext[:4] != _MAGIC:
        raise Malformed(f"{kind} has {len(ext)} bytes behind its fields that are no extension")
    (size,) = _U16.unpack_from(ext, 4)
    body = ext[6:]
    if size != len(body):
        raise Malformed(f"{kind} announces {size} bytes of extension and carries {len(body)}")
    if len(payload) > MAX_BOUND_HELLO:
        raise Malformed(f"a bound {kind} of {len(payload)} bytes, at most {MAX_BOUND_HELLO} are allowed")
    if not body:
        raise Malformed(f"{kind} has an empty extension")
    if body[0] != VERSION:
        raise UnknownVersion(f"{kind} is of version {body[0]}, this side speaks {VERSION}")
    if size < least:
        raise Malformed(f"{kind} has {size} bytes of extension, at least {least} are needed")
    return body


def _exact(payload: bytes, size: int, kind: str) -> None:
    if len(payload) != size:
        raise Malformed(f"{kind} has {len(payload)} bytes instead of {size}")
