"""Every branch of the pairing rule, each by the situation that asks for it.

Decisions without fields are equal to one another as tuples, so they are told apart by type.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snowgreen.protocol.messages import RejectCode
from snowgreen.protocol.pairing import (
    COMMIT_TIMEOUT,
    MAX_COUNTER,
    Admit,
    AwaitDial,
    Candidate,
    Commit,
    Decline,
    Dial,
    Own,
    Pair,
    Probe,
    UseLink,
    acknowledged,
    challenged,
    dial,
    ended,
    proved,
)

LIFE = 1000


def link(token: int = 1, **changes: Any) -> Candidate:
    """A bound connection, dialed by the smaller name."""
    return Candidate(token, LIFE, epoch=1, smaller_initiates=True, attempt=1)._replace(**changes)


def own(token: int = 2, **changes: Any) -> Own:
    """Our dial in progress, PRE, with our name the smaller."""
    return Own(token, epoch=1, smaller_initiates=True, attempt=1)._replace(**changes)


def committed(token: int = 2, **changes: Any) -> Own:
    """Our dial in progress, its REPLY sent at time 10 to the life LIFE."""
    return own(token, **{"incarnation": LIFE, "committed_at": 10.0, **changes})


class TestPair:
    def test_idle_is_without_link_and_dial(self) -> None:
        """Counters do not keep a pair from being idle; a link or a dial does."""
        assert Pair(epoch=4, attempt=7).idle
        assert not Pair(link=link()).idle
        assert not Pair(own=own()).idle


class TestRank:
    @pytest.mark.parametrize(
        ("lesser", "greater"),
        [
            (link(incarnation=1, epoch=9, attempt=9), link(incarnation=2, smaller_initiates=False)),
            (link(epoch=1, attempt=9), link(epoch=2, smaller_initiates=False)),
            (link(smaller_initiates=False, attempt=9), link(smaller_initiates=True)),
            (link(attempt=1), link(attempt=2)),
        ],
        ids=["incarnation", "epoch", "smaller name", "attempt"],
    )
    def test_compares_left_to_right(self, lesser: Candidate, greater: Candidate) -> None:
        """Each field outweighs all that stand right of it."""
        assert lesser.rank < greater.rank

    def test_leaves_the_token_out(self) -> None:
        """A token is local to one node, so it must not decide anything."""
        assert link(1).rank == link(2).rank

    def test_own_dial_ranks_as_the_connection_it_becomes(self) -> None:
        """The dialer weighs its dial by the same numbers as the acceptor weighs that connection."""
        mine = own(5, epoch=3, smaller_initiates=False, attempt=8)
        assert mine.against(LIFE) == Candidate(5, LIFE, 3, False, 8)


class TestDial:
    def test_counts_epoch_and_attempt_up(self) -> None:
        """A dial carries E + 1 and the next attempt; E itself moves only when a link is registered."""
        pair, decision = dial(Pair(epoch=4, attempt=7), 2, smaller=False)
        assert decision == Dial(epoch=5, attempt=8)
        assert pair == Pair(None, Own(2, 5, False, 8), epoch=4, attempt=8)

    def test_uses_a_registered_link(self) -> None:
        """With a link there is nothing to dial for."""
        before = Pair(link=link())
        pair, decision = dial(before, 2, smaller=True)
        assert isinstance(decision, UseLink)
        assert pair == before

    def test_waits_for_the_dial_in_progress(self) -> None:
        """There is one dial at a time."""
        before = Pair(own=own())
        pair, decision = dial(before, 3, smaller=True)
        assert isinstance(decision, AwaitDial)
        assert pair == before

    def test_counters_saturate(self) -> None:
        """Counters stop at what fits their field on the wire."""
        pair, decision = dial(Pair(epoch=MAX_COUNTER, attempt=MAX_COUNTER), 2, smaller=True)
        assert decision == Dial(MAX_COUNTER, MAX_COUNTER)
        assert pair.attempt == MAX_COUNTER


class TestChallenged:
    def test_commits(self) -> None:
        """From the REPLY on the dial is known to be COMMITTED, since when, and to which life."""
        pair, decision = challenged(Pair(own=own()), 2, LIFE, 10.0)
        assert isinstance(decision, Commit)
        assert pair == Pair(own=committed())

    def test_uses_the_link_that_came_meanwhile(self) -> None:
        """Where a link was registered meanwhile, the dial is given up without a proof sent."""
        pair, decision = challenged(Pair(link=link(), own=own()), 2, LIFE, 10.0)
        assert isinstance(decision, UseLink)
        assert pair == Pair(link=link())

    @pytest.mark.parametrize("before", [Pair(), Pair(own=own(3))], ids=["no dial", "another dial"])
    def test_declines_a_dial_that_is_no_longer_ours(self, before: Pair) -> None:
        """A CHALLENGE for a dial already given up commits nobody, least of all the dial in progress."""
        pair, decision = challenged(before, 2, LIFE, 10.0)
        assert decision == Decline(RejectCode.DUPLICATE)
        assert pair == before


class TestProved:
    def test_admits_where_there_is_nothing(self) -> None:
        """The first link is registered, and its epoch is the highest so far."""
        pair, decision = proved(Pair(attempt=3), link(epoch=6), 10.0)
        assert decision == Admit(close=())
        assert pair == Pair(link(epoch=6), None, epoch=6, attempt=3)

    def test_keeps_the_highest_epoch(self) -> None:
        """A link of a lower epoch (the peer restarted) does not take E back."""
        pair, _ = proved(Pair(epoch=6), link(epoch=1), 10.0)
        assert pair.epoch == 6

    def test_overrides_a_dial_that_has_not_committed(self) -> None:
        """A PRE dial gives way, whatever its rank."""
        pair, decision = proved(Pair(own=own()), link(smaller_initiates=False), 10.0)
        assert decision == Admit(close=(2,))
        assert pair.own is None

    def test_is_held_back_by_a_committed_dial_of_higher_rank(self) -> None:
        """Of two simultaneous dials the acceptor of the lesser refuses it."""
        before = Pair(own=committed())
        pair, decision = proved(before, link(smaller_initiates=False), 10.0)
        assert decision == Decline(RejectCode.DUPLICATE)
        assert pair == before

    def test_overrides_a_committed_dial_of_lower_rank(self) -> None:
        """Of two simultaneous dials the acceptor of the greater takes it, and closes its own."""
        pair, decision = proved(Pair(own=committed(smaller_initiates=False)), link(), 10.0)
        assert decision == Admit(close=(2,))
        assert pair == Pair(link(), epoch=1)

    def test_is_held_back_only_for_the_timeout(self) -> None:
        """Just before COMMIT_TIMEOUT a committed dial still counts, from then on it does not."""
        before, inbound = Pair(own=committed()), link(smaller_initiates=False)
        _, decision = proved(before, inbound, 10.0 + COMMIT_TIMEOUT - 0.001)
        assert isinstance(decision, Decline)
        _, decision = proved(before, inbound, 10.0 + COMMIT_TIMEOUT)
        assert decision == Admit(close=(2,))

    def test_timeout_can_be_chosen(self) -> None:
        """A node configured with another timeout is held back for that one."""
        _, decision = proved(Pair(own=committed()), link(smaller_initiates=False), 10.5, commit_timeout=0.5)
        assert isinstance(decision, Admit)

    @pytest.mark.parametrize("life", [LIFE - 1, LIFE + 1], ids=["older", "newer"])
    def test_is_not_held_back_by_a_dial_to_another_life(self, life: int) -> None:
        """A dial committed to one life of the peer says nothing about a link to another."""
        inbound = link(smaller_initiates=False, incarnation=life)
        _, decision = proved(Pair(own=committed()), inbound, 10.0)
        assert decision == Admit(close=(2,))

    @pytest.mark.parametrize(
        "newer",
        [link(3, epoch=2, smaller_initiates=False), link(3, incarnation=LIFE + 1), link(3, attempt=2)],
        ids=["epoch", "incarnation", "attempt"],
    )
    def test_replaces_a_link_of_lower_rank(self, newer: Candidate) -> None:
        """A redial after a loss, or by a restarted peer, replaces the half-open link here."""
        pair, decision = proved(Pair(link=link(1), epoch=1), newer, 10.0)
        assert decision == Admit(close=(1,))
        assert pair.link == newer

    def test_closes_the_dial_and_the_link_it_replaces(self) -> None:
        """Whatever is superseded is named, each by its token."""
        _, decision = proved(Pair(link=link(1), own=own(2)), link(3, epoch=2), 10.0)
        assert decision == Admit(close=(2, 1))

    @pytest.mark.parametrize(
        "lesser",
        [link(3), link(3, epoch=0), link(3, smaller_initiates=False, attempt=9)],
        ids=["equal", "epoch", "larger name"],
    )
    def test_declines_a_duplicate(self, lesser: Candidate) -> None:
        """Within one life of the peer, what does not outrank the link is a duplicate; no probe is due."""
        before = Pair(link=link())
        pair, decision = proved(before, lesser, 10.0)
        assert decision == Decline(RejectCode.DUPLICATE, probe=False)
        assert pair == before

    def test_declines_an_older_life_and_probes(self) -> None:
        """An older incarnation never replaces a newer one, but the link has to prove that it lives."""
        before = Pair(link=link())
        pair, decision = proved(before, link(3, incarnation=LIFE - 1, epoch=9), 10.0)
        assert decision == Decline(RejectCode.STALE_INCARNATION, probe=True)
        assert pair == before


class TestProvedClassic:
    """A classic peer has no incarnation and no counters."""

    def classic(self, *, smaller: bool) -> Candidate:
        return Candidate(3, None, 0, smaller, 0)

    def test_probes_the_link_there_is(self) -> None:
        """Nothing in the newcomer tells a redial from a duplicate, so the link is asked first."""
        before = Pair(link=link(incarnation=None))
        pair, decision = proved(before, self.classic(smaller=True), 10.0)
        assert isinstance(decision, Probe)
        assert pair == before

    def test_is_admitted_after_the_probe_failed(self) -> None:
        """Once the silent link is ended, asking again admits the newcomer."""
        pair, decision = proved(ended(Pair(link=link(1)), 1), self.classic(smaller=False), 10.0)
        assert isinstance(decision, Admit)
        assert pair.link == self.classic(smaller=False)

    def test_simultaneous_dials_go_to_the_smaller_name(self) -> None:
        """A committed dial refuses the larger name's, and gives way to the smaller name's."""
        _, decision = proved(Pair(own=committed()), self.classic(smaller=False), 10.0)
        assert decision == Decline(RejectCode.DUPLICATE)
        _, decision = proved(Pair(own=committed(smaller_initiates=False)), self.classic(smaller=True), 10.0)
        assert decision == Admit(close=(2,))

    def test_is_held_back_only_for_the_timeout(self) -> None:
        """A committed dial that comes to nothing cannot keep a classic peer out."""
        _, decision = proved(Pair(own=committed()), self.classic(smaller=False), 10.0 + COMMIT_TIMEOUT)
        assert decision == Admit(close=(2,))


class TestAcknowledged:
    def test_registers_our_dial(self) -> None:
        """The dial in progress becomes the link; there is nothing to close."""
        pair, decision = acknowledged(Pair(own=committed(), attempt=1), link(2, epoch=3))
        assert decision == Admit(close=())
        assert pair == Pair(link(2, epoch=3), None, epoch=3, attempt=1)

    def test_replaces_a_link_of_lower_rank(self) -> None:
        """The peer has admitted ours over that link, so both sides choose alike."""
        pair, decision = acknowledged(Pair(link=link(1), own=committed()), link(2, attempt=2))
        assert decision == Admit(close=(1,))
        assert pair.link == link(2, attempt=2)

    @pytest.mark.parametrize("changes", [{}, {"epoch": 0}, {"incarnation": LIFE - 1}])
    def test_loses_to_a_link_it_does_not_outrank(self, changes: dict[str, int]) -> None:
        """Our dial is dropped and the link stays."""
        before = Pair(link=link(1), own=committed())
        pair, decision = acknowledged(before, link(2, **changes))
        assert decision == Decline(RejectCode.DUPLICATE)
        assert pair == Pair(link=link(1))

    def test_leaves_a_later_dial_in_progress(self) -> None:
        """An ACK for one connection does not touch the dial on another."""
        pair, decision = acknowledged(Pair(own=own(3)), link(2))
        assert decision == Admit(close=())
        assert pair.own == own(3)

    def test_classic_goes_to_the_smaller_name(self) -> None:
        """Without counters our dial replaces a link only if our name is the smaller."""
        before = Pair(link=link(1, incarnation=None), own=own())
        pair, decision = acknowledged(before, link(2, incarnation=None, smaller_initiates=True))
        assert decision == Admit(close=(1,))
        pair, decision = acknowledged(before, link(2, incarnation=None, smaller_initiates=False))
        assert decision == Decline(RejectCode.DUPLICATE)
        assert pair == before._replace(own=None)

    def test_classic_registers_where_there_is_no_link(self) -> None:
        """Which name is the smaller matters only between two."""
        _, decision = acknowledged(Pair(own=own()), link(2, incarnation=None, smaller_initiates=False))
        assert decision == Admit(close=())


class TestEnded:
    BOTH = Pair(link(1), own(2), epoch=5, attempt=6)

    def test_takes_the_link_by_identity(self) -> None:
        """The end of the link leaves the dial and the counters."""
        assert ended(self.BOTH, 1) == self.BOTH._replace(link=None)

    def test_takes_the_dial_by_identity(self) -> None:
        """The end of the dial leaves the link and the counters."""
        assert ended(self.BOTH, 2) == self.BOTH._replace(own=None)

    def test_of_a_connection_that_lost_takes_nothing(self) -> None:
        """A loser's epitaph must not bury the winner."""
        assert ended(self.BOTH, 3) == self.BOTH

    def test_twice_is_once(self) -> None:
        """The shell may learn of an end in two ways."""
        once = ended(self.BOTH, 1)
        assert ended(once, 1) == once


counters = st.integers(1, 3) | st.integers(1, MAX_COUNTER)
lives = st.integers(1, 3) | st.integers(1, 2**64 - 1)
candidates = st.builds(Candidate, st.integers(1, 9), lives, counters, st.booleans(), counters)


@given(candidates, candidates, candidates)
def test_rank_is_a_total_order(a: Candidate, b: Candidate, c: Candidate) -> None:
    """Of two ranks exactly one of less, equal, greater holds, equal means alike but for the token, and the order is transitive."""
    assert (a.rank < b.rank) + (a.rank == b.rank) + (a.rank > b.rank) == 1
    assert (a.rank == b.rank) == (a[1:] == b[1:])
    low, middle, high = sorted((a, b, c), key=lambda candidate: candidate.rank)
    assert low.rank <= middle.rank <= high.rank
    assert low.rank <= high.rank


@given(a_life=lives, b_life=lives, a_epoch=counters, b_epoch=counters, a_attempt=counters, b_attempt=counters)
def test_simultaneous_dials_are_decided_alike(
    a_life: int, b_life: int, a_epoch: int, b_epoch: int, a_attempt: int, b_attempt: int
) -> None:
    """Of two committed dials that cross, one acceptor admits and closes its own, and the other declines."""
    a_own = Own(1, a_epoch, True, a_attempt, b_life, 0.0)
    b_own = Own(2, b_epoch, False, b_attempt, a_life, 0.0)
    at_a = proved(Pair(own=a_own), Candidate(2, b_life, b_epoch, False, b_attempt), 0.0)
    at_b = proved(Pair(own=b_own), Candidate(1, a_life, a_epoch, True, a_attempt), 0.0)
    kinds = {type(at_a[1]), type(at_b[1])}
    assert kinds == {Admit, Decline}
    survivor = 2 if isinstance(at_a[1], Admit) else 1
    for pair, _ in (at_a, at_b):
        held = pair.link.token if pair.link else pair.own.token if pair.own else None
        assert held == survivor


@given(candidates, candidates, lives, lives)
def test_two_connections_are_ranked_alike_from_both_ends(
    first: Candidate, second: Candidate, a_life: int, b_life: int
) -> None:
    """Between the same two lives, which connection replaces which does not depend on the end that decides."""
    verdicts = []
    for life in (a_life, b_life):
        held, newcomer = first._replace(token=1, incarnation=life), second._replace(token=2, incarnation=life)
        accepting = proved(Pair(link=held), newcomer, 0.0)[1]
        dialing = acknowledged(Pair(link=held), newcomer)[1]
        assert type(accepting) is type(dialing)
        verdicts.append(type(accepting))
    assert verdicts[0] is verdicts[1]
