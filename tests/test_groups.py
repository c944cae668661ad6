"""Who has joined which topic: compared with a list of pairs, within its bound, and nothing kept of who is gone."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from snowgreen.protocol import groups
from snowgreen.protocol.frames import BadFrame
from snowgreen.protocol.groups import MAX_JOINED, Membership

members = st.sampled_from("abc")
topics = st.lists(st.sampled_from(["x", "y", "z", "ž", "x y", "long" * 60, "1", "2"]), max_size=10)


class Joining(RuleBasedStateMachine):
    """Members that come, join, leave and go, with a bound so low that they meet it."""

    @initialize()
    def begin(self) -> None:
        """Nobody has joined anything."""
        self.kept, groups.MAX_JOINED = MAX_JOINED, 4
        self.membership: Membership[str] = Membership()
        self.pairs: list[tuple[str, str]] = []

    def teardown(self) -> None:
        """The bound is the real one again."""
        groups.MAX_JOINED = MAX_JOINED

    @rule(member=members, wanted=topics)
    def join(self, member: str, wanted: list[str]) -> None:
        """What is new is joined, in order, until it is too much."""
        new = [topic for topic in dict.fromkeys(wanted) if (member, topic) not in self.pairs]
        room = 4 - sum(1 for other, _ in self.pairs if other == member)
        if len(new) > room:
            with pytest.raises(BadFrame, match="more than 4 topics"):
                self.membership.join(member, wanted)
            self.membership.gone(member)  # its link ends
            self.pairs = [pair for pair in self.pairs if pair[0] != member]
        else:
            self.membership.join(member, wanted)
            self.pairs += [(member, topic) for topic in new]

    @rule(member=members, unwanted=topics)
    def leave(self, member: str, unwanted: list[str]) -> None:
        """What is not joined can be left as well."""
        self.membership.leave(member, unwanted)
        self.pairs = [pair for pair in self.pairs if not (pair[0] == member and pair[1] in unwanted)]

    @rule(member=members)
    def gone(self, member: str) -> None:
        """Everything that it has joined goes with it."""
        self.membership.gone(member)
        self.pairs = [pair for pair in self.pairs if pair[0] != member]

    @invariant()
    def the_same(self) -> None:
        """The members of every topic, in the order in which they came, and not a trace of anything else."""
        if not hasattr(self, "pairs"):
            return
        for topic in ["x", "y", "z", "ž", "x y", "long" * 60, "1", "2", "never"]:
            assert self.membership.members(topic) == [m for m, joined in self.pairs if joined == topic]
        assert set(self.membership._members) == {topic for _, topic in self.pairs}
        held = {member: topics for member, topics in self.membership._topics.items() if topics}
        assert held == {
            member: {topic for other, topic in self.pairs if other == member}
            for member in {member for member, _ in self.pairs}
        }


TestMembership = Joining.TestCase
TestMembership.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def named(count: int) -> list[str]:
    """So many topics."""
    return [f"topic {number}" for number in range(count)]


def test_a_member_may_join_so_many_topics() -> None:
    """4,096 are allowed, also joined again; one more is not, until one has been left. Others are not affected."""
    membership: Membership[str] = Membership()
    membership.join("a", named(MAX_JOINED))
    membership.join("a", named(MAX_JOINED))
    with pytest.raises(BadFrame, match=f"more than {MAX_JOINED} topics joined"):
        membership.join("a", ["another"])
    assert membership.members("another") == []
    membership.join("b", ["another"])
    membership.leave("a", ["topic 7", "never joined"])
    membership.join("a", ["another"])
    assert membership.members("another") == ["b", "a"]
    with pytest.raises(BadFrame):
        membership.join("a", ["topic 7"])


def test_who_is_gone_leaves_nothing() -> None:
    """gone() removes one member from all its topics, those it shares as well, and forgets it entirely."""
    membership: Membership[str] = Membership()
    membership.join("a", named(1000))
    membership.join("b", named(2))
    membership.gone("a")
    assert membership.members("topic 0") == ["b"]
    assert set(membership._members) == {"topic 0", "topic 1"}
    membership.gone("b")
    membership.gone("b")
    membership.join("c", [])
    membership.gone("c")
    membership.join("d", ["x", "y"])
    membership.leave("d", ["y", "x"])  # who has left everything is forgotten as well
    membership.leave("d", ["x"])
    assert (membership._members, membership._topics) == ({}, {})


def test_the_list_of_members_is_the_callers() -> None:
    """Members may come and go while somebody walks over the list that he was given."""
    membership: Membership[str] = Membership()
    membership.join("a", ["x"])
    found = membership.members("x")
    membership.join("b", ["x"])
    membership.gone("a")
    assert found == ["a"]


def test_to_leave_and_join_again_is_to_come_last() -> None:
    """The order is that of the present stay, not of the first one."""
    membership: Membership[str] = Membership()
    for member in "abc":
        membership.join(member, ["x"])
    membership.leave("a", ["x"])
    membership.join("a", ["x"])
    membership.join("b", ["x"])
    assert membership.members("x") == ["b", "c", "a"]
