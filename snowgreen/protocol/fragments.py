"""Large messages put together again from the fragments that :mod:`.lanes` cuts them into.

What is held is what has come: nothing is set aside on the word of a peer that announces much.
"""

from __future__ import annotations

import struct

from .frames import BadFrame, FrameTag
from .lanes import STREAMS

_FIRST = struct.Struct("<II")  # stream, total
_FIRST_HEAD = 1 + _FIRST.size
_STREAM = struct.Struct("<I")
_PART_HEAD = 1 + _STREAM.size
_INNER = frozenset({FrameTag.MESSAGE, FrameTag.CALL, FrameTag.RESULT, FrameTag.BROADCAST})
_LOOSE = 64  # pieces kept apart, however small they are
_PIECE = 1024  # bytes of a piece, on the average, above which any number is kept apart


class _Stream:
    """One message under way."""

    __slots__ = ("came", "pieces", "total")

    def __init__(self, total: int, piece: bytes) -> None:
        self.total = total
        self.came = len(piece)
        self.pieces = [piece]

    def add(self, piece: bytes) -> None:
        """Keep `piece`."""
        self.came += len(piece)
        self.pieces.append(piece)
        # A piece of two bytes costs an object of fifty: many such must not make little data much memory.
        if len(self.pieces) > _LOOSE + self.came // _PIECE:
            self.pieces = [b"".join(self.pieces)]


class Assembly:
    """The fragmented messages under way on one link, in one direction.

    After a :exc:`~.frames.BadFrame` it is of no more use: the link ends.

    :param largest: bytes of the largest inner frame (tag and body) that is accepted.
    """

    __slots__ = ("_largest", "_streams")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._streams: dict[int, _Stream] = {}

    @property
    def unfinished(self) -> int:
        """Streams under way."""
        return len(self._streams)

    def first(self, frame: bytes) -> bytes | None:
        """Take the FIRST `frame`; the inner frame if that is all of it.

        :raises BadFrame: if it may not begin a message, or not this one.
        """
        carried = len(frame) - _FIRST_HEAD
        if carried < 1:
            raise BadFrame(f"a FIRST of {len(frame) - 1} bytes, which carries nothing")
        stream, total = _FIRST.unpack_from(frame, 1)
        if frame[_FIRST_HEAD] not in _INNER:
            raise BadFrame("a FIRST of a frame that may not be fragmented")
        if total > self._largest:
            raise BadFrame(f"a FIRST announces {total} bytes where at most {self._largest} are allowed")
        if carried > total:
            raise BadFrame(f"a FIRST carries {carried} bytes of {total} announced")
        if stream in self._streams:
            raise BadFrame("a FIRST on a stream that is open")
        if carried == total:
            return frame[_FIRST_HEAD:]
        if len(self._streams) == STREAMS:
            raise BadFrame(f"a FIRST while {STREAMS} streams are open")
        self._streams[stream] = _Stream(total, frame[_FIRST_HEAD:])
        return None

    def part(self, frame: bytes) -> bytes | None:
        """Take the PART `frame`; the inner frame if it is complete now.

        :raises BadFrame: if it continues nothing, adds nothing, or adds too much.
        """
        carried = len(frame) - _PART_HEAD
        if carried < 1:
            raise BadFrame(f"a PART of {len(frame) - 1} bytes, which carries nothing")
        (number,) = _STREAM.unpack_from(frame, 1)
        stream = self._streams.get(number)
        if stream is None:
            raise BadFrame("a PART of a stream that is not open")
        if stream.came + carried > stream.total:
            raise BadFrame(f"a PART makes {stream.came + carried} bytes of {stream.total} announced")
        stream.add(frame[_PART_HEAD:])
        if stream.came < stream.total:
            return None
        del self._streams[number]
        return b"".join(stream.pieces)
