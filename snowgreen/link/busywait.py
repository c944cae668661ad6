"""Keeps the loop looking at its sockets for a moment, instead of sleeping, where it pays or is asked for.

To wake a process that sleeps takes a system longer than both ends of a link need to answer each other.
"""

from __future__ import annotations

import time
from typing import Any

from ..protocol.spin import AdaptiveSpin


class BusyWait:
    """One loop's. What its nodes were told, by ``Config.busy_wait``, comes with each call."""

    __slots__ = ("_adaptive", "_awaited", "_clock", "_idle", "_until")

    def __init__(self, loop: Any) -> None:
        # Not a node's own: a test's may stand still, and this process would never sleep again. Kept, since
        # there are tools that put another in its place.
        self._clock = time.monotonic
        self._adaptive = AdaptiveSpin(self._clock, time.time, time.thread_time)
        self._awaited = 0.0  # until when for an answer, where it pays
        self._until = 0.0  # until when in any case
        # While it is active the loop does not sleep; it is called whenever there is nothing else to do, which
        # by its priority includes what others have put off until then.
        self._idle: Any = loop.idle(ref=False, priority=loop.MINPRI)

    def sent(self, seconds: float | None) -> None:
        """Something was sent: look for `seconds` from now on; None: for the answer, if that pays."""
        if seconds is None:
            until = self._adaptive.sent()
            if until:
                self._awaited = until
                self._stay_awake()
        elif seconds:
            self._look(seconds)

    def came(self, seconds: float | None) -> None:
        """Something has come: look for `seconds` from now on; None: no longer for an answer."""
        if seconds is None:
            self._awaited = 0.0
            self._adaptive.came()
        elif seconds:
            self._look(seconds)

    def _look(self, seconds: float) -> None:
        self._until = max(self._until, self._clock() + seconds)
        self._stay_awake()

    def _stay_awake(self) -> None:
        if not self._idle.active:
            self._idle.start(self._spin)

    def _spin(self) -> None:
        if self._clock() >= max(self._awaited, self._until):
            self._idle.stop()
