"""The account at the door: who gets a place, who is slowed, who must make room. The clock is a number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol.admission import (
    FORGIVEN_AFTER,
    MAX_SOURCES,
    SLOWEST,
    Admission,
    Admitted,
    Rates,
    Refusal,
    source_of,
)

RATES = Rates(pending=8, pending_per_source=3, reserved=2, per_second=2.0, burst=5, grace=1.0)


def many(account: Admission, count: int, now: float, first: int = 0) -> list[int]:
    """Take `count` places, each for a source of its own."""
    tickets = []
    for number in range(first, first + count):
        verdict = account.arrive(f"10.0.{number // 250}.{number % 250}", now)
        assert isinstance(verdict, Admitted), verdict
        tickets.append(verdict.ticket)
    return tickets


def test_one_source_gets_its_share_and_no_more() -> None:
    """A source's fourth handshake under way is refused, another source's first is not."""
    account = Admission(RATES)
    places = [account.arrive("10.0.0.1", 0.0) for _ in range(3)]
    assert all(isinstance(place, Admitted) for place in places)
    assert account.arrive("10.0.0.1", 0.0) is Refusal.CROWDED
    assert isinstance(account.arrive("10.0.0.2", 0.0), Admitted)
    account.done(places[0].ticket, 0.1, failed=False)
    assert isinstance(account.arrive("10.0.0.1", 0.1), Admitted)
    assert account.pending == 4


def test_one_source_has_a_pace() -> None:
    """After a burst of five a source may come twice a second, however quickly its handshakes end."""
    account = Admission(RATES)

    def attempt(now: float) -> bool:
        verdict = account.arrive("10.0.0.1", now)
        if isinstance(verdict, Admitted):
            account.done(verdict.ticket, now, failed=False)
            return True
        assert verdict is Refusal.HASTY
        return False

    assert [attempt(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [attempt(0.1 * i) for i in range(1, 51)].count(True) == 10


def test_failures_spend_the_burst_even_while_the_clock_stands() -> None:
    """Each failure shrinks what is left of a burst at once, not when the clock next moves, or goes back."""
    account = Admission(RATES._replace(burst=40))
    let_in = 0
    for now in (5.0,) * 30 + (4.0,) * 30:
        verdict = account.arrive("10.0.0.1", now)
        if isinstance(verdict, Admitted):
            account.done(verdict.ticket, now, failed=True)
            let_in += 1
    assert let_in == 11


def test_failures_slow_a_source_and_time_or_a_success_forgives() -> None:
    """A guesser falls to one try in five seconds; one good handshake, or patience, restores the pace."""
    account = Admission(RATES)

    def tries(start: float, seconds: float, *, failed: bool) -> int:
        made, now = 0, start
        while now < start + seconds:
            verdict = account.arrive("10.0.0.1", now)
            if isinstance(verdict, Admitted):
                account.done(verdict.ticket, now, failed=failed)
                made += 1
            now += 0.05
        return made

    assert tries(0, 1000, failed=True) < 1000 * SLOWEST + 20
    assert tries(1001, 10, failed=False) > 15
    tries(2000, 100, failed=True)
    assert tries(2100 + 600 * FORGIVEN_AFTER, 10, failed=False) >= 20


def test_a_place_is_kept_for_configured_peers() -> None:
    """Strangers can fill all places but the reserved ones; a configured peer still gets in, past its pace, too."""
    account = Admission(RATES, {"192.0.2.1"})
    many(account, 6, 0.0)
    assert account.arrive("10.9.9.9", 0.0) is Refusal.FULL
    assert isinstance(account.arrive("192.0.2.1", 0.0), Admitted)
    assert isinstance(account.arrive("192.0.2.1", 0.0), Admitted)
    assert account.arrive("192.0.2.1", 0.0) is Refusal.FULL
    assert account.full(0.0)


def test_full_means_pausing_until_a_place_is_free() -> None:
    """With nobody configured the general places decide; a finished handshake opens the door again."""
    account = Admission(RATES)
    tickets = many(account, 8, 0.0)
    assert account.full(0.5)
    account.done(tickets[3], 0.5, failed=False)
    assert not account.full(0.5)


def test_an_old_handshake_makes_room_for_a_newcomer() -> None:
    """Past its grace the oldest gives way, and has failed; before it, nobody is thrown out."""
    account = Admission(RATES)
    tickets = many(account, 8, 0.0)
    assert account.arrive("10.9.9.9", 0.9) is Refusal.FULL
    assert not account.full(1.0)
    verdict = account.arrive("10.9.9.9", 1.0)
    assert verdict == Admitted(tickets[-1] + 1, evict=tickets[0])
    assert account.pending == 8
    account.done(tickets[0], 1.1, failed=True)  # its handler ends, too; it counts once
    assert account.pending == 8


def test_a_configured_peer_is_never_thrown_out() -> None:
    """Of two old handshakes the stranger's goes, though the configured peer's is older."""
    account = Admission(RATES, {"192.0.2.1"})
    account.arrive("192.0.2.1", 0.0)
    tickets = many(account, 5, 0.0)
    verdict = account.arrive("10.9.9.9", 2.0)
    assert isinstance(verdict, Admitted)
    assert verdict.evict == tickets[0]


def test_honest_peers_get_in_during_an_attack_from_everywhere() -> None:
    """A thousand sources that never finish cannot keep one out that needs a moment: it waits a grace at most."""
    account = Admission(RATES)
    now, attackers, waited = 0.0, 0, []
    for _ in range(200):
        arrived, tries = now, 0
        while True:
            attackers += 1
            account.arrive(f"10.{attackers // 60000}.{attackers // 250 % 240}.{attackers % 250}", now)
            tries += 1
            verdict = account.arrive("192.0.2.7", now)
            now += 0.01
            if isinstance(verdict, Admitted):
                break
        waited.append(now - arrived)
        account.done(verdict.ticket, now, failed=False)
        now += 0.5
    assert max(waited) <= RATES.grace + 0.2


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("/run/socket", "/run/socket"),
    ],
)
def test_what_counts_as_one_source(address: str, source: str) -> None:
    """IPv6 counts by /64, the least a customer gets; an IPv4 address in IPv6 dress is that IPv4 address."""
    assert source_of(address) == source


def test_memory_is_bounded() -> None:
    """A million spoofed sources are not remembered, those with a handshake under way are."""
    account = Admission(RATES._replace(pending=10**6, pending_per_source=10**6, reserved=0))
    held = account.arrive("192.0.2.1", 0.0)
    for number in range(3 * MAX_SOURCES):
        verdict = account.arrive(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
        account.done(verdict.ticket, 0.0, failed=True)
    assert len(account._sources) == MAX_SOURCES
    assert account.pending == 1
    account.done(held.ticket, 1.0, failed=False)
    assert account.pending == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"]),
            st.floats(0, 2),
            st.booleans(),
            st.integers(0, 9),
        ),
        max_size=80,
    )
)
def test_the_account_always_balances(steps: list[tuple[str, float, bool, int]]) -> None:
    """Whatever comes and goes, in whatever order: no limit is passed and no place is lost or given twice."""
    account = Admission(RATES, {"192.0.2.1"})
    now, open_tickets = 0.0, {}
    for address, pause, failed, choice in steps:
        now += pause
        if choice < 6:
            verdict = account.arrive(address, now)
            if isinstance(verdict, Admitted):
                open_tickets.pop(verdict.evict, None)
                open_tickets[verdict.ticket] = address
        elif open_tickets:
            ticket = list(open_tickets)[choice % len(open_tickets)]
            del open_tickets[ticket]
            account.done(ticket, now, failed=failed)
            account.done(ticket, now, failed=failed)
        assert account.pending == len(open_tickets) <= RATES.pending
        for source in set(open_tickets.values()) - {"192.0.2.1"}:
            assert list(open_tickets.values()).count(source) <= RATES.pending_per_source
