"""Pyro5 over TLS: its threaded server, and a proxy for each link, with certificates at both ends.

Messages are one-way calls in batches, which is what Pyro has for many of them; a one-way call by itself has
the server start a thread. The multiplexing server is no choice here: it waits on sockets by select, to which
what TLS has decrypted already is invisible.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from .blocking import SharedCount, as_file, dial, identity, library
from .common import Answer, Hello, Stopwatch, Unsupported, main, python, round_trips, slices

# Its serializer for bytes needs msgpack; the default writes them as base64.
pyro: Final = library("Pyro5.api", "msgpack")
sockets: Final = library("Pyro5.socketutil")

HELLO: Final = Hello(
    "Pyro5",
    python("Pyro5"),
    True,
    "certificates at both ends; a thread per link in the server, of which it starts more than its 80; "
    "one-way calls in batches, as MessagePack",
    ("oneway",),
)
#: Bytes of messages that are put into one batch.
BATCH: Final = 64 * 1024
#: Threads of the server, and so links.
THREADS: Final = 100_000
#: Seconds that a link may take; after that calls wait for as long as it takes, which is the default.
LINKING: Final = 30.0


def configure(end: str, pem: str) -> None:
    """Set what this process, as an `end`, ``SERVER`` or ``CLIENT``, has and trusts: what is in `pem`."""
    path, settings = as_file(pem), pyro.config
    settings.SSL = settings.SSL_REQUIRECLIENTCERT = True
    settings.SSL_CACERTS = path
    setattr(settings, f"SSL_{end}CERT", path)
    setattr(settings, f"SSL_{end}KEY", path)
    settings.THREADPOOL_SIZE = THREADS
    settings.SERIALIZER = "msgpack"


@pyro.expose
class Messages:
    """What clients call."""

    def __init__(self, count: SharedCount) -> None:
        self._count = count

    def echo(self, value: bytes) -> bytes:
        """Answer."""
        return value

    @pyro.oneway  # type: ignore[untyped-decorator]  # the package has no types
    def take(self, body: bytes) -> None:
        """A message."""
        self._count.take(len(body))


class Server:
    """Accepts, and counts."""

    def __init__(self) -> None:
        self._count = SharedCount()
        self._links: set[object] = set()

    def start(self) -> Answer:
        """Listen."""
        pem = identity()
        configure("SERVER", pem)
        daemon = pyro.Daemon("127.0.0.1", 0)
        daemon.validateHandshake = self._linked
        daemon.clientDisconnect = self._links.discard
        uri = daemon.register(Messages(self._count), "messages")
        threading.Thread(target=daemon.requestLoop, daemon=True).start()
        return {"address": [str(uri), pem]}

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
        """Not over these links."""
        raise Unsupported("calls go one way; to call back takes a server in the client, and links of its own")

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        time.sleep(seconds)
        return watch.as_answer()

    def _linked(self, link: object, _data: object) -> str:
        self._links.add(link)
        return "welcome"


class Client:
    """Dials."""

    def __init__(self) -> None:
        self._links: list[Any] = []

    def link(self, address: list[str], count: int, at_once: int) -> Answer:
        """Make links."""
        uri, pem = address
        configure("CLIENT", pem)
        # Made once, here: of several threads that are the first, some would get it without its certificate.
        path = as_file(pem)
        sockets.get_ssl_context(clientcert=path, clientkey=path, cacerts=path)

        def make() -> Any:
            proxy = pyro.Proxy(uri)
            proxy._pyroTimeout = LINKING
            proxy._pyroBind()
            proxy._pyroTimeout = None
            return proxy

        links, answer = dial(make, count, at_once)
        for proxy in links:
            proxy._pyroClaimOwnership()
        self._links += links
        return answer

    def rtt(self, rounds: int) -> Answer:
        """Call."""
        echo = self._links[0].echo
        return round_trips(lambda: echo(b""), rounds)

    def send(self, size: int, count: int, way: str = "") -> Answer:
        """Call in batches, or one by one."""
        proxy, body = self._links[0], bytes(size)
        watch = Stopwatch()
        if way == "oneway":
            for _ in range(count):
                proxy.take(body)
        else:
            for messages in slices(count, max(1, BATCH // size)):
                batch = pyro.BatchProxy(proxy)
                for _ in range(messages):
                    batch.take(body)
                batch(oneway=True)
        return watch.as_answer()

    def drop(self) -> Answer:
        """Close the links."""
        for proxy in self._links:
            proxy._pyroRelease()
        self._links.clear()
        return {}


if __name__ == "__main__":
    main(HELLO, {"server": Server, "client": Client})
