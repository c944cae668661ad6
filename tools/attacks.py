"""Strangers who do their worst to a node, and the honest link by hand that they are measured against.

As a program it is the attacking process of a siege (see ``siege.py``): a plan comes in as a line of JSON, and
when the input ends, what was done goes out as another. The attacks, each by many connections at once that
come again when they are thrown out:

    silent         connects and says nothing
    drip           sends a ClientHello, byte by byte
    garbage        sends random bytes for as long as it can
    wrong-cookie   does the whole handshake, with another cookie
    replay         does it with the NAME and REPLY of a link that stood
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final, TypeAlias

import gevent
import gevent.socket
import gevent.ssl
from gevent.fileobject import FileObject
from gevent.pool import Group

from snowgreen import Cookie
from snowgreen.link import tls
from snowgreen.link.keyring import link_keys
from snowgreen.protocol.frames import FrameTag, decode_pong, encode_ping, encode_pong
from snowgreen.protocol.handshake import Established, Identity, Initiator, Step
from snowgreen.protocol.keys import LinkKeys, Secrets
from snowgreen.protocol.wire import MAX_FRAME, MAX_HANDSHAKE

#: Seconds that an answer may take.
PATIENCE: Final = 5.0
#: Seconds before an attacker that was thrown out comes again, and between two bytes that drip.
RETURN: Final = 1.0
DRIP: Final = 0.1

Place: TypeAlias = tuple[str, int]


# A link by hand.


@dataclass
class Recording:
    """What an initiator said, to be said again by somebody who does not know the cookie."""

    name: str = ""
    reply: str = ""


class Line:
    """A link with the node from a source address of choice; one greenlet at a time may ping it."""

    def __init__(
        self, place: Place, source: str, name: str, keys: LinkKeys, recording: Recording | None = None
    ) -> None:
        with contextlib.ExitStack() as stack:
            self._sock = secured(place, source)
            stack.callback(self._sock.close)
            machine = initiator(self._sock, name, keys)
            first = machine.start().send
            self._sock.sendall(first)
            self._feed(machine)
            reply = machine.prove().send
            self._sock.sendall(reply)
            step = self._feed(machine)
            if not isinstance(step, Established):
                raise OSError(f"the node refused: {step}")
            if recording is not None:
                recording.name, recording.reply = first.hex(), reply.hex()
            self._decoder = step.decoder
            self._decoder.limit = MAX_FRAME
            self._frames = self._decoder.feed(b"")
            self._number = 0
            stack.pop_all()

    def ping(self) -> float:
        """Seconds for a ping and its answer."""
        self._number += 1
        began = time.perf_counter()
        with gevent.Timeout(PATIENCE, OSError("no answer to a ping")):
            self._sock.sendall(encode_ping(self._number))
            while True:
                frame = self._frame()
                if frame[:1] == bytes([FrameTag.PING]):
                    self._sock.sendall(encode_pong(frame))
                elif frame[:1] == bytes([FrameTag.PONG]) and decode_pong(frame) == self._number:
                    return time.perf_counter() - began

    def close(self) -> None:
        """End the link."""
        self._sock.close()

    def _frame(self) -> bytes:
        while not self._frames:
            self._frames += self._decoder.feed(self._read())
        return self._frames.pop(0)

    def _feed(self, machine: Initiator) -> Step:
        step = machine.feed(self._read())
        while not machine.finished and step.send == b"" and machine.state.value.startswith("awaiting"):
            step = machine.feed(self._read())
        return step

    def _read(self) -> bytes:
        data = self._sock.recv(MAX_HANDSHAKE)
        if not data:
            raise OSError("the node closed the connection")
        return bytes(data)


def connected(place: Place, source: str) -> gevent.socket.socket:
    """A TCP connection from `source`."""
    sock = gevent.socket.create_connection(place, source_address=(source, 0))
    sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    return sock


def secured(place: Place, source: str) -> gevent.ssl.SSLSocket:
    """A TLS connection from `source`."""
    sock = connected(place, source)
    try:
        return CONTEXT.wrap_socket(sock, server_hostname=tls.SNI)
    except BaseException:
        sock.close()
        raise


def initiator(sock: gevent.ssl.SSLSocket, name: str, keys: LinkKeys) -> Initiator:
    """The handshake of somebody called `name`, for the connection `sock`."""
    return Initiator(
        Identity(name, time.time_ns()),
        Secrets((keys,), None),
        challenge=os.urandom(32),
        expected=None,
        acceptor_binding=sha256(sock.getpeercert(True) or b"").digest(),
    )


CONTEXT: Final = tls.client_context()


# The attacks: each takes a place and a source, and goes on until it is thrown out.


@dataclass
class Tally:
    """What was done in one kind of attack."""

    attackers: int = 0
    connections: int = 0
    ended: int = 0
    bytes: int = 0


class Assault:
    """The attacking process."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._place: Place = (plan["host"], plan["port"])
        self._recorded = bytes.fromhex(plan["name"]), bytes.fromhex(plan["reply"])
        self._keys = link_keys(Cookie.wrap(secrets.token_hex(32), "an attacker"))
        self._hello = client_hello()
        self._sources: dict[str, list[str]] = plan["sources"]
        self._attackers = int(plan["attackers"])
        self.tallies = {kind: Tally() for kind in self._sources}

    def run(self) -> None:
        """Attack until the input ends."""
        group = Group()
        for kind, sources in self._sources.items():
            for number in range(self._attackers):
                group.spawn(self._insist, kind, sources[number % len(sources)])
                self.tallies[kind].attackers += 1
                if number % 100 == 99:
                    gevent.sleep(0.01)
        print("begun", flush=True)
        FileObject(sys.stdin.fileno(), "r", closefd=False).read()
        group.kill(block=False)
        print(json.dumps({kind: asdict(tally) for kind, tally in self.tallies.items()}), flush=True)
        os._exit(0)  # thousands of connections need no farewell

    def _insist(self, kind: str, source: str) -> None:
        attack: Callable[[str, Tally], None] = getattr(self, "_" + kind.replace("-", "_"))
        tally = self.tallies[kind]
        while True:
            tally.connections += 1
            with contextlib.suppress(OSError):
                attack(source, tally)
            tally.ended += 1
            gevent.sleep(RETURN)

    def _silent(self, source: str, tally: Tally) -> None:
        with contextlib.closing(connected(self._place, source)) as sock:
            sock.recv(1)

    def _drip(self, source: str, tally: Tally) -> None:
        with contextlib.closing(connected(self._place, source)) as sock:
            sock.settimeout(DRIP)
            for byte in self._hello:
                sock.sendall(bytes([byte]))
                tally.bytes += 1
                with contextlib.suppress(TimeoutError):
                    sock.recv(4096)
                    return

    def _garbage(self, source: str, tally: Tally) -> None:
        with contextlib.closing(connected(self._place, source)) as sock:
            while True:
                sock.sendall(os.urandom(1024))
                tally.bytes += 1024

    def _wrong_cookie(self, source: str, tally: Tally) -> None:
        with contextlib.closing(secured(self._place, source)) as sock:
            machine = initiator(sock, "mallory@127.0.0.1:1", self._keys)
            self._talk(sock, tally, machine.start().send)
            machine.feed(sock.recv(4096))
            self._talk(sock, tally, machine.prove().send)
            sock.recv(4096)

    def _replay(self, source: str, tally: Tally) -> None:
        with contextlib.closing(secured(self._place, source)) as sock:
            for message in self._recorded:
                self._talk(sock, tally, message)
                sock.recv(4096)

    def _talk(self, sock: gevent.ssl.SSLSocket, tally: Tally, data: bytes) -> None:
        sock.sendall(data)
        tally.bytes += len(data)


KINDS: Final = ("silent", "drip", "garbage", "wrong-cookie", "replay")


def client_hello() -> bytes:
    """The first bytes of an honest TLS client."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=tls.SNI).do_handshake()
    return outgoing.read()


if __name__ == "__main__":
    Assault(json.loads(sys.stdin.readline())).run()
