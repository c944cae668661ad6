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

    PING = 0xF0
    PONG = 0xF1


PING_BODY = 8
_OPAQUE = struct.Struct("<Q")


class BadFrame(ValueError):
    """A frame of a known kind has a body that its kind does not allow."""


def encode(tag: int, body: bytes) -> bytes:
    """A whole frame, with its length."""
    return pack(bytes([tag]) + body)


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
