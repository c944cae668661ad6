"""RPyC over TLS: a ThreadedServer with its SSLAuthenticator, and connections by its ssl_connect.

A message is an asynchronous call, whose answer is taken later; a broadcast calls back what the clients have
passed. For that they have to serve their connections, which one thread does for all that are not asked
anything: RPyC's own means, a thread for each that looks ten times a second, would slow down the rest. It is
told the version of TLS, because by default it loads the system's certificates anew for each connection: that
would cost the client ten times the CPU, and 0.9 MB, for each.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections import deque
from typing import Any, Final

from .blocking import Pump, SharedCount, as_file, dial, identity, library
from .common import Answer, Hello, Stopwatch, main, python, round_trips

rpyc: Final = library("rpyc", "rpyc.utils.server", "rpyc.utils.authenticators")

HELLO: Final = Hello(
    "RPyC",
    python("rpyc"),
    True,
    "certificates at both ends; a thread and a TLS context per link in the server; messages are asynchronous "
    "calls, each of which is answered; it compresses above 3,000 bytes, and the messages are random",
)
#: Calls whose answers are outstanding.
CALLS: Final = 100
Base: Any = rpyc.Service


class Service(Base):  # type: ignore[misc]  # the package has no types
    """What the server shows to one client."""

    def __init__(self, count: SharedCount, services: set[Service]) -> None:
        self.callback: Any = None
        self._count = count
        self._services = services

    def on_connect(self, conn: object) -> None:
        """RPyC calls this."""
        self._services.add(self)

    def on_disconnect(self, conn: object) -> None:
        """And this."""
        self._services.discard(self)

    def exposed_echo(self, value: bytes) -> bytes:
        """Answer."""
        return value

    def exposed_take(self, body: bytes) -> None:
        """A message."""
        self._count.take(len(body))

    def exposed_join(self, callback: Any) -> None:
        """Have what is broadcast."""
        self.callback = rpyc.async_(callback)


class Server:
    """Accepts, and counts."""

    def __init__(self) -> None:
        self._count = SharedCount()
        self._services: set[Service] = set()

    def start(self) -> Answer:
        """Listen."""
        pem = identity()
        path = as_file(pem)
        server = rpyc.utils.server.ThreadedServer(
            rpyc.utils.helpers.classpartial(Service, self._count, self._services),
            hostname="127.0.0.1",
            authenticator=rpyc.utils.authenticators.SSLAuthenticator(path, path, ca_certs=path),
        )
        threading.Thread(target=server.start, daemon=True).start()
        while not server.active:
            time.sleep(0.001)
        return {"address": [server.host, server.port, pem]}

    def received(self) -> Answer:
        """What has come."""
        return self._count.as_answer()

    def wait(self, messages: int) -> Answer:
        """Wait for messages."""
        return self._count.wait(messages)

    def links(self) -> Answer:
        """How many there are."""
        return {"links": len(self._services)}

    def broadcast(self, size: int) -> Answer:
        """Call all back."""
        callbacks = [service.callback for service in list(self._services) if service.callback is not None]
        body, watch = os.urandom(size), Stopwatch()
        for callback in callbacks:
            callback(body)
        return watch.as_answer(links=len(callbacks))

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        time.sleep(seconds)
        return watch.as_answer()


class Client:
    """Dials."""

    def __init__(self) -> None:
        self._links: list[Any] = []
        self._pump = Pump(lambda link: link.poll())
        self._count = SharedCount()

    def link(self, address: list[Any], count: int, at_once: int) -> Answer:
        """Make links."""
        host, port, pem = address
        path = as_file(pem)

        def make() -> Any:
            link = rpyc.utils.factory.ssl_connect(
                host,
                port,
                keyfile=path,
                certfile=path,
                ca_certs=path,
                ssl_version=ssl.PROTOCOL_TLS_CLIENT,
            )
            _ = link.root  # asks the server, which therefore has accepted the certificate
            return link

        links, answer = dial(make, count, at_once)
        self._links += links
        return answer

    def join(self) -> Answer:
        """Have every link get what is broadcast."""
        for link in self._links:
            with self._pump.without(link):
                link.root.join(self._take)
            self._pump.add(link)
        return {}

    def rtt(self, rounds: int) -> Answer:
        """Call."""
        link = self._links[0]
        with self._pump.without(link):
            echo = link.root.echo
            return round_trips(lambda: echo(b""), rounds)

    def send(self, size: int, count: int) -> Answer:
        """Call, and look at the answers later."""
        link, body, calls = self._links[0], os.urandom(size), deque[Any]()
        with self._pump.without(link):
            take = rpyc.async_(link.root.take)
            watch = Stopwatch()
            for _ in range(count):
                calls.append(take(body))
                if len(calls) > CALLS:
                    calls.popleft().wait()
            for call in calls:
                call.wait()
            return watch.as_answer()

    def drop(self) -> Answer:
        """Close the links."""
        self._pump.clear()
        for link in self._links:
            link.close()
        self._links.clear()
        return {}

    def _take(self, body: bytes) -> None:
        self._count.take(len(body))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(HELLO, {"server": Server, "client": Client})
