"""A TCP forwarder that can spoil what it forwards: the network's ill will, at the tests' command."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import gevent
import gevent.pool
import gevent.server
import gevent.socket
from gevent.event import Event


class Proxy:
    """Forwards every connection to `target` until told to do worse.

    `delay` is in seconds for every piece forwarded; `trickle` the most bytes in one piece, sent a hundredth
    of a second apart.
    """

    def __init__(self, target: tuple[str, int] | None = None) -> None:
        self.target = target
        self.delay = 0.0
        self.trickle = 0
        self.accepted = 0
        self._open = {"to": Event(), "from": Event()}
        self.heal()
        self._pairs: list[tuple[Any, Any]] = []
        self._forgotten: list[Any] = []
        self._pool = gevent.pool.Pool(256)
        self._server = gevent.server.StreamServer(("127.0.0.1", 0), self._forward, spawn=self._pool)
        self._server.start()

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._server.address[1])

    def heal(self) -> None:
        """Forward faithfully again; what was stalled goes on."""
        self.delay, self.trickle = 0.0, 0
        for way in self._open.values():
            way.set()

    def stall(self, *ways: str) -> None:
        """Forward nothing ``"to"`` the target, or ``"from"`` it; connections stay open and silent."""
        for way in ways or ("to", "from"):
            self._open[way].clear()

    def cut(self) -> None:
        """Close every connection, both ends."""
        self._end(lambda sock: None)

    def reset(self) -> None:
        """Reset every connection, both ends."""
        self._end(
            lambda sock: sock.setsockopt(
                gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        )

    def forget(self) -> None:
        """Cut towards the target only: the dialing end stays open, and hears nothing more of it."""
        for client, server in self._pairs:
            self._forgotten.append(client.dup())
            server.close()

    def close(self) -> None:
        """End everything."""
        self._server.stop(0.1)
        self._pool.kill()
        self.cut()
        for sock in self._forgotten:
            sock.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, prepare: Any) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    prepare(sock)
                sock.close()

    def _forward(self, client: Any, _address: Any) -> None:
        self.accepted += 1
        try:
            server = gevent.socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        pair = (client, server)
        self._pairs.append(pair)
        jobs = [
            gevent.spawn(self._pump, client, server, "to"),
            gevent.spawn(self._pump, server, client, "from"),
        ]
        try:
            gevent.joinall(jobs)
        finally:
            gevent.killall(jobs)
            for sock in pair:
                sock.close()
            if pair in self._pairs:
                self._pairs.remove(pair)

    def _pump(self, source: Any, sink: Any, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while data:
                    self._open[way].wait()
                    piece = data[: self.trickle or len(data)]
                    data = data[len(piece) :]
                    if self.delay or self.trickle:
                        Event().wait(self.delay or 0.01)
                    sink.sendall(piece)
            self._open[way].wait()
            sink.shutdown(gevent.socket.SHUT_WR)
