"""A blocking thread for each link at either end, with snowgreen's handshake and frames: how one did it once.

The socket is the standard library's. One thread reads while others may write, which OpenSSL does not allow
at the same moment: so the reader waits for bytes outside the lock, and everybody takes the lock for the call.
"""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from snowgreen.protocol import frames
from snowgreen.protocol.frames import FrameTag
from snowgreen.protocol.handshake import (
    Acceptor,
    Challenged,
    Continue,
    Established,
    Initiator,
    Proved,
    Step,
)
from snowgreen.protocol.heartbeat import Verdict
from snowgreen.protocol.wire import MAX_FRAME, MAX_HANDSHAKE, Decoder

from . import linking
from .common import (
    PATIENCE,
    Answer,
    Count,
    Hello,
    Stopwatch,
    client_context,
    main,
    python,
    round_trips,
    server_context,
)
from .crowd import Crowd

HELLO: Final = Hello("threads", python(), True, "blocking sockets of the standard library", crowd=True)


class Link:
    """One connection, its handshake done."""

    def __init__(self, sock: ssl.SSLSocket, decoder: Decoder, deliver: Callable[[bytes], None]) -> None:
        self._sock = sock
        self._decoder = decoder
        self._deliver = deliver
        self._lock = threading.Lock()
        self._life = linking.Life()
        self._pongs = threading.Semaphore(0)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        decoder.limit = MAX_FRAME

    def read(self) -> None:
        """Take what comes, until the other end closes; in the meantime, be its heartbeat."""
        data = b""
        with suppress(OSError):
            while True:
                for frame in self._decoder.feed(data):
                    self._take(frame)
                if not self._sock.pending() and not self._poll.poll(linking.PULSE.timeout * 1000):
                    data = b""
                    if not self._beat():
                        break
                    continue
                with self._lock:
                    data = self._sock.recv(linking.READ)
                if not data:
                    break
                self._life.heard = time.monotonic()
        self._sock.close()

    def write(self, data: bytes) -> None:
        """Send all of it."""
        with self._lock:
            self._sock.sendall(data)

    def ping(self) -> None:
        """Wait for an answer."""
        self.write(frames.encode_ping(1))
        if not self._pongs.acquire(timeout=PATIENCE):
            raise TimeoutError("no answer to a ping")

    def close(self) -> None:
        """Have the reader see the end of it."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _take(self, frame: bytes) -> None:
        if frame[0] == FrameTag.PING:
            self.write(frames.encode_pong(frame))
        elif frame[0] == FrameTag.PONG:
            if frames.decode_pong(frame):
                self._pongs.release()
        else:
            self._deliver(frame)

    def _beat(self) -> bool:
        verdict = self._life.look()
        if verdict is Verdict.PING:
            self.write(frames.encode_ping(0))
        return verdict in (Verdict.PING, Verdict.QUIET)


def converse(sock: ssl.SSLSocket, machine: Acceptor | Initiator, step: Step) -> Step:
    """Send what the machine says and feed what comes, until it stops or ends."""
    while True:
        if step.send:
            sock.sendall(step.send)
        if not isinstance(step, Continue):
            return step
        data = sock.recv(MAX_HANDSHAKE)
        step = machine.feed(data) if data else machine.end_of_stream()


class Server:
    """Accepts, and counts."""

    def __init__(self) -> None:
        self._links: set[Link] = set()
        self._count = Count()
        self._counting = threading.Lock()

    def start(self) -> Answer:
        """Listen."""
        self._context, self._fingerprint = server_context(linking.ALPN)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()
        return {"address": self._listener.getsockname()[1]}

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
        """Write to every link."""
        frame, links, watch = linking.message(size), list(self._links), Stopwatch()
        for link in links:
            link.write(frame)
        return watch.as_answer(links=len(links))

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        time.sleep(seconds)
        return watch.as_answer()

    def _accept(self) -> None:
        while True:
            raw, _ = self._listener.accept()
            try:
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()
            except RuntimeError:  # no more threads
                raw.close()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError), raw:
            raw.settimeout(PATIENCE)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(raw, server_side=True) as sock:
                machine = linking.acceptor(self._fingerprint)
                step = converse(sock, machine, machine.feed(b""))
                if not isinstance(step, Proved):
                    return
                established = machine.accept()
                sock.sendall(established.send)
                link = Link(sock, established.decoder, self._deliver)
                self._links.add(link)
                try:
                    link.read()
                finally:
                    self._links.discard(link)

    def _deliver(self, frame: bytes) -> None:
        with self._counting:
            self._count.take(len(frame) - 1)


class Client:
    """Dials."""

    def __init__(self) -> None:
        self._context = client_context(linking.ALPN)
        self._links: list[Link] = []
        self._readers: list[threading.Thread] = []
        self._number = 0
        self._count = Count()
        self._crowd = Crowd()

    def link(self, address: int, count: int, at_once: int) -> Answer:
        """Make links."""
        before, watch, failures = len(self._links), Stopwatch(), list[str]()

        def dial(number: int) -> None:
            try:
                self._dial(address, number)
            except (OSError, RuntimeError) as error:
                failures.append(str(error))

        with ThreadPoolExecutor(at_once) as pool:
            pool.map(dial, range(self._number, self._number + count))
        self._number += count
        return watch.as_answer(made=len(self._links) - before, why=failures[0] if failures else "")

    def knock(self, address: int, count: int, at_once: int) -> Answer:
        """Make links of light ends."""
        return self._crowd.knock(address, count, at_once)

    def rtt(self, rounds: int) -> Answer:
        """Ping."""
        return round_trips(self._links[0].ping, rounds)

    def send(self, size: int, count: int) -> Answer:
        """Send."""
        link, watch = self._links[0], Stopwatch()
        for _ in range(count):
            link.write(linking.message(size))
        return watch.as_answer()

    def drop(self) -> Answer:
        """Close the links."""
        self._crowd.leave()
        for link in self._links:
            link.close()
        for reader in self._readers:
            reader.join(PATIENCE)
        self._links, self._readers = [], []
        return {}

    def _dial(self, port: int, number: int) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = self._context.wrap_socket(raw, server_hostname="snowgreen")
        shown = sock.getpeercert(True)
        assert shown is not None
        machine = linking.initiator(number, hashlib.sha256(shown).digest())
        step = converse(sock, machine, machine.start())
        if isinstance(step, Challenged):
            step = converse(sock, machine, machine.prove())
        if not isinstance(step, Established):
            sock.close()
            raise ConnectionError(str(step))
        link = Link(sock, step.decoder, lambda frame: self._count.take(len(frame) - 1))
        reader = threading.Thread(target=link.read, daemon=True)
        reader.start()
        self._links.append(link)
        self._readers.append(reader)


if __name__ == "__main__":
    main(HELLO, {"server": Server, "client": Client})
