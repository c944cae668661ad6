"""Greenlets that wait in turn for room: on a link, or in a mailbox."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gevent.event import Event


class Line:
    """A line of greenlets, of which the first goes when its condition holds."""

    __slots__ = ("tickets",)

    def __init__(self) -> None:
        #: Of those that wait, the first one's first.
        self.tickets: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self.tickets)

    def wait(self, ready: Callable[[], bool], left: Callable[[], float | None]) -> bool:
        """Wait for the turn and for `ready`; False if the time ran out.

        What the caller then does, up to its next switch, nobody else in the line comes before.

        :param ready: whether the first may go; what it raises ends the wait.
        :param left: the seconds left, None for no limit.
        """
        ticket = Event()
        self.tickets.append(ticket)
        try:
            while not (self.tickets[0] is ticket and ready()):
                seconds = left()
                if seconds is not None and seconds <= 0:
                    return False
                ticket.clear()
                ticket.wait(seconds)
            return True
        finally:
            self.tickets.remove(ticket)
            self.poke()

    def poke(self) -> None:
        """Something has changed: let the first look again. Never waits."""
        if self.tickets:
            self.tickets[0].set()
