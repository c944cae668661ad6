"""The shared dict of sessions, and beside each peer what the pairing rule has to know.

Every method runs from its first line to its last without a switch to another greenlet: it decides by
the rule and records the decision in one go. Cleanup is by identity, through serial numbers.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..protocol import pairing
from ..protocol.pairing import Candidate, Pair

if TYPE_CHECKING:
    from .session import Session

MAX_NODE_ID = 0xFFFF
_STRANGERS = Pair()


class NodeIds:
    """Numbers from 1 to 65,535 for live sessions; 0 is the local node. The lowest free one is next."""

    def __init__(self) -> None:
        self._unused = 1
        self._free: list[int] = []

    def take(self) -> int | None:
        """A free number, None if there is none."""
        if self._free:
            return heapq.heappop(self._free)
        if self._unused > MAX_NODE_ID:
            return None
        self._unused += 1
        return self._unused - 1

    def release(self, number: int) -> None:
        """Give `number` back."""
        heapq.heappush(self._free, number)


class Table:
    """One node's sessions and pairs.

    :param name: the node's own name, for the tiebreak.
    :param sessions: the dict to keep the sessions in; its owner shows it, and changes nothing in it.
    :param remembered: how many peers without a link keep their counters; the oldest go first.
    """

    def __init__(
        self, name: str, sessions: dict[str, Session], *, remembered: int, commit_timeout: float
    ) -> None:
        self._name = name.encode()
        self._remembered = remembered
        self._commit_timeout = commit_timeout
        self._sessions = sessions
        self._pairs: dict[str, Pair] = {}
        self._resting: dict[str, None] = {}  # idle pairs, the one that came to rest first at the front
        self._serials = itertools.count(1)
        self.ids = NodeIds()
        #: Peer name → live session, read-only.
        self.sessions: Mapping[str, Session] = MappingProxyType(self._sessions)

    def serial(self) -> int:
        """A number no other connection of this node has had."""
        return next(self._serials)

    def smaller(self, peer: str) -> bool:
        """Whether our name is the smaller one, as bytes."""
        return self._name < peer.encode()

    def pair(self, peer: str) -> Pair:
        """What is known of `peer`."""
        return self._pairs.get(peer, _STRANGERS)

    def dial(self, peer: str, serial: int) -> pairing.Dial | pairing.UseLink | pairing.AwaitDial:
        """We want to dial `peer`."""
        pair, decision = pairing.dial(self.pair(peer), serial, smaller=self.smaller(peer))
        self._keep(peer, pair)
        return decision

    def challenged(
        self, peer: str, serial: int, incarnation: int | None, now: float
    ) -> pairing.Commit | pairing.UseLink | pairing.Decline:
        """CHALLENGE came on our dial."""
        pair, decision = pairing.challenged(self.pair(peer), serial, incarnation, now)
        self._keep(peer, pair)
        return decision

    def proved(
        self, peer: str, candidate: Candidate, now: float
    ) -> pairing.Admit | pairing.Decline | pairing.Probe:
        """An inbound peer has proved the cookie. On Admit, :meth:`install` its session before any switch."""
        pair, decision = pairing.proved(self.pair(peer), candidate, now, commit_timeout=self._commit_timeout)
        self._keep(peer, pair)
        return decision

    def acknowledged(self, peer: str, candidate: Candidate) -> pairing.Admit | pairing.Decline:
        """ACK came on our dial. On Admit, :meth:`install` its session before any switch."""
        pair, decision = pairing.acknowledged(self.pair(peer), candidate)
        self._keep(peer, pair)
        return decision

    def install(self, session: Session) -> Session | None:
        """Make `session` the one with its peer; return the one it replaces, which is still to be closed."""
        old = self._sessions.get(session.peer)
        self._sessions[session.peer] = session
        return old

    def ended(self, peer: str, serial: int) -> None:
        """The connection `serial` with `peer` is over, as a dial or as a session."""
        session = self._sessions.get(peer)
        if session is not None and session.serial == serial:
            del self._sessions[peer]
        pair = self._pairs.get(peer)
        if pair is not None:
            self._keep(peer, pairing.ended(pair, serial))

    def _keep(self, peer: str, pair: Pair) -> None:
        self._pairs[peer] = pair
        if not pair.idle:
            self._resting.pop(peer, None)
            return
        self._resting.setdefault(peer)
        while len(self._resting) > self._remembered:
            oldest = next(iter(self._resting))
            del self._resting[oldest], self._pairs[oldest]
