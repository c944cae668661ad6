"""Whom to dial in a mesh, where peers tell each other whom they are linked with: pure decisions.

A list comes from a peer that has proved the cookie, and may still be absurd, or hostile. So it only ever
adds names to a bounded account, at addresses that its sender may speak of; and how many of them are dialed
at once, and how many failures a second that can cost, depends on no list. Specification: section 4.
"""

from __future__ import annotations

import enum
import heapq
import ipaddress
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..errors import InvalidName
from ..names import NodeName, is_loopback, parse_name, printable
from .backoff import delay
from .mail import MAX_LIST_BYTES, MAX_LISTED

#: A link that lived for so many seconds counts as a success, and the next loss starts the backoff anew.
STABLE = 10.0
#: Failures that are told apart; the backoff is at its ceiling long before.
_MOST = 32
_LIST_HEAD = 4 + 1 + 2  # length, tag and count
_STALE = 64

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
#: What no peer elsewhere can mean by an address, and what such an address is called.
_SPECIAL = [
    (kind, ipaddress.ip_network(network))
    for kind, networks in (
        ("loopback", ("127.0.0.0/8", "::1/128")),
        ("link-local", ("169.254.0.0/16", "fe80::/10")),
        ("unspecified", ("0.0.0.0/8", "::/128")),
        ("multicast", ("224.0.0.0/4", "ff00::/8")),
        ("broadcast", ("255.255.255.255/32",)),
    )
    for network in networks
]
#: IPv6 addresses that stand for an IPv4 address, and how many bits from its right end they hold it:
#: mapped, compatible, NAT64 and 6to4.
_HOLDING_IPV4 = [
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
]


def special(host: str) -> str | None:
    """Of which kind `host` is, if it means something else, or nothing, to a node on another machine.

    None for any other address, and for a host name, of which only its addresses can tell.
    """
    lowered = host.lower()
    if lowered == "localhost" or lowered.endswith(".localhost"):
        return "loopback"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    for meant in _meanings(address):
        for kind, network in _SPECIAL:
            if meant in network:
                return kind
    return None


def _meanings(address: _IPAddress) -> list[_IPAddress]:
    held = [
        ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
        for network, shift in _HOLDING_IPV4
        if address in network
    ]
    return [address, *held]


def is_local(host: str) -> bool:
    """Whether whoever is connected from, or at, the IP address `host` is on this machine."""
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return is_loopback(host)
    return is_loopback(host if mapped is None else str(mapped))


def dials_only(name: str) -> bool:
    """Whether the node `name` cannot be dialed: its port is 0."""
    return name.endswith(":0")  # the one way in which a node name can say so


class Rules(NamedTuple):
    """The limits, as :class:`snowgreen.Config` and :class:`snowgreen.Limits` document them."""

    known: int
    dials: int
    base: float
    ceiling: float
    patience: float


class Heard(NamedTuple):
    """What a list came to."""

    #: Names not known before, which will be dialed.
    new: list[str]
    #: Why names were refused, and how many for each reason.
    refused: Counter[str]
    #: The first of those, as it came.
    first: str = ""

    @property
    def problem(self) -> str:
        """The refusals in words. They can be logged."""
        reasons = ", ".join(f"{count} × {why}" for why, count in self.refused.items())
        return f"{reasons}; the first was '{printable(self.first)}'"


class Dial(NamedTuple):
    """A node to dial now."""

    name: NodeName
    #: Whether its host may be one that is :func:`special`: a node on this machine told of it.
    anywhere: bool


class Due(NamedTuple):
    """What is to be done, and when to ask again; None: not before something changes."""

    dials: list[Dial]
    again: float | None


class _State(enum.Enum):
    WAITING = 1
    DIALING = 2
    LINKED = 3


class _Node:
    """One node that is known."""

    __slots__ = ("failures", "kind", "local", "name", "since", "state", "turn")

    def __init__(self, name: NodeName, *, local: bool, now: float) -> None:
        self.name = name
        self.kind = special(name.host)
        #: Whether it, or a node that told of it, is on this machine.
        self.local = local
        #: When it was first heard of, or last linked.
        self.since = now
        self.state = _State.LINKED
        #: Dials and short links in a row; how long it waits depends on it.
        self.failures = 0
        #: The number of its entry in the queue; an entry with another number is void.
        self.turn = 0


class Mesh:
    """The account of one node's mesh. Times are seconds on one monotonic clock, passed in.

    :param own: this node's name.
    :param chance: draws evenly from 0 to 1.
    :param allowed: whether a node may be dialed at all; asked whenever one is about to be.
    """

    def __init__(
        self,
        own: str,
        rules: Rules,
        chance: Callable[[], float],
        allowed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._own = own
        self._rules = rules
        self._chance = chance
        self._allowed = allowed
        self._nodes: dict[str, _Node] = {}
        self._queue: list[tuple[float, int, _Node]] = []
        self._turns = itertools.count(1)
        # Those that wait after so many failures, the one that failed longest ago at the front.
        self._failed: list[dict[str, None]] = [{} for _ in range(_MOST + 1)]
        self._in_flight = 0
        # A dial that failed gives its place back this late, so that a list of addresses which refuse at
        # once does not make thousands of dials a second, at somebody else's door.
        self._resting: deque[float] = deque(maxlen=rules.dials)

    @property
    def known(self) -> int:
        """Nodes that are remembered, linked or not."""
        return len(self._nodes)

    @property
    def in_flight(self) -> int:
        """Dials that are not over."""
        return self._in_flight

    def to_send(self, peer: str, linked: Iterable[str], *, to_host: str) -> list[str]:
        """The names of `linked` to tell `peer`, who is at the IP address `to_host`.

        If they are too many for one list, chance decides; and it orders them, so that not everybody dials
        the same ones first. What `peer` would have to refuse is left out.
        """
        names = [name for name in linked if name not in (peer, self._own) and not dials_only(name)]
        local = is_local(to_host)
        chosen: list[str] = []
        size = _LIST_HEAD
        for index in range(len(names)):
            left = len(names) - index
            drawn = index + min(int(self._chance() * left), left - 1)
            names[index], names[drawn] = names[drawn], names[index]
            name = names[index]
            if not local and self._kind(name) is not None:
                continue
            size += 2 + len(name)
            if size > MAX_LIST_BYTES or len(chosen) == MAX_LISTED:
                break
            chosen.append(name)
        return chosen

    def heard(
        self,
        names: Iterable[str],
        *,
        from_host: str,
        now: float,
        entitled: Callable[[str], bool] = lambda _: True,
    ) -> Heard:
        """A peer at the IP address `from_host` says that it is linked with `names`.

        :param entitled: whether this peer may speak of a name.
        """
        local = is_local(from_host)
        heard = Heard([], Counter())
        for text in names:
            problem = self._hear(text, local=local, now=now, entitled=entitled, new=heard.new)
            if problem is not None:
                if not heard.refused:
                    heard = heard._replace(first=text)
                heard.refused[problem] += 1
        return heard

    def up(self, name: str, *, host: str, now: float) -> None:
        """`name` is linked, however that came about, at the IP address `host`."""
        node = self._nodes.get(name)
        if node is None:
            # A link is remembered in any case: links have limits of their own.
            self._make_room(failures=0)
            node = self._nodes[name] = _Node(parse_name(name), local=False, now=now)
        self._move(node, _State.LINKED)
        node.since = now
        node.local |= is_local(host)

    def down(self, name: str, now: float, *, lost: bool) -> None:
        """The link with `name` has ended.

        :param lost: False if the peer said that it stops or leaves; it then comes back by itself, or not.
        """
        node = self._nodes.get(name)
        if node is None or node.state is not _State.LINKED:
            return
        self.forget(name)
        # A peer that dialed in has told of its own name like of any other, and nobody has judged it yet.
        if not lost or _objection(node, local=node.local) is not None or not self._allowed(name):
            return
        if not self._make_room():
            return
        self._nodes[name] = node
        wait = self._delay(node.failures)
        node.failures = 0 if now - node.since >= STABLE else node.failures + 1
        node.since = now
        self._wait(node, now + wait)

    def failed(self, name: str, now: float, *, final: bool) -> None:
        """A dial that :meth:`due` asked for has failed; `final` if another would fail in the same way."""
        self._resting.append(now + self._rules.base)
        node = self._nodes.get(name)
        if node is None or node.state is not _State.DIALING:
            return  # linked by the peer, or forgotten, meanwhile
        at = now + self._delay(node.failures)
        given_up = at >= node.since + self._rules.patience
        if final or given_up or len(self._nodes) > self._rules.known:
            self.forget(name)
        else:
            node.failures += 1
            self._wait(node, at)

    def over(self) -> None:
        """A dial that :meth:`due` asked for has ended, however it did."""
        self._in_flight -= 1

    def forget(self, name: str) -> None:
        """Know `name` no more."""
        node = self._nodes.pop(name, None)
        if node is not None:
            self._move(node, _State.LINKED)

    def due(self, now: float) -> Due:
        """Whom to dial now. Each of these dials is to be given back by :meth:`over`."""
        while self._resting and self._resting[0] <= now:
            self._resting.popleft()
        dials: list[Dial] = []
        while self._queue:
            at, turn, node = self._queue[0]
            if turn != node.turn:
                heapq.heappop(self._queue)
                continue
            if not self._allowed(node.name.text):
                self.forget(node.name.text)
                continue
            if at > now:
                return Due(dials, at)
            if self._in_flight + len(self._resting) >= self._rules.dials:
                return Due(dials, self._resting[0] if self._resting else None)
            self._move(node, _State.DIALING)
            self._in_flight += 1
            dials.append(Dial(node.name, node.local))
        return Due(dials, None)

    def _hear(
        self, text: str, *, local: bool, now: float, entitled: Callable[[str], bool], new: list[str]
    ) -> str | None:
        """Take `text` in; or say why not. Names that mean nothing new are no problem."""
        if text == self._own:
            return None
        known = self._nodes.get(text)
        if known is not None:
            known.local |= local
            return None
        try:
            name = parse_name(text)
        except InvalidName:
            return "no node name"
        if not entitled(text):
            return "name that a classic peer cannot speak of"
        node = _Node(name, local=local, now=now)
        problem = _objection(node, local=local)
        if problem is not None:
            return problem
        if not self._allowed(text):
            return None  # its sender cannot know
        if not self._make_room():
            return f"name beyond the {self._rules.known} that are remembered"
        self._nodes[text] = node
        self._wait(node, now)
        new.append(text)
        return None

    def _kind(self, name: str) -> str | None:
        node = self._nodes.get(name)
        return special(parse_name(name).host) if node is None else node.kind

    def _delay(self, failures: int) -> float:
        return delay(failures, self._chance(), base=self._rules.base, ceiling=self._rules.ceiling)

    def _make_room(self, failures: int = 1) -> bool:
        """Room for one more, by forgetting who has failed most, if need be; False: there is none.

        :param failures: how many make one forgettable. Who was not dialed yet is not forgotten for somebody
            of whom no more is known.
        """
        if len(self._nodes) < self._rules.known:
            return True
        for names in reversed(self._failed[failures:]):
            if names:
                self.forget(next(iter(names)))
                return len(self._nodes) < self._rules.known
        return False

    def _wait(self, node: _Node, at: float) -> None:
        self._move(node, _State.WAITING)
        self._failed[min(node.failures, _MOST)][node.name.text] = None
        node.turn = next(self._turns)
        heapq.heappush(self._queue, (at, node.turn, node))
        if len(self._queue) > 2 * len(self._nodes) + _STALE:
            self._queue = [entry for entry in self._queue if entry[1] == entry[2].turn]
            heapq.heapify(self._queue)

    def _move(self, node: _Node, state: _State) -> None:
        if node.state is _State.WAITING:
            del self._failed[min(node.failures, _MOST)][node.name.text]
        node.state = state
        node.turn = 0  # whatever was scheduled is not needed


def _objection(node: _Node, *, local: bool) -> str | None:
    if node.name.port == 0:
        return "name with port 0, which cannot be dialed"
    if node.kind is not None and not local:
        return f"{node.kind} address told of from elsewhere"
    return None
