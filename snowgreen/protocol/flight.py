"""How much bulk may be on its way to a peer: enough to keep the path busy, and little more.

The buffers between two processes take megabytes, and a small frame waits behind all that is in them. So pings
go with the bulk, as marks: the answer to one says that everything before it was read. What is between the
two is the flight, and a window bounds it.

The window follows the delay, as that of TCP Vegas (Brakmo, O'Malley, Peterson, SIGCOMM 1994) and FAST TCP
(Jin, Wei, Low, INFOCOM 2004): it moves towards the one with which a mark takes twice what it takes where
nothing is queued. So a queue adds no more to the wait than the path itself does, be it fast or slow, short or
long. A queue shows in the quickest of a few marks, as with CoDel (RFC 8289): one that is late for another
reason says nothing. What a mark takes at least is measured afresh from time to time, with nothing in flight,
as BBR does it (draft-ietf-ccwg-bbr, ProbeRTT): else a path that has become longer would look like a queue for
ever.
"""

from __future__ import annotations

import math

#: The numbers of marks begin here, beyond all that other pings have.
MARKS = 1 << 63
#: Bytes that may always be in flight: what the shortest of paths needs.
LEAST = 256 * 1024
#: Bytes between two marks, at least, and parts of a window.
STEP = 128 * 1024
_STEPS = 4
#: Seconds that a queue may add in any case: less than that is how processes are scheduled.
SLACK = 0.0005
#: Seconds after which the delay of the empty path is measured afresh.
FRESH = 10.0
#: Marks of which the quickest tells of a queue: that delays them all.
_RECENT = 4
#: The part of the way to the window that a mark speaks for that its answer moves the window.
_GAIN = 0.25


class Flight:
    """The bulk of one link that is on its way, and how much may be. The times are of the caller's clock."""

    __slots__ = (
        "_emptying",
        "_least",
        "_least_since",
        "_marked",
        "_marks",
        "_number",
        "_read",
        "_recent",
        "_sent",
        "window",
    )

    def __init__(self) -> None:
        #: Bytes that may be in flight.
        self.window: float = LEAST
        self._sent = 0  # bytes in all
        self._marked = 0  # of them, those before the last mark
        self._read = 0  # of them, those that the peer has read for certain
        self._number = MARKS
        # Marks without an answer, oldest first: the bytes before it, those in flight, and when it left.
        self._marks: dict[int, tuple[int, int, float]] = {}
        self._least = math.inf  # seconds that a mark took, at least
        self._least_since = math.inf
        self._recent: tuple[float, ...] = ()  # seconds that the last few marks took
        self._emptying = False  # whether nothing leaves until all is read

    @property
    def room(self) -> float:
        """Bytes that may leave now, none if not positive. A frame that begins in it may end beyond it."""
        return 0.0 if self._emptying else self.window - (self._sent - self._read)

    def took(self, size: int, *, more: bool) -> bool:
        """`size` bytes of bulk leave; whether a mark is to follow them.

        :param more: whether more bulk waits.
        """
        self._sent += size
        # The first piece of a stream is marked, since nothing is queued yet. What fills the window is, too:
        # else there might be no answer left to make room again.
        return (
            (more and not self._marks)
            or self.room <= 0
            or self._sent - self._marked >= max(STEP, self.window / _STEPS)
        )

    def mark(self, now: float) -> int:
        """The number of a mark that leaves behind all bulk so far."""
        if now - self._least_since > FRESH:
            if self._marks:
                self._emptying = True
            else:  # nothing is queued now: this one says what the path takes
                self._least = self._least_since = math.inf
        self._number += 1
        self._marked = self._sent
        self._marks[self._number] = (self._sent, self._sent - self._read, now)
        return self._number

    def landed(self, number: int, now: float) -> bool:
        """The answer to the mark `number` has come; False if that is unknown, or answered already."""
        if number not in self._marks:
            return False
        for earlier in list(self._marks):  # a peer that leaves one out loses nothing by it
            read, flight, began = self._marks.pop(earlier)
            if earlier == number:
                break
        self._read = read
        self._recent = (*self._recent[1 - _RECENT :], max(now - began, 1e-6))
        took = min(self._recent)
        if took < self._least:
            self._least, self._least_since = took, now
        if flight >= self.window / 2:  # else the window is not what bounds it, and nothing is learned of it
            ideal = flight * min(2.0, (2 * self._least + SLACK) / took)
            self.window = max(LEAST, self.window + _GAIN * (ideal - self.window))
        if not self._marks:
            self._emptying = False
        return True
