"""A loop that looks for what comes instead of sleeping: where it pays, or for as long as a node asks for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from snowgreen.link import busywait
from snowgreen.link.busywait import BusyWait
from snowgreen.link.runtime import hub_state
from tests.conftest import FAST, MakeNode
from tests.waiting import until


class Clock:
    """Moves a microsecond with each look at it, and further when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now

    time = thread_time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that it goes by."""
    clock = Clock()
    monkeypatch.setattr(busywait, "time", clock)
    return clock


@pytest.fixture
def wait(clock: Clock) -> Iterator[BusyWait]:
    """That of the test's own loop."""
    made = BusyWait(gevent.get_hub().loop)
    yield made
    made._idle.stop()
    made._idle.close()


def turns_within(seconds: float) -> int:
    """How often the loop has looked at its sockets while a greenlet slept."""
    count = [0]

    def looked() -> None:
        count[0] += 1

    check: Any = gevent.get_hub().loop.check()
    check.start(looked)
    try:
        gevent.sleep(seconds)
    finally:
        check.stop()
        check.close()
    return count[0]


def test_the_loop_does_not_sleep_while_it_is_to_look(wait: BusyWait, clock: Clock) -> None:
    """It goes round and round meanwhile, and sleeps again when the time is over."""
    wait.sent(1.0)
    assert turns_within(0.02) > 100
    clock.now += 1.0
    gevent.idle()
    until(lambda: not wait._idle.active, "it may sleep again")
    assert turns_within(0.02) < 20


def test_it_looks_after_what_has_come_as_well(wait: BusyWait, clock: Clock) -> None:
    """A node that asks for a time has the loop look for it, whichever way the last bytes went."""
    wait.came(1.0)
    assert turns_within(0.02) > 100
    clock.now += 1.0
    until(lambda: not wait._idle.active, "it may sleep again")


def test_a_clock_that_is_put_in_the_place_of_the_systems_does_not_keep_it_awake(
    wait: BusyWait, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of a user's may stop all clocks there are; this one was taken before."""
    monkeypatch.setattr(busywait.time, "monotonic", lambda: 0.0)
    wait.sent(1.0)
    clock.now += 1.0
    until(lambda: not wait._idle.active, "it may sleep again")


def test_a_shorter_time_does_not_cut_a_longer_one(wait: BusyWait, clock: Clock) -> None:
    """Of two nodes on one loop the one that asks for more gets it."""
    wait.sent(1.0)
    wait.came(0.1)
    clock.now += 0.5
    turns_within(0.005)
    assert wait._idle.active
    clock.now += 0.5
    turns_within(0.005)
    assert not wait._idle.active


def test_others_have_their_turns_meanwhile(wait: BusyWait) -> None:
    """Timers and greenlets run as ever."""
    wait.sent(1.0)
    done = [gevent.spawn(gevent.sleep, 0.001) for _ in range(3)]
    assert len(gevent.joinall(done, timeout=5)) == 3
    assert wait._idle.active


def test_what_was_put_off_until_the_loop_is_idle_is_done(wait: BusyWait) -> None:
    """gevent.idle() returns at any priority, although the loop is kept busy."""
    wait.sent(1.0)
    for priority in (0, -1, -2):
        with gevent.Timeout(5):
            gevent.idle(priority)
    assert wait._idle.active


def test_it_does_not_keep_a_loop_alive(wait: BusyWait) -> None:
    """A program that waits for its greenlets to end does not wait for this."""
    wait.sent(1.0)
    assert wait._idle.ref is False


class Willing:
    """Finds that it pays, for so long."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.answers = 0

    def sent(self) -> float:
        return self._clock.now + self._seconds if self._seconds else 0.0

    def came(self) -> None:
        self.answers += 1


def test_for_an_answer_it_looks_until_it_has_come(wait: BusyWait, clock: Clock) -> None:
    """And no longer than it pays: who sent, and has what it waited for, may have nothing to do for long."""
    wait._adaptive = willing = Willing(clock, 1.0)  # type: ignore[assignment]  # stands in for it
    wait.sent(None)
    assert turns_within(0.02) > 100
    came = clock.now
    wait.came(None)
    until(lambda: not wait._idle.active, "it may sleep again")
    assert clock.now < came + 0.5
    assert willing.answers == 1
    wait.sent(None)
    clock.now += 1.0
    until(lambda: not wait._idle.active, "it may sleep again")
    assert willing.answers == 1


def test_where_it_does_not_pay_it_sleeps_at_once(wait: BusyWait, clock: Clock) -> None:
    """And so it does for a node that never wants to look."""
    wait._adaptive = Willing(clock, 0.0)  # type: ignore[assignment]  # stands in for it
    for seconds in (None, 0.0):
        wait.sent(seconds)
        wait.came(seconds)
        assert not wait._idle.active


def test_an_answer_does_not_cut_what_another_node_asked_for(wait: BusyWait, clock: Clock) -> None:
    """Of two nodes on one loop one may be told to look for a time in any case."""
    wait._adaptive = Willing(clock, 0.1)  # type: ignore[assignment]  # stands in for it
    wait.sent(1.0)
    wait.sent(None)
    wait.came(None)
    turns_within(0.005)
    assert wait._idle.active


def test_nodes_look_as_they_are_told_to(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ping has both ends tell the loop what their configuration says: None, unless it is given."""
    of_sent: set[float | None] = set()
    of_came: set[float | None] = set()
    sent, came = BusyWait.sent, BusyWait.came

    def noted_sent(self: BusyWait, seconds: float | None) -> None:
        of_sent.add(seconds)
        sent(self, seconds)

    def noted_came(self: BusyWait, seconds: float | None) -> None:
        of_came.add(seconds)
        came(self, seconds)

    monkeypatch.setattr(BusyWait, "sent", noted_sent)
    monkeypatch.setattr(BusyWait, "came", noted_came)
    for values in ((None, None), (0.0, 0.0), (0.0003, 0.0002)):
        of_sent.clear()
        of_came.clear()
        dialing, listening = (make_node(config=dataclasses.replace(FAST, busy_wait=each)) for each in values)
        session = dialing.connect(listening.name)
        began = time.monotonic()
        assert session.ping() > 0
        assert of_sent == of_came == set(values)
        until(lambda: not hub_state().busy_wait._idle.active, "it sleeps again", timeout=5)
        assert time.monotonic() - began >= max(each or 0.0 for each in values)
        for node in (dialing, listening):
            node.stop()
