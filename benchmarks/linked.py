"""snowgreen in the benchmarks: a process with a node that sends and asks, or one with two that receive."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject

from snowgreen import Config, Limits, Mailbox, Node

from .harness import Tally, obey

COOKIE: Final = "the nodes of one benchmark"
#: Seconds that a message, ping or call may take.
PATIENCE: Final = 10.0
#: Seconds between two pings, or calls.
PAUSE: Final = 0.001
#: Bytes of each message of a stream.
BULK: Final = 1024 * 1024
SIZES: Final = (64, 1024, 64 * 1024, BULK)
#: Messages sent between two looks at the clock.
BUNCH: Final = 50


def start(name: str) -> Node:
    """A node that takes a free port."""
    return Node(f"{name}@127.0.0.1:0", cookie=COOKIE, config=Config(limits=Limits.trusted())).start()


class Receiver:
    """Two nodes, each with a handler that answers, and with a mailbox for each size."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int], Tally] = {}
        self._nodes = [start("one"), start("two")]
        for node in self._nodes:
            node.handler("echo")(lambda value: value)
            for size in SIZES:
                tally = self._tallies[node.name, size] = Tally(size)
                gevent.spawn(self._read, node.mailbox(str(size)), tally)

    def names(self) -> list[str]:
        """What the nodes are called."""
        return [node.name for node in self._nodes]

    def settle(self, name: str, size: int, messages: int) -> None:
        """Wait until so many have come."""
        with gevent.Timeout(PATIENCE):
            while self._tallies[name, size].messages < messages:
                gevent.sleep(0.001)

    def _read(self, mailbox: Mailbox, tally: Tally) -> None:
        for message in mailbox:
            tally.take(message.body)


class Sender:
    """A node that has links with those of the receiver."""

    def __init__(self) -> None:
        self._node = start("sender")
        self._sent: Counter[tuple[str, int]] = Counter()

    def link(self, name: str) -> None:
        """Make a link."""
        self._node.connect(name)

    def send(self, name: str, size: int, seconds: float) -> int:
        """Send messages of `size` bytes for so long; how many there were since the start."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._send(name, size, BUNCH)
        return self._sent[name, size]

    def ask(self, what: str, name: str, seconds: float, beside: str | None = None) -> dict[str, float]:
        """Ping or call, one after the other; what the round trips took in milliseconds.

        :param beside: a node to which large messages are sent meanwhile.
        """
        session = self._node.sessions[name]
        asks: dict[str, Callable[[], object]] = {
            "ping": lambda: session.ping(PATIENCE),
            "call": lambda: self._node.call(name, "echo", 1, timeout=PATIENCE),
        }
        with contextlib.nullcontext() if beside is None else self._streaming(beside):
            trips = sorted(timed(asks[what], seconds))
        return {f"p{share}": trips[math.ceil(len(trips) * share / 100) - 1] * 1000 for share in (50, 99)}

    @contextlib.contextmanager
    def _streaming(self, name: str) -> Iterator[None]:
        over = Event()

        def stream() -> None:
            while not over.is_set():
                self._send(name, BULK, 1)

        greenlet = gevent.spawn(stream)
        try:
            yield
        finally:
            over.set()
            greenlet.get()

    def _send(self, name: str, size: int, messages: int) -> None:
        rest, first = bytes(size - 8), self._sent[name, size]
        for number in range(first, first + messages):
            self._node.send(name, str(size), number.to_bytes(8) + rest, PATIENCE)
        self._sent[name, size] += messages


def timed(ask: Callable[[], object], seconds: float) -> list[float]:
    """How long it took to `ask`, once or more: the seconds of each time."""
    trips: list[float] = []
    until = time.perf_counter() + seconds
    while not trips or time.perf_counter() < until:
        began = time.perf_counter()
        ask()
        trips.append(time.perf_counter() - began)
        gevent.sleep(PAUSE)
    return trips


if __name__ == "__main__":
    role = {"sender": Sender, "receiver": Receiver}[sys.argv[1]]()
    for line in FileObject(sys.stdin.fileno(), "r", closefd=False):
        print(json.dumps(obey(role, line)), flush=True)
