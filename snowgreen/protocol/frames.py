"""What travels after the handshake: ``u32 length ‖ u8 tag ‖ body`` (specification, section 4).

An empty frame and an unknown tag are ignored; a known one with a body of the wrong shape ends the
link, because its sender speaks another protocol than ours.
"""

from __future__ import annotations

import enum
import struct

from .wire import pack


class FrameTag(enum.IntEnum):
    """The tags this version acts on. ``docs/protocol.md`` lists the whole range."""

    REG_SEND = 0x11
    PEER_LIST = 0x12
    GOODBYE = 0x40
    OPEN = 0x41
    CREDIT = 0x42
    REFUSE = 0x43
    FINISH = 0x44
    MESSAGE = 0x45
    CALL = 0x46
    RESULT = 0x47
    FAULT = 0x48
    CANCEL = 0x49
    FIRST = 0x4A
    PART = 0x4B
    JOIN = 0x4C
    LEAVE = 0x4D
    BROADCAST = 0x4E
    PING = 0xF0
    PONG = 0xF1


class Capability(enum.IntFlag):
    """What a node can do beyond the frames shared with Snow: the bits of NAME and CHALLENGE."""

    GOODBYE = 1 << 0
    #: Flows, calls and fragments: OPEN to PART.
    MESSAGES = 1 << 1
    #: JOIN, LEAVE and BROADCAST; worth nothing without MESSAGES.
    GROUPS = 1 << 2


#: What this version can do.
CAPABILITIES = Capability.GOODBYE | Capability.MESSAGES | Capability.GROUPS


class Farewell(enum.IntEnum):
    """Why a node says GOODBYE."""

    #: The node stops; it may come back under another incarnation.
    STOPPING = 1
    #: The node lives on, and wants no link with this peer.
    LEAVING = 2
    #: This link is closed; another one is welcome.
    CLOSING = 3


PING_BODY = 8
MAX_REASON = 256
_OPAQUE = struct.Struct("<Q")
_GOODBYE = struct.Struct("<BH")


class BadFrame(ValueError):
    """A frame of a known kind has a body that its kind does not allow."""


def encode(tag: int, body: bytes) -> bytes:
    """A whole frame, with its length."""
    return pack(bytes([tag]) + body)


def encode_goodbye(farewell: Farewell, reason: str) -> bytes:
    """GOODBYE: ``u8 farewell ‖ u16 n ‖ n bytes of UTF-8``, the reason cut to 256 bytes."""
    text = reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()
    return encode(FrameTag.GOODBYE, _GOODBYE.pack(farewell, len(text)) + text)


def decode_goodbye(frame: bytes) -> tuple[Farewell, str]:
    """What the frame `frame` says, and why. A farewell of a later version reads as CLOSING.

    :raises BadFrame: if it is short, long, or not UTF-8.
    """
    body = frame[1:]
    if len(body) < _GOODBYE.size:
        raise BadFrame(f"a GOODBYE of {len(body)} bytes")
    kind, size = _GOODBYE.unpack_from(body)
    text = body[_GOODBYE.size :]
    if size != len(text) or size > MAX_REASON:
        raise BadFrame(f"a GOODBYE whose reason has {len(text)} bytes, announced as {size}")
    try:
        reason = text.decode()
    except UnicodeDecodeError:
        raise BadFrame("a GOODBYE whose reason is not UTF-8") from None
    try:
        return Farewell(kind), reason
    except ValueError:
        return Farewell.CLOSING, reason


def encode_ping(number: int) -> bytes:
    """PING with `number` (u64) as its opaque bytes."""
    return encode(FrameTag.PING, _OPAQUE.pack(number))


def encode_pong(ping: bytes) -> bytes:
    """The PONG that answers the frame `ping`, echoing its opaque bytes.

    :raises BadFrame: if it does not carry 8 of them.
    """
    if len(ping) != 1 + PING_BODY:
        raise BadFrame(f"a PING of {len(ping) - 1} bytes instead of {PING_BODY}")
    return encode(FrameTag.PONG, ping[1:])


def decode_pong(pong: bytes) -> int:
    """The number that the answered PING carried.

    :raises BadFrame: if it does not carry 8 bytes.
    """
    if len(pong) != 1 + PING_BODY:
        raise BadFrame(f"a PONG of {len(pong) - 1} bytes instead of {PING_BODY}")
    (number,) = _OPAQUE.unpack_from(pong, 1)
    return int(number)
