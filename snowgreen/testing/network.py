"""What takes the place of the network: connections in memory, and what can be wrong with them.

A connection is two pairs of connected descriptors of this process, with greenlets between them that pass on
what comes: so it can be held back, or broken. Each node has an end, which it takes for one over TCP; from
there on all is as ever.
"""

from __future__ import annotations

import enum
import errno
import itertools
import os
import socket
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event

from ..config import Limits
from ..link.listener import Listener
from ..link.secured import Plain
from ..link.tls import End as TLSEnd
from ..names import Address, NodeName, is_literal, parse_name

_CHUNK = 64 * 1024


class Fault(enum.Enum):
    """What can be wrong between two nodes."""

    CUT = enum.auto()
    SILENT = enum.auto()


class Network:
    """Who can be dialed in memory, the connections there are, and what is wrong between whom."""

    def __init__(self) -> None:
        self.doors: dict[Address, Door] = {}
        self.wires: set[Wire] = set()
        #: Counts what went over the wires.
        self.moved = 0
        self._faults: dict[frozenset[str], Fault | None] = {}
        self._everywhere: Fault | None = None
        self._ports = itertools.count(1)
        self._dialers = itertools.count(50_000)

    def place(self, name: str, *, listens: bool) -> NodeName:
        """A node's name, complete."""
        if isinstance(name, str) and "@" not in name:
            name = f"{name}@127.0.0.1:0"
        parsed = parse_name(name)
        return parsed.with_port(next(self._ports)) if listens and parsed.port == 0 else parsed

    def connect(self, source: NodeName, place: Address) -> Plain:
        """A connection from the node of the name `source` to the one that listens at `place`."""
        door = self.doors.get(place)
        if door is None or door.endpoint is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        between = frozenset((source.text, door.endpoint.name.text))
        if self.state(between) is Fault.CUT:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        caller = (source.host if is_literal(source.host) else "127.0.0.1", next(self._dialers))
        wire = Wire(self, between, caller, tuple(place))
        self.wires.add(wire)
        door.handle(wire.far, caller)
        return wire.near

    def state(self, between: frozenset[str]) -> Fault | None:
        """What is wrong between two nodes, if anything."""
        return self._faults.get(between, self._everywhere)

    def fault(self, between: frozenset[str] | None, state: Fault | None) -> None:
        """From now on `state` is wrong between two nodes, or everywhere."""
        if between is None:
            self._faults.clear()
            self._everywhere = state
        else:
            self._faults[between] = state
        for wire in list(self.wires):
            if between in (None, wire.between):
                wire.take(state)

    def close(self) -> None:
        """End all that is left."""
        wires = list(self.wires)
        for wire in wires:
            wire.cut()
        gevent.joinall([pump for wire in wires for pump in wire.pumps])


class End(Plain):
    """One end of a connection in memory, which its node takes for one over TCP."""

    __slots__ = ("here", "there")

    here: Any
    there: Any

    def getsockname(self) -> Any:
        """This end's address."""
        return self.here

    def getpeername(self) -> Any:
        """The other end's address."""
        return self.there

    def setsockopt(self, *option: Any) -> None:
        """Set an option, unless it is one of TCP."""
        if option[0] != socket.IPPROTO_TCP:
            super().setsockopt(*option)


class Wire:
    """One connection: an end for each node, and in between two pumps, which a fault can stop."""

    def __init__(
        self, network: Network, between: frozenset[str], caller: tuple[Any, ...], called: tuple[Any, ...]
    ) -> None:
        self._network = network
        self.between = between
        self._open = Event()
        if network.state(between) is not Fault.SILENT:
            self._open.set()
        self.near, one = _connected(caller, called)
        self.far, other = _connected(called, caller)
        self._middle = (one, other)
        self.pumps = [gevent.spawn(self._pump, one, other), gevent.spawn(self._pump, other, one)]
        for pump in self.pumps:
            pump.rawlink(self._ended)

    def take(self, state: Fault | None) -> None:
        """A fault has begun, or ended."""
        if state is Fault.CUT:
            self.cut()
        elif state is Fault.SILENT:
            self._open.clear()
        else:
            self._open.set()

    def cut(self) -> None:
        """Break it: both ends see that it is gone."""
        gevent.killall(self.pumps, block=False)
        for end in self._middle:
            end.close()

    def _pump(self, source: gevent.socket.socket, sink: gevent.socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                self._open.wait()
                self._network.moved += 1
                sink.sendall(data)
            self._open.wait()
            self._network.moved += 1
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # the other end is gone: so is this connection
            self.cut()

    def _ended(self, _: object) -> None:
        if all(pump.dead for pump in self.pumps):
            self.cut()
            self._network.wires.discard(self)


def _connected(here: tuple[Any, ...], there: tuple[Any, ...]) -> tuple[End, gevent.socket.socket]:
    """A node's end of a connection, and what is connected with it."""
    inner, outer = gevent.socket.socketpair()
    end = End(inner.family, inner.type, inner.proto, inner.detach())
    end.here, end.there = here, there
    return end, outer


class Door(Listener):
    """A listener that listens nowhere: the network in memory hands it its connections."""

    def __init__(
        self, network: Network, place: Address, server: Callable[[], TLSEnd], limits: Limits
    ) -> None:
        super().__init__((place.host, place.port), server, limits)
        self._network = network
        self._place = place

    @property
    def bound(self) -> Address:
        """Where it is dialed."""
        return self._place

    def serve(self, endpoint: Any) -> None:
        """Begin to accept, for `endpoint`."""
        self.endpoint = endpoint
        self._network.doors[self._place] = self

    def close(self) -> None:
        """Accept no more, and end the handshakes under way."""
        if self._network.doors.get(self._place) is self:
            del self._network.doors[self._place]
        self.end_handshakes()
