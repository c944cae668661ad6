"""A clock for tests: it goes as time does, and can be put forward."""

from __future__ import annotations

import time
from typing import Protocol

import gevent

from ..errors import ConfigurationError

#: The loop has found nothing to do so many times in a row: all is at rest.
_RESTS = 10
#: How far the clock goes at once, in seconds, and how many such strides there are in one advance.
_STRIDE, _STRIDES = 1.0, 1000
_DAY = 86_400


class Ward(Protocol):
    """A node on the clock."""

    @property
    def longest(self) -> float:
        """Seconds between two looks of its heartbeat."""

    @property
    def moved(self) -> int:
        """Counts what its network has carried."""

    def look(self) -> None:
        """Do what is due by the clock."""


class Clock:
    """A clock that goes as time does, and that :meth:`advance` puts forward.

    By it the nodes of a :class:`Cluster` measure and show time. So these come at its word, at once:

    - heartbeats: pings of silent peers, and the end of links whose peer does not answer;
    - the redials of kept peers, after a loss and after a goodbye, and the dials of a mesh;
    - the times in events and in ``Session.connected_at``, round-trip times, and ``Call.remaining``.

    These wait in real seconds, and putting the clock forward does not wake them: a method that is given a
    ``timeout``, a handler whose caller gave one, and a handshake, with its deadlines (``Limits.tls_timeout``,
    ``Limits.handshake_timeout``, ``Config.duplicate_wait``). Where a test is to see such a wait end, give it
    a small value.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        #: The nodes that go by it.
        self.wards: list[Ward] = []

    def monotonic(self) -> float:
        """Seconds, never going back: ``time.monotonic()``, and what it was put forward."""
        return time.monotonic() + self._ahead

    def time(self) -> float:
        """Seconds since the epoch: ``time.time()``, and what it was put forward."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Put the clock forward by `seconds`, and wait until all is done that is due by then.

        It goes in strides, at each of which the nodes do what is due, and their peers answer.

        :raises ConfigurationError: if `seconds` is no number from 0 to 86,400, which is a day.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _DAY:
            raise ConfigurationError(
                "seconds", f"must be a number from 0 to {_DAY:,} (a day), not {seconds!r}"
            )
        target = self._ahead + seconds
        stride = max(_STRIDE, seconds / _STRIDES)
        while True:
            self._ahead = min(target, self._ahead + min([stride, *(node.longest for node in self.wards)]))
            for node in list(self.wards):
                node.look()
            self.settle()
            if self._ahead >= target:
                return

    def settle(self) -> None:
        """Wait until nothing moves any more between the nodes on this clock, nor in their loop."""
        rests = 0
        while rests < _RESTS:
            before = [node.moved for node in self.wards]
            gevent.idle()
            rests = rests + 1 if [node.moved for node in self.wards] == before else 0

    def __repr__(self) -> str:
        return f"<Clock {self._ahead:g} s ahead>"
