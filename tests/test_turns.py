"""Turns at costly work: so many in one turn of the loop, in the order of those who wait."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from snowgreen.link.turns import Turns
from tests.waiting import until


@pytest.fixture
def looks() -> Iterator[list[int]]:
    """Counts, in its only entry, how often the loop has looked at its sockets."""
    count = [0]

    def looked() -> None:
        count[0] += 1

    check = gevent.get_hub().loop.check()
    check.start(looked)
    yield count
    check.stop()
    check.close()


@pytest.fixture
def turns() -> Turns:
    """Two in one turn of the loop."""
    gevent.get_hub().loop.update_now()  # a timeout counts from then, and tests may have run without the loop
    return Turns(gevent.get_hub(), width=2)


def test_no_more_than_the_width_run_between_two_looks(turns: Turns, looks: list[int]) -> None:
    """Of seven that come at once two run at a time, first come first served, with a look in between."""
    done: list[tuple[int, int]] = []

    def work(number: int) -> None:
        turns.wait()
        done.append((number, looks[0]))

    gevent.joinall([gevent.spawn(work, number) for number in range(7)], timeout=5)
    assert [number for number, _ in done] == list(range(7))
    at = [look for _, look in done]
    assert max(at.count(look) for look in at) == 2
    assert len(set(at)) == 4


def test_a_newcomer_does_not_overtake_those_who_wait(turns: Turns) -> None:
    """Whoever comes while others wait goes behind them, even at the beginning of a new turn."""
    order: list[int] = []

    def work(number: int) -> None:
        turns.wait()
        order.append(number)
        if number == 2:
            gevent.spawn(work, 9)

    gevent.joinall([gevent.spawn(work, number) for number in range(5)], timeout=5)
    until(lambda: len(order) == 6, "all had their turn")
    assert order == [0, 1, 2, 3, 4, 9]


def test_a_turn_is_taken_only_when_there_is_something_to_do(turns: Turns) -> None:
    """Whoever waits for a socket first holds no turn meanwhile, and is woken once."""
    read, write = os.pipe()
    watcher: Any = gevent.get_hub().loop.io(read, 1)
    try:
        waiting = gevent.spawn(turns.wait, watcher)
        done = [gevent.spawn(turns.wait) for _ in range(5)]
        gevent.joinall(done, timeout=5)
        assert all(greenlet.successful() for greenlet in done)
        assert not waiting.ready()
        os.write(write, b"x")
        waiting.get(timeout=5)
        assert not watcher.active
    finally:
        watcher.close()
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("first", [False, True])
def test_who_is_ended_while_waiting_takes_no_turn(turns: Turns, first: bool) -> None:
    """A greenlet killed in the queue, or at its socket, leaves nothing behind, and the others go on."""
    read, write = os.pipe()
    watcher: Any = gevent.get_hub().loop.io(read, 1)
    try:
        if not first:
            os.write(write, b"x")
        gate, order = Event(), []

        def work(number: int) -> None:
            gate.wait()
            turns.wait(watcher if number == 3 else None)
            order.append(number)

        greenlets = [gevent.spawn(work, number) for number in range(6)]
        gevent.idle()
        gate.set()
        greenlets[4].kill(block=False)
        greenlets[3].kill(block=False)
        gevent.joinall(greenlets, timeout=5)
        assert order == [0, 1, 2, 5]
        assert not watcher.active
        assert not turns._waiting
    finally:
        watcher.close()
        os.close(read)
        os.close(write)


def test_they_do_not_keep_their_hub() -> None:
    """The hub of a thread that has ended can go, though somebody still has its turns."""
    kept: list[Any] = []

    def elsewhere() -> None:
        hub = gevent.get_hub()
        kept.extend((weakref.ref(hub), Turns(hub)))
        hub.destroy(destroy_loop=True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    gc.collect()
    assert kept[0]() is None
