"""The standard library's multiprocessing.connection: a Listener, Clients, and a thread for each link."""

from __future__ import annotations

import contextlib
import threading
import time
from multiprocessing import AuthenticationError, connection
from multiprocessing.connection import Connection, Listener
from typing import Any, Final

from .blocking import Pump, SharedCount, dial
from .common import Answer, Hello, Stopwatch, main, python, round_trips

HELLO: Final = Hello(
    "multiprocessing",
    python(),
    False,
    "no TLS: both ends prove a shared key, and all else is plain; a thread per link in the server",
)
KEY: Final = b"the nodes of one benchmark"
#: What asks for an answer, and the answer.
ASK: Final = b"?"
ANSWER: Final = b"!"
#: Connections that may wait for the listener; its default, one, has others wait for a second or more.
BACKLOG: Final = 1024


class Server:
    """Accepts, and counts."""

    def __init__(self) -> None:
        self._count = SharedCount()
        self._links: set[Connection[Any, Any]] = set()

    def start(self) -> Answer:
        """Listen."""
        listener = Listener(("127.0.0.1", 0), backlog=BACKLOG, authkey=KEY)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return {"address": listener.address}

    def received(self) -> Answer:
        """What has come."""
        return self._count.as_answer()

    def wait(self, messages: int) -> Answer:
        """Wait for messages."""
        return self._count.wait(messages)

    def links(self) -> Answer:
        """How many there are."""
        return {"links": len(self._links)}

    def broadcast(self, size: int) -> Answer:
        """Send to every link."""
        links, body, watch = list(self._links), bytes(size), Stopwatch()
        for link in links:
            link.send_bytes(body)
        return watch.as_answer(links=len(links))

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        time.sleep(seconds)
        return watch.as_answer()

    def _accept(self, listener: Listener) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError, AuthenticationError):  # of one that wants to link
                link = listener.accept()
                self._links.add(link)
                try:
                    threading.Thread(target=self._read, args=(link,), daemon=True).start()
                except RuntimeError:  # there can be no more threads
                    self._links.discard(link)
                    link.close()

    def _read(self, link: Connection[Any, Any]) -> None:
        with link, contextlib.suppress(OSError, EOFError):
            while True:
                body = link.recv_bytes()
                if body == ASK:
                    link.send_bytes(ANSWER)
                else:
                    self._count.take(len(body))
        self._links.discard(link)


class Client:
    """Dials."""

    def __init__(self) -> None:
        self._links: list[Connection[Any, Any]] = []
        self._pump = Pump(lambda link: link.recv_bytes())

    def link(self, address: list[Any], count: int, at_once: int) -> Answer:
        """Make links."""
        host, port = address
        links, answer = dial(lambda: connection.Client((host, port), authkey=KEY), count, at_once)
        self._links += links
        return answer

    def join(self) -> Answer:
        """Read what is broadcast."""
        for link in self._links:
            self._pump.add(link)
        return {}

    def rtt(self, rounds: int) -> Answer:
        """Ask."""
        link = self._links[0]

        def ask() -> None:
            link.send_bytes(ASK)
            while link.recv_bytes() != ANSWER:  # but something that was broadcast
                pass

        with self._pump.without(link):
            return round_trips(ask, rounds)

    def send(self, size: int, count: int) -> Answer:
        """Send."""
        link, body, watch = self._links[0], bytes(size), Stopwatch()
        for _ in range(count):
            link.send_bytes(body)
        return watch.as_answer()

    def drop(self) -> Answer:
        """Close the links."""
        self._pump.clear()
        for link in self._links:
            link.close()
        self._links.clear()
        return {}


if __name__ == "__main__":
    main(HELLO, {"server": Server, "client": Client})
