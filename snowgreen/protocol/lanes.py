"""What waits to be sent on one link, and the order in which it leaves.

Control frames first, then small frames, then bulk. A large message leaves in fragments, so that a frame
posted later waits behind one batch of it and not behind all of it.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Hashable

from .frames import FrameTag

SMALL = 16 * 1024
"""Bytes of an inner frame (tag and body, no length) that still counts as small."""
FRAGMENT = 65 * 1024
"""Bytes of an inner frame in one fragment; a larger one is sent in several. A body of 64 KiB goes whole."""
BATCH = 64 * 1024
"""About as many bytes are taken at once."""
STREAMS = 4
"""Fragmented messages begun and unfinished at once."""

_PATIENCE = 3  # batches in a row that small frames may fill while bulk waits
_LAST_STREAM = 2**32 - 1
_pack_length = struct.Struct("<I").pack
_FIRST = struct.Struct("<IBII")  # length, tag, stream, total
_PART = struct.Struct("<IBI")  # length, tag, stream


class _Queue:
    """The bulk of one key, in the order of posting."""

    __slots__ = ("after", "key", "messages", "sent", "stream")

    def __init__(self, key: Hashable, after: int) -> None:
        self.key = key
        self.after = after  # batches of small frames that go first: some in them may have the same key
        self.messages: deque[tuple[bytes, bytes | memoryview]] = deque()
        self.stream = 0  # what the first message is fragmented under; 0 while it has no stream
        self.sent = 0  # bytes of the first message that have been taken


class _Bulk:
    """The bulk of one link: a queue for each key, and whose turn it is."""

    __slots__ = ("_held", "_line", "_stream", "_streams", "queues", "waiting")

    def __init__(self) -> None:
        self.queues: dict[Hashable, _Queue] = {}
        self._line: deque[_Queue] = deque()  # queues whose first message may go
        self._held: deque[_Queue] = deque()  # queues whose first message needs a stream, and none is free
        self._streams = 0  # streams given to queues
        self._stream = 0  # the number given last
        self.waiting = 0  # bytes put and not yet taken

    def put(self, key: Hashable, head: bytes, body: bytes | memoryview, after: int) -> None:
        """Post one message, behind the first `after` batches of small frames."""
        self.waiting += len(head) + len(body)
        queue = self.queues.get(key)
        if queue is not None:
            queue.messages.append((head, body))
            return
        queue = self.queues[key] = _Queue(key, after)
        queue.messages.append((head, body))
        self._line_up(queue)

    def take(self, pieces: list[bytes | memoryview], room: int, batches: int) -> tuple[int, int]:
        """Add to `pieces` while there is `room`, but at least one; how many messages ended, and the bytes.

        :param batches: how many batches of small frames have gone.
        """
        finished = taken = turn = 0
        line = self._line
        passed = 0  # queues in a row that may not go yet
        while line and passed < len(line):
            queue = line.popleft()
            if queue.after > batches:
                line.append(queue)
                passed += 1
                continue
            passed = 0
            size, done = _take_piece(queue, pieces)
            taken += size
            self.waiting -= size
            turn += size
            room -= 4 + size
            if done:
                finished += 1
                self._finish(queue)
                if turn < SMALL and line and line[-1] is queue and not queue.stream:
                    line.rotate(1)  # small messages behind a large one: several of them are one turn
                else:
                    turn = 0
            else:
                turn = 0
                line.append(queue)
            if room <= 0:
                break
        return finished, taken

    def _line_up(self, queue: _Queue) -> None:
        """Put `queue`, whose first message has not begun, at the end of its line."""
        head, body = queue.messages[0]
        if len(head) + len(body) > FRAGMENT:
            if self._streams == STREAMS:
                self._held.append(queue)
                return
            self._streams += 1
            self._stream = self._stream + 1 if self._stream < _LAST_STREAM else 1
            queue.stream = self._stream
        self._line.append(queue)

    def _finish(self, queue: _Queue) -> None:
        """Drop the first message of `queue`, all of which is taken; its stream goes to who waits for one."""
        queue.messages.popleft()
        if queue.stream:
            queue.stream = queue.sent = 0
            self._streams -= 1
            if self._held:
                self._line_up(self._held.popleft())
        if queue.messages:
            self._line_up(queue)
        else:
            del self.queues[queue.key]


class Lanes:
    """The lanes of one link.

    Small frames gather in a list that is joined when it holds a batch: neither posting nor taking ever
    walks over all that waits. What only a busy link needs is made when it is needed: there are thousands of
    idle ones.
    """

    __slots__ = (
        "_batches",
        "_bulk",
        "_control",
        "_ended",
        "_gathered",
        "_last",
        "_sealed",
        "_skipped",
        "_small",
        "frames",
        "waiting",
    )

    def __init__(self) -> None:
        self._control: list[bytes] = []
        self._small: list[bytes | memoryview] = []  # of each frame three pieces, to be joined but once
        self._gathered = 0  # bytes in _small
        self._batches = 0  # batches of small frames taken
        # Joined batches of small frames, and how many each.
        self._sealed: deque[tuple[bytes, int]] | None = None
        self._bulk: _Bulk | None = None
        self._skipped = 0  # batches in a row without any of the bulk that waits
        self._last: bytes | None = None
        self._ended = False
        #: Wire frames posted and not yet taken; a fragmented message is one.
        self.frames = 0
        #: Bytes posted and not yet taken: of bulk those of the inner frames, else those of the wire frames.
        self.waiting = 0

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return self.frames > 0 and not self._ended

    def control(self, frame: bytes) -> None:
        """Have the wire frame `frame` leave in the next batch, ahead of all but other control frames.

        Behind the last one nothing leaves any more, and nothing waits.
        """
        if self._ended:
            return
        self._control.append(frame)
        self.frames += 1
        self.waiting += len(frame)

    def post(self, frame: bytes) -> None:
        """Have the wire frame `frame` leave in its turn among the small ones."""
        size = len(frame)
        self._small += (frame, b"", b"")
        self.frames += 1
        self.waiting += size
        self._gathered += size
        if self._gathered >= BATCH:
            self._seal()

    def message(self, key: Hashable, head: bytes, body: bytes | memoryview) -> None:
        """Have the inner frame `head` + `body` leave, behind all earlier ones of `key`.

        :param head: the tag and the fields; a few hundred bytes.
        :param body: not to be changed any more; a memoryview is one of bytes.
        """
        size = len(head) + len(body)
        bulk = self._bulk
        if size > SMALL or (bulk is not None and key in bulk.queues):
            if bulk is None:
                bulk = self._bulk = _Bulk()
            ahead = (len(self._sealed) if self._sealed else 0) + (1 if self._small else 0)
            bulk.put(key, head, body, self._batches + ahead)
            self.frames += 1
            self.waiting += size
            return
        # Written out as in post(): this, too, runs once for each message.
        self._small += (_pack_length(size), head, body)
        self.frames += 1
        size += 4
        self.waiting += size
        self._gathered += size
        if self._gathered >= BATCH:
            self._seal()

    def last(self, frame: bytes) -> None:
        """Have the wire frame `frame` leave behind everything, and nothing after it.

        What is posted before it has left still goes ahead of it. Only the first call counts.
        """
        if self._last is None:
            self._last = frame
            self.frames += 1
            self.waiting += len(frame)

    @property
    def bulk(self) -> int:
        """Bytes of bulk posted and not yet taken."""
        return 0 if self._bulk is None else self._bulk.waiting

    @property
    def ahead(self) -> int:
        """Bytes that leave ahead of bulk: of control and small frames."""
        return self.waiting - self.bulk

    def holds(self, key: Hashable) -> bool:
        """Whether something of `key` waits as bulk."""
        return self._bulk is not None and key in self._bulk.queues

    def take(self, before: bytes = b"", *, room: float = math.inf) -> tuple[bytes, int]:
        """`before` and the next batch, and how many frames end in that; ``(before, 0)`` if there is none.

        :param room: bytes of bulk that may leave: without any all of it waits, else a batch may go beyond it.
        """
        if not self.frames or self._ended:
            return before, 0
        pieces: list[bytes | memoryview] = [before, *self._control]
        finished = len(self._control)
        self._control.clear()
        if self._sealed:
            batch, count = self._sealed.popleft()
            pieces.append(batch)
            finished += count
            self._batches += 1
        elif self._small:
            finished += len(self._small) // 3
            pieces += self._small
            self._small.clear()
            self._gathered = 0
            self._batches += 1
        batch = b"".join(pieces)
        self.waiting -= len(batch) - len(before)
        if self._bulk is not None and room > 0:
            batch, ended = self._with_bulk(self._bulk, batch)
            finished += ended
        self.frames -= finished
        if self._last is not None and self.frames == 1:
            self._ended = True
            self.frames = self.waiting = 0
            return batch + self._last, finished + 1
        return batch, finished

    def clear(self) -> None:
        """Forget what waits: the link is over."""
        self._control.clear()
        self._small.clear()
        self._sealed = self._bulk = self._last = None
        self._gathered = self._skipped = 0
        self.frames = self.waiting = 0

    def _seal(self) -> None:
        """Make the small frames gathered so far one batch."""
        if self._sealed is None:
            self._sealed = deque()
        self._sealed.append((b"".join(self._small), len(self._small) // 3))
        self._small.clear()
        self._gathered = 0

    def _with_bulk(self, bulk: _Bulk, batch: bytes) -> tuple[bytes, int]:
        """`batch` with as much bulk as there is room for, and how many messages ended in it."""
        room = BATCH - len(batch)
        if not bulk.queues:
            return batch, 0
        if room <= 0 and self._skipped < _PATIENCE:
            self._skipped += 1
            return batch, 0
        self._skipped = 0
        pieces: list[bytes | memoryview] = [batch]
        finished, taken = bulk.take(pieces, room, self._batches)
        self.waiting -= taken
        return b"".join(pieces), finished


def _take_piece(queue: _Queue, pieces: list[bytes | memoryview]) -> tuple[int, bool]:
    """Add one fragment or whole message of `queue`; its bytes, and whether the message ends with it."""
    head, body = queue.messages[0]
    total = len(head) + len(body)
    if not queue.stream:
        pieces += (_pack_length(total) + head, body)
        return total, True
    sent = queue.sent
    end = queue.sent = min(sent + FRAGMENT, total)
    if sent:
        pieces.append(_PART.pack(5 + end - sent, FrameTag.PART, queue.stream))
        begin = sent - len(head)
    else:
        pieces.append(_FIRST.pack(9 + end, FrameTag.FIRST, queue.stream, total) + head)
        begin = 0
    # A view: a slice of bytes would copy what the join copies anyway.
    pieces.append(memoryview(body)[begin : end - len(head)])
    return end - sent, end == total
