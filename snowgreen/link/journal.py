"""What a node remembers of what happened to it: counts, the newest events, and why links failed.

Everything here has a bound, whatever peers do, and is cheap enough to be kept always: whoever looks at it,
on a page, in a terminal or through Prometheus, comes after the fact.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, deque
from copy import copy
from dataclasses import dataclass, replace

from .. import errors
from ..errors import LinkError
from ..events import (
    ConnectionsRefused,
    Event,
    HandshakeFailed,
    LoopStalled,
    MessagesDropped,
    NodeDown,
    NodeUp,
)

#: Events that are remembered.
RECENT = 500
#: Kinds of failed handshakes, by cause and address, that are remembered.
KINDS = 256

_RTT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_HANDSHAKE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Histogram:
    """How many of some values were at most so large."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        #: Upper bounds, ascending.
        self.bounds = bounds
        #: Beside each bound the values up to it that are above the one before; at the end, those above all.
        self.counts = [0] * (len(bounds) + 1)
        #: The sum of all values.
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Failures:
    """Failed handshakes of one cause with one address."""

    #: As :func:`cause` names it.
    cause: str
    #: The other end's IP address, or the host that was dialed.
    host: str
    #: True if this node dialed.
    initiated: bool
    #: How many there were.
    count: int
    #: The newest.
    last: HandshakeFailed


class Journal:
    """What one node remembers, through all its lives."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "dials",
        "failed",
        "failures",
        "frames_received",
        "frames_sent",
        "handshakes",
        "links",
        "lost",
        "messages_dropped",
        "recent",
        "redials",
        "refused",
        "rtts",
        "shown",
        "stalled",
        "stalls",
        "times",
    )

    def __init__(self) -> None:
        #: The newest events, the oldest of them first.
        self.recent: deque[Event] = deque(maxlen=RECENT)
        #: Failed handshakes by cause, host and direction, the one that is longest ago first.
        self.failures: dict[tuple[str, str, bool], Failures] = {}
        #: Links that came up, by form and whether this node dialed.
        self.links: Counter[tuple[str, bool]] = Counter()
        #: Links that have ended: by whether nobody meant it.
        self.lost: Counter[bool] = Counter()
        #: Failed handshakes, by cause and whether this node dialed.
        self.failed: Counter[tuple[str, bool]] = Counter()
        #: TCP connections begun, and how many dials were put off to be tried again.
        self.dials = 0
        self.redials = 0
        #: Connections closed at the door, before TLS.
        self.refused = 0
        #: How often the event loop was blocked, and for how many seconds in all.
        self.stalls = 0
        self.stalled = 0.0
        #: Messages that were not delivered: by whether this node sent them.
        self.messages_dropped: Counter[bool] = Counter()
        #: What links that have ended had carried.
        self.bytes_received = self.bytes_sent = 0
        self.frames_received = self.frames_sent = 0
        #: Round trips of answered pings, in seconds.
        self.rtts = Histogram(_RTT_SECONDS)
        #: Seconds from accept, or from the beginning of the dial, to the link: by whether this node dialed.
        self.handshakes = {False: Histogram(_HANDSHAKE_SECONDS), True: Histogram(_HANDSHAKE_SECONDS)}
        #: The most that :meth:`risen` has returned.
        self.shown: dict[str, int] = {}

    def record(self, event: Event) -> None:
        """Remember `event`. Called by the bus, never waits."""
        if isinstance(event, HandshakeFailed):
            # Its error without the traceback, which has hold of keys, and of what whoever dialed works on.
            event = replace(event, error=copy(event.error))
        self.recent.append(event)
        if isinstance(event, NodeUp):  # counted where its link is; most events are of links
            return
        if isinstance(event, NodeDown):
            self.lost[event.lost] += 1
        elif isinstance(event, HandshakeFailed):
            self._failed(event)
        elif isinstance(event, ConnectionsRefused):
            self.refused += event.count
        elif isinstance(event, LoopStalled):
            self.stalls += 1
            self.stalled += event.seconds
        elif isinstance(event, MessagesDropped):
            self.messages_dropped[event.sent] += event.count

    def risen(self, what: str, total: int) -> int:
        """`total`, or what was returned for `what` before, if that is more.

        What sessions and journal have counted together is only seen whole between two turns of the loop; who
        looks from another thread may miss a session that is ending. A total that is shown must not go down.
        """
        shown = self.shown[what] = max(total, self.shown.get(what, 0))
        return shown

    def _failed(self, event: HandshakeFailed) -> None:
        why = cause(event.error)
        self.failed[why, event.initiated] += 1
        key = (why, host_of(event.address), event.initiated)
        kind = self.failures.pop(key, None) or Failures(*key, 0, event)
        kind.count += 1
        kind.last = event
        self.failures[key] = kind
        if len(self.failures) > KINDS:
            del self.failures[next(iter(self.failures))]


def cause(error: LinkError) -> str:
    """The kind of `error` in one word or two, such as ``authentication`` or ``link_timeout``."""
    return _word(type(error))


def host_of(address: str) -> str:
    """The host of ``host:port``, an IPv6 address in its brackets."""
    return address.rpartition(":")[0] or address


def _word(kind: type) -> str:
    return _WORD.sub("_", kind.__name__.removesuffix("Error")).lower()


#: Every cause there is.
CAUSES = tuple(
    _word(kind)
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LinkError) and kind is not LinkError
)
