"""A loop that looks for what comes instead of sleeping, for as long as it is told, where a node asks for it."""

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
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


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
    wait.look(1.0)
    assert turns_within(0.02) > 100
    clock.now += 1.0
    gevent.idle()
    until(lambda: not wait._idle.active, "it may sleep again")
    assert turns_within(0.02) < 20


def test_a_shorter_time_does_not_cut_a_longer_one(wait: BusyWait, clock: Clock) -> None:
    """Of two nodes on one loop the one that asks for more gets it."""
    wait.look(1.0)
    wait.look(0.1)
    clock.now += 0.5
    turns_within(0.005)
    assert wait._idle.active
    clock.now += 0.5
    turns_within(0.005)
    assert not wait._idle.active


def test_others_have_their_turns_meanwhile(wait: BusyWait) -> None:
    """Timers and greenlets run as ever."""
    wait.look(1.0)
    done = [gevent.spawn(gevent.sleep, 0.001) for _ in range(3)]
    assert len(gevent.joinall(done, timeout=5)) == 3
    assert wait._idle.active


def test_what_was_put_off_until_the_loop_is_idle_is_done(wait: BusyWait) -> None:
    """gevent.idle() returns at any priority, although the loop is kept busy."""
    wait.look(1.0)
    for priority in (0, -1, -2):
        with gevent.Timeout(5):
            gevent.idle(priority)
    assert wait._idle.active


def test_it_does_not_keep_a_loop_alive(wait: BusyWait) -> None:
    """A program that waits for its greenlets to end does not wait for this."""
    wait.look(1.0)
    assert wait._idle.ref is False


def test_nodes_look_only_if_they_are_told_to(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With busy_wait each ping has the loop stay awake at both ends, and without it never does."""
    asked: list[float] = []
    look = BusyWait.look

    def noted(self: BusyWait, seconds: float) -> None:
        asked.append(seconds)
        look(self, seconds)

    monkeypatch.setattr(BusyWait, "look", noted)
    plain = make_node()
    assert plain.connect(make_node().name).ping() > 0
    assert asked == []
    awake = make_node(config=dataclasses.replace(FAST, busy_wait=0.0003))
    session = awake.connect(make_node(config=dataclasses.replace(FAST, busy_wait=0.0002)).name)
    began = time.monotonic()
    assert session.ping() > 0
    assert {0.0002, 0.0003} == set(asked)
    until(lambda: not hub_state().busy_wait._idle.active, "it sleeps again", timeout=5)
    assert time.monotonic() - began >= 0.0002
