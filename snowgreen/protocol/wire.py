"""Length-prefixed messages: the one framing under the handshake and the frames after it.

``u32 little-endian length ‖ payload``. A length is judged before a byte of its payload is kept.
"""

from __future__ import annotations

import struct
from itertools import chain

MAX_HANDSHAKE = 4096
"""Bytes in a handshake message (specification, section 3)."""
MAX_BOUND_HELLO = 512
"""Bytes in a bound NAME or CHALLENGE (specification, section 3)."""
MAX_FRAME = 16 * 1024 * 1024
"""Bytes in a frame after the handshake (specification, section 4)."""

_U32 = struct.Struct("<I")
_unpack_length = _U32.unpack_from


class TooLong(ValueError):
    """A message announces more bytes than its place allows."""

    def __init__(self, announced: int, limit: int) -> None:
        super().__init__(f"it announces {announced} bytes where at most {limit} are allowed")
        self.announced = announced
        self.limit = limit


def pack(payload: bytes) -> bytes:
    """`payload` behind its length."""
    return _U32.pack(len(payload)) + payload


def lp(value: bytes) -> bytes:
    """``LP(x)`` of the specification: the length-prefixed form that proofs are computed over."""
    return _U32.pack(len(value)) + value


def lps(*values: bytes) -> bytes:
    """The length-prefixed forms of `values`, one behind the other."""
    return b"".join(chain.from_iterable(zip(map(_U32.pack, map(len, values)), values, strict=True)))


class Decoder:
    """Cuts a byte stream into payloads, however it was cut on its way.

    Between two messages it keeps nothing; inside one it keeps what has come of it. `limit` may be
    changed between messages: the handshake and what follows share one decoder, so that bytes which
    arrive early are not lost between the two.
    """

    __slots__ = ("_need", "_pending", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending: bytearray | None = None
        self._need = 4  # bytes of _pending from which on there is something new to see

    @property
    def mid_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._pending is not None

    @property
    def buffered(self) -> int:
        """Bytes kept of a message that has begun and not ended."""
        return 0 if self._pending is None else len(self._pending)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take `data`; return the payloads completed by it, in order.

        :raises TooLong: at a length above `limit`; the stream cannot be followed past it.
        """
        pending, need = self._pending, self._need
        begun = []
        if pending is not None:
            pending += data
            if len(pending) < need:
                return []
            if need > 4:
                # The one that had begun is whole. It may be large, and is copied but once.
                with memoryview(pending) as view:
                    begun.append(bytes(view[4:need]))
                del pending[:need]
            data = pending
        # Slices of bytes are bytes: of anything else each payload would be copied twice.
        payloads, used = self._cut(bytes(data))
        self._pending = bytearray(data[used:]) if used < len(data) else None
        return begun + payloads

    def feed_one(self, data: bytes | bytearray | memoryview) -> bytes | None:
        """Like :meth:`feed`, for at most one payload; what is behind it stays for the next call."""
        pending = self._pending
        if pending is not None:
            pending += data
            data = pending
        size = len(data)
        if size >= 4:
            (length,) = _unpack_length(data)
            end = 4 + length
            if length <= self.limit and size >= end:
                self._pending = bytearray(data[end:]) if size > end else None
                self._need = 4
                return bytes(data[4:end])
        if pending is None and size:
            self._pending = bytearray(data)
        if size >= 4 and length > self.limit:
            raise TooLong(length, self.limit)
        return None

    def _cut(self, data: bytes) -> tuple[list[bytes], int]:
        payloads = []
        start, size, limit = 0, len(data), self.limit
        self._need = 4
        while size - start >= 4:
            (length,) = _unpack_length(data, start)
            if length > limit:
                self._pending = bytearray(data[start : start + 4])  # so that it stays an error
                raise TooLong(length, limit)
            end = start + 4 + length
            if end > size:
                self._need = 4 + length
                break
            payloads.append(data[start + 4 : end])
            start = end
        return payloads, start
