"""Links that come back by themselves: the kept peers, dialed and redialed until they are left.

One greenlet waits for whoever is due next; the dials run in a small pool, so that the return of a thousand
peers is a trickle. How long each waits is exponential backoff with full jitter.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event
from gevent.pool import Pool

from ..errors import NodeStateError, PolicyError, Rejected, SelfLinkError, SnowgreenError
from ..names import Address, NodeName
from ..protocol.admission import source_of
from ..protocol.backoff import delay
from ..protocol.messages import RejectCode
from .runtime import say

if TYPE_CHECKING:
    from .dialer import Dialer
    from .endpoint import Endpoint
    from .session import Session

log = logging.getLogger("snowgreen.keeper")

#: A link that lived for so many seconds counts as a success, and the next loss starts the backoff anew.
_STABLE = 10.0
#: Seconds for one dial, all in all; the deadlines inside it are shorter.
_PATIENCE = 30.0
#: Codes after which trying again soon is of no use.
_FINAL = {RejectCode.NAME_NOT_ALLOWED, RejectCode.CAPABILITIES}
_MANY = 1_000_000


class _Kept:
    """One kept peer."""

    __slots__ = ("failures", "name", "target", "turn", "up_since")

    def __init__(self, target: NodeName | Address) -> None:
        self.target = target
        #: Its name; None until an address was answered.
        self.name = target.text if isinstance(target, NodeName) else None
        self.failures = 0
        self.up_since: float | None = None
        #: The number of its entry in the queue; an entry with another number is void.
        self.turn = 0


class Keeper:
    """One node's kept peers.

    :param trusted: where to note the sources of kept peers, for whom the listener keeps places.
    """

    def __init__(self, endpoint: Endpoint, dialer: Dialer, trusted: set[str]) -> None:
        self._endpoint = endpoint
        self._dialer = dialer
        self._trusted = trusted
        self._kept: dict[str, _Kept] = {}
        self._by_name: dict[str, list[_Kept]] = {}  # a node may be kept under several addresses
        self._queue: list[tuple[float, int, _Kept]] = []
        self._turns = itertools.count(1)
        self._changed = Event()
        self._pool = Pool(endpoint.config.limits.dials)
        self._greenlet: gevent.Greenlet[..., None] | None = None
        endpoint.on_registered.append(self._registered)
        endpoint.on_ended.append(self._ended)

    @property
    def peers(self) -> tuple[str, ...]:
        """The kept peers, as they were given."""
        return tuple(self._kept)

    @property
    def linked(self) -> int:
        """How many of the kept peers are linked."""
        return sum(kept.up_since is not None for kept in list(self._kept.values()))

    def keep(self, target: NodeName | Address) -> None:
        """Keep a link with `target` from now on."""
        key = str(target)
        if key in self._kept or key == self._endpoint.name.text:
            return  # a list of peers that holds the node itself is the same list for all nodes
        kept = self._kept[key] = _Kept(target)
        self._trusted.add(source_of(target.host))
        if kept.name is not None:
            self._name(kept, kept.name)
            session = self._endpoint.table.sessions.get(kept.name)
            if session is not None:
                self._registered(session)
                return
        self._schedule(kept, delay(0, self._chance(), base=self._spread(), ceiling=self._spread()))

    def leave(self, key: str) -> str | None:
        """Keep it no longer; return its name, if it is known."""
        found = [self._kept[key]] if key in self._kept else self._by_name.get(key, [])
        if not found:
            return None
        name = found[0].name
        # Left is the node, under whatever addresses it was kept.
        for kept in self._by_name.pop(name, found) if name is not None else found:
            self._kept.pop(str(kept.target), None)
            kept.turn = 0
        self._trusted.clear()
        self._trusted.update(source_of(other.target.host) for other in self._kept.values())
        return name

    def stop(self) -> None:
        """Dial no more."""
        self._kept.clear()
        self._by_name.clear()
        self._queue.clear()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None
        self._pool.kill(block=False)

    def wake(self) -> None:
        """Look who is due. Never waits."""
        self._changed.set()

    def _name(self, kept: _Kept, name: str) -> None:
        kept.name = name
        self._by_name.setdefault(name, []).append(kept)

    def _spread(self) -> float:
        # The first dials of a long list are spread, too; a short one is dialed at once.
        return len(self._kept) / 100 * self._endpoint.config.redial_base

    def _chance(self) -> float:
        return int.from_bytes(self._endpoint.runtime.entropy(4), "little") % _MANY / _MANY

    def _schedule(self, kept: _Kept, seconds: float) -> None:
        kept.turn = next(self._turns)
        heapq.heappush(self._queue, (self._endpoint.runtime.monotonic() + seconds, kept.turn, kept))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        self._changed.set()

    def _retry(self, kept: _Kept) -> None:
        """Dial again, after a delay that fits how often it failed."""
        config = self._endpoint.config
        wait = delay(kept.failures, self._chance(), base=config.redial_base, ceiling=config.redial_ceiling)
        kept.failures += 1
        self._endpoint.journal.redials += 1
        self._schedule(kept, wait)

    def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._endpoint.runtime.monotonic()
            while self._queue and self._queue[0][0] <= now:
                _, turn, kept = heapq.heappop(self._queue)
                if turn == kept.turn:
                    self._pool.spawn(self._dial, kept, turn)  # waits while the pool is full
            self._changed.wait(self._queue[0][0] - now if self._queue else None)

    def _dial(self, kept: _Kept, turn: int) -> None:
        if turn != kept.turn:
            return  # left, or linked by the peer, while it waited for its place
        try:
            session = self._dialer.connect(kept.target, _PATIENCE)
        except SelfLinkError:
            say(log, logging.INFO, "%s leads to this node itself and is not kept", kept.target)
            self.leave(str(kept.target))
        except NodeStateError:
            return
        except SnowgreenError as error:
            if turn != kept.turn:
                return
            final = isinstance(error, Rejected) and error.code in _FINAL
            if final or isinstance(error, PolicyError):  # which an operator has to settle, too
                kept.failures = max(kept.failures, 16)
            self._retry(kept)
        else:
            if kept.name is None and kept.turn == turn:
                self._name(kept, session.peer)
            self._registered(session)
            if session.closed:  # and was already, when this greenlet had its turn
                self._ended(session)

    def _registered(self, session: Session) -> None:
        if session.closed:
            return
        for kept in self._by_name.get(session.peer, ()):
            kept.turn = next(self._turns)  # whatever was scheduled is not needed
            kept.up_since = self._endpoint.runtime.monotonic()
            self._trusted.add(source_of(session.remote_host))

    def _ended(self, session: Session) -> None:
        if session.peer in self._endpoint.table.sessions:
            return
        now = self._endpoint.runtime.monotonic()
        for kept in self._by_name.get(session.peer, ()):
            if kept.up_since is not None and now - kept.up_since >= _STABLE:
                kept.failures = 0
            kept.up_since = None
            if session.farewell is not None:
                kept.failures = 0
                self._schedule(kept, self._endpoint.config.rejoin_wait * (0.5 + self._chance()))
            else:
                self._retry(kept)
