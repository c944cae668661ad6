"""Pings under way: each answer finds who waits for it, once, and the end finds all of them."""

from __future__ import annotations

import pytest
from gevent.event import AsyncResult

from snowgreen.link.pings import Pings


def waiter() -> AsyncResult[float]:
    """Somebody who waits."""
    return AsyncResult()


def test_an_answer_finds_its_waiter_once() -> None:
    """Each gets the time of his own ping; a second answer, and one to nothing, are nobody's."""
    pings, first, second = Pings(), waiter(), waiter()
    one, two = pings.begin(1.0, first), pings.begin(2.0, second)
    assert pings.answered(two, 5.0) == 3.0
    assert pings.answered(one, 5.5) == 4.5
    assert (first.get(block=False), second.get(block=False)) == (4.5, 3.0)
    assert pings.answered(one, 6.0) is None
    assert pings.answered(99, 6.0) is None


def test_of_the_heartbeats_pings_only_the_newest_counts() -> None:
    """An answer to an older one measures nothing, and however many there are, one is kept."""
    pings = Pings()
    numbers = [pings.begin(float(number), None) for number in range(100)]
    assert len(pings._under_way) == 1
    assert pings.answered(numbers[0], 200.0) is None
    assert pings.answered(numbers[-1], 200.0) == 101.0


def test_a_clock_that_goes_back_measures_nothing_negative() -> None:
    """A round trip takes no less than no time."""
    pings = Pings()
    assert pings.answered(pings.begin(5.0, None), 4.0) == 0.0


def test_the_end_is_told_to_all_who_wait_each_with_an_error_of_his_own() -> None:
    """Whoever waits gets an error; who has given up, and the heartbeat, get none."""
    pings, left, stays, other = Pings(), waiter(), waiter(), waiter()
    pings.forget(pings.begin(0.0, left))
    for waiting in (stays, other, None):
        pings.begin(0.0, waiting)
    pings.fail(lambda: KeyError("gone"))
    for waiting in (stays, other):
        with pytest.raises(KeyError):
            waiting.get(block=False)
    assert stays.exception is not other.exception
    assert not left.ready()
    assert not pings._under_way


def test_a_child_of_a_fork_tells_nobody() -> None:
    """Those who wait do so in the parent."""
    pings, waiting = Pings(), waiter()
    pings.begin(0.0, waiting)
    pings.abandon()
    pings.fail(lambda: KeyError("gone"))
    assert not waiting.ready()
