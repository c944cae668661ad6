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


class Uncounted:
    """A loop that does not number its looks."""

    iteration = -1


@pytest.fixture(params=["counted", "uncounted"])
def turns(request: pytest.FixtureRequest) -> Turns:
    """Two in one turn of the loop, which numbers its looks as libev does, or not, as libuv."""
    gevent.get_hub().loop.update_now()  # a timeout counts from then, and tests may have run without the loop
    made = Turns(gevent.get_hub(), width=2)
    if request.param == "uncounted":
        made._loop, made._uncounted = Uncounted(), True
    return made


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


def test_turns_come_back_without_anybody_in_line(turns: Turns, looks: list[int]) -> None:
    """Whoever comes alone, again and again, never waits: each look has turns of its own."""
    for _ in range(20):
        before = looks[0]
        turns.wait()
        turns.wait()
        assert looks[0] == before
        gevent.sleep(0.001)
    before = looks[0]
    gevent.sleep(0.02)
    assert looks[0] - before < 20  # and then nothing keeps the loop awake


def test_the_end_of_a_line_gives_no_turns_twice(turns: Turns, looks: list[int]) -> None:
    """The only one in line is killed; who comes in the next look finds two turns, and not two more."""
    done: list[int] = []
    pipes = [os.pipe() for _ in range(4)]
    watchers: list[Any] = [gevent.get_hub().loop.io(read, 1) for read, _ in pipes]

    def work(watcher: Any = None) -> None:
        turns.wait(watcher)
        done.append(looks[0])

    def burst() -> None:
        began = [gevent.spawn(work) for _ in range(3)]
        gevent.sleep(0)
        assert len(turns._waiting) == 1
        began[2].kill(block=False)
        for _, write in pipes:
            os.write(write, b"x")

    try:
        later = [gevent.spawn(work, watcher) for watcher in watchers]
        gevent.idle()
        gevent.spawn(burst).get(timeout=5)
        gevent.joinall(later, timeout=5)
        assert len(done) == 6
        assert max(done.count(look) for look in done) == 2
    finally:
        for watcher in watchers:
            watcher.close()
        for descriptors in pipes:
            for descriptor in descriptors:
                os.close(descriptor)


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
