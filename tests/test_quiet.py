"""How many lines a log takes of failed handshakes: the bounds, on a clock that the test sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snowgreen.protocol.quiet import BURST, IN_ALL, KINDS, OTHERS, Quiet


def admitted(quiet: Quiet, count: int, now: float, *, initiated: bool = False) -> int:
    """Of `count` failures at once, each of a host of its own, how many get a line."""
    return sum(quiet.admit("tls", f"10.0.0.{number}", now, initiated=initiated) for number in range(count))


def test_strangers_get_eight_lines_in_any_second_and_our_own_dials_the_rest():
    """However many failures strangers bring about, two lines a second are left for what this node dials."""
    quiet = Quiet()
    assert admitted(quiet, 100, 5.0) == OTHERS == 8
    assert admitted(quiet, 100, 5.9) == 0
    assert admitted(quiet, 100, 5.9, initiated=True) == IN_ALL - OTHERS == 2
    assert admitted(quiet, 100, 6.0) == OTHERS  # those of 5.0 are a second old
    assert admitted(quiet, 100, 6.0, initiated=True) == 0


def test_one_cause_with_one_address_gets_a_burst_then_one_line_a_second():
    """Whoever fails again and again is told of, and does not fill the log."""
    quiet = Quiet()
    times = [0.0] * 9 + [number / 4 for number in range(41)]
    lines = [now for now in times if quiet.admit("authentication", "10.0.0.1", now, initiated=False)]
    assert lines == [0.0] * BURST + [float(second) for second in range(1, 11)]


def test_a_pause_earns_a_new_burst_and_no_more():
    """After an hour in which it did not fail, an address has the burst it began with."""
    quiet = Quiet()
    for now in (0.0, 3600.0):
        lines = [quiet.admit("tls", "10.0.0.1", now + number / 10, initiated=False) for number in range(8)]
        assert lines == [True] * BURST + [False] * 3


def test_causes_addresses_and_directions_are_told_apart():
    """A line that one of them has used up is not missing to another."""
    quiet = Quiet()
    while quiet.admit("tls", "10.0.0.1", 0.0, initiated=False):
        pass
    assert quiet.admit("protocol", "10.0.0.1", 0.0, initiated=False)
    assert quiet.admit("tls", "10.0.0.2", 0.0, initiated=False)
    assert quiet.admit("tls", "10.0.0.1", 0.0, initiated=True)
    assert not quiet.admit("tls", "10.0.0.1", 0.0, initiated=False)


def test_what_is_held_back_is_counted_by_cause_until_it_is_asked_for():
    """Every failure either gets its line, or is in the count, once."""
    quiet = Quiet()
    for _ in range(20):
        quiet.admit("tls", "10.0.0.1", 0.0, initiated=False)
    for _ in range(3):
        quiet.admit("protocol", "10.0.0.1", 0.0, initiated=False)
    assert quiet.held() == {"tls": 20 - BURST}
    assert quiet.held() == {}


def test_a_million_addresses_take_no_more_room_than_the_bound():
    """What is remembered of addresses has a bound, and the one that is longest ago is forgotten."""
    quiet = Quiet()
    for number in range(KINDS * 4):
        quiet.admit("tls", f"10.{number}", number / OTHERS, initiated=False)
    assert len(quiet._kinds) == KINDS
    assert ("tls", "10.0", False) not in quiet._kinds


@given(
    st.lists(
        st.tuples(st.floats(0, 0.3), st.sampled_from("abc"), st.sampled_from(["x", "y"]), st.booleans()),
        max_size=200,
    )
)
def test_no_second_has_more_lines_than_the_bound(failures):
    """Whatever comes when: at most ten lines in any second, eight of them of strangers, and nothing uncounted."""
    quiet, now, lines = Quiet(), 0.0, []
    for pause, host, cause, initiated in failures:
        now += pause
        if quiet.admit(cause, host, now, initiated=initiated):
            lines.append((now, initiated))
    for start, _ in lines:
        second = [initiated for at, initiated in lines if start <= at < start + 1.0]
        assert len(second) <= IN_ALL
        assert second.count(False) <= OTHERS
    assert len(lines) + quiet.held().total() == len(failures)
