"""Keeps the loop looking at its sockets for a moment, instead of sleeping, for nodes that ask for it.

To wake a process that sleeps takes a system longer than both ends of a link need to answer each other.
"""

from __future__ import annotations

import time
from typing import Any


class BusyWait:
    """One loop's."""

    __slots__ = ("_idle", "_until")

    def __init__(self, loop: Any) -> None:
        self._until = 0.0
        # While it is active the loop does not sleep; it is called whenever there is nothing else to do, which
        # by its priority includes what others have put off until then.
        self._idle: Any = loop.idle(ref=False, priority=loop.MINPRI)

    def look(self, seconds: float) -> None:
        """Do not sleep for so long from now on."""
        # Not by a node's own clock: a test's may stand still, and this process would never sleep again.
        self._until = max(self._until, time.monotonic() + seconds)
        if not self._idle.active:
            self._idle.start(self._spin)

    def _spin(self) -> None:
        if time.monotonic() >= self._until:
            self._idle.stop()
