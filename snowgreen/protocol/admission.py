"""Who may begin a handshake: a pure account of pending ones, of each source's pace, and of its failures.

Nothing a connection says is known yet; only where it comes from and when. So the limits are on sources,
and on the sum, and a newcomer is preferred to one that has had its time and not used it: a handshake takes
milliseconds, an attack on the slots must hold them for seconds. Specification: section 6.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
from collections.abc import Set
from typing import NamedTuple

from ..names import is_ipv4

#: Sources remembered though they have nothing pending: enough to slow a botnet, few enough to be nothing.
MAX_SOURCES = 4096
#: A failure is forgiven after so many seconds.
FORGIVEN_AFTER = 30.0
#: However often a source failed, it may try so many times a second.
SLOWEST = 0.2
_IPV6_SITE = 64


class Rates(NamedTuple):
    """The limits, as :class:`snowgreen.Limits` documents them."""

    pending: int
    pending_per_source: int
    reserved: int
    per_second: float
    burst: int
    grace: float


class Refusal(enum.Enum):
    """Why a connection is closed without a word."""

    FULL = "all places for handshakes are taken"
    CROWDED = "its source has its share of handshakes under way"
    HASTY = "its source connects too often"


class Admitted(NamedTuple):
    """A place is taken. Give `ticket` back to :meth:`Admission.done`; end the handshake `evict`, if any."""

    ticket: int
    evict: int | None = None


class _Source:
    """What is known of one source."""

    __slots__ = ("at", "failures", "pending", "tokens")

    def __init__(self, now: float, burst: float) -> None:
        self.pending = 0
        self.tokens = burst
        self.at = now
        self.failures = 0.0


class Admission:
    """The account of one listener. Times are seconds on one monotonic clock, passed in.

    :param configured: the sources of the operator's own peers, for whom places are kept while there are
        any; the account looks at it afresh each time.
    """

    def __init__(self, rates: Rates, configured: Set[str] = frozenset()) -> None:
        self._rates = rates
        self._pace = max(SLOWEST, rates.per_second)
        self._burst = max(1.0, float(rates.burst))
        self._configured = configured
        self._sources: dict[str, _Source] = {}
        self._pending: dict[int, tuple[str, float]] = {}  # in order of arrival
        self._tickets = 0

    @property
    def pending(self) -> int:
        """Handshakes under way."""
        return len(self._pending)

    def full(self, now: float) -> bool:
        """Whether to stop accepting: nobody who might come could be given a place."""
        return len(self._pending) >= self._rates.pending and self._evictable(now) is None

    def arrive(self, address: str, now: float) -> Admitted | Refusal:
        """A connection has come from the IP address `address`."""
        key = source_of(address)
        trusted = key in self._configured
        source = self._source(key, now)
        if not trusted:
            if source.pending >= self._rates.pending_per_source:
                return Refusal.CROWDED
            if source.tokens < 1.0:
                return Refusal.HASTY
        evict = None
        if len(self._pending) >= self._rates.pending or (not trusted and self._general_full()):
            evict = self._evictable(now)
            if evict is None:
                return Refusal.FULL
            self.done(evict, now, failed=True)
        source.tokens = source.tokens - 1.0 if source.tokens > 1.0 else 0.0
        source.pending += 1
        self._tickets += 1
        self._pending[self._tickets] = (key, now)
        return Admitted(self._tickets, evict)

    def done(self, ticket: int, now: float, *, failed: bool | None) -> None:
        """The handshake `ticket` is over.

        :param failed: True slows its source down; False, said of a peer that proved the cookie, forgives
            the source all its failures; None, of one that just went away, does neither.
        """
        key = self._release(ticket)
        if key is None or failed is None:
            return
        if failed:
            self._source(key, now).failures += 1.0
        elif key in self._sources and self._sources[key].failures:
            self._source(key, now).failures = 0.0

    def _general_full(self) -> bool:
        reserved = self._rates.reserved if self._configured else 0
        return len(self._pending) >= self._rates.pending - reserved

    def _evictable(self, now: float) -> int | None:
        for ticket, (key, since) in self._pending.items():
            if now - since < self._rates.grace:
                return None  # it, and all that came after it, may still be honest and slow
            if key not in self._configured:
                return ticket
        return None

    def _release(self, ticket: int) -> str | None:
        entry = self._pending.pop(ticket, None)
        if entry is None:
            return None
        source = self._sources.get(entry[0])
        if source is not None:
            source.pending -= 1
        return entry[0]

    def _source(self, key: str, now: float) -> _Source:
        """The source `key`, brought up to `now`; the most recently seen stand last."""
        source = self._sources.pop(key, None)
        if source is None:
            source = _Source(now, self._burst)
            if len(self._sources) >= MAX_SOURCES:
                self._forget_one()
        else:
            elapsed = now - source.at if now > source.at else 0.0
            pace, most = self._pace, self._burst
            if source.failures:
                pace = max(SLOWEST, pace / (1.0 + source.failures))
                # A source that fails has no burst left to spend, either.
                most = max(1.0, most / (1.0 + source.failures))
                source.failures = max(0.0, source.failures - elapsed / FORGIVEN_AFTER)
            tokens = source.tokens + elapsed * pace
            source.tokens = tokens if tokens < most else most
            source.at = now
        self._sources[key] = source
        return source

    def _forget_one(self) -> None:
        for key, source in self._sources.items():
            if not source.pending:
                del self._sources[key]
                return


@functools.lru_cache(maxsize=1024)  # asked for each connection, and few have an address of their own
def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 an IPv6 address is in."""
    if is_ipv4(address):
        return address
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = int(parsed) >> (128 - _IPV6_SITE) << (128 - _IPV6_SITE)
    return f"{ipaddress.IPv6Address(network)}/{_IPV6_SITE}"
