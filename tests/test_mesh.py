"""Whom a mesh dials: every rule by itself, and the bounds whatever anybody says. The clock is a number."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol import mail
from snowgreen.protocol.mesh import STABLE, Dial, Mesh, Rules, dials_only, is_local, special

OWN = "me@192.0.2.1:9000"
AFAR = "192.0.2.9"
HERE = "127.0.0.1"
RULES = Rules(known=8, dials=3, base=1.0, ceiling=16.0, patience=100.0)


def mesh(
    rules: Rules = RULES,
    *,
    chance: float = 0.5,
    allowed: Callable[[str], bool] = lambda _: True,
    **changes: Any,
) -> Mesh:
    return Mesh(OWN, rules._replace(**changes), lambda: chance, allowed)


def name(number: int, host: str = "198.51.100.7") -> str:
    return f"n{number}@{host}:9000"


def names(count: int, first: int = 0) -> list[str]:
    return [name(number) for number in range(first, first + count)]


def dialed(account: Mesh, now: float) -> list[str]:
    return [dial.name.text for dial in account.due(now).dials]


def fail(account: Mesh, text: str, now: float, *, final: bool = False) -> None:
    account.failed(text, now, final=final)
    account.over()


# What is heard.


def test_what_is_new_is_dialed_once() -> None:
    """New names are dialed at once; heard again, while known in whatever way, they are nothing new."""
    account = mesh()
    heard = account.heard([name(1), name(2), name(1)], from_host=AFAR, now=0.0)
    assert heard.new == [name(1), name(2)]
    assert not heard.refused
    assert dialed(account, 0.0) == [name(1), name(2)]
    account.up(name(1), host="198.51.100.7", now=1.0)
    account.over()
    assert not account.heard([name(1), name(2)], from_host=AFAR, now=2.0).new
    assert account.due(2.0).dials == []
    assert (account.known, account.in_flight) == (2, 1)


def test_our_own_name_is_passed_over() -> None:
    """Every peer's list holds us sooner or later: it is neither dialed nor refused."""
    account = mesh()
    heard = account.heard([OWN], from_host=AFAR, now=0.0)
    assert (heard.new, heard.refused.total(), account.known) == ([], 0, 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "no node name"),
        ("", "no node name"),
        ("a@h:99999", "no node name"),
        ("a@0x7f.1:9000", "no node name"),
        ("a@[fe80::1%25eth0]:9000", "no node name"),
        ("a@198.51.100.7:0", "port 0"),
        ("a@127.0.0.1:9000", "loopback"),
        ("a@127.9.9.9:9000", "loopback"),
        ("a@[::1]:9000", "loopback"),
        ("a@[::ffff:127.0.0.1]:9000", "loopback"),
        ("a@[64:ff9b::7f00:1]:9000", "loopback"),
        ("a@[2002:7f00:1::]:9000", "loopback"),
        ("a@[::127.0.0.1]:9000", "loopback"),
        ("a@localhost:9000", "loopback"),
        ("a@LOCALHOST:9000", "loopback"),
        ("a@x.localhost:9000", "loopback"),
        ("a@169.254.169.254:80", "link-local"),
        ("a@[fe80::1]:9000", "link-local"),
        ("a@[::ffff:169.254.169.254]:80", "link-local"),
        ("a@0.0.0.0:9000", "unspecified"),
        ("a@0.1.2.3:9000", "unspecified"),
        ("a@[::]:9000", "unspecified"),
        ("a@224.0.0.1:9000", "multicast"),
        ("a@[ff02::1]:9000", "multicast"),
        ("a@255.255.255.255:9000", "broadcast"),
    ],
)
def test_what_a_peer_elsewhere_cannot_name(text: str, why: str) -> None:
    """Texts that are no names, nodes that cannot be dialed, and addresses that mean something else here."""
    account = mesh()
    heard = account.heard([text, name(1)], from_host=AFAR, now=0.0)
    assert heard.new == [name(1)]
    assert [why in problem for problem in heard.refused] == [True]
    assert why in heard.problem
    assert dialed(account, 0.0) == [name(1)]


@pytest.mark.parametrize(
    "host", ["198.51.100.7", "10.0.0.1", "fd00::1", "2001:db8::1", "node-7.example", "64:ff9b::a00:1"]
)
def test_ordinary_addresses_are_not_special(host: str) -> None:
    """Private networks, NAT64 and host names are dialed; a name's addresses are judged once they are known."""
    assert special(host) is None


@pytest.mark.parametrize("sender", ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"])
def test_a_peer_on_this_machine_may_name_local_nodes(sender: str) -> None:
    """Nodes of one machine mesh over loopback: to them it means the same."""
    account = mesh()
    told = ["a@127.0.0.1:9001", "a@localhost:9002", "a@[::1]:9003"]
    heard = account.heard(told, from_host=sender, now=0.0)
    assert heard.new == told
    assert all(dial.anywhere for dial in account.due(0.0).dials)


@pytest.mark.parametrize(
    "sender", ["192.0.2.9", "::ffff:192.0.2.9", "2002:7f00:1::", "64:ff9b::7f00:1", "unknown"]
)
def test_who_is_not_on_this_machine(sender: str) -> None:
    """A source that only contains a loopback address, or is none, is elsewhere."""
    assert not is_local(sender)


def test_host_names_told_of_from_elsewhere_are_vetted() -> None:
    """Whether the addresses of a host name must be judged before they are dialed goes with the dial."""
    account = mesh()
    account.heard(["a@h.example:1"], from_host=AFAR, now=0.0)
    account.heard(["b@h.example:1"], from_host=HERE, now=0.0)
    assert [(d.name.text, d.anywhere) for d in account.due(0.0).dials] == [
        ("a@h.example:1", False),
        ("b@h.example:1", True),
    ]


def test_a_known_name_is_trusted_further_once_a_local_node_tells_of_it() -> None:
    """Who told first does not matter: one sender on this machine is enough."""
    account = mesh()
    account.heard(["a@h.example:1"], from_host=AFAR, now=0.0)
    account.heard(["a@h.example:1"], from_host=HERE, now=0.0)
    assert [dial.anywhere for dial in account.due(0.0).dials] == [True]


def test_refusals_are_counted_by_reason_and_can_be_logged() -> None:
    """What is said of a hostile list holds numbers, our own words, and one example with its bytes escaped."""
    account = mesh()
    heard = account.heard(["a\x1b[31m\n" * 99, "b", "c@127.0.0.1:1", name(1)], from_host=AFAR, now=0.0)
    assert heard.refused == {"no node name": 2, "loopback address told of from elsewhere": 1}
    assert heard.problem.startswith(
        "2 × no node name, 1 × loopback address told of from elsewhere; the first was 'a\\x1b[31m\\na"
    )
    assert heard.problem.isprintable()
    assert len(heard.problem) < 200


def test_a_sender_may_be_entitled_to_some_names_only() -> None:
    """A classic peer's list counts for the names that may be classic peers."""
    account = mesh()
    heard = account.heard(names(3), from_host=AFAR, now=0.0, entitled=lambda text: text == name(1))
    assert heard.new == [name(1)]
    assert heard.refused == {"name that a classic peer cannot speak of": 2}


def test_a_node_that_was_left_is_not_dialed() -> None:
    """What is not allowed is neither taken in nor, when that changes later, dialed, nor brought back by a loss."""
    left: set[str] = {name(1)}
    account = mesh(allowed=lambda text: text not in left)
    heard = account.heard(names(4), from_host=AFAR, now=0.0)
    assert heard.new == [name(0), name(2), name(3)]
    assert not heard.refused
    left |= {name(0), name(3)}
    account.up(name(3), host=AFAR, now=0.0)
    account.down(name(3), 50.0, lost=True)
    assert dialed(account, 99.0) == [name(2)]
    assert account.known == 1
    left.clear()
    assert account.heard(names(4), from_host=AFAR, now=1.0).new == [name(0), name(1), name(3)]


# How many are known.


def test_newcomers_beyond_the_cap_are_refused() -> None:
    """A list of 256 fills the account and no more; the rest is counted as refused."""
    account = mesh()
    heard = account.heard(names(256), from_host=AFAR, now=0.0)
    assert len(heard.new) == account.known == 8
    assert heard.refused == {"name beyond the 8 that are remembered": 248}


def test_who_failed_most_makes_room_for_a_newcomer() -> None:
    """Of those that wait the one with the most failures goes first; those not dialed yet, dialed or linked stay."""
    account = mesh(known=4, dials=2)
    account.heard(names(4), from_host=AFAR, now=0.0)
    for text in dialed(account, 0.0):
        fail(account, text, 0.0)
    assert dialed(account, 10.0) == names(2, 2)
    fail(account, name(2), 10.0)
    assert dialed(account, 20.0) == [name(0)]
    fail(account, name(0), 20.0)  # for the second time
    gone = []
    for number in (10, 11, 12):
        known = set(account._nodes)
        assert account.heard([name(number)], from_host=AFAR, now=20.0).new == [name(number)]
        gone += known - set(account._nodes)
    assert gone == names(3)  # of equals the one that failed longest ago
    heard = account.heard([name(13)], from_host=AFAR, now=20.0)  # n3 is being dialed, the others had no turn
    assert (heard.new, heard.refused.total(), account.known) == ([], 1, 4)


def test_links_count_and_are_never_forgotten() -> None:
    """Links are limited elsewhere: they may exceed the cap, and leave no room for what is only heard of."""
    account = mesh(known=4, dials=1)
    account.heard(names(4, 50), from_host=AFAR, now=0.0)
    assert dialed(account, 0.0) == [name(50)]
    for number in range(6):
        account.up(name(number), host="198.51.100.7", now=0.0)
        assert account.known == max(4, number + 2)  # those that wait make room, the one that is dialed stays
    assert not account.heard(names(1, 60), from_host=AFAR, now=0.0).new
    fail(account, name(50), 0.0)  # and is now one too many
    assert account.known == 6
    account.down(name(0), 1.0, lost=True)
    assert account.known == 5
    for text in names(6):
        account.down(text, 1.0, lost=True)
    assert account.known == 4


# Dialing.


def test_no_more_dials_at_once_than_the_rules_allow() -> None:
    """The places are given out, and the next name waits until one is given back."""
    account = mesh()
    account.heard(names(5), from_host=AFAR, now=0.0)
    assert dialed(account, 0.0) == names(3)
    assert account.due(5.0) == ([], None)
    account.up(name(0), host=AFAR, now=5.0)
    account.over()
    assert dialed(account, 5.0) == [name(3)]


def test_a_failed_dial_keeps_its_place_for_a_while() -> None:
    """Addresses that refuse at once cannot be dialed faster than the places allow, each once in redial_base."""
    account = mesh(known=1000)
    account.heard(names(256), from_host=AFAR, now=0.0)
    count, now = 0, 0.0
    while now < 20.0:
        due = account.due(now)
        for dial in due.dials:
            fail(account, dial.name.text, now)
        count += len(due.dials)
        assert due.again is None or due.again > now
        now = now + 0.01 if due.again is None else due.again
    assert 55 <= count <= 3 * 21


def test_backoff_with_jitter_until_patience_ends() -> None:
    """Each failure doubles the bound of the next delay up to the ceiling; after the patience it is forgotten."""
    account = mesh(chance=1.0)
    account.heard(names(1), from_host=AFAR, now=7.0)
    now, waits = 7.0, []
    while account.known:
        assert dialed(account, now) == names(1)
        fail(account, name(0), now)
        again = account.due(now).again
        if again is not None:
            waits.append(again - now)
            now = again
    assert waits == [1, 2, 4, 8, 16, 16, 16, 16, 16]
    assert 7 + 100 - 16 <= now < 7 + 100


def test_a_final_failure_is_the_last() -> None:
    """Where another dial would fail in the same way the name is forgotten at once."""
    account = mesh()
    account.heard(names(1), from_host=AFAR, now=0.0)
    dialed(account, 0.0)
    fail(account, name(0), 0.0, final=True)
    assert account.known == 0
    assert account.due(1000.0) == ([], None)


def test_a_lost_peer_is_dialed_again_and_one_that_left_is_not() -> None:
    """A loss starts the patience anew; a goodbye ends the interest: who said it comes back by itself."""
    account = mesh()
    for text in names(2):
        account.up(text, host="198.51.100.7", now=0.0)
    account.down(name(0), 500.0, lost=False)
    account.down(name(1), 500.0, lost=True)
    due = account.due(500.0)
    assert due == ([], 500.5)
    assert dialed(account, 500.5) == [name(1)]
    fail(account, name(1), 590.0)
    assert account.known == 1
    assert dialed(account, 599.0) == [name(1)]
    fail(account, name(1), 600.0)
    assert account.known == 0


def test_a_link_that_flaps_is_backed_off_from() -> None:
    """Links that are lost within seconds count as failures, and one that stood starts the backoff anew."""
    account = mesh(chance=1.0)
    now, waits = 0.0, []
    for lived in (1.0, 1.0, 1.0, STABLE, 1.0):
        account.up(name(0), host="198.51.100.7", now=now)
        now += lived
        account.down(name(0), now, lost=True)
        waits.append(account.due(now).again - now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 1.0]


def test_a_peer_that_dialed_in_is_judged_by_its_own_name() -> None:
    """A peer elsewhere that calls itself by a loopback address, or cannot be dialed, is not dialed after a loss."""
    account = mesh()
    for text in ("a@127.0.0.1:9000", "b@169.254.169.254:80", "c@198.51.100.7:0", "d@198.51.100.7:1"):
        account.up(text, host=AFAR, now=0.0)
        account.down(text, 1.0, lost=True)
    account.up("e@127.0.0.1:9000", host=HERE, now=0.0)
    account.down("e@127.0.0.1:9000", 1.0, lost=True)
    assert dialed(account, 9.0) == ["d@198.51.100.7:1", "e@127.0.0.1:9000"]


def test_what_comes_late_changes_nothing() -> None:
    """A dial that fails after the peer linked in, or was forgotten, and an end of what was not linked."""
    account = mesh()
    account.heard(names(2), from_host=AFAR, now=0.0)
    dialed(account, 0.0)
    account.up(name(0), host=AFAR, now=0.0)
    account.forget(name(1))
    for text in names(2):
        fail(account, text, 0.0, final=True)
    account.forget(name(1))
    account.down(name(1), 0.0, lost=True)
    account.down("x@h:1", 0.0, lost=True)
    assert (account.known, account.in_flight) == (1, 0)
    assert account.due(99.0) == ([], None)


def test_an_inbound_link_ends_the_waiting() -> None:
    """A peer that links in by itself is not dialed any more."""
    account = mesh()
    account.heard(names(1), from_host=AFAR, now=0.0)
    account.up(name(0), host=AFAR, now=0.0)
    assert account.due(9.0) == ([], None)


# What is told.


def test_whom_a_peer_is_told_of() -> None:
    """All that are linked, but the peer itself, this node, and who cannot be dialed."""
    told = mesh().to_send(name(1), [*names(5), OWN, "z@h:0", "y@[::1:0]:0"], to_host=AFAR)
    assert sorted(told) == [name(0), *names(3, 2)]


def test_a_peer_elsewhere_is_not_told_what_it_would_refuse() -> None:
    """Loopback and link-local names are for peers on this machine."""
    linked = [name(1), "a@127.0.0.1:1", "b@localhost:1", "c@169.254.1.1:1"]
    account = mesh()
    account.up("a@127.0.0.1:1", host=HERE, now=0.0)
    assert account.to_send("p@h:1", linked, to_host=AFAR) == [name(1)]
    assert sorted(account.to_send("p@h:1", linked, to_host=HERE)) == sorted(linked)


@settings(deadline=None)
@given(st.integers(0, 700), st.integers(0, 230), st.integers(0, 99))
def test_a_list_is_bounded_and_drawn_by_chance(count: int, padding: int, seed: int) -> None:
    """At most 256 names, different ones, in a frame of at most 64 KiB that the peer's decoder takes as it is."""
    host = ".".join("h" * min(50, padding + 1 - start) for start in range(0, padding + 1, 50))
    linked = [f"n{number}@{host}:9000" for number in range(count)]
    account = Mesh(OWN, RULES, random.Random(seed).random)
    chosen = account.to_send("p@h:1", linked, to_host=AFAR)
    assert len(chosen) == len(set(chosen)) == min(count, 256)
    assert set(chosen) <= set(linked)
    frame = mail.encode_peer_list(chosen)
    assert len(frame) <= 64 * 1024
    assert mail.decode_peer_list(frame[4:]) == chosen


def test_the_longest_names_stay_within_the_frame() -> None:
    """256 names of 255 bytes would be more than 64 KiB: then fewer are told."""
    host = ".".join(["h" * 63, "i" * 63, "j" * 63, "k" * 50])
    linked = [f"n{number:04}@{host}:9000" for number in range(300)]
    linked = [text[0] + "x" * (255 - len(text)) + text[1:] for text in linked]
    chosen = mesh().to_send("p@h:1", linked, to_host=AFAR)
    assert {len(text) for text in chosen} == {255}
    assert 250 < len(chosen) < 256
    assert len(mail.encode_peer_list(chosen)) <= 64 * 1024


def test_chance_spreads_what_a_hub_tells() -> None:
    """Of a thousand linked peers each has its turn, and with a draw of exactly 1 nothing breaks."""
    draws = iter(range(10**6))
    account = Mesh(OWN, RULES, lambda: next(draws) * 0.6180339887 % 1.0)
    linked = names(1000)
    told: set[str] = set()
    for _ in range(60):
        told.update(account.to_send("p@h:1", linked, to_host=AFAR))
    assert len(told) == 1000
    assert len(mesh(chance=1.0).to_send("p@h:1", linked, to_host=AFAR)) == 256


def test_who_only_dials() -> None:
    """Port 0 is written in one way only; what merely looks like it is an IPv6 address."""
    assert dials_only("a@h:0")
    assert dials_only("a@[::1]:0")
    assert not any(map(dials_only, ("a@h", "a@h:10", "a@[::0]", "a@[::0]:9000")))


# Whatever anybody says.

HOSTS = [
    "198.51.100.7",
    "h.example",
    "127.0.0.1",
    "localhost",
    "[::1]",
    "169.254.169.254",
    "0.0.0.0",
    "[ff02::1]",
]
SOME_NAMES = st.one_of(
    st.builds(
        lambda n, host, port: f"n{n}@{host}:{port}",
        st.integers(0, 12),
        st.sampled_from(HOSTS),
        st.sampled_from([0, 1, 9000]),
    ),
    st.text(max_size=8),
    st.just(OWN),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("heard"), st.lists(SOME_NAMES, max_size=20), st.sampled_from([AFAR, HERE])),
        st.tuples(st.just("up"), st.integers(0, 12), st.sampled_from([AFAR, HERE])),
        st.tuples(st.just("down"), st.integers(0, 12), st.booleans()),
        st.tuples(st.just("fail"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("forget"), st.integers(0, 12), st.none()),
        st.tuples(st.just("leave"), st.integers(0, 12), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 5.0, 60.0]), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_the_bounds_hold_whatever_is_said(steps: list[Any], known: int, dials: int, seed: int) -> None:
    """Lists, links and failures in any order: the caps hold, no forbidden host is dialed, and all get their turn."""
    left: set[str] = set()
    account = Mesh(
        OWN, Rules(known, dials, 1.0, 16.0, 100.0), random.Random(seed).random, lambda text: text not in left
    )
    now, linked, flying = 0.0, set(), []
    told: set[str] = set()  # by somebody on this machine

    def look() -> None:
        due = account.due(now)
        for dial in due.dials:
            flying.append(dial.name.text)
            assert dial.name.port != 0
            assert dial.name.text != OWN
            assert dial.name.text not in linked | left
            assert dial.anywhere == (dial.name.text in told)
            assert dial.anywhere or special(dial.name.host) is None
        assert account.in_flight == len(flying) <= dials
        assert due.again is None or due.again > now

    for what, which, how in steps:
        if what == "heard":
            account.heard(which, from_host=how, now=now)
            told.update(which if how == HERE else ())
        elif what == "up":
            text = name(which)
            account.up(text, host=how, now=now)
            linked.add(text)
            told.update([text] if how == HERE else ())
        elif what == "down":
            account.down(name(which), now, lost=how)
            linked.discard(name(which))
        elif what == "fail" and flying:
            fail(account, flying.pop(which % len(flying)), now, final=how)
        elif what == "forget" and name(which) not in linked:
            account.forget(name(which))
        elif what == "leave":
            left.add(name(which))
        elif what == "wait":
            now += which
        look()
        told &= {*account._nodes}  # what it has forgotten it judges anew
        assert linked <= set(account._nodes)
        assert account.known <= max(known, len(linked.union(flying)))
        assert account.known - len(linked) <= known
        assert len(account._queue) <= 2 * account.known + 65
    while account.known > len(linked):  # all others are dialed in time, or forgotten
        now += 17.0
        look()
        while flying:
            fail(account, flying.pop(), now)
        assert now < 10_000.0


def test_flapping_leaves_nothing_behind() -> None:
    """However often a link comes and goes while its name waits, the queue stays as short as the account."""
    account = mesh(base=1000.0, ceiling=1000.0)
    for number in range(10_000):
        account.up(name(0), host="198.51.100.7", now=float(number))
        account.down(name(0), float(number), lost=True)
        assert len(account._queue) < 70
    assert isinstance(account.due(1e6).dials[0], Dial)
