"""Greenlets for short work, each of which does one piece after another.

A greenlet costs more than its switches: Python takes memory for its frames from the system and gives it back
when it ends, 16 KB each time. And it is not gevent's own kind, which also notes where it was spawned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from greenlet import getcurrent, greenlet

#: How many wait for work at most; each holds some 10 KB.
SPARE = 64


class Crew:
    """The greenlets of one owner, on the hub of the thread that makes it. Nothing here waits.

    :param spare: how many are kept while there is no work.
    """

    __slots__ = ("_dismissed", "_hub", "_idle", "_spare")

    def __init__(self, spare: int = SPARE) -> None:
        self._hub: Any = gevent.get_hub()
        self._idle: list[Any] = []
        self._spare = spare
        self._dismissed = False

    def begin(self, work: Callable[[], None]) -> Any:
        """Have `work` done by a greenlet of its own, from the next turn of the loop on; that greenlet.

        Once `work` has returned, the greenlet may be another's: nobody must throw into it any more.

        :param work: lets no exception out.
        """
        member = self._idle.pop() if self._idle else None
        if member is None or member.dead:  # as it would be of something that was thrown into it
            member = greenlet(self._serve, self._hub)
        # In a list, to be taken out of it: a greenlet holds what it was started with until it ends.
        self._hub.loop.run_callback(member.switch, [work])
        return member

    def dismiss(self) -> None:
        """Let go of those who wait for work, and of the others when they have done theirs."""
        self._dismissed = True
        self._idle.clear()  # without a reference left, each ends here and now

    def _serve(self, handed: list[Callable[[], None]]) -> None:
        while True:
            handed.pop()()
            if self._dismissed or len(self._idle) >= self._spare:
                return
            # The next is to see no context variable that this one has set.
            getcurrent().gr_context = None
            self._idle.append(getcurrent())
            handed = self._hub.switch()
