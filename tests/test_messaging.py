"""Messages between live nodes over real TLS: in order, at most once, and every one accounted for."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import gevent.socket
import pytest
from gevent.event import Event
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import snowgreen
from snowgreen import (
    Config,
    Limits,
    LinkError,
    Mailbox,
    MessagesDropped,
    Node,
    NodeDown,
    NodeUp,
    Subscription,
)
from snowgreen.errors import (
    ConfigurationError,
    LinkTimeout,
    MailboxFull,
    NodeStateError,
    PayloadError,
    PayloadTooLarge,
    SendTimeout,
    SessionClosed,
    UnknownMailbox,
    Unreachable,
    Unsupported,
)
from snowgreen.messaging import groups, losses
from snowgreen.protocol import mail
from snowgreen.protocol.lanes import FRAGMENT, SMALL
from tests.certs import node_name
from tests.conftest import COOKIE, MakeNode, live_greenlets
from tests.proxy import Proxy
from tests.system.processes import Child
from tests.waiting import event_of, until

HEAD = struct.Struct("<HHQI")  # mailbox, sender, number, size: no two messages of a run are the same
NOISE = random.Random(1).randbytes(512 * 1024)
#: Small ones, bulk that is sent whole, and bulk that is cut, and the bounds between them.
SIZES = [HEAD.size, 60, 2000, SMALL - 6, SMALL + 1, 40_000, FRAGMENT - 6, FRAGMENT + 1, 150_000, 300_000]
#: What a sender may be told of a message that was not sent.
REFUSED = (SendTimeout, UnknownMailbox, MailboxFull, SessionClosed, LinkError)


def made(mailbox: int, sender: int, number: int, size: int) -> bytes:
    """The body of a message; it says what it is, and can be told from any other."""
    start = number * 7919 % 100_000
    return HEAD.pack(mailbox, sender, number, size) + NOISE[start : start + size - HEAD.size]


def target(node: Node) -> tuple[str, int]:
    """Where a proxy in front of `node` has to forward to."""
    assert node.address is not None
    host, port = node.address.rsplit(":", 1)
    return host, int(port)


def narrow(sock: Any) -> None:
    """Have the kernel hold little for `sock`: what waits for a reader then waits where it was sent."""
    for option in (gevent.socket.SO_SNDBUF, gevent.socket.SO_RCVBUF):
        sock.setsockopt(gevent.socket.SOL_SOCKET, option, 65_536)


class NarrowProxy(Proxy):
    """A proxy that does not take much from those who send while it stalls."""

    def _pump(self, source: Any, sink: Any, way: str) -> None:
        for sock in (source, sink):
            with contextlib.suppress(OSError):  # it was cut before it began
                narrow(sock)
        super()._pump(source, sink, way)


class Letter(NamedTuple):
    """A message that was queued: where from, where to, and on which link; None if it never left the node."""

    sender: int
    number: int
    link: float | None


class Place:
    """A mailbox of one of the nodes, which is closed and opened again, and what its readers got."""

    def __init__(self, number: int, node: Node) -> None:
        self.number = number
        self.node = node
        self.name = f"m{number}"
        self.size, self.full = 4, "block"
        self.box: Mailbox | None = None
        self.came: list[bytes] = []
        #: Messages that its former lives dropped.
        self.dropped = 0
        self.reader: gevent.Greenlet[..., None] | None = None

    def open(self, **options: Any) -> None:
        self.box = self.node.mailbox(self.name, **options)
        self.size, self.full = options["size"], options["full"]

    def close(self) -> None:
        """Close it, and read what it still has."""
        assert self.box is not None
        self.still()
        self.box.close()
        self.came += [message.body for message in self.box]
        self.dropped += self.box.dropped
        self.box = None

    @property
    def all_dropped(self) -> int:
        """Messages that no reader got, in all its lives."""
        return self.dropped + (0 if self.box is None else self.box.dropped)

    def read(self, count: int) -> None:
        while self.box and count and len(self.box):
            self.came.append(self.box.get(0).body)
            count -= 1

    def go(self) -> None:
        """Have it read from now on."""
        if self.reader is None and self.box is not None:
            self.reader = gevent.spawn(self._go, self.box)

    def _go(self, box: Mailbox) -> None:
        for message in box:
            self.came.append(message.body)

    def still(self) -> None:
        """Have it no longer read."""
        reader, self.reader = self.reader, None
        if reader is not None:
            reader.kill()


class Writer:
    """A greenlet that sends what it is told to, one message after the other."""

    def __init__(self, number: int, node: Node) -> None:
        self.number = number
        self.node = node
        self.sent: dict[int, list[Letter]] = defaultdict(list)  # by place: those that were queued
        self.trouble: list[BaseException] = []
        self._orders: deque[tuple[Place, int, float | None]] = deque()
        self._wake = Event()
        self._count = 0
        self.idle = True
        self._greenlet = gevent.spawn(self._run)

    def order(self, place: Place, sizes: list[int], timeout: float | None) -> None:
        self.idle = False
        self._orders.extend((place, size, timeout) for size in sizes)
        self._wake.set()

    def stop(self) -> None:
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            while self._orders:
                try:
                    self._send(*self._orders.popleft())
                except REFUSED:
                    pass
                except Exception as error:  # noqa: BLE001  # the test fails of it, and says which
                    self.trouble.append(error)
            self.idle = True
            self._wake.clear()
            self._wake.wait()

    def _send(self, place: Place, size: int, timeout: float | None) -> None:
        self._count += 1
        body = made(place.number, self.number, self._count, size)
        self.node.send(place.node.name, place.name, body, timeout)
        # Nothing has run since it was queued, unless that very thing broke the link.
        session = self.node.sessions.get(place.node.name)
        if session is not None:
            narrow(session._sock)
        link = None if place.node is self.node else 0.0 if session is None else session.connected_at
        self.sent[place.number].append(Letter(self.number, self._count, link))


class Ledger:
    """What one node is told: the links it had, and the messages that were lost on each."""

    def __init__(self, node: Node) -> None:
        self._events = node.subscribe()
        self._name = node.name
        self.link: float | None = None
        #: (link, mailbox) → those of its own messages that it was told are lost; a link of None is the node.
        self.sent: Counter[tuple[float | None, str]] = Counter()
        #: Mailbox → those to it that it was told are lost.
        self.received: Counter[str] = Counter()

    def read(self) -> None:
        while (event := self._events.get(0)) is not None:
            assert not isinstance(event, snowgreen.EventsDropped)
            if isinstance(event, NodeUp):
                self.link = event.at
            elif isinstance(event, NodeDown):
                self.link = None
                assert "broke the protocol" not in event.reason
                assert "internal error" not in event.reason
            elif isinstance(event, MessagesDropped):
                if event.sent:
                    assert self.link is not None
                    self.sent[self.link, event.mailbox] += event.count
                else:
                    self.received[event.mailbox] += event.count
                    if event.peer == self._name:
                        self.sent[None, event.mailbox] += event.count


class Chaos:
    """Two nodes that send to each other and to themselves, while mailboxes and links come and go.

    :param chance: what happens, and in which order.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        pool = gevent.get_hub().threadpool
        pool.maxsize = 1  # as in conftest: its thread is there before the count, and stays
        pool.apply(int)
        self.greenlets = len(live_greenlets())
        self.proxy = NarrowProxy()
        self.outbox = chance.choice([8 * 1024 * 1024, 100_000, 1024])
        limits = Limits.trusted(tls_timeout=2, handshake_timeout=4, outbox_bytes=self.outbox)
        config = Config(
            heartbeat_interval=30, probe_timeout=0.1, duplicate_wait=0.1, event_queue=100_000, limits=limits
        )
        a = Node("a@127.0.0.1:0", cookie=COOKIE, config=config).start()
        name = f"b@127.0.0.1:{self.proxy.port}"
        b = Node(name, listen="127.0.0.1:0", cookie=COOKIE, config=config).start()
        self.proxy.target = target(b)
        self.nodes = [a, b]
        self.ledgers = [Ledger(node) for node in self.nodes]
        self.places = [Place(number, self.nodes[number % 2]) for number in range(5)]
        self.writers = [Writer(number, self.nodes[number % 2]) for number in range(5)]
        for place in self.places:
            place.open(size=1000, full="block")
        a.connect(b.name)

    # What may happen.

    def step(self) -> None:
        steps = [
            (self.send, 25),
            (self.send_many, 10),
            (self.read, 10),
            (self.read_on, 10),
            (self.renew, 10),
            (self.let_run, 25),
            (self.stall, 4),
            (self.heal, 3),
            (self.end_the_link, 3),
        ]
        (chosen,) = self.chance.choices([step for step, _ in steps], [weight for _, weight in steps])
        chosen()
        self.check_bounds()

    def send(self) -> None:
        sizes = self.chance.choices(SIZES, k=self.chance.randint(1, 8))
        self.a_writer.order(self.a_place, sizes, self.chance.choice([None, None, None, 0.0, 0.02]))

    def send_many(self) -> None:
        """More small ones than fit into a batch, and a large one behind them."""
        self.a_writer.order(self.a_place, [2000] * self.chance.choice([200, 30]) + [40_000], None)

    def read(self) -> None:
        self.a_place.read(self.chance.randint(1, 60))

    def read_on(self) -> None:
        if self.chance.random() < 0.6:
            self.a_place.go()
        else:
            self.a_place.still()

    def renew(self) -> None:
        """Close a mailbox, and perhaps open it again as another."""
        place = self.a_place
        if place.box is not None:
            place.close()
        if self.chance.random() < 0.8:
            place.open(
                size=self.chance.choice([4096, 50, 3, 1]),
                max_bytes=self.chance.choice([16 * 1024 * 1024, 50_000, 1]),
                full=self.chance.choice(["block", "block", "drop_newest", "drop_oldest", "error"]),
            )

    def let_run(self) -> None:
        for _ in range(self.chance.choice([1, 3, 20, 100])):
            gevent.sleep(0)

    def stall(self) -> None:
        self.proxy.stall(*self.chance.choice([("to",), ("from",), ("to", "from")]))

    def heal(self) -> None:
        self.proxy.heal()

    def end_the_link(self) -> None:
        self.proxy.heal()
        how = self.chance.choice(["cut", "reset", "a", "b"])
        if how in ("cut", "reset"):
            getattr(self.proxy, how)()
            return
        for session in list(self.nodes["ab".index(how)].sessions.values()):
            session.close()

    @property
    def a_writer(self) -> Writer:
        return self.chance.choice(self.writers)

    @property
    def a_place(self) -> Place:
        return self.chance.choice(self.places)

    # What must hold.

    def check_bounds(self) -> None:
        """No mailbox holds more than two senders may put there, no outbox more than one message too much."""
        for place in self.places:
            if place.box is not None:
                assert len(place.box) <= place.size + max(min(16, place.size), place.size // 2)
        for node in self.nodes:
            for session in node.sessions.values():
                # Large and small ones are counted apart, and control frames not at all.
                assert session._outbox.waiting < 2 * self.outbox + max(SIZES) + 100_000

    def finish(self) -> None:
        """Let everybody read: nobody waits any more, and the accounts are in order."""
        self.proxy.heal()
        for place in self.places:
            place.go()
        until(lambda: all(writer.idle for writer in self.writers), "no sender waits", timeout=30)
        assert [writer.trouble for writer in self.writers] == [[]] * len(self.writers)
        # What was sent on a link that is up is accounted for to the last message; an earlier link's may be lost.
        until(self.accounted, "all is accounted for", timeout=5, detail=self.missing)
        for place in self.places:
            self.check_order(place)
        for node in self.nodes:
            for session in node.sessions.values():
                assert session.ping() > 0

    def check_order(self, place: Place) -> None:
        last: dict[int, int] = defaultdict(int)
        queued = {
            (letter.sender, letter.number) for writer in self.writers for letter in writer.sent[place.number]
        }
        for body in place.came:
            mailbox, sender, number, size = HEAD.unpack_from(body)
            assert mailbox == place.number
            assert body == made(mailbox, sender, number, size)
            assert number > last[sender], "twice, or out of order"
            assert (sender, number) in queued, "delivered, though send() raised"
            last[sender] = number

    def missing(self) -> dict[tuple[float | None, str], int]:
        """Link and mailbox → messages that neither arrived nor were reported lost."""
        found: Counter[tuple[float | None, str]] = Counter()
        for place in self.places:
            came = {HEAD.unpack_from(body)[1:3] for body in place.came}
            for writer in self.writers:
                for letter in writer.sent[place.number]:
                    if (letter.sender, letter.number) not in came:
                        found[letter.link, place.name] += 1
        for ledger in self.ledgers:
            ledger.read()
            found.subtract(ledger.sent)
        return {key: count for key, count in found.items() if count}

    def accounted(self) -> bool:
        missing = self.missing()
        assert all(count > 0 for count in missing.values()), f"more lost than sent: {missing}"
        up = {None, *(ledger.link for ledger in self.ledgers if ledger.link is not None)}
        told = all(
            place.all_dropped == self.ledgers[place.number % 2].received[place.name] for place in self.places
        )
        return told and not any(link in up for link, _ in missing)

    def close(self) -> None:
        for place in self.places:
            place.still()
        for writer in self.writers:
            writer.stop()
        for node in self.nodes:
            node.stop()
        self.proxy.close()
        until(lambda: len(live_greenlets()) <= self.greenlets, "the end", detail=live_greenlets)


@settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_chaos(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever senders, readers, mailboxes and links do: in order, once, whole, and nothing lost in silence."""
    monkeypatch.setattr(losses, "_PAUSE", 0.2)
    chaos = Chaos(random.Random(seed))
    try:
        for _ in range(150):
            chaos.step()
        chaos.finish()
    finally:
        chaos.close()


# Senders and readers of one link.


class Ends(NamedTuple):
    """Who sends, and who has the mailboxes."""

    sender: Node
    receiver: Node

    def send(self, mailbox: str, body: Any, timeout: float | None = None) -> None:
        self.sender.send(self.receiver.name, mailbox, body, timeout)

    def spawn(
        self, mailbox: str, body: Any, timeout: float | None = None
    ) -> gevent.Greenlet[..., BaseException | None]:
        """A greenlet that sends; it has begun to."""
        return begun(self.send, mailbox, body, timeout)


def begun(function: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., BaseException | None]:
    """A greenlet that runs it, and has come to where it waits; its value is what was raised."""

    def run() -> BaseException | None:
        try:
            function(*args)
        except BaseException as error:  # noqa: BLE001  # the test judges it
            return error
        return None

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    gevent.sleep(0)
    return greenlet


def outcome(greenlet: gevent.Greenlet[..., BaseException | None]) -> BaseException | None:
    """What was raised in `greenlet`, which must end soon."""
    until(greenlet.ready, f"the end of {greenlet}", timeout=30)
    return greenlet.get()


@contextlib.contextmanager
def silence() -> Iterator[str]:
    """The name of a node that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"silent@127.0.0.1:{listener.getsockname()[1]}"


def at_rest(value: Callable[[], Any]) -> None:
    """Wait until `value` does not change any more."""
    last, same = None, 0

    def look() -> bool:
        nonlocal last, same
        now = value()
        same = same + 1 if now == last else 0
        last = now
        return same >= 25

    until(look, "rest")


def bodies(mailbox: Mailbox) -> list[Any]:
    """What waits in `mailbox`."""
    found = []
    while len(mailbox):
        found.append(mailbox.get(0).body)
    return found


def arrived(mailbox: Mailbox, count: int) -> list[Any]:
    """The next `count` bodies."""
    return [mailbox.get(timeout=20).body for _ in range(count)]


def dropped(events: Subscription) -> tuple[str, str, int, str, bool]:
    """The next report of messages that were lost: peer, mailbox, count, reason, and whether this node sent them."""
    event = event_of(events, MessagesDropped)
    return event.peer, event.mailbox, event.count, event.reason, event.sent


def drops(events: Subscription) -> Counter[tuple[str, bool]]:
    """All of those that wait: (mailbox, whether this node sent them) → how many messages."""
    found: Counter[tuple[str, bool]] = Counter()
    while (event := events.get(0)) is not None:
        if isinstance(event, MessagesDropped):
            found[event.mailbox, event.sent] += event.count
    return found


@pytest.fixture(params=["peer", "itself"])
def ends(request: pytest.FixtureRequest, make_node: MakeNode) -> Ends:
    """A node that sends to another, and one that sends to itself: nobody should see the difference."""
    receiver = make_node()
    if request.param == "itself":
        return Ends(receiver, receiver)
    sender = make_node()
    sender.connect(receiver.name)
    return Ends(sender, receiver)


@pytest.fixture
def pair(make_node: MakeNode) -> Ends:
    """Two linked nodes."""
    receiver, sender = make_node(), make_node()
    sender.connect(receiver.name)
    return Ends(sender, receiver)


class Wire(NamedTuple):
    """Two linked nodes, and the network between them."""

    ends: Ends
    proxy: Proxy

    @property
    def session(self) -> snowgreen.Session:
        return self.ends.sender.sessions[self.ends.receiver.name]

    def block(self, *, crowd: bool = False) -> None:
        """Let nothing more through, and fill what the kernel holds, until the sender's outbox is full.

        :param crowd: for small messages, too, which go ahead of the large one that it is full of.
        """
        self.proxy.stall("to")
        filler = begun(self.ends.send, "filler", bytes(4 * 1024 * 1024))
        assert outcome(filler) is None
        at_rest(lambda: self.session._outbox.waiting)
        assert self.session.full
        while crowd and not self.session.crowded:
            self.ends.send("crumbs", bytes(10_000))


@pytest.fixture
def wire(make_node: MakeNode) -> Iterator[Wire]:
    """A link through a proxy that can be stalled, and over which little is under way at once."""
    limits = Limits.trusted(tls_timeout=2, handshake_timeout=4, outbox_bytes=100_000)
    config = Config(heartbeat_interval=30, probe_timeout=0.1, duplicate_wait=0.1, limits=limits)
    with NarrowProxy() as proxy:
        receiver = make_node(f"b@127.0.0.1:{proxy.port}", listen="127.0.0.1:0", config=config)
        proxy.target = target(receiver)
        sender = make_node(config=config)
        narrow(sender.connect(receiver.name)._sock)
        for name in ("filler", "crumbs"):
            filler = receiver.mailbox(name)
            sender.send(receiver.name, name, b"")
            filler.get(timeout=10)
        yield Wire(Ends(sender, receiver), proxy)
        sender.stop(0)


def test_a_hundred_senders_share_a_link(pair: Ends) -> None:
    """A hundred greenlets that send at once, small and large, to a few mailboxes: each one's come whole, in order."""
    boxes = [pair.receiver.mailbox(f"m{number}", size=20) for number in range(4)]
    chance = random.Random(3)

    def run(sender: int) -> None:
        for number in range(1, 21):
            mailbox = chance.randrange(4)
            pair.send(f"m{mailbox}", made(mailbox, sender, number, chance.choice(SIZES[:8])))
            expected[mailbox][sender].append(number)

    expected: list[dict[int, list[int]]] = [defaultdict(list) for _ in boxes]
    came: list[dict[int, list[int]]] = [defaultdict(list) for _ in boxes]

    def read(mailbox: int) -> None:
        for message in boxes[mailbox]:
            _, sender, number, size = HEAD.unpack_from(message.body)
            assert message.body == made(mailbox, sender, number, size)
            came[mailbox][sender].append(number)

    readers = [begun(read, number) for number in range(4)]
    senders = [begun(run, number) for number in range(100)]
    assert [outcome(sender) for sender in senders] == [None] * 100
    for box in boxes:
        until(
            lambda box=box: not len(box) and not pair.sender.sessions[pair.receiver.name]._outbox.waiting, ""
        )
    pair.sender.sessions[pair.receiver.name].ping()
    for box in boxes:
        box.close()
    assert [outcome(reader) for reader in readers] == [None] * 4
    assert came == expected


def test_both_directions_at_once(pair: Ends) -> None:
    """Two nodes that send each other large bodies at the same time, through small mailboxes, both get all."""
    nodes = [pair.sender, pair.receiver]
    boxes = [node.mailbox("in", size=2) for node in nodes]
    sent = [[made(0, end, number, 150_000) for number in range(1, 41)] for end in range(2)]

    def run(end: int) -> None:
        for body in sent[end]:
            nodes[end].send(nodes[1 - end].name, "in", body)

    senders = [begun(run, end) for end in range(2)]
    came = [gevent.spawn(arrived, box, 40) for box in boxes]
    assert [outcome(sender) for sender in senders] == [None, None]
    assert [greenlet.get() for greenlet in came] == [sent[1], sent[0]]


# A mailbox that is not read.


def test_a_reader_that_stands_still_stalls_nobody_else(make_node: MakeNode) -> None:
    """While one mailbox is full its senders wait; heartbeats, pings, calls, other mailboxes and links go on."""
    config = Config(heartbeat_interval=0.1, heartbeat_timeout=10, limits=Limits.trusted())
    receiver, sender, third = (make_node(config=config) for _ in range(3))
    receiver.handler("double")(lambda number: 2 * number)
    session, other = sender.connect(receiver.name), third.connect(receiver.name)
    stuck, free = receiver.mailbox("stuck", size=8), receiver.mailbox("free")
    ends = Ends(sender, receiver)

    def run() -> None:
        for number in range(30):
            ends.send("stuck", number)

    waiting = [begun(run) for _ in range(3)]
    until(lambda: len(stuck) == 8, "a full mailbox")
    beats = session.frames_received
    for number in range(100):
        ends.send("free", number, timeout=10)
        third.send(receiver.name, "free", "third", timeout=10)
    assert Counter(map(str, arrived(free, 200))) == Counter([*map(str, range(100)), *["third"] * 100])
    assert sender.call(receiver.name, "double", 21) == 42
    assert third.call(receiver.name, "double", 4) == 8
    assert session.ping() > 0
    assert other.ping() > 0
    assert receiver.sessions[sender.name].ping() > 0
    until(lambda: session.frames_received >= beats + 8, "heartbeats that are answered")
    assert len(stuck) == 8
    assert not any(greenlet.ready() for greenlet in waiting)
    assert session._outbox.waiting < 100  # a ping, at most
    came = arrived(stuck, 90)
    assert Counter(came) == Counter([*range(30)] * 3)
    assert [outcome(greenlet) for greenlet in waiting] == [None] * 3
    assert not session.closed


@pytest.mark.parametrize(
    ("bounds", "size", "held"),
    [
        ({"size": 5}, 0, 5),
        ({"size": 5}, 100_000, 5),
        # By bytes: the last one may be larger than the room that is left.
        ({"max_bytes": 1_000_000}, 300_000, 4),
        ({"max_bytes": 1}, 300_000, 1),
        ({"size": 1, "max_bytes": 1}, 0, 1),
    ],
)
def test_a_mailbox_holds_what_it_says(ends: Ends, bounds: dict[str, int], size: int, held: int) -> None:
    """A mailbox that nobody reads holds as many messages and bytes as it was made for, and the sender waits."""
    box = ends.receiver.mailbox("box", **bounds)
    count = 0

    def run() -> None:
        nonlocal count
        for _ in range(20):
            ends.send("box", bytes(size))
            count += 1

    sender = begun(run)
    until(lambda: len(box) == held and count == held, "a full mailbox", detail=lambda: (len(box), count))
    for session in ends.sender.sessions.values():
        session.ping()
    assert (len(box), count) == (held, held)
    for _ in range(20):
        assert len(box.get(timeout=10).body) == size
        assert len(box) <= held
    assert outcome(sender) is None


def test_an_outbox_holds_what_it_says(wire: Wire) -> None:
    """While the peer's network takes nothing, senders wait once the outbox is full; later all of it arrives."""
    box = wire.ends.receiver.mailbox("box", max_bytes=64 * 1024 * 1024)
    sent = [made(0, sender, 1, size) for sender, size in enumerate(SIZES * 3)]
    wire.ends.send("box", b"")
    assert box.get(timeout=10).body == b""
    wire.block(crowd=True)
    before = wire.session._outbox.waiting
    senders = [wire.ends.spawn("box", body) for body in sent]
    assert not any(sender.ready() for sender in senders)
    assert wire.session._outbox.waiting == before
    wire.proxy.heal()
    assert sorted(arrived(box, len(sent))) == sorted(sent)
    assert [outcome(sender) for sender in senders] == [None] * len(sent)


def test_a_full_outbox_does_not_keep_the_heartbeat_from_asking(wire: Wire) -> None:
    """A peer that is busy with a large body has nothing to say by itself; it is asked, and found alive."""
    wire.block()
    session = wire.session
    session.beat(session.last_received + 31, grace=False)
    assert session.rtt is None
    wire.proxy.heal()
    until(lambda: session.rtt is not None, "the answer")
    assert not session.closed


def test_a_body_of_64_mib_lets_others_through(make_node: MakeNode) -> None:
    """A body of 64 MiB arrives as it was sent; pings, calls and small messages of the same link go on meanwhile."""
    receiver, sender = make_node(), make_node()
    session = sender.connect(receiver.name)
    for node in (receiver, sender):
        node.handler("double")(lambda number: 2 * number)
    ends, back = Ends(sender, receiver), Ends(receiver, sender)
    big, small, there = receiver.mailbox("big"), receiver.mailbox("small"), sender.mailbox("there")
    body = random.Random(7).randbytes(1024 * 1024) * 64
    for mailbox in ("big", "small"):
        ends.send(mailbox, b"first")
    assert (big.get(10).body, small.get(10).body) == (b"first", b"first")
    ends.send("big", body)
    behind = ends.spawn("big", b"behind it")  # once the mailbox has room again
    rounds = 0
    while not len(big):
        ends.send("small", rounds)
        back.send("there", rounds)
        session.ping()
        receiver.sessions[sender.name].ping()
        assert sender.call(receiver.name, "double", rounds) == 2 * rounds
        assert small.get(10).body == rounds
        rounds += 1
    assert rounds >= 5, "nothing came between"
    assert arrived(there, rounds) == list(range(rounds))
    assert big.get(10).body == body
    assert big.get(10).body == b"behind it"
    assert outcome(behind) is None


def test_large_bodies_to_several_mailboxes_take_turns(pair: Ends) -> None:
    """Bodies that are sent in pieces share the link: the shortest of those under way arrives first."""
    order: list[str] = []
    boxes = [pair.receiver.mailbox(f"{mib} MiB") for mib in (16, 4, 1)]
    for box in boxes:
        pair.send(box.name, b"")
        assert box.get(timeout=10).body == b""

    def read(box: Mailbox) -> None:
        body = box.get(timeout=30).body
        assert body == bytes(len(body))
        order.append(box.name)

    readers = [begun(read, box) for box in boxes]
    senders = [pair.spawn(f"{mib} MiB", bytes(mib * 1024 * 1024)) for mib in (4, 1)]
    last = pair.spawn("16 MiB", bytes(16 * 1024 * 1024))
    assert [outcome(greenlet) for greenlet in (*senders, last, *readers)] == [None] * 6
    assert order == ["1 MiB", "4 MiB", "16 MiB"]


# To a peer, and to oneself.


def test_bodies_of_all_kinds(ends: Ends) -> None:
    """Bytes stay bytes, values go as MessagePack, and each message says from whom and to where it came."""
    box = ends.receiver.mailbox("box")
    sent: list[Any] = [
        b"",
        b"bytes",
        "text",
        7,
        None,
        [1, 2.5],
        {"a": {"b": [True]}},
        bytes(200_000),
        "x" * 90_000,
    ]
    for body in sent:
        ends.send("box", body)
    came = [box.get(timeout=10) for _ in sent]
    assert [message.body for message in came] == sent
    assert {(message.sender, message.mailbox) for message in came} == {(ends.sender.name, "box")}
    ends.send("box", memoryview(b"a view"))
    ends.send("box", bytearray(b"an array"))
    assert arrived(box, 2) == [b"a view", b"an array"]


def test_a_body_is_taken_as_it_is_when_sent(ends: Ends) -> None:
    """What its sender does with a buffer afterwards changes no message."""
    box = ends.receiver.mailbox("box")
    buffer = bytearray(b"before" * 20_000)
    ends.send("box", buffer)
    buffer[:] = bytes(len(buffer))
    assert box.get(timeout=10).body == b"before" * 20_000


def test_the_order_of_one_sender(ends: Ends) -> None:
    """Small ones, bulk and large ones of one sender to one mailbox arrive in the order in which it sent them."""
    box = ends.receiver.mailbox("box", size=10)
    sent = [made(0, 0, number, SIZES[number * 7 % len(SIZES)]) for number in range(1, 60)]

    def run() -> None:
        for body in sent:
            ends.send("box", body)

    sender = begun(run)
    assert arrived(box, len(sent)) == sent
    assert outcome(sender) is None


def test_those_who_wait_go_in_turn(ends: Ends) -> None:
    """Senders that wait for the same mailbox go in the order in which they came."""
    box = ends.receiver.mailbox("box", size=1)
    ends.send("box", "first")
    senders = [ends.spawn("box", number) for number in range(10)]
    assert arrived(box, 11) == ["first", *range(10)]
    assert [outcome(sender) for sender in senders] == [None] * 10


@pytest.mark.parametrize("mailbox", ["", "a\nb", "x" * 256, "\ud800", 7, None, b"box"])
def test_names_that_are_none(ends: Ends, mailbox: Any) -> None:
    """What cannot be the name of a mailbox is refused in the same words, and the link is none the worse."""
    ends.receiver.handler("double")(lambda number: 2 * number)
    assert ends.sender.call(ends.receiver.name, "double", 2) == 4
    with pytest.raises(ConfigurationError) as caught:
        ends.send(mailbox, b"body")
    assert caught.value.argument == "mailbox"
    assert ends.sender.call(ends.receiver.name, "double", 2) == 4


def test_a_mailbox_that_there_is_not(ends: Ends) -> None:
    """A name that nobody opened, or one that was closed, is an UnknownMailbox; opened again it takes messages."""
    for _ in range(2):
        with pytest.raises(UnknownMailbox) as caught:
            ends.send("box", b"body")
        assert (caught.value.peer, caught.value.mailbox) == (ends.receiver.name, "box")
        box = ends.receiver.mailbox("box")
        ends.send("box", b"body")
        assert box.get(timeout=10).body == b"body"
        box.close()
        until(lambda: outcome(ends.spawn("box", b"body")) is not None, "word of it")


def test_bodies_that_cannot_be_sent(make_node: MakeNode, ends: Ends) -> None:
    """What has no encoding, nests too deep or is too large is refused before anything is queued."""
    box = ends.receiver.mailbox("box")
    with pytest.raises(PayloadError):
        ends.send("box", object())
    with pytest.raises(PayloadTooLarge):
        ends.send("box", bytes(ends.sender._config.limits.max_message + 1))
    ends.send("box", b"next")
    assert box.get(timeout=10).body == b"next"
    assert not len(box)


def test_what_the_receiver_does_not_take(make_node: MakeNode) -> None:
    """A body above the peer's own limit is a PayloadTooLarge here, and the link goes on."""
    small = Config(limits=Limits.trusted(max_message=1024 * 1024))
    ends = Ends(make_node(), make_node(config=small))
    box = ends.receiver.mailbox("box")
    with pytest.raises(PayloadTooLarge, match="takes at most 1048576 bytes"):
        ends.send("box", bytes(1024 * 1024 + 1))
    ends.send("box", bytes(1024 * 1024))
    assert len(box.get(timeout=10).body) == 1024 * 1024


def test_a_full_mailbox_that_says_so(ends: Ends) -> None:
    """With full="error" a sender is told at once, whatever its timeout; read, the mailbox takes more."""
    box = ends.receiver.mailbox("box", size=4, full="error")
    for number in range(4):
        ends.send("box", number)
    for timeout in (None, 0, 5.0):
        with pytest.raises(MailboxFull) as caught:
            ends.send("box", "too many", timeout)
        assert (caught.value.peer, caught.value.mailbox) == (ends.receiver.name, "box")
    assert arrived(box, 4) == [0, 1, 2, 3]
    until(lambda: outcome(ends.spawn("box", "more")) is None, "room")
    assert box.get(timeout=10).body == "more"
    assert not len(box)


@pytest.mark.parametrize(
    ("full", "bounds", "size", "left"),
    [
        ("drop_newest", {"size": 3}, 0, [0, 1, 2]),
        ("drop_oldest", {"size": 3}, 0, [17, 18, 19]),
        ("drop_newest", {"max_bytes": 250_000}, 100_000, [0, 1]),
        ("drop_oldest", {"max_bytes": 250_000}, 100_000, [18, 19]),
    ],
)
def test_mailboxes_that_drop(
    ends: Ends, full: str, bounds: dict[str, int], size: int, left: list[int]
) -> None:
    """A mailbox that drops never keeps its sender, and both sides are told how many it dropped, exactly."""
    own, there = ends.sender.subscribe(), ends.receiver.subscribe()
    box = ends.receiver.mailbox("box", full=full, **bounds)
    for number in range(20):
        ends.send("box", number.to_bytes(4) + bytes(size))
    until(lambda: box.dropped == 20 - len(left), "all came", detail=lambda: (len(box), box.dropped))
    assert [int.from_bytes(body[:4]) for body in bodies(box)] == left
    told: Counter[tuple[str, bool]] = Counter()
    expected = {("box", False): 20 - len(left)}
    until(
        lambda: (told.update(drops(there)), told == expected)[1], "the receiver's report", detail=lambda: told
    )
    if ends.sender is not ends.receiver:
        at_sender: Counter[tuple[str, bool]] = Counter()
        expected = {("box", True): 20 - len(left)}
        until(lambda: (at_sender.update(drops(own)), at_sender == expected)[1], "the sender's")


def test_what_is_not_of_the_type_is_dropped(ends: Ends) -> None:
    """A typed mailbox hands out values of its type; of others both sides are told."""
    own, there = ends.sender.subscribe(), ends.receiver.subscribe()
    box = ends.receiver.mailbox("box", type=dict[str, int])
    for body in ({"a": 1}, {"a": "x"}, b"bytes", [1], {"b": 2}):
        ends.send("box", body)
    assert arrived(box, 2) == [{"a": 1}, {"b": 2}]
    assert box.dropped == 3
    told: Counter[tuple[str, bool]] = Counter()
    sides = {("box", False): 3} if ends.sender is ends.receiver else {("box", False): 3, ("box", True): 3}
    until(lambda: (told.update(drops(own) + drops(there)), told.keys() == sides.keys())[1], "both reports")
    until(lambda: (told.update(drops(own) + drops(there)), told >= Counter(sides))[1], "all of them")


def test_closing_a_mailbox_tells_those_who_wait(ends: Ends) -> None:
    """Each sender that waits gets UnknownMailbox, what had come can be read, and nothing of the others comes later."""
    box = ends.receiver.mailbox("box", size=2)
    for number in range(2):
        ends.send("box", number)
    until(lambda: len(box) == 2, "both came")
    senders = [ends.spawn("box", "waits") for _ in range(5)]
    box.close()
    assert [type(outcome(sender)) for sender in senders] == [UnknownMailbox] * 5
    assert "closed" in str(outcome(senders[0]))
    assert [message.body for message in box] == [0, 1]
    again = ends.receiver.mailbox("box")
    ends.send("box", "new")
    assert again.get(timeout=10).body == "new"
    assert not len(again)


def test_two_senders_and_two_readers(ends: Ends) -> None:
    """Each message goes to one of the readers, and none is lost or doubled."""
    box = ends.receiver.mailbox("box", size=5)

    def run(sender: int) -> None:
        for number in range(50):
            ends.send("box", [sender, number])

    def read() -> None:
        came.extend(tuple(message.body) for message in box)

    came: list[tuple[int, ...]] = []
    readers = [begun(read) for _ in range(2)]
    senders = [begun(run, sender) for sender in range(2)]
    assert [outcome(sender) for sender in senders] == [None, None]
    until(lambda: len(came) == 100, "all came")
    box.close()
    assert [outcome(reader) for reader in readers] == [None, None]
    assert sorted(came) == [(sender, number) for sender in range(2) for number in range(50)]


# Those who give up.


def test_a_send_that_timed_out_is_never_delivered(ends: Ends) -> None:
    """SendTimeout says why; the message does not arrive later, and the next one does."""
    box = ends.receiver.mailbox("box", size=2)
    for number in range(2):
        ends.send("box", number)
    with pytest.raises(SendTimeout, match=r"within 0\.02 s: the mailbox has no room"):
        ends.send("box", "late", timeout=0.02)
    with pytest.raises(SendTimeout, match="within 0 s"):
        ends.send("box", "now or never", timeout=0)
    assert arrived(box, 2) == [0, 1]
    ends.send("box", "next", timeout=10)
    assert box.get(timeout=10).body == "next"
    assert not len(box)


@pytest.mark.parametrize("timeout", [-1, float("nan"), True, "5"])
def test_timeouts_that_are_none(ends: Ends, timeout: Any) -> None:
    """What is no number of seconds is refused."""
    ends.receiver.mailbox("box")
    with pytest.raises(ConfigurationError, match="timeout"):
        ends.send("box", b"body", timeout)


def test_a_sender_that_is_ended_leaves_nothing(ends: Ends) -> None:
    """Of those in the line one is killed, one gives up by gevent.Timeout, one by its timeout: the others send."""

    def impatient(body: str) -> None:
        with gevent.Timeout(0.02, False):
            ends.send("box", body)
            raise AssertionError("it was sent")

    box = ends.receiver.mailbox("box", size=1)
    ends.send("box", "first")
    killed = [ends.spawn("box", "killed") for _ in range(2)]
    late = [begun(impatient, "late"), ends.spawn("box", "late", timeout=0.02)]
    stays = [ends.spawn("box", f"stays {number}") for number in range(2)]
    killed.append(ends.spawn("box", "killed"))
    for greenlet in killed:
        greenlet.kill()
    assert outcome(late[0]) is None
    assert isinstance(outcome(late[1]), SendTimeout)
    stays.append(ends.spawn("box", "stays 2"))
    assert arrived(box, 4) == ["first", "stays 0", "stays 1", "stays 2"]
    assert [outcome(greenlet) for greenlet in stays] == [None] * 3
    ends.send("box", "last", timeout=10)
    assert box.get(timeout=10).body == "last"
    assert not len(box)


def test_why_a_send_timed_out(wire: Wire) -> None:
    """A peer that has not answered yet, and one that does not read, are told apart from a mailbox without room."""
    box = wire.ends.receiver.mailbox("box")
    wire.proxy.stall("to")
    with pytest.raises(SendTimeout, match="it has not answered whether there is such a mailbox"):
        wire.ends.send("box", "unanswered", timeout=0.02)
    wire.block(crowd=True)
    with pytest.raises(SendTimeout, match="it does not read"):
        wire.ends.send("box", "unread", timeout=0.02)
    killed = wire.ends.spawn("box", "killed")
    stays = wire.ends.spawn("box", "stays")
    killed.kill()
    wire.proxy.heal()
    assert box.get(timeout=10).body == "stays"
    assert outcome(stays) is None
    wire.session.ping()
    assert not len(box)


def test_a_small_message_does_not_wait_for_large_ones(wire: Wire) -> None:
    """With an outbox full of bulk, small messages and calls of others are still taken, and go ahead of it."""
    box, inbox = wire.ends.receiver.mailbox("box"), wire.ends.receiver.join("topic")
    until(lambda: wire.ends.sender.group("topic"), "it has joined")
    wire.ends.send("box", "first")
    assert box.get(timeout=10).body == "first"
    wire.ends.receiver.handler("double")(lambda number: 2 * number)
    assert wire.ends.sender.call(wire.ends.receiver.name, "double", 1) == 2
    wire.block()
    wire.ends.send("box", "small", timeout=0)
    with pytest.raises(SendTimeout, match="it does not read"):
        wire.ends.send("box", bytes(20_000), timeout=0.02)
    with pytest.raises(SendTimeout, match="it does not read"):
        wire.ends.send("filler", "behind the bulk of its own mailbox", timeout=0.02)
    call = gevent.spawn(wire.ends.sender.call, wire.ends.receiver.name, "double", 21)
    assert wire.ends.sender.broadcast("topic", "news").dropped == ()
    wire.proxy.heal()
    assert box.get(timeout=10).body == "small"
    assert inbox.get(timeout=10).body == "news"
    filler = wire.ends.receiver._mailboxes["filler"]
    assert not len(filler), "the bulk was there first"
    assert call.get(timeout=10) == 42


# Links that come and go.


def test_a_send_dials(make_node: MakeNode) -> None:
    """Without a link the message makes one; many at once make one, and all of them arrive."""
    ends = Ends(make_node(), make_node())
    box = ends.receiver.mailbox("box")
    senders = [ends.spawn("box", number, timeout=10) for number in range(20)]
    assert sorted(arrived(box, 20)) == list(range(20))
    assert [outcome(sender) for sender in senders] == [None] * 20
    assert list(ends.sender.sessions) == [ends.receiver.name]
    ends.sender.sessions[ends.receiver.name].close()
    ends.send("box", "again")
    assert box.get(timeout=10).body == "again"


def test_a_peer_that_cannot_be_reached(make_node: MakeNode) -> None:
    """A node that is not there, or that does not answer in time, is the LinkError that connect() would raise."""
    node = make_node()
    with pytest.raises(Unreachable):
        node.send(node_name("nobody"), "box", b"body")
    with silence() as silent, pytest.raises(LinkTimeout):
        node.send(silent, "box", b"body", timeout=0.05)
    with pytest.raises(snowgreen.InvalidName):
        node.send("no name", "box", b"body")


def test_a_peer_that_was_left(pair: Ends) -> None:
    """A message dials no peer that this node has left, until it is asked for again."""
    box = pair.receiver.mailbox("box")
    pair.sender.leave(pair.receiver.name)
    with pytest.raises(Unreachable, match="left"):
        pair.send("box", b"body")
    pair.sender.connect(pair.receiver.name)
    pair.send("box", b"body")
    assert box.get(timeout=10).body == b"body"


def test_a_node_that_is_not_started(make_node: MakeNode, ends: Ends) -> None:
    """Before start() and after stop() nothing can be sent; in the next life it can."""
    ends.receiver.mailbox("box")
    ends.sender.stop()
    for node in (ends.sender, make_node(start=False)):
        with pytest.raises(NodeStateError):
            node.send(ends.receiver.name, "box", b"body")
    ends.sender.start()
    receiver = ends.sender if ends.sender is ends.receiver else ends.receiver
    box = receiver._mailboxes.get("box") or receiver.mailbox("box")
    ends.sender.send(receiver.name, "box", b"body")
    assert box.get(timeout=10).body == b"body"


def test_stopping_ends_every_wait(wire: Wire) -> None:
    """Whatever a sender waits for when its node stops, room there, room here, an answer or a link, it is told."""
    node, peer = wire.ends.sender, wire.ends.receiver
    peer.mailbox("full", size=1)
    node.mailbox("own", size=1)
    node.send(peer.name, "full", 1)
    node.send(node.name, "own", 1)
    with silence() as silent:
        waiting = [
            wire.ends.spawn("full", "no room there"),
            wire.ends.spawn("full", "behind it"),
            begun(node.send, node.name, "own", "no room here"),
            begun(node.send, silent, "box", "no link"),
        ]
        wire.block()
        waiting += [
            wire.ends.spawn("unanswered", "no answer"),
            wire.ends.spawn("filler", "no room in the outbox"),
        ]
        assert not any(greenlet.ready() for greenlet in waiting)
        stopping = begun(node.stop, 0.1)
        errors = [outcome(greenlet) for greenlet in waiting]
    kinds = (SessionClosed, UnknownMailbox, NodeStateError, LinkError)
    assert [error for error in errors if not isinstance(error, kinds)] == []
    assert [type(error) for error in errors[:2]] == [SessionClosed] * 2
    assert outcome(stopping) is None


def test_a_link_that_ends_tells_those_who_wait(wire: Wire) -> None:
    """Senders that wait on a link are told when it is cut, and the next message makes another."""
    box = wire.ends.receiver.mailbox("box", size=1)
    wire.ends.send("box", "first")
    until(lambda: len(box) == 1, "a full mailbox")
    senders = [wire.ends.spawn("box", "waits") for _ in range(3)]
    senders.append(wire.ends.spawn("nowhere", "waits"))
    wire.proxy.cut()
    assert [type(outcome(sender)) for sender in senders[:3]] == [SessionClosed] * 3
    assert isinstance(outcome(senders[3]), SessionClosed | UnknownMailbox)
    assert box.get(timeout=10).body == "first"
    wire.ends.send("box", "next")
    assert box.get(timeout=10).body == "next"
    assert not len(box)


def test_what_is_queued_goes_before_the_goodbye(pair: Ends) -> None:
    """A node that stops sends what its senders had queued, however much; its peer hears of a stop, not of a loss."""
    box, events = pair.receiver.mailbox("box", size=1000), pair.receiver.subscribe()
    sent = [made(0, 0, number, SIZES[number % len(SIZES)]) for number in range(1, 90)]
    for body in sent:
        pair.send("box", body, timeout=10)
    pair.sender.stop()
    down = event_of(events, NodeDown)
    assert not down.lost
    assert "it was stopped" in down.reason
    assert bodies(box) == sent


def test_stopping_waits_for_a_slow_network(wire: Wire) -> None:
    """What is queued behind a network that stands still arrives when it goes on, if the stop has time."""
    box = wire.ends.receiver.mailbox("box")
    wire.ends.send("box", b"")
    wire.proxy.stall("to")
    for number in range(5):
        wire.ends.send("box", number)
    stopping = begun(wire.ends.sender.stop, 10)
    wire.proxy.heal()
    assert arrived(box, 6) == [b"", 0, 1, 2, 3, 4]
    assert outcome(stopping) is None


def test_the_receiver_stops(pair: Ends) -> None:
    """Its mailboxes close: who waits to send is told, what was on its way is reported, what had come can be read."""
    box, events = pair.receiver.mailbox("box", size=2), pair.sender.subscribe()
    for number in range(2):
        pair.send("box", number)
    until(lambda: len(box) == 2, "both came")
    senders = [pair.spawn("box", "waits") for _ in range(3)]
    pair.receiver.stop()
    assert {type(outcome(sender)) for sender in senders} <= {UnknownMailbox, SessionClosed}
    assert [message.body for message in box] == [0, 1]
    assert not event_of(events, NodeDown).lost
    with pytest.raises(Unreachable):
        pair.send("box", "nobody is there")


def test_losses_are_told_before_a_mailbox_closes(pair: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender hears of the last messages that were dropped also where the mailbox closes before the next report."""
    monkeypatch.setattr(losses, "_PAUSE", 3600.0)
    events = pair.sender.subscribe()
    box = pair.receiver.mailbox("box", size=16, full="drop_newest")
    told: Counter[tuple[str, bool]] = Counter()
    for count in (20, 7):
        for number in range(count):
            pair.send("box", number)
        until(lambda count=count: box.dropped == (4 if count == 20 else 11), "all came")
    box.close()
    until(lambda: (told.update(drops(events)), told == {("box", True): 11})[1], "11", detail=lambda: told)


def test_what_a_closed_mailbox_missed_is_counted(wire: Wire) -> None:
    """Messages that were on their way when the mailbox closed are reported, and those of its next life arrive.

    Large ones among them still wait to be sent when the next life begins, and others open flows meanwhile.
    """
    ends, events = wire.ends, wire.ends.sender.subscribe()
    box = ends.receiver.mailbox("box", max_bytes=64 * 1024 * 1024)
    other = ends.receiver.mailbox("other")
    ends.send("box", b"first")
    assert box.get(timeout=10).body == b"first"
    wire.proxy.stall("to")
    for _ in range(3):
        ends.send("box", bytes(20_000))
    ends.send("box", bytes(4 * 1024 * 1024))
    late = ends.spawn("box", b"no room here")
    box.close()
    box = ends.receiver.mailbox("box")
    assert dropped(events) == (ends.receiver.name, "box", 4, "the mailbox is closed", True)
    assert isinstance(outcome(late), UnknownMailbox)
    senders = [ends.spawn("box", b"again"), ends.spawn("other", b"other")]
    wire.proxy.heal()
    assert (box.get(timeout=10).body, other.get(timeout=10).body) == (b"again", b"other")
    assert [outcome(sender) for sender in senders] == [None, None]
    assert not wire.session.closed
    assert not len(box)


def test_more_mailboxes_than_a_link_may_have_open(pair: Ends) -> None:
    """Past the 1,024 flows of a link the one that was used longest ago makes room, and nobody sees any of it."""
    names = [f"box {number}" for number in range(1200)]
    boxes = {name: pair.receiver.mailbox(name) for name in names}
    for turn in range(2):
        for name in names:
            pair.send(name, turn, timeout=10)
    assert all(arrived(boxes[name], 2) == [0, 1] for name in names)
    assert len(pair.sender.sessions) == 1


# Classic peers.


SECRET = "a cookie for the snow side"
REG_SEND = 0x11


@pytest.fixture
def classic(make_node: MakeNode) -> Iterator[tuple[Node, Child, str]]:
    """A node linked with a classic peer, and that peer's process and name."""
    env = {"SNOW_COOKIE": SECRET}
    command = ["listen", "--name", "snow@127.0.0.1:0", "--cookie-env", "SNOW_COOKIE"]
    limits = Limits.trusted(tls_timeout=2, handshake_timeout=4, outbox_bytes=100_000)
    with Child(str(Path(__file__).with_name("classic_peer.py")), *command, env=env) as snow:
        name = snow.expect("listening")["name"]
        node = make_node(classic={name: SECRET}, config=Config(heartbeat_interval=30, limits=limits))
        narrow(node.connect(name)._sock)
        snow.expect("linked")
        yield node, snow, name


def registered(name: str, message: bytes) -> str:
    """The body of a REG_SEND in hex, written out by hand."""
    raw = name.encode()
    return (len(raw).to_bytes(2, "little") + raw + message).hex()


def test_messages_to_a_classic_peer(classic: tuple[Node, Child, str]) -> None:
    """What is sent to a classic peer is REG_SEND and nothing else, byte for byte, in order, in one piece."""
    node, snow, name = classic
    large = random.Random(5).randbytes(1024 * 1024)
    for body in (b"", b"abc", large, b"behind it"):
        node.send(name, "jörbs", body, timeout=20)
    frames = [snow.expect("frame", timeout=30) for _ in range(4)]
    assert [frame["tag"] for frame in frames] == [REG_SEND] * 4
    assert [frame["body"] for frame in frames] == [
        registered("jörbs", body) for body in (b"", b"abc", large, b"behind it")
    ]


def test_messages_from_a_classic_peer(classic: tuple[Node, Child, str]) -> None:
    """A REG_SEND reaches the mailbox of its name as bytes, from the peer's name; without one it is dropped and told."""
    node, snow, name = classic
    events, box = node.subscribe(), node.mailbox("jörbs")
    for message in (b"", b"abc", b"\x00\xff" * 1000):
        snow.tell(do="send", tag=REG_SEND, body=registered("jörbs", message))
    came = [box.get(timeout=10) for _ in range(3)]
    assert [message.body for message in came] == [b"", b"abc", b"\x00\xff" * 1000]
    assert {message.sender for message in came} == {name}
    snow.tell(do="send", tag=REG_SEND, body=registered("nobody", b"abc"))
    assert dropped(events) == (name, "nobody", 1, "there is no such mailbox", False)


@pytest.mark.parametrize(
    ("full", "left"), [("block", [0, 1]), ("error", [0, 1]), ("drop_newest", [0, 1]), ("drop_oldest", [3, 4])]
)
def test_a_classic_peer_is_not_held_back(
    classic: tuple[Node, Child, str], full: str, left: list[int]
) -> None:
    """What a full mailbox has no room for is dropped and told, whatever it does with others' messages."""
    node, snow, name = classic
    events, box = node.subscribe(), node.mailbox("box", size=2, full=full)
    for number in range(5):
        snow.tell(do="send", tag=REG_SEND, body=registered("box", bytes([number])))
    until(lambda: box.dropped == 3, "all came")
    assert bodies(box) == [bytes([number]) for number in left]
    told: Counter[tuple[str, bool]] = Counter()
    until(lambda: (told.update(drops(events)), told == {("box", False): 3})[1], "three", detail=lambda: told)
    assert node.sessions[name].ping() > 0


def test_what_a_classic_peer_does_not_know(classic: tuple[Node, Child, str]) -> None:
    """Values, calls and too large messages are refused here, with the reason, and nothing is sent."""
    node, snow, name = classic
    for body in ("text", {"a": 1}, 7, None):
        with pytest.raises(Unsupported, match="takes bytes only: it is a classic node"):
            node.send(name, "box", body)
    with pytest.raises(Unsupported, match="cannot be called: it is a classic node"):
        node.call(name, "double", 2)
    with pytest.raises(PayloadTooLarge):
        node.send(name, "box", bytes(16 * 1024 * 1024))
    with pytest.raises(ConfigurationError):
        node.send(name, "", b"body")
    node.join("topic")
    assert node.broadcast("topic", "body") == ((node.name,), ())
    node.send(name, "box", b"next")
    assert snow.expect("frame")["body"] == registered("box", b"next")


def test_frames_that_a_classic_peer_cannot_know(classic: tuple[Node, Child, str]) -> None:
    """The tags of snowgreen's own messages mean nothing from a peer without the capability: no answer, no end."""
    node, snow, name = classic
    box = node.mailbox("box")
    for frame in (mail.open_head(1, mail.FlowKind.MAILBOX, "box"), mail.message_head(1, 0) + b"body"):
        snow.tell(do="send", tag=frame[0], body=frame[1:].hex())
    topic = mail.encode_join(["topic"])[4:]
    snow.tell(do="send", tag=topic[0], body=topic[1:].hex())
    snow.tell(do="send", tag=REG_SEND, body=registered("box", b"next"))
    assert box.get(timeout=10).body == b"next"
    assert node.group("topic") == ()
    node.send(name, "box", b"to you")
    assert snow.expect("frame")["tag"] == REG_SEND


def test_a_classic_peer_that_does_not_read(classic: tuple[Node, Child, str]) -> None:
    """Its senders wait once the outbox is full, in turn, and go on when it reads again."""
    node, snow, name = classic
    os.kill(snow.pid, signal.SIGSTOP)
    try:
        count = 0
        with pytest.raises(SendTimeout, match="it does not read"):
            while True:  # the kernel's buffers grow while there is room for them
                node.send(name, "box", count.to_bytes(4) + bytes(50_000), timeout=0.3)
                count += 1
        waiting = [begun(node.send, name, "box", (count + number).to_bytes(4)) for number in range(3)]
        waiting[1].kill()
    finally:
        os.kill(snow.pid, signal.SIGCONT)
    assert [outcome(waiting[number]) for number in (0, 2)] == [None, None]
    frames = [snow.expect("frame", timeout=30) for _ in range(count + 2)]
    numbers = [int.from_bytes(bytes.fromhex(frame["body"])[5:9]) for frame in frames]
    assert numbers == [*range(count + 1), count + 2]


# Groups.


class Members(NamedTuple):
    """Four nodes that are linked with each other."""

    nodes: list[Node]

    def know(self, topic: str, *members: int) -> None:
        """Wait until all of them know that these have joined `topic`."""
        names = {self.nodes[number].name for number in members}
        until(lambda: all(set(node.group(topic)) == names for node in self.nodes), "who has joined")

    def flush(self) -> None:
        """Wait until everything that was sent has come."""
        for node in self.nodes:
            for session in list(node.sessions.values()):
                session.ping()


@pytest.fixture
def four(make_node: MakeNode) -> Members:
    nodes = [make_node() for _ in range(4)]
    for number, node in enumerate(nodes):
        for other in nodes[:number]:
            node.connect(other.name)
    until(lambda: all(len(node.sessions) == 3 for node in nodes), "all links")
    return Members(nodes)


def test_a_broadcast_reaches_each_member_once(four: Members) -> None:
    """Every inbox of every member, the sender's own among them, gets it once; who has not joined does not."""
    a, b, c, d = four.nodes
    inboxes = [a.join("news"), b.join("news"), b.join("news"), c.join("news"), c.join("news", size=1)]
    other = d.join("sports")
    four.know("news", 0, 1, 2)
    four.know("sports", 3)
    sent: list[Any] = [{"n": 1}, b"bytes", bytes(500_000), "text"]
    for sender, body in zip(four.nodes, sent, strict=True):
        done = sender.broadcast("news", body)
        assert set(done.queued) == {a.name, b.name, c.name}
        assert done.dropped == ()
        for inbox in inboxes:
            message = inbox.get(timeout=10)
            assert (message.body, message.sender, message.mailbox) == (body, sender.name, "news")
    four.flush()
    assert [len(inbox) for inbox in (*inboxes, other)] == [0] * 6
    assert d.group("news") == tuple(sorted([a.name, b.name, c.name], key=d.group("news").index))
    assert a.group("news")[0] == a.name
    assert a.broadcast("nobody's", 1) == ((), ())


def test_joining_late_and_leaving(four: Members) -> None:
    """Who joins later gets what comes later; who leaves gets no more; of two inboxes one may go."""
    a, b, c, _ = four.nodes
    first, second = b.join("t"), b.join("t")
    four.know("t", 1)
    a.broadcast("t", 1)
    assert (first.get(10).body, second.get(10).body) == (1, 1)
    late = c.join("t")
    four.know("t", 1, 2)
    first.close()
    assert a.broadcast("t", 2).queued == (b.name, c.name)
    assert (second.get(10).body, late.get(10).body) == (2, 2)
    assert list(first) == []
    second.close()
    four.know("t", 2)
    assert a.broadcast("t", 3).queued == (c.name,)
    assert late.get(10).body == 3
    late.close()
    four.know("t")
    assert a.broadcast("t", 4) == ((), ())
    again = b.join("t")
    four.know("t", 1)
    a.broadcast("t", 5)
    assert again.get(10).body == 5


def test_a_new_link_tells_of_all_topics(make_node: MakeNode) -> None:
    """Topics that were joined before a link came up, before the start even, are known once it is up; and end with it."""
    a, b = make_node(start=False), make_node()
    before = a.join("before")
    topics = [f"topic {number}" for number in range(1500)]
    for topic in topics:
        b.join(topic)
    a.start()
    for _ in range(2):
        session = a.connect(b.name)
        until(lambda: a.group(topics[-1]) == (b.name,), "all topics")
        assert all(a.group(topic) == (b.name,) for topic in topics)
        until(lambda: b.group("before") == (a.name,), "its topic")
        assert b.broadcast("before", 1).queued == (a.name,)
        assert before.get(10).body == 1
        session.close()
        assert a.group(topics[0]) == ()
        until(lambda: b.group("before") == (), "the end")


def test_nobody_passes_it_on(make_node: MakeNode) -> None:
    """Of three nodes in a row the last is not reached by a broadcast of the first, member as it is."""
    a, b, c = (make_node() for _ in range(3))
    a.connect(b.name)
    b.connect(c.name)
    inboxes = [node.join("t") for node in (a, b, c)]
    until(lambda: b.group("t") == (b.name, a.name, c.name), "both neighbours")
    until(lambda: a.group("t") == (a.name, b.name), "one neighbour")
    assert a.broadcast("t", "from a").queued == (a.name, b.name)
    assert [inbox.get(10).body for inbox in inboxes[:2]] == ["from a"] * 2
    b.sessions[c.name].ping()
    assert [len(inbox) for inbox in inboxes] == [0, 0, 0]


@pytest.mark.parametrize("many", [False, True])
def test_order_of_broadcasts(four: Members, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """What one node broadcasts on a topic arrives in order, small and large, to few and to many."""
    if many:
        monkeypatch.setattr(groups, "_AT_A_TIME", 0.5)  # one member is then more than have a turn
    a, b, *_ = four.nodes
    inbox = b.join("t", size=100)
    four.know("t", 1)
    sent = [made(0, 0, number, SIZES[number % len(SIZES)]) for number in range(1, 60)]
    for body in sent:
        assert a.broadcast("t", body).queued == (b.name,)
    assert arrived(inbox, len(sent)) == sent


@pytest.mark.parametrize(("full", "left"), [("drop_oldest", [3, 4]), ("drop_newest", [0, 1])])
def test_a_full_inbox_drops(four: Members, full: str, left: list[int]) -> None:
    """An inbox that is not read drops and tells its own node; other inboxes of the topic get everything."""
    a, b, c, _ = four.nodes
    events = b.subscribe()
    small, large, other = b.join("t", size=2, full=full), b.join("t"), c.join("t")
    four.know("t", 1, 2)
    for number in range(5):
        assert set(a.broadcast("t", number).queued) == {b.name, c.name}
    assert arrived(large, 5) == arrived(other, 5) == [0, 1, 2, 3, 4]
    assert bodies(small) == left
    told: Counter[tuple[str, bool]] = Counter()
    until(lambda: (told.update(drops(events)), told == {("t", False): 3})[1], "three", detail=lambda: told)


@pytest.mark.parametrize("many", [False, True])
def test_a_member_that_does_not_read_is_left_out(
    wire: Wire, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """It is named by broadcast() and by the event; the others get everything, and it gets what comes later."""
    if many:
        monkeypatch.setattr(groups, "_AT_A_TIME", 1)
    a, b = wire.ends.sender, wire.ends.receiver
    c = make_node()
    a.connect(c.name)
    slow, quick = b.join("t"), c.join("t")
    until(lambda: set(a.group("t")) == {b.name, c.name}, "both")
    wire.block(crowd=True)
    events = a.subscribe()
    for number in range(3):
        assert a.broadcast("t", number) == ((c.name,), (b.name,))
        assert dropped(events) == (b.name, "t", 1, "it does not read", True)
    assert arrived(quick, 3) == [0, 1, 2]
    wire.proxy.heal()
    until(lambda: not wire.session.crowded, "room")
    assert set(a.broadcast("t", "later").queued) == {b.name, c.name}
    assert slow.get(timeout=10).body == "later"
    assert not len(slow)


def test_what_cannot_be_broadcast(four: Members) -> None:
    """Too large a body, one that cannot be encoded, names that are none, and policies that would wait are refused."""
    a, b, *_ = four.nodes
    inbox = b.join("t")
    four.know("t", 1)
    for body, error in ((bytes(1024 * 1024 + 1), PayloadTooLarge), (object(), PayloadError)):
        with pytest.raises(error):
            a.broadcast("t", body)
    for topic in ("", "a\nb", 7):
        with pytest.raises(ConfigurationError, match="topic"):
            a.broadcast(topic, 1)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="topic"):
            a.join(topic)  # type: ignore[arg-type]
    for full in ("block", "error"):
        with pytest.raises(ConfigurationError, match="full"):
            a.join("t", full=full)
    a.broadcast("t", bytes(1024 * 1024))
    assert len(inbox.get(timeout=10).body) == 1024 * 1024
    a.stop()
    for call in (lambda: a.broadcast("t", 1), lambda: a.group("t")):
        with pytest.raises(NodeStateError):
            call()


def test_a_mailbox_and_a_topic_of_one_name(pair: Ends) -> None:
    """Mailboxes and topics are different things, whatever they are called."""
    box, inbox = pair.receiver.mailbox("x"), pair.receiver.join("x")
    until(lambda: pair.sender.group("x") == (pair.receiver.name,), "it has joined")
    pair.send("x", "sent")
    pair.sender.broadcast("x", "broadcast")
    assert (box.get(timeout=10).body, inbox.get(timeout=10).body) == ("sent", "broadcast")
    pair.sender.sessions[pair.receiver.name].ping()
    assert (len(box), len(inbox)) == (0, 0)
