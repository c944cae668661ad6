"""Many ends that do what it takes to be let in by snowgreen's handshake, and nothing else.

Whoever dials computes more than whoever accepts: with whole nodes at the other end a server waits for half of
the time, and each link costs it being woken. These keep it busy.
"""

from __future__ import annotations

import hashlib
import selectors
import socket
import ssl
from typing import Final

from snowgreen.protocol.handshake import Challenged, Continue, Initiator, Refused, Step
from snowgreen.protocol.wire import MAX_HANDSHAKE

from . import linking
from .common import PATIENCE, Answer, Stopwatch, client_context

HOST: Final = "127.0.0.1"


class Crowd:
    """The ends of one process. Once in they answer nothing: they are to leave before they are pinged."""

    def __init__(self) -> None:
        self._context = client_context(linking.ALPN)
        self._in: list[ssl.SSLSocket] = []
        self._number = 0

    def knock(self, port: int, count: int, at_once: int) -> Answer:
        """Have so many let in; as ``link`` of a client, except that it waits for all of them by itself."""
        watch, before, failures = Stopwatch(), len(self._in), list[str]()
        with selectors.DefaultSelector() as selector:
            left, under_way = count, 0
            while left or under_way:
                while left and under_way < at_once:
                    end = self._begin(port)
                    selector.register(end.sock, selectors.EVENT_READ, end)
                    left, under_way = left - 1, under_way + 1
                found = selector.select(PATIENCE)
                if not found:
                    raise TimeoutError(f"{under_way} wait in vain to be let in")
                for key, _ in found:
                    end = key.data
                    try:
                        if not end.go_on():
                            continue
                        self._in.append(end.sock)
                    except OSError as error:
                        failures.append(str(error))
                        end.sock.close()
                    selector.unregister(key.fd)
                    under_way -= 1
        return watch.as_answer(made=len(self._in) - before, why=failures[0] if failures else "")

    def leave(self) -> None:
        """Close all of them."""
        for sock in self._in:
            sock.close()
        self._in.clear()

    def _begin(self, port: int) -> _End:
        self._number += 1
        raw = socket.create_connection((HOST, port), PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setblocking(False)
        sock = self._context.wrap_socket(raw, server_hostname="snowgreen", do_handshake_on_connect=False)
        end = _End(sock, self._number)
        end.go_on()
        return end


class _End:
    """One of them."""

    def __init__(self, sock: ssl.SSLSocket, number: int) -> None:
        self.sock = sock
        self._number = number
        self._machine: Initiator | None = None

    def go_on(self) -> bool:
        """Do what can be done now; whether it is in."""
        try:
            if self._machine is None:
                self.sock.do_handshake()
                shown = self.sock.getpeercert(True)
                assert shown is not None
                self._machine = linking.initiator(self._number, hashlib.sha256(shown).digest())
                step: Step = self._machine.start()
            else:
                data = self.sock.recv(MAX_HANDSHAKE)
                step = self._machine.feed(data) if data else self._machine.end_of_stream()
        except ssl.SSLWantReadError:
            return False
        if isinstance(step, Challenged):
            step = self._machine.prove()
        if isinstance(step, Refused):
            raise ConnectionError(step.problem)
        if step.send:
            self.sock.send(step.send)
        return not isinstance(step, Continue)
