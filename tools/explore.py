"""Every order in which two nodes can find each other: the invariants of docs/protocol.md, section 5, checked.

Two nodes A and B (A has the smaller name) make the decisions of ``snowgreen.protocol.pairing`` while
everything around them happens in every possible order: dials, the delivery of each message,
connections cut, nodes killed and started again. The search is breadth first over complete states, so
the trace it prints for a broken invariant is a shortest one.

The world. A connection is FIFO in each direction. Whoever closes it forgets it at once, and the other
side finds a FIN behind what was in flight. A cut loses what was in flight, and each side notices in
its own time (heartbeat, handshake deadline, EOF). A restart takes the node's memory and its ends of
all connections; what it sent before arrives still, or is lost when the other side notices. A dial
COMMITTED on a dead connection may reach its 3 s at any time; that one does on a living connection is
a fault of its own (an expiry).

A dial by address stays outside the pair: it says epoch 0, attempt 0, goes on to REPLY whatever is there, and
may begin at any time. Refused as DUPLICATE, its node dials by the rule, at any time after, unless it has a
link or such a dial by then. These dials have a budget of their own; the dials that follow cost nothing.

What is checked.

I1  At rest (nothing in flight, no death unnoticed) both nodes have registered the same live
    connection between their current lives and nothing else is open; after faults, either that or
    nothing is there on either side. A dial still owed after a DUPLICATE is no rest.
I2  No step replaces a registered link by one to an older life of the peer (clocks that go back aside).
I3  Without faults no registered link is ever replaced or lost; with I1: each node registers once.
    Once a dial by address began: only a link dialed by address is ever replaced, and only by one of higher
    rank; and it is lost only while the ACK of the link that the peer has in its place is on the way.
I4  A dial is not refused as DUPLICATE by the acceptor's link if, when the dial began, the dialer's
    end of that link was gone already, in whichever of its lives it had held it.
    (A dial by address may be; it is the dial by the rule after it that may not.)
I5  Whenever nothing is in flight and no handshake is open, a node without a link (or both) dials:
    every fault-free order of that leads to I1. Links that are dead but unnoticed stay so, unless the
    rule asks for a probe. Where clocks go back one such round may fail if the next one succeeds.
    Where there are dials by address, a node without a link may use one in each round.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import click
from faulty_rules import RULES, Rule
from model import (
    ADDRESSED,
    ATTEMPTS,
    FIRST_LIFE,
    NAMES,
    Broken,
    Conn,
    Draft,
    Left,
    Node,
    State,
    busy,
    called,
    candidate_at,
    linked,
    no_handshakes,
    received,
)

from snowgreen.protocol.messages import RejectCode
from snowgreen.protocol.pairing import COMMIT_TIMEOUT, Admit, Candidate, Commit, Decline, Dial, Pair, UseLink


class Step(NamedTuple):
    """Something that can happen in a state."""

    what: str
    token: int | None
    outcome: object
    state: State
    broken: Broken = None


class Violation(NamedTuple):
    """A broken invariant, and the shortest way to it."""

    invariant: str
    how: str
    trace: tuple[str, ...]


class Result(NamedTuple):
    """What an exploration came to; complete, if it saw every state there is."""

    states: int
    seconds: float
    complete: bool
    violation: Violation | None


class World:
    """Two nodes under a rule, and what may happen to them."""

    def __init__(self, rule: Rule, left: Left, *, clock_back: bool = False, ends_own: bool = False) -> None:
        self.rule = rule
        self.ends_own = ends_own
        self.clock_back = clock_back
        self.start = State((Node(), Node()), (), left)

    def steps(self, state: State) -> Iterator[Step]:
        """All that can happen next."""
        yield from self._dials(state)
        for conn in state.conns:
            for node in (0, 1):
                if conn.inbox[node][:1] == ("REPLY",):
                    yield from self._proved(state, conn, node)
                elif conn.inbox[node]:
                    yield self._deliver(state, conn, node)
                if conn.held[node] and conn.dead and (conn.probed or not state.rounds):
                    yield self._notice(state, conn, node)
            if state.left.cuts and not conn.dead:
                yield self._cut(state, conn)
        if state.left.restarts:
            for node in (0, 1):
                yield self._restart(state, node, 1)
                if self.clock_back:
                    yield self._restart(state, node, -1)

    def fault(self, state: State) -> Broken:
        """The invariant that this state itself breaks, by how it stands at rest."""
        if busy(state) or linked(state):
            return None
        if state.rounds:
            again = state.rounds > 1 and any(self._dials(state))
            return None if again else ("I5", "a round of recovery came to rest, and the two are not linked")
        idle = not state.conns and all(node.pair.idle for node in state.nodes)
        if any(conn.dead for conn in state.conns) or (idle and (self._faulted(state) or state == self.start)):
            return None
        return "I1", "this is at rest, and the two are not linked as they should be"

    def _faulted(self, state: State) -> bool:
        return state.left.faults != self.start.left.faults

    def _dials(self, state: State) -> Iterator[Step]:
        left, rounds = state.left, state.rounds
        for node in (0, 1) if left.dials else ():
            yield from self._dial(state, node, left._replace(dials=left.dials - 1), rounds, "dials")
        for node in (0, 1) if left.addresses else ():
            if not rounds or state.nodes[node].pair.link is None:
                yield self._address(state, node, left, rounds, "dials the address")
        for node in (0, 1):
            if state.nodes[node].owes:
                yield from self._dial(state, node, left, rounds, "goes on by the rule: dials")
        if rounds != 1 and (rounds or self._faulted(state)) and not busy(state) and no_handshakes(state):
            rounds = rounds - 1 if rounds else 1 + self.clock_back
            again = Left(dials=2, addresses=min(1, self.start.left.addresses))
            for node in (0, 1):
                yield from self._dial(state, node, again._replace(dials=1), rounds, "recovers: dials")
                if again.addresses and state.nodes[node].pair.link is None:
                    yield self._address(state, node, again, rounds, "recovers: dials the address")

    def _dial(self, state: State, node: int, left: Left, rounds: int, what: str) -> Iterator[Step]:
        me = state.nodes[node]
        token = (me.life * ATTEMPTS + me.pair.attempt + 1) * 2 + node
        pair, decision = self.rule.dial(me.pair, token, smaller=node == 0)
        if not isinstance(decision, Dial):
            return  # nothing happens, and it costs nothing
        draft = Draft(state)
        draft.nodes[node], draft.pairs[node] = me._replace(owes=False), pair
        draft.left, draft.rounds = left, rounds
        lost = tuple(conn.token for conn in state.conns if not conn.held[node])
        lives = (state.nodes[0].incarnation, state.nodes[1].incarnation)
        draft.conns[token] = Conn(token, node, decision.epoch, decision.attempt, lives, lost=lost)
        draft.send(node, token, "NAME")
        yield self._step(state, draft, f"{NAMES[node]} {what}", token, decision)

    def _address(self, state: State, node: int, left: Left, rounds: int, what: str) -> Step:
        me, draft = state.nodes[node], Draft(state)
        token = (me.life * ATTEMPTS + ADDRESSED + me.addressed + 1) * 2 + node
        draft.nodes[node] = me._replace(addressed=me.addressed + 1)
        draft.left, draft.rounds = left._replace(addresses=left.addresses - 1), rounds
        lives = (state.nodes[0].incarnation, state.nodes[1].incarnation)
        draft.conns[token] = Conn(token, node, 0, 0, lives)
        draft.send(node, token, "NAME")
        return self._step(state, draft, f"{NAMES[node]} {what}", token)

    def _deliver(self, state: State, conn: Conn, node: int) -> Step:
        message = conn.inbox[node][0]
        draft, token, pair = received(state, conn, node), conn.token, state.nodes[node].pair
        outcome: Commit | UseLink | Admit | Decline | None = None
        if message == "NAME":
            draft.send(node, token, "CHALLENGE")
        elif message == "CHALLENGE" and not conn.attempt:
            draft.send(node, token, "REPLY")
        elif message == "CHALLENGE":
            pair, outcome = self.rule.challenged(pair, token, conn.lives[1 - node], 0.0)
            if isinstance(outcome, Commit):
                draft.send(node, token, "REPLY")
            else:
                draft.close(node, token)
        elif message == "ACK":
            pair, outcome = self.rule.acknowledged(pair, candidate_at(conn, node))
            for loser in outcome.close if isinstance(outcome, Admit) else (token,):
                draft.close(node, loser)
            if (
                self.ends_own
                and isinstance(outcome, Admit)
                and pair.own
                and pair.own.committed_at is not None
            ):
                draft.close(node, pair.own.token)
                pair = self.rule.ended(pair, pair.own.token)
        else:  # REJECT or FIN
            if message == "REJECT DUPLICATE" and not conn.attempt:
                draft.nodes[node] = draft.nodes[node]._replace(owes=True)
            pair = self.rule.ended(pair, token)
            draft.close(node, token)
        draft.pairs[node] = pair
        return self._step(state, draft, f"{NAMES[node]} receives {message}", token, outcome)

    def _proved(self, state: State, conn: Conn, node: int) -> Iterator[Step]:
        what, pair, candidate = (
            f"{NAMES[node]} receives REPLY",
            state.nodes[node].pair,
            candidate_at(conn, node),
        )
        in_time = self.rule.proved(pair, candidate, 0.0)
        yield self._decided(state, conn, node, in_time, what)
        late, left = self.rule.proved(pair, candidate, COMMIT_TIMEOUT), state.left
        price = any(pair.own and c.token == pair.own.token and not c.dead for c in state.conns)
        if late != in_time and left.expiries >= price:
            state = state._replace(left=left._replace(expiries=left.expiries - price))
            yield self._decided(state, conn, node, late, f"{what}, 3 s after its own REPLY")

    def _decided(self, state: State, conn: Conn, node: int, by: tuple[Pair, object], what: str) -> Step:
        pair, decision = by
        draft, token = received(state, conn, node), conn.token
        draft.conns[token] = draft.conns[token]._replace(lost=())
        draft.pairs[node] = pair
        if isinstance(decision, Admit):
            draft.send(node, token, "ACK")
            for loser in decision.close:
                draft.close(node, loser)
        elif isinstance(decision, Decline):  # no peer here is a classic one, so there is no bare Probe
            draft.send(node, token, f"REJECT {decision.code.name}")
            draft.close(node, token)
            link = pair.link.token if pair.link is not None else None
            # With a dial by address there may be a link and an own dial: ask which of them refused.
            alone = self.rule.proved(state.nodes[node].pair._replace(own=None), candidate_at(conn, node), 0.0)
            by_link = isinstance(alone[1], Decline) and decision.code is RejectCode.DUPLICATE
            if by_link and link in conn.lost:
                draft.broken = ("I4", f"refused for link {called(link)}, which its dialer had lost before")
            if decision.probe and link in draft.conns and draft.conns[link].dead and state.rounds:
                draft.conns[link] = draft.conns[link]._replace(probed=True)
        return self._step(state, draft, what, token, decision)

    def _notice(self, state: State, conn: Conn, node: int) -> Step:
        draft = Draft(state)
        draft.drop(node, conn.token)
        draft.pairs[node] = self.rule.ended(state.nodes[node].pair, conn.token)
        how = "probes, and finds dead," if conn.probed else "notices the death of"
        return self._step(state, draft, f"{NAMES[node]} {how}", conn.token)

    def _cut(self, state: State, conn: Conn) -> Step:
        draft = Draft(state)
        draft.conns[conn.token] = conn._replace(dead=True, inbox=((), ()))
        draft.left = state.left._replace(cuts=state.left.cuts - 1)
        return self._step(state, draft, "cut", conn.token)

    def _restart(self, state: State, node: int, direction: int) -> Step:
        draft, life = Draft(state), state.nodes[node].life + 1
        draft.nodes[node], draft.pairs[node] = Node(FIRST_LIFE + direction * life, life), Pair()
        for conn in state.conns:
            draft.conns[conn.token] = conn._replace(dead=True)
            if conn.held[node]:
                draft.drop(node, conn.token)
        draft.left = state.left._replace(restarts=state.left.restarts - 1)
        how = "" if direction > 0 else " with its clock gone back"
        return self._step(state, draft, f"{NAMES[node]} restarts{how}")

    def _step(
        self, before: State, draft: Draft, what: str, token: int | None = None, outcome: object = None
    ) -> Step:
        after, broken = draft.freeze(), draft.broken
        for node in (0, 1):
            old, new = before.nodes[node].pair.link, after.nodes[node].pair.link
            if broken or old is None or new == old:
                continue
            if new is not None and not self.clock_back and (new.incarnation or 0) < (old.incarnation or 0):
                broken = ("I2", f"{NAMES[node]} replaces its link by one to an older life of the peer")
            elif self._faulted(after) or self._may_go(after, node, old, new):
                continue
            else:
                broken = ("I3", f"{NAMES[node]} {'loses' if new is None else 'replaces'} a healthy link")
        return Step(what, token, outcome, after, broken)

    def _may_go(self, after: State, node: int, old: Candidate, new: Candidate | None) -> bool:
        """Whether this is how the link of a dial by address may be replaced or lost without faults."""
        if old.attempt or after.left.addresses == self.start.left.addresses:
            return False
        theirs = after.nodes[1 - node].pair.link
        return (
            new.rank > old.rank
            if new is not None
            else theirs is not None
            and any(conn.token == theirs.token and "ACK" in conn.inbox[node] for conn in after.conns)
        )


def explore(world: World, *, max_states: int | None = None) -> Result:
    """Visit every state that `world` can come to, nearest first, until one breaks an invariant."""
    began = time.monotonic()
    came_from: dict[State, State | None] = {world.start: None}
    waiting = deque([world.start])
    while waiting and (max_states is None or len(came_from) < max_states):
        state = waiting.popleft()
        for step in world.steps(state):
            broken = step.broken
            if broken is None and step.state not in came_from:
                came_from[step.state] = state
                waiting.append(step.state)
                broken = world.fault(step.state)
            if broken is not None:
                found = Violation(*broken, _trace(world, came_from, state, step))
                return Result(len(came_from), time.monotonic() - began, False, found)
    return Result(len(came_from), time.monotonic() - began, not waiting, None)


def _trace(world: World, came_from: dict[State, State | None], state: State, last: Step) -> tuple[str, ...]:
    """The steps that led to `state`, and `last`."""
    path = [last]
    while before := came_from[state]:
        path.append(next(step for step in world.steps(before) if step.state == state))
        state = before
    return tuple(f"{i:3}. {_told(step)}" for i, step in enumerate(reversed(path), 1))


def _told(step: Step) -> str:
    what = step.what if step.token is None else f"{step.what} {called(step.token)}"
    if isinstance(step.outcome, Admit):
        what = ", close ".join([f"{what}: Admit", *map(called, step.outcome.close)])
    elif step.outcome is not None:
        what += f": {step.outcome}"
    sides = []
    for name, node in zip(NAMES, step.state.nodes, strict=True):
        link, own = node.pair.link, node.pair.own
        holds = [f"link {called(link.token)}"] if link else []
        if own:
            holds.append(f"{'own' if own.committed_at is None else 'committed'} {called(own.token)}")
        sides.append(f"{name} {' and '.join(holds) or '-'}")
    return f"{what:<90} | {' | '.join(sides)}"


@click.command()
@click.option("--rule", "name", type=click.Choice(list(RULES)), default="production", show_default=True)
@click.option("--dials", type=click.IntRange(1, ATTEMPTS // 2), default=4, show_default=True)
@click.option("--restarts", type=click.IntRange(0), default=0, help="Of either node, each into a newer life.")
@click.option("--cuts", type=click.IntRange(0), default=0, help="Of any connection.")
@click.option("--expiries", type=click.IntRange(0), default=0, help="A living dial outlasts its 3 s.")
@click.option(
    "--address-dials", type=click.IntRange(0, 20), default=0, help="By address; not counted in --dials."
)
@click.option("--ends-own", is_flag=True, help="Registering a dial by address ends a COMMITTED own dial.")
@click.option("--clock-back", is_flag=True, help="A restart may also come to an older incarnation.")
@click.option("--max-states", type=click.IntRange(1), help="Stop after so many states (exit status 2).")
def main(
    name: str,
    dials: int,
    restarts: int,
    cuts: int,
    expiries: int,
    address_dials: int,
    ends_own: bool,
    clock_back: bool,
    max_states: int | None,
) -> None:
    """Explore every interleaving of two nodes within the bounds given; exit status 1 on a violation."""
    left = Left(dials, restarts, cuts, expiries, address_dials)
    world = World(RULES[name], left, clock_back=clock_back, ends_own=ends_own)
    result = explore(world, max_states=max_states)
    click.echo(f"{name}: {result.states:,} states in {result.seconds:.1f} s")
    if result.violation is not None:
        invariant, how, trace = result.violation
        click.echo("\n".join([*trace, f"VIOLATION of {invariant}: {how}"]))
        raise SystemExit(1)
    if not result.complete:
        click.echo(f"STOPPED EARLY at --max-states {max_states}: no violation so far, nothing is proved")
        raise SystemExit(2)
    click.echo("no violation in any reachable state")


if __name__ == "__main__":
    main()
