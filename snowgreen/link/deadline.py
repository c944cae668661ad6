"""A total deadline around a block: however often it makes progress inside, at the end it is over."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import gevent
from greenlet import getcurrent

from ..errors import LinkTimeout


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
            raise LinkTimeout(f"{self.step} took longer than {self.seconds:g} s", peer=self.peer) from None

    def _expire(self, waiting: Any) -> None:
        self._expired = _Expired()
        waiting.throw(self._expired)
