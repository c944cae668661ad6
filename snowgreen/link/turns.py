"""Turns at costly work: so many in one turn of the loop, and a storm of handshakes delays nobody for long.

A step of a TLS handshake computes for up to half a millisecond. A hundred that are due at once would keep the
loop from everything else for their sum. How many handshakes are under way is not limited here: one that waits
for its peer holds no turn.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import gevent
from gevent.hub import Waiter

#: Steps between two looks of the loop at its sockets.
WIDTH = 2
# Behind the sockets that were found ready in the same look: they are served first.
_BEHIND = -1


class Turns:
    """The turns of one hub.

    :param width: how many there are between two looks of the loop at its sockets.
    """

    # Not the hub: it is what the turns are kept by, and it could never go.
    __slots__ = ("_left", "_look", "_loop", "_timer", "_uncounted", "_waiting", "_width")

    def __init__(self, hub: gevent.hub.Hub, width: int = WIDTH) -> None:
        self._width = self._left = width
        self._loop: Any = hub.loop
        # The loop's number of the look that `_left` is of.
        self._look: int | None = None
        # libuv does not number its looks: there the timer tells of each.
        self._uncounted = hub.loop.iteration < 0
        # In their order, and left at no cost: when thousands are ended at once, each is taken out.
        self._waiting: OrderedDict[Any, None] = OrderedDict()
        # Due at once, which is after the next look. A callback would not do: the loop runs those that were
        # added meanwhile before it looks.
        self._timer: Any = hub.loop.timer(0.0, priority=_BEHIND)

    def wait(self, watcher: Any = None) -> None:
        """Wait for a turn, behind those who wait for one already; and before that for `watcher`.

        The greenlet that calls is woken once, when its turn has come.
        """
        if watcher is None and self._take():
            return
        waiter: Any = Waiter()
        try:
            if watcher is None:
                self._line_up(waiter)
            else:
                watcher.start(self._ready, watcher, waiter)
            waiter.get()
        except BaseException:  # its deadline, or its end: nobody waits for a turn that is not taken
            if watcher is not None:
                watcher.stop()
            self._waiting.pop(waiter, None)
            raise

    # In the loop's callbacks.

    def _ready(self, watcher: Any, waiter: Any) -> None:
        watcher.stop()
        if self._take():
            waiter.switch(None)
        else:
            self._line_up(waiter)

    def _take(self) -> bool:
        """Take a turn, if there is one left since the last look and nobody waits for it."""
        if self._waiting or not self._any_left():
            return False
        self._left -= 1
        if self._uncounted and not self._timer.active:
            self._timer.start(self._next)
        return True

    def _any_left(self) -> bool:
        look = self._loop.iteration
        if look != self._look:
            self._look, self._left = look, self._width
        return self._left > 0

    def _line_up(self, waiter: Any) -> None:
        self._waiting[waiter] = None
        if not self._timer.active:
            self._timer.start(self._next)

    def _next(self) -> None:
        if self._uncounted:
            self._left = self._width
        while self._waiting and self._any_left():
            self._left -= 1
            waiter, _ = self._waiting.popitem(last=False)
            waiter.switch(None)  # it runs here and now, until it waits for something else
        if self._waiting or (self._uncounted and self._left < self._width):
            self._timer.start(self._next)
