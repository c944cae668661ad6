"""zerorpc: calls over ZeroMQ under gevent, and a client for each link.

Messages go from its Pusher to its Puller, which is what it has for one-way ones: the Pusher is a connection
beside the link. A broadcast is one more item of the streams that the clients have asked for.
"""

from __future__ import annotations

import itertools
import logging
import resource
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import gevent
from gevent import Greenlet
from gevent.event import Event
from gevent.fileobject import FileObject
from gevent.pool import Pool
from gevent.queue import SimpleQueue

from .blocking import library
from .common import (
    PATIENCE,
    Answer,
    Count,
    Hello,
    Stopwatch,
    Unsupported,
    main,
    python,
    round_trips,
    slices,
)

zerorpc: Final = library("zerorpc")
zmq: Final = library("zmq")

HELLO: Final = Hello(
    "zerorpc",
    python("zerorpc", "pyzmq", "gevent"),
    False,
    "no TLS, and nobody is authenticated: it has no setting for ZeroMQ's own means; messages are pushed over "
    "a connection of their own",
    ("calls",),
)
#: Calls that are under way.
CALLS: Final = 100
#: Sockets for which descriptors are left to other uses.
SPARE: Final = 50
#: Seconds that what is not sent yet may hold up the end.
LINGER: Final = 0
ANYWHERE: Final = "tcp://127.0.0.1:*"


def prepare() -> None:
    """Have room for more sockets than ZeroMQ's own 1,023."""
    context, (descriptors, _) = zerorpc.Context.get_instance(), resource.getrlimit(resource.RLIMIT_NOFILE)
    # One takes two descriptors; ZeroMQ ends the process when there are none left.
    room = descriptors // 2 - SPARE if descriptors != resource.RLIM_INFINITY else sys.maxsize
    context.set(zmq.MAX_SOCKETS, min(context.get(zmq.SOCKET_LIMIT), room))
    context.linger = LINGER


class Server:
    """Accepts, and counts."""

    def __init__(self) -> None:
        prepare()
        self._count = Count()
        self._feeds: set[SimpleQueue[bytes]] = set()
        #: Those to which the latest broadcast has not gone yet.
        self._waiting: set[SimpleQueue[bytes]] = set()

    def start(self) -> Answer:
        """Listen."""
        methods = {"echo": lambda value: value, "take": self._take, "feed": zerorpc.stream(self._feed)}
        ends = [zerorpc.Server(methods), zerorpc.Puller({"take": self._take})]
        self._running = [gevent.spawn(end.run) for end in ends]
        return {"address": [end.bind(ANYWHERE)[0].addr for end in ends]}

    def received(self) -> Answer:
        """What has come."""
        return self._count.as_answer()

    def wait(self, messages: int) -> Answer:
        """Wait for messages."""
        return self._count.wait(messages, gevent.sleep)

    def links(self) -> Answer:
        """Nobody knows."""
        raise Unsupported("ZeroMQ does not tell who is connected")

    def broadcast(self, size: int) -> Answer:
        """Feed all."""
        body, watch = bytes(size), Stopwatch()
        self._waiting = set(self._feeds)
        for feed in self._feeds:
            feed.put(body)
        while self._waiting:
            gevent.sleep(0)
        return watch.as_answer(links=len(self._feeds))

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        gevent.sleep(seconds)
        return watch.as_answer()

    def _take(self, body: bytes) -> None:
        self._count.take(len(body))

    def _feed(self) -> Iterator[bytes]:
        feed = SimpleQueue[bytes]()
        self._feeds.add(feed)
        try:
            yield b""  # or the client gives up the wait for the first
            while True:
                yield feed.get()
                self._waiting.discard(feed)  # it comes back when ZeroMQ has that
        finally:
            self._feeds.discard(feed)
            self._waiting.discard(feed)


class Client:
    """Dials."""

    def __init__(self) -> None:
        prepare()
        self._links: list[Any] = []
        self._pusher: Any = None
        self._readers: list[Greenlet[..., None]] = []
        self._count = Count()

    def link(self, address: list[str], count: int, at_once: int) -> Answer:
        """Make links."""
        self._address, watch, failures = address, Stopwatch(), list[str]()
        before = len(self._links)

        def make() -> None:
            try:
                link = zerorpc.Client(address[0])
                link.echo(b"")  # ZeroMQ connects behind the scenes
            except Exception as error:  # noqa: BLE001  # it has many, without a root of their own
                failures.append(f"{type(error).__name__}: {error}")
            else:
                self._links.append(link)

        pool = Pool(at_once)
        for _ in range(count):
            pool.spawn(make)
        pool.join()
        return watch.as_answer(made=len(self._links) - before, why=failures[0] if failures else "")

    def join(self) -> Answer:
        """Have every link get what is broadcast."""
        new = iter(self._links[len(self._readers) :])
        while part := list(itertools.islice(new, CALLS)):
            joined = [Event() for _ in part]
            self._readers += map(partial(gevent.spawn, self._read), part, joined)
            gevent.wait(joined, PATIENCE)
        return {}

    def rtt(self, rounds: int) -> Answer:
        """Call."""
        link = self._links[0]
        return round_trips(lambda: link.echo(b""), rounds)

    def send(self, size: int, count: int, way: str = "") -> Answer:
        """Push, or call and look at the answers later."""
        link, body = self._links[0], bytes(size)
        if self._pusher is None and way != "calls":
            self._pusher = zerorpc.Pusher()
            self._pusher.connect(self._address[1])
        watch = Stopwatch()
        if way == "calls":
            for calls in slices(count, CALLS):
                for result in [link.take(body, **{"async": True}) for _ in range(calls)]:
                    result.get()
        else:
            for _ in range(count):
                self._pusher.take(body)
        return watch.as_answer()

    def drop(self) -> Answer:
        """Close the links."""
        gevent.killall(self._readers)
        for link in [*self._links, *([self._pusher] if self._pusher else [])]:
            link.close()
        self._links, self._pusher, self._readers = [], None, []
        return {}

    def _read(self, link: Any, joined: Event) -> None:
        # A greenlet's own, because zerorpc kills the one that has asked for a stream when that breaks off.
        for body in link.feed():
            joined.set()
            self._count.take(len(body))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    main(HELLO, {"server": Server, "client": Client}, FileObject(sys.stdin.fileno(), "r", closefd=False))
