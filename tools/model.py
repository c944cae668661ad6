"""What ``tools/explore.py`` explores: two nodes, their connections, and what changes in one step."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias, TypeVar

from snowgreen.protocol.pairing import Candidate, Pair

#: The incarnation of a first life. A later one counts up from it, or down where the clock went back.
FIRST_LIFE: Final = 100
#: Room for the attempts of one life inside a token.
ATTEMPTS: Final = 100
#: Where the numbers of its dials by address begin among these; they send attempt 0 all the same.
ADDRESSED: Final = 70


#: An invariant, and how it is broken.
Broken: TypeAlias = tuple[str, str] | None


NAMES: Final = "AB"
_T = TypeVar("_T")


class Node(NamedTuple):
    """One of the two: what its present life knows, and which life that is."""

    incarnation: int = FIRST_LIFE
    life: int = 0
    pair: Pair = Pair()
    #: Dials by address in this life so far.
    addressed: int = 0
    #: A dial by address was refused as DUPLICATE, and one by the rule follows unless a link comes first.
    owes: bool = False


class Conn(NamedTuple):
    """A connection that at least one side still holds. Pairs are indexed by node: 0 is A, 1 is B."""

    token: int
    initiator: int
    epoch: int
    #: 0 says that it was dialed by address.
    attempt: int
    #: The life at each end.
    lives: tuple[int, int]
    #: Which ends are held.
    held: tuple[bool, bool] = (True, True)
    #: What is in flight to each end.
    inbox: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    #: Whether the other end is out of reach for good: nothing more can be sent on it.
    dead: bool = False
    #: Whether the pairing asked to probe it, while it was dead.
    probed: bool = False
    #: The connections of which the dialer's end was gone when it dialed this one (for I4).
    lost: tuple[int, ...] = ()


class Left(NamedTuple):
    """What may still happen. In recovery there are dials only, of either kind."""

    dials: int
    restarts: int = 0
    cuts: int = 0
    expiries: int = 0
    addresses: int = 0

    @property
    def faults(self) -> tuple[int, int, int]:
        """All but the dials."""
        return self.restarts, self.cuts, self.expiries


class State(NamedTuple):
    """Everything there is."""

    nodes: tuple[Node, Node]
    conns: tuple[Conn, ...]
    left: Left
    #: The rounds of recovery that remain, the present one included; 0 outside of it.
    rounds: int = 0


class Draft:
    """A state being changed into the next."""

    def __init__(self, state: State) -> None:
        self.nodes = list(state.nodes)
        self.pairs = [node.pair for node in state.nodes]
        self.conns = {conn.token: conn for conn in state.conns}
        self.left = state.left
        self.rounds = state.rounds
        self.broken: Broken = None

    def send(self, node: int, token: int, message: str) -> None:
        """From `node`, unless nobody can ever receive it."""
        conn, other = self.conns[token], 1 - node
        if conn.held[other] and not conn.dead:
            self.conns[token] = conn._replace(inbox=put(conn.inbox, other, (*conn.inbox[other], message)))

    def drop(self, node: int, token: int) -> None:
        """`node` no longer holds its end, and whatever travels to it is lost."""
        conn = self.conns[token]
        if conn.held[1 - node]:
            held, inbox = put(conn.held, node, False), put(conn.inbox, node, ())
            self.conns[token] = conn._replace(held=held, inbox=inbox)
        else:
            del self.conns[token]

    def close(self, node: int, token: int) -> None:
        """`node` closes its end in good order."""
        if token in self.conns and self.conns[token].held[node]:
            self.send(node, token, "FIN")
            self.drop(node, token)

    def freeze(self) -> State:
        """The state that came of it."""
        conns = [self.conns[token] for token in sorted(self.conns)]
        for i, conn in enumerate(conns):
            if conn.lost:
                conns[i] = conn._replace(lost=tuple(token for token in conn.lost if token in self.conns))
        a, b = (
            node._replace(pair=pair, owes=node.owes and pair.link is None)
            for node, pair in zip(self.nodes, self.pairs, strict=True)
        )
        return State((a, b), tuple(conns), self.left, self.rounds)


def put(both: tuple[_T, _T], node: int, value: _T) -> tuple[_T, _T]:
    """`both`, with `value` for `node`."""
    return (value, both[1]) if node == 0 else (both[0], value)


def received(state: State, conn: Conn, node: int) -> Draft:
    """`state` without the next message to `node` on `conn`."""
    draft = Draft(state)
    draft.conns[conn.token] = conn._replace(inbox=put(conn.inbox, node, conn.inbox[node][1:]))
    return draft


def candidate_at(conn: Conn, node: int) -> Candidate:
    """The connection as `node` ranks it."""
    return Candidate(conn.token, conn.lives[1 - node], conn.epoch, conn.initiator == 0, conn.attempt)


def busy(state: State) -> bool:
    """Whether anything is in flight, under a probe, or still to be dialed after a DUPLICATE."""
    return any(node.owes for node in state.nodes) or any(
        conn.inbox != ((), ()) or conn.probed for conn in state.conns
    )


def linked(state: State) -> bool:
    """Whether both hold the same live link between their current lives, and nothing besides."""
    a, b = state.nodes
    return len(state.conns) == 1 and all(
        conn.held == (True, True)
        and not conn.dead
        and conn.lives == (a.incarnation, b.incarnation)
        and a.pair[:2] == (candidate_at(conn, 0), None)
        and b.pair[:2] == (candidate_at(conn, 1), None)
        for conn in state.conns
    )


def no_handshakes(state: State) -> bool:
    """Whether every end that is held is its holder's registered link."""
    links = [node.pair.link.token if node.pair.link else None for node in state.nodes]
    return all(links[n] == conn.token for conn in state.conns for n in (0, 1) if conn.held[n])


def called(token: int) -> str:
    """A connection's name: who dialed it, in which attempt; primes count that node's restarts before it.

    Dials by address are counted apart, behind an @.
    """
    number, node = divmod(token, 2)
    life, attempt = divmod(number, ATTEMPTS)
    which = f"@{attempt - ADDRESSED}" if attempt > ADDRESSED else f"{attempt}"
    return f"{NAMES[node]}{which}" + "'" * life
