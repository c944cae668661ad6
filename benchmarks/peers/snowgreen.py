"""snowgreen: one node that is dialed, and a process full of nodes that dial it.

Beside the orders of all peers it knows some that show its parts: `frames`, what a session moves without
mailboxes; `values`, small dicts as MessagePack; `bare`, a loop of writes with nothing around it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Final

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject
from gevent.pool import Pool

from snowgreen import Config, Limits, Mailbox, Node, Session, __version__
from snowgreen.link.runtime import hub_state
from snowgreen.link.turns import Turns
from snowgreen.names import parse_name
from snowgreen.protocol import mail
from snowgreen.protocol.lanes import FRAGMENT
from snowgreen.protocol.wire import pack

from .common import PATIENCE, Answer, Count, Hello, Stopwatch, main, python, round_trips, trips_answer
from .crowd import Crowd
from .linking import COOKIE

HELLO: Final = Hello(
    "snowgreen",
    f"{__version__}, {python('gevent')}",
    True,
    "messages to a mailbox",
    ("values", "frames"),
    crowd=True,
)
TOPIC: Final = "news"
#: Frames that count as messages; the tag is one that no node uses.
FRAME: Final = 0x7F
#: Bytes of frames that may wait: what the caches hold. A session takes more, and is slower for it.
AHEAD: Final = 1024 * 1024
#: Bytes of frames sent between two looks at how much waits.
LOOK: Final = 16 * 1024
#: Steps of TLS handshakes in one turn of the loop where nothing limits them.
UNSPARING: Final = 1_000_000


def make(name: str, *, listen: bool = True, busy_wait: float | None = None) -> Node:
    """A node that takes many links from one address."""
    config = Config(limits=Limits.trusted(), busy_wait=busy_wait)
    return Node(f"{name}@127.0.0.1:0", cookie=COOKIE, config=config, listen=None if listen else False).start()


def spare_nobody() -> None:
    """Do all steps of handshakes that are due at once, whoever waits meanwhile."""
    hub_state().turns = Turns(gevent.get_hub(), width=UNSPARING)


class Server:
    """The node that is dialed: it counts what comes to its mailboxes."""

    def __init__(self) -> None:
        self._count = Count()

    def start(self, unsparing: bool = False, busy_wait: float | None = None) -> Answer:
        """Listen.

        :param unsparing: do not spare live links in a storm of handshakes.
        :param busy_wait: seconds for which to stay awake; None: as long as that pays.
        """
        if unsparing:
            spare_nobody()
        self._node = node = make("server", busy_wait=busy_wait)
        gevent.spawn(self._read, node.mailbox("bulk"))
        gevent.spawn(self._read, node.mailbox("values"))
        endpoint = node._endpoint
        assert endpoint is not None
        endpoint.receivers[FRAME] = lambda _session, frame: self._count.take(len(frame) - 1)
        return {"address": node.name}

    def received(self) -> Answer:
        """What has come."""
        return self._count.as_answer()

    def wait(self, messages: int) -> Answer:
        """Wait for messages."""
        return self._count.wait(messages, gevent.sleep)

    def links(self) -> Answer:
        """How many sessions there are."""
        return {"links": len(self._node.sessions)}

    def broadcast(self, size: int) -> Answer:
        """To all that have joined, until the transport has it all."""
        sessions, watch = list(self._node.sessions.values()), Stopwatch()
        sent = self._node.broadcast(TOPIC, bytes(size))
        for session in sessions:
            while session._outbox.waiting:
                gevent.sleep(0)
        return watch.as_answer(links=len(sent.queued))

    def bare(self, size: int) -> Answer:
        """The least that a broadcast can cost: the same bytes, in a loop of writes to the same links."""
        frame = pack(mail.broadcast_head(TOPIC, 0) + bytes(size))
        socks = [session._sock for session in self._node.sessions.values()]
        watch = Stopwatch()
        for sock in socks:
            sock.send(frame)
        return watch.as_answer(links=len(socks))

    def freshen(self) -> Answer:
        """Hear from every peer: for most of a heartbeat's interval neither side then has to ping."""
        pool = Pool(100)
        for session in list(self._node.sessions.values()):
            pool.spawn(session.ping, PATIENCE)
        pool.join(raise_error=True)
        return {}

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        gevent.sleep(seconds)
        return watch.as_answer()

    def _read(self, mailbox: Mailbox) -> None:
        take = self._count.take
        for message in mailbox:
            take(len(message.body))


class Room:
    """Where a sender of frames waits until its link has room."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._event = Event()

    def room(self) -> None:
        """Called by the loop when something was written."""
        if self._session.bytes_waiting < AHEAD // 2:
            self._event.set()

    def wait(self) -> None:
        """Wait."""
        self._event.clear()
        self._event.wait(PATIENCE)


class Client:
    """A node for each link."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._frames: Node | None = None
        self._crowd = Crowd()

    def link(self, address: str, count: int, at_once: int) -> Answer:
        """Make links."""
        self._address, made = address, len(self._nodes)
        # Before the first dial: a node is more than a link, and no other peer has to make one.
        nodes = [make(f"client-{os.getpid()}-{number}", listen=False) for number in range(made, made + count)]
        watch = Stopwatch()

        def dial(node: Node) -> None:
            try:
                node.connect(address, timeout=30)
            except OSError:
                node.stop()
                raise
            self._nodes.append(node)

        pool = Pool(at_once)
        dials = [pool.spawn(dial, node) for node in nodes]
        gevent.joinall(dials)
        failures = [dial.exception for dial in dials if dial.exception is not None]
        return watch.as_answer(made=len(self._nodes) - made, why=str(failures[0]) if failures else "")

    def knock(self, address: str, count: int, at_once: int) -> Answer:
        """Make links of light ends."""
        return self._crowd.knock(parse_name(address).port, count, at_once)

    def link_asleep(self, address: str) -> Answer:
        """Make a link of a node that never stays awake."""
        self._address = address
        self._nodes.append(make(f"client-{os.getpid()}", listen=False, busy_wait=0.0))
        self._nodes[0].connect(address)
        return {}

    def join(self) -> Answer:
        """Have every node get what is broadcast."""
        for node in self._nodes:
            node.join(TOPIC)
        return {}

    def storm(self, address: str, count: int) -> Answer:
        """Make links all at once, as a crowd of processes would, and end them again."""
        spare_nobody()  # of these nodes none is to wait for another
        nodes = [make(f"storm-{os.getpid()}-{number}", listen=False) for number in range(count)]
        watch = Stopwatch()
        dials = [gevent.spawn(node.connect, address, timeout=30) for node in nodes]
        gevent.joinall(dials)
        answer = watch.as_answer(made=sum(dial.successful() for dial in dials))
        for node in nodes:
            node.stop()
        return answer

    def beat(self, seconds: float) -> Answer:
        """Ping each millisecond, whether or not the ones before are answered."""
        session = self._nodes[0].sessions[self._address]
        trips: list[float] = []
        pings, began = Pool(), time.perf_counter()
        while (gone := time.perf_counter() - began) < seconds:
            pings.spawn(lambda: trips.append(session.ping(PATIENCE)))
            gevent.sleep(0.001 - gone % 0.001)
        pings.join(raise_error=True)
        return trips_answer(trips)

    def rtt(self, rounds: int) -> Answer:
        """Ping."""
        session = self._nodes[0].sessions[self._address]
        return round_trips(lambda: session.ping(PATIENCE), rounds)

    def send(self, size: int, count: int, way: str = "") -> Answer:
        """Send to a mailbox, or in one of the other ways."""
        if way == "frames":
            return self._send_frames(size, count)
        node, address, body = self._nodes[0], self._address, bytes(size)
        watch = Stopwatch()
        if way == "values":
            for number in range(count):
                value = {"number": number, "sensor": "boiler-3/outlet", "celsius": 71.25, "alarm": False}
                node.send(address, "values", value)
        else:
            for _ in range(count):
                node.send(address, "bulk", body)
        return watch.as_answer()

    def drop(self) -> Answer:
        """Stop the nodes, and close the light ends."""
        self._crowd.leave()
        pool = Pool(64)
        for node in [*self._nodes, *([self._frames] if self._frames else [])]:
            pool.spawn(node.stop)
        pool.join()
        self._nodes, self._frames = [], None
        return {}

    def _send_frames(self, size: int, count: int) -> Answer:
        # On a link of their own, which carries no messages.
        if self._frames is None:
            self._frames = make("frames", listen=False)
        session = self._frames.connect(self._address)
        room = session.carried
        if not isinstance(room, Room):
            room = session.carried = Room(session)
        head, body = bytes([FRAME]), bytes(size)
        bunch = max(1, LOOK // size)
        watch = Stopwatch()
        for number in range(count):
            if number % bunch == 0 and session.bytes_waiting > AHEAD:
                room.wait()
            if size < FRAGMENT:
                session.post_message("frames", head, body)
            else:  # which would cut it into fragments
                session.post_whole(pack(head + body))
        return watch.as_answer()


if __name__ == "__main__":
    logging.getLogger("snowgreen").setLevel(logging.ERROR)
    main(HELLO, {"server": Server, "client": Client}, FileObject(sys.stdin.fileno(), "r", closefd=False))
