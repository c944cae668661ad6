"""Total deadlines, around one block or for many: however often there is progress, at the end it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import gevent
from greenlet import getcurrent

from ..errors import LinkTimeout


def too_long(step: str, seconds: float, peer: str | None = None) -> LinkTimeout:
    """What is raised where `step` has not come to its end within `seconds`."""
    return LinkTimeout(f"{step} took longer than {seconds:g} s", peer=peer)


class _Expired(BaseException):
    """Thrown into the block; like :class:`gevent.Timeout`, not to be taken for an error."""


class Deadline:
    """Raises :class:`~snowgreen.errors.LinkTimeout` in the block once `seconds` have passed.

    Only its own expiry is translated: a :class:`gevent.Timeout` that the caller set around it, and
    GreenletExit, pass through unchanged.

    :param step: what was being done, for the message; set it anew as the work goes on.
    """

    __slots__ = ("_expired", "_timer", "peer", "seconds", "step")

    def __init__(self, seconds: float, step: str, peer: str | None = None) -> None:
        self.seconds = seconds
        self.step = step
        self.peer = peer
        self._expired: _Expired | None = None

    def __enter__(self) -> Deadline:
        self._timer: Any = gevent.get_hub().loop.timer(self.seconds, priority=-1)
        # From now on, not from when the loop last looked at its clock.
        self._timer.start(self._expire, getcurrent(), update=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.stop()
        self._timer.close()
        if value is not None and value is self._expired:
            raise too_long(self.step, self.seconds, self.peer) from None

    def _expire(self, waiting: Any) -> None:
        self._expired = _Expired()
        waiting.throw(self._expired)


W = TypeVar("W")


class Deadlines(Generic[W]):
    """Deadlines of one length for many: they come in the order they were set, so that one timer serves all.

    :param seconds: the length.
    :param late: called by the loop with whoever has not been dropped by then. It must not wait.
    """

    __slots__ = ("_late", "_loop", "_seconds", "_since", "_timer")

    def __init__(self, seconds: float, late: Callable[[W], None]) -> None:
        self._seconds = seconds
        self._late = late
        self._since: dict[W, float] = {}
        self._loop: Any = gevent.get_hub().loop
        self._timer: Any = None

    def put(self, waiting: W) -> None:
        """Begin to count, from now on."""
        self._since[waiting] = time.monotonic()
        if self._timer is None:
            self._wait(self._seconds)

    def drop(self, waiting: W) -> None:
        """`waiting` was in time, or is over already."""
        self._since.pop(waiting, None)

    def close(self) -> None:
        """Drop all."""
        self._since.clear()
        self._rest()

    def _wait(self, seconds: float) -> None:
        # Without a reference: it may outlast whoever it was started for, and keeps no loop from its end.
        self._timer = self._loop.timer(seconds, ref=False, priority=-1)
        self._timer.start(self._expire, update=True)

    def _rest(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _expire(self) -> None:
        self._rest()
        now = time.monotonic()
        late: list[W] = []
        for waiting, since in self._since.items():
            left = since + self._seconds - now
            if left > 0:
                self._wait(left)
                break
            late.append(waiting)
        for waiting in late:
            del self._since[waiting]
        for waiting in late:
            self._late(waiting)
