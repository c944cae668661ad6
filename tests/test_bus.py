"""Subscriptions: bounded, independent of each other, and honest about what they lost."""

from __future__ import annotations

import gevent
import pytest

from snowgreen import EventsDropped, NodeDown
from snowgreen.link.bus import Bus
from tests.waiting import until


def down(number: int) -> NodeDown:
    return NodeDown(f"n{number}@h", number, "test", 0.0)


def test_the_oldest_are_dropped_and_counted() -> None:
    """A subscriber that falls behind is told how many events it lost, then gets the newest there are."""
    bus = Bus(3)
    slow, quick = bus.subscribe(), bus.subscribe()
    seen = []
    for number in range(10):
        bus.publish(down(number))
        seen.append(quick.get(0))
    assert seen == [down(n) for n in range(10)]
    assert "3 waiting, 7 dropped" in repr(slow)
    assert [slow.get(0) for _ in range(5)] == [EventsDropped(7), down(7), down(8), down(9), None]
    assert str(EventsDropped(7)).startswith("7 events were dropped")


def test_waiting_for_the_next_event() -> None:
    """A subscriber that waits is woken by the event, and by its timeout if none comes."""
    bus = Bus(3)
    subscription = bus.subscribe()
    assert subscription.get(timeout=0.01) is None
    job = gevent.spawn(next, subscription)
    until(lambda: job.started, "it waits")
    bus.publish(down(1))
    assert job.get(timeout=5) == down(1)


def test_closing_ends_the_iteration_after_what_waits() -> None:
    """close() lets the consumer read what came before it, then ends its loop, even if it waits already."""
    bus = Bus(3)
    subscription = bus.subscribe()
    bus.publish(down(1))
    job = gevent.spawn(list, subscription)
    until(lambda: "0 waiting" in repr(subscription), "it has read and waits")
    bus.publish(down(2))
    subscription.close()
    bus.publish(down(3))
    assert job.get(timeout=5) == [down(1), down(2)]
    assert subscription.get() is None
    with pytest.raises(StopIteration):
        next(subscription)
    subscription.close()


def test_leaving_the_block_unsubscribes() -> None:
    """A subscription used in a ``with`` receives nothing more and costs the bus nothing more."""
    bus = Bus(3)
    with bus.subscribe() as subscription:
        assert len(bus._subscriptions) == 1
    assert not bus._subscriptions
    bus.publish(down(1))
    assert subscription.get(0) is None


def test_a_killed_consumer_loses_nothing() -> None:
    """GreenletExit and a gevent.Timeout in the middle of waiting leave the queue as it was."""
    bus = Bus(3)
    subscription = bus.subscribe()
    job = gevent.spawn(subscription.get)
    until(lambda: job.started, "it waits")
    job.kill()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        subscription.get()
    bus.publish(down(1))
    assert subscription.get(0) == down(1)
