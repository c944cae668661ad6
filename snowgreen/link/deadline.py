"""A total deadline around a block: however often it makes progress inside, at the end it is over."""

from __future__ import annotations

from types import TracebackType

import gevent

from ..errors import LinkTimeout


class Deadline:
    """Raises :class:`~snowgreen.errors.LinkTimeout` in the block once `seconds` have passed.

    Only its own expiry is translated: a :class:`gevent.Timeout` that the caller set around it, and
    GreenletExit, pass through unchanged.

    :param step: what was being done, for the message; set it anew as the work goes on.
    """

    __slots__ = ("_timeout", "peer", "seconds", "step")

    def __init__(self, seconds: float, step: str, peer: str | None = None) -> None:
        self.seconds = seconds
        self.step = step
        self.peer = peer
        self._timeout = gevent.Timeout(seconds)

    def __enter__(self) -> Deadline:
        self._timeout.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timeout.close()
        if value is self._timeout:
            raise LinkTimeout(f"{self.step} took longer than {self.seconds:g} s", peer=self.peer) from None
