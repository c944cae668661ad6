"""The heartbeat of every session on a hub, from one greenlet: ping the silent, end the dead.

It looks only at those of whom there may be something to say, so that ten thousand quiet links cost nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import gevent

from ..events import LoopStalled
from ..protocol.heartbeat import sweep_interval
from .runtime import say

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .session import Session

log = logging.getLogger("snowgreen.heart")

#: Sessions looked at before the loop gets a turn: a few milliseconds if every one is pinged.
_SLICE = 128
#: A sweep this many seconds late means that our own loop was blocked, not that peers were silent. For a
#: node whose heartbeat is quicker, half of its timeout does.
STALL = 1.0


class Heart:
    """One hub's sweep over the nodes that started there; it runs while there are any."""

    def __init__(self) -> None:
        self._endpoints: dict[int, Endpoint] = {}
        self._needed: Counter[float] = Counter()  # sweep interval → how many of them need it
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def add(self, endpoint: Endpoint) -> None:
        """Look after the sessions of `endpoint`, too."""
        needed = sweep_interval(endpoint.pulse)
        if self._needed and needed < min(self._needed):
            self._stop()  # it would sleep for longer than this node can wait
        self._endpoints[id(endpoint)] = endpoint
        self._needed[needed] += 1
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def remove(self, endpoint: Endpoint) -> None:
        """Look after `endpoint` no longer."""
        if self._endpoints.pop(id(endpoint), None) is None:
            return
        needed = sweep_interval(endpoint.pulse)
        self._needed[needed] -= 1
        if not self._needed[needed]:
            del self._needed[needed]
        if not self._endpoints:
            self._stop()

    def _stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def _run(self) -> None:
        while self._needed:  # not for ever: between its last node's end and its own it may have a turn
            interval = min(self._needed)
            # Not by a node's own clock: it is this loop that may stall, and a test's clock may leap.
            due = time.monotonic() + interval
            gevent.sleep(interval)
            late = time.monotonic() - due
            if late > STALL:
                for endpoint in list(self._endpoints.values()):
                    event = LoopStalled(late, endpoint.runtime.wall())
                    say(log, logging.WARNING, "%s: %s", endpoint.name, event)
                    endpoint.bus.publish(event)
            sweep(list(self._endpoints.values()), late=late)


def sweep(endpoints: Iterable[Endpoint], *, late: float = 0.0) -> None:
    """Look at those sessions of `endpoints` that are due, giving way to the loop in between.

    :param late: seconds by which this look comes too late: so long, about, nobody could be heard.
    """
    seen = 0
    for endpoint in endpoints:
        now = endpoint.runtime.monotonic()
        grace = late > min(STALL, endpoint.pulse.timeout / 2)
        due = endpoint.rounds.due(now)
        due.reverse()
        try:
            while due:
                session = due.pop()
                _look(session, now, grace=grace)
                seen += 1
                if seen % _SLICE == 0:
                    gevent.sleep(0)
                    now = endpoint.runtime.monotonic()
        finally:
            for session in due:  # ended in the middle: another sweep is to find them
                if not session.closed:
                    endpoint.rounds.put(session, now)


def _look(session: Session, now: float, *, grace: bool) -> None:
    try:
        session.beat(now, grace=grace)
    except Exception as error:  # noqa: BLE001  # one link's trouble must not still the heart of all
        say(log, logging.ERROR, "internal error in the heartbeat of %r", session, error=error)
    finally:
        session.await_look()


_hearts: WeakKeyDictionary[gevent.hub.Hub, Heart] = WeakKeyDictionary()


def heart() -> Heart:
    """The heart of the calling thread's hub."""
    return _hearts.setdefault(gevent.get_hub(), Heart())
