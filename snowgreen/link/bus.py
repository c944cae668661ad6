"""Events, handed to any number of subscribers, none of whom can slow a link or another subscriber."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from weakref import WeakSet

from gevent.event import Event as Flag

from ..events import Event, EventsDropped


class Subscription:
    """The events of one node since :meth:`snowgreen.Node.subscribe` was called, as an iterator.

    Iterating waits for the next event and ends when the node has stopped, or :meth:`close` was called,
    and what came before has been read. When more than the configured number wait, the oldest are
    dropped and an :class:`~snowgreen.EventsDropped` stands in their place. Use it in a ``with``, or
    close it, when it is no longer read; each subscription is for one consumer.
    """

    def __init__(self, bus: Bus, size: int) -> None:
        self._bus = bus
        self._size = size
        self._queue: deque[Event] = deque()
        self._dropped = 0
        self._wake = Flag()
        self._closed = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None if none came within `timeout` seconds (default: wait), or ever will."""
        if not self._ready() and not self._closed:
            self._wake.clear()
            self._wake.wait(timeout)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return EventsDropped(dropped)
        return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """Receive no more. What waits can still be read."""
        self._closed = True
        self._bus.remove(self)
        self._wake.set()

    def put(self, event: Event) -> None:
        """Called by the bus, never waits."""
        if len(self._queue) >= self._size:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(event)
        self._wake.set()

    def _ready(self) -> bool:
        return bool(self._queue or self._dropped)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Subscription {state}, {len(self._queue)} waiting, {self._dropped} dropped>"


class Bus:
    """One node's subscriptions."""

    def __init__(self, size: int) -> None:
        self._size = size
        # Weak: a subscriber that is dropped, in the middle of its loop, costs nothing more.
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    def subscribe(self) -> Subscription:
        """Everything published from now on."""
        subscription = Subscription(self, self._size)
        self._subscriptions.add(subscription)
        return subscription

    def publish(self, event: Event) -> None:
        """Hand `event` to every subscriber. Never waits; safe in a callback of the loop."""
        for subscription in list(self._subscriptions):
            subscription.put(event)

    def remove(self, subscription: Subscription) -> None:
        """Forget `subscription`; harmless if it is forgotten already."""
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription, once what waits in it is read."""
        for subscription in list(self._subscriptions):
            subscription.close()
