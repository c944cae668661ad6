"""The live part of the dashboard: one greenlet looks at the node, for all viewers, while there are any.

It looks once a second, and sooner when a link comes up or goes down. What has changed is written down once
and put into the queue of each viewer; one who does not read is let go, and nobody waits for him.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import gevent
import msgspec
from gevent.event import Event as Flag

from ..events import EventsDropped, NodeDown, NodeUp
from .picture import Change, Picture

if TYPE_CHECKING:
    from ..link.bus import Subscription
    from ..node import Node

log = logging.getLogger("snowgreen.web")

#: Seconds between two looks at everything.
PERIOD = 1.0
#: Seconds after a link's up or down in which others may come with it.
GATHER = 0.1
#: Changes that may wait for a viewer, which is about as many seconds.
QUEUE = 30
_FIRST = b"retry: 1000\n\n"


class Feed:
    """What one node is doing, as it goes on.

    :param viewers: how many there may be at once.
    """

    def __init__(self, node: Node, viewers: int = 32) -> None:
        self._node = node
        self._limit = viewers
        self._viewers: set[Viewer] = set()
        self._picture: Picture | None = None
        self._subscription: Subscription | None = None
        self._greenlet: gevent.Greenlet[[], None] | None = None

    @property
    def full(self) -> bool:
        """Whether there are as many viewers as there may be."""
        return len(self._viewers) >= self._limit

    @property
    def watched(self) -> bool:
        """Whether the greenlet runs that looks at the node."""
        return self._greenlet is not None

    def join(self) -> Viewer:
        """A new viewer, who begins with all there is. Not to be called where :attr:`full` is true."""
        viewer = Viewer(self)
        self._viewers.add(viewer)
        if self._picture is not None:
            viewer.begin(self._picture.whole())
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget `viewer`. The greenlet ends, a second later, with the last of them."""
        self._viewers.discard(viewer)

    def _run(self) -> None:
        picture = Picture(self._node)
        self._subscription = self._node.subscribe()
        try:
            due = time.monotonic()
            while self._viewers:
                full = time.monotonic() >= due
                self._tell(picture, picture.advance(time.time(), full=full))
                if full:
                    due = time.monotonic() + PERIOD
                self._wait(due)
        except Exception:
            log.exception("the dashboard of %s ends its streams; browsers open them anew", self._node.name)
        finally:
            self._subscription.close()
            self._picture = self._greenlet = None
            for viewer in list(self._viewers):
                viewer.end()
            self._viewers.clear()

    def _tell(self, picture: Picture, change: Change) -> None:
        if self._picture is None:
            self._picture = picture
            for viewer in list(self._viewers):
                viewer.begin(picture.whole())
            return
        message = encoded(change)
        for viewer in list(self._viewers):
            viewer.put(message)

    def _wait(self, due: float) -> None:
        """Until `due`, or until a moment after a link has come up or gone down."""
        while (seconds := due - time.monotonic()) > 0 and self._subscription is not None:
            event = self._subscription.get(seconds)
            if isinstance(event, NodeUp | NodeDown | EventsDropped):
                gevent.sleep(GATHER)
                while self._subscription.get(0) is not None:
                    pass
                return
            if event is None:
                if time.monotonic() < due:  # the node has stopped: the next life has events of its own
                    self._subscription = self._node.subscribe()
                return


class Viewer:
    """The changes for one viewer, as the pieces of an event stream. Closed by the server when he has left."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._begun: Iterator[Change] | None = None
        self._queue: deque[bytes] = deque()
        self._greeted = False
        self._wake = Flag()
        self._ended = False
        self._greenlet: object = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._greenlet = gevent.getcurrent()
        if not self._greeted:
            self._greeted = True
            return _FIRST
        while True:
            if self._begun is not None:
                change = next(self._begun, None)
                if change is not None:
                    gevent.sleep(0)
                    return encoded(change)
                self._begun = None
            if self._queue:
                return self._queue.popleft()
            if self._ended:
                raise StopIteration
            self._wake.clear()
            self._wake.wait()

    def close(self) -> None:
        """No more is wanted."""
        self._ended = True
        self._begun = None
        self._queue.clear()
        self._feed.leave(self)
        self._wake.set()

    # Called by the feed, and never waiting.

    def begin(self, whole: Iterator[Change]) -> None:
        """Begin with `whole`, which is written down piece by piece as it is read."""
        self._begun = whole
        self._wake.set()

    def put(self, message: bytes) -> None:
        """Say `message` after what waits. A viewer who is too far behind is let go."""
        if len(self._queue) < QUEUE:
            self._queue.append(message)
            self._wake.set()
            return
        log.info("a viewer of the dashboard reads too slowly, and his stream is ended")
        self.end()
        if isinstance(self._greenlet, gevent.Greenlet):  # it waits for him, in the middle of a write
            self._greenlet.kill(block=False)

    def end(self) -> None:
        """End the stream. The browser opens it anew."""
        self.close()


def encoded(change: Change) -> bytes:
    """`change` as an event of the stream."""
    return b"event: change\ndata: " + msgspec.json.encode(change) + b"\n\n"
