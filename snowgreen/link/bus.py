"""Events, handed to any number of subscribers, none of whom can slow a link or another subscriber."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self
from weakref import WeakSet, WeakValueDictionary

from gevent.event import Event as Flag

from ..events import Event, EventsDropped, NodeDown, NodeUp

_OF_LINKS = (NodeUp, NodeDown)


class Subscription:
    """The events of one node since :meth:`snowgreen.Node.subscribe` was called, as an iterator.

    Iterating waits for the next event and ends when the node has stopped, or :meth:`close` was called,
    and what came before has been read. When more than the configured number wait, the oldest are
    dropped and an :class:`~snowgreen.EventsDropped` stands in their place. Use it in a ``with``, or
    close it, when it is no longer read; each subscription is for one consumer.
    """

    def __init__(self, fellows: WeakSet[Subscription], size: int) -> None:
        self._fellows = fellows
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
        self._fellows.discard(self)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{self._what} {state}, {len(self._queue)} waiting, {self._dropped} dropped>"

    @property
    def _what(self) -> str:
        return "Subscription"


class Monitor(Subscription):
    """The ups and downs of one peer, from :meth:`snowgreen.Node.monitor`, as an iterator.

    A :class:`Subscription` to the :class:`~snowgreen.NodeUp` and :class:`~snowgreen.NodeDown` of this peer,
    which take turns. It begins with a NodeUp: if the peer is linked already, the one that was published then,
    else the next one. A link that a newer one replaces goes down before that one comes up.
    """

    def __init__(self, peer: str, fellows: WeakSet[Subscription], size: int) -> None:
        super().__init__(fellows, size)
        #: The peer's node name.
        self.peer = peer
        self._up: bool | None = None

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None if none came within `timeout` seconds (default: wait), or ever will."""
        event = super().get(timeout)
        if event is not None:
            self._up = None if isinstance(event, EventsDropped) else isinstance(event, NodeUp)
        return event

    @property
    def up(self) -> bool | None:
        """Whether the peer is linked, as of the last event read here; ``Node.sessions`` may be ahead of that.

        None while that says nothing: before the first event, and where events were dropped.
        """
        return self._up

    @property
    def _what(self) -> str:
        return f"Monitor of {self.peer}"


class Bus:
    """One node's subscriptions and monitors, and which peers it has said are up.

    :param size: how many events may wait for each of them.
    :param record: called with each event before anybody else is; must not wait.
    """

    def __init__(self, size: int, record: Callable[[Event], None] | None = None) -> None:
        self._size = size
        self._record = record
        # Weak: a subscriber that is dropped, in the middle of its loop, costs nothing more.
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        # By peer, so that an event costs those who wait for it, and nobody else. The monitors of a peer hold
        # their set, and it goes with the last of them.
        self._monitors: WeakValueDictionary[str, WeakSet[Subscription]] = WeakValueDictionary()
        # What was published, rather than what is registered: only this can be taken up without a gap or an
        # overlap with what is published next.
        self._up: dict[str, NodeUp] = {}

    def subscribe(self) -> Subscription:
        """Everything published from now on."""
        subscription = Subscription(self._subscriptions, self._size)
        self._subscriptions.add(subscription)
        return subscription

    def monitor(self, peer: str) -> Monitor:
        """What is published about the links with `peer`, from the NodeUp of the present one on."""
        fellows = self._monitors.setdefault(peer, WeakSet())
        monitor = Monitor(peer, fellows, self._size)
        fellows.add(monitor)
        if peer in self._up:
            monitor.put(self._up[peer])
        return monitor

    def publish(self, event: Event) -> None:
        """Hand `event` to every subscriber. Never waits; safe in a callback of the loop."""
        if self._record is not None:
            self._record(event)
        # Nobody listens, as a rule, and going through a WeakSet costs more than to ask.
        readers = list(self._subscriptions) if self._subscriptions else []
        if isinstance(event, _OF_LINKS):
            if isinstance(event, NodeUp):
                self._up[event.peer] = event
            else:
                self._up.pop(event.peer, None)
            if self._monitors:
                readers += self._monitors.get(event.peer, ())
        for reader in readers:
            reader.put(event)

    def close(self) -> None:
        """End every subscription, once what waits in it is read."""
        groups = [self._subscriptions, *self._monitors.values()]
        for reader in [reader for group in groups for reader in group]:
            reader.close()
