"""The pings of one link that are under way: when each was sent, and who waits for its answer."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import AsyncResult


class Pings:
    """One link's pings. The times are of the caller's monotonic clock."""

    __slots__ = ("_heartbeat", "_number", "_under_way")

    def __init__(self) -> None:
        self._number = 0
        self._heartbeat = 0
        self._under_way: dict[int, tuple[float, AsyncResult[float] | None]] = {}

    def begin(self, now: float, waiter: AsyncResult[float] | None) -> int:
        """The number of a new ping. None waits for one of the heartbeat's."""
        self._number += 1
        if waiter is None:
            # Of the heartbeat's own pings only the newest is of interest, however many went unanswered.
            self._under_way.pop(self._heartbeat, None)
            self._heartbeat = self._number
        self._under_way[self._number] = (now, waiter)
        return self._number

    def answered(self, number: int, now: float) -> float | None:
        """The answer to `number` has come: the round trip in seconds; None if nobody waits for it."""
        sent_at, waiter = self._under_way.pop(number, (None, None))
        if sent_at is None:
            return None
        rtt = max(0.0, now - sent_at)
        if waiter is not None:
            waiter.set(rtt)
        return rtt

    def forget(self, number: int) -> None:
        """Nobody waits for the answer to `number` any more."""
        self._under_way.pop(number, None)

    def abandon(self) -> None:
        """In a child of a fork: who waits for an answer waits in the parent."""
        self._under_way.clear()

    def fail(self, error: Callable[[], Exception]) -> None:
        """There will be no answers: whoever waits for one gets an `error` of his own."""
        under_way, self._under_way = self._under_way, {}
        for _sent_at, waiter in under_way.values():
            if waiter is not None:
                waiter.set_exception(error())
