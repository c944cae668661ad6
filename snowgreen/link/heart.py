"""The heartbeat of every session on a hub, from one greenlet: look at all, ping the silent, end the dead."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import gevent

from ..protocol.heartbeat import sweep_interval

if TYPE_CHECKING:
    from .endpoint import Endpoint

#: Sessions looked at before the loop gets a turn: about 0.1 ms, or 5 ms if every one is pinged.
_SLICE = 512
#: A sweep this many seconds late means that our own loop was blocked, not that peers were silent.
STALL = 1.0


class Heart:
    """One hub's sweep over the nodes that started there; it runs while there are any."""

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def add(self, endpoint: Endpoint) -> None:
        """Look after the sessions of `endpoint`, too."""
        asleep_for = self._interval if self._endpoints else 0.0
        self._endpoints.append(endpoint)
        if self._greenlet is not None:
            if asleep_for <= self._interval:
                return
            self._greenlet.kill(block=False)  # it would sleep for longer than this node can wait
        self._greenlet = gevent.spawn(self._run)

    def remove(self, endpoint: Endpoint) -> None:
        """Look after `endpoint` no longer."""
        if endpoint in self._endpoints:
            self._endpoints.remove(endpoint)
        if not self._endpoints and self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    @property
    def _interval(self) -> float:
        return min(sweep_interval(endpoint.pulse) for endpoint in self._endpoints)

    def _run(self) -> None:
        while self._endpoints:
            clock = self._endpoints[0].runtime.monotonic
            due = clock() + self._interval
            gevent.sleep(self._interval)
            grace = clock() - due > STALL
            for endpoint in list(self._endpoints):
                sweep(endpoint, grace=grace)


def sweep(endpoint: Endpoint, *, grace: bool) -> None:
    """Look once at every session of `endpoint`, giving way to the loop in between."""
    sessions = list(endpoint.table.sessions.values())
    for start in range(0, len(sessions), _SLICE):
        if start:
            gevent.sleep(0)
        now = endpoint.runtime.monotonic()
        for session in sessions[start : start + _SLICE]:
            session.beat(now, grace=grace)


_hearts: WeakKeyDictionary[gevent.hub.Hub, Heart] = WeakKeyDictionary()


def heart() -> Heart:
    """The heart of the calling thread's hub."""
    return _hearts.setdefault(gevent.get_hub(), Heart())
