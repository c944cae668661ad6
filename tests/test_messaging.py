"""Messages between live nodes over real TLS: in order, at most once, and every one accounted for."""

from __future__ import annotations

import random
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
import pytest
from gevent.event import Event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import snowgreen
from snowgreen import Config, Limits, LinkError, Mailbox, MessagesDropped, Node, NodeDown, NodeUp, Subscription
from snowgreen.errors import MailboxFull, SendTimeout, SessionClosed, UnknownMailbox
from snowgreen.messaging import losses
from snowgreen.protocol.lanes import FRAGMENT, SMALL
from tests.conftest import COOKIE, FAST, live_greenlets
from tests.proxy import Proxy
from tests.waiting import until

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


class Chaos(RuleBasedStateMachine):
    """Two nodes that send to each other and to themselves, while mailboxes and links come and go."""

    def __init__(self) -> None:
        super().__init__()
        pool = gevent.get_hub().threadpool
        pool.maxsize = 1  # as in conftest: its thread is there before the count, and stays
        pool.apply(int)
        self.greenlets = len(live_greenlets())
        self.pause, losses._PAUSE = losses._PAUSE, 0.01
        self.proxy = Proxy()

    @initialize(outbox=st.sampled_from([1024, 100_000, 8 * 1024 * 1024]))
    def begin(self, outbox: int) -> None:
        limits = Limits.trusted(tls_timeout=2, handshake_timeout=4, outbox_bytes=outbox)
        self.outbox = outbox
        config = Config(
            heartbeat_interval=30, probe_timeout=0.1, duplicate_wait=0.1, event_queue=100_000, limits=limits
        )
        a = Node("a@127.0.0.1:0", cookie=COOKIE, config=config).start()
        proxied = f"b@127.0.0.1:{self.proxy.port}"
        b = Node(proxied, listen="127.0.0.1:0", cookie=COOKIE, config=config).start()
        assert b.address is not None
        self.proxy.target = ("127.0.0.1", int(b.address.rsplit(":", 1)[1]))
        self.nodes = [a, b]
        self.ledgers = [Ledger(node) for node in self.nodes]
        self.places = [Place(number, self.nodes[number % 2]) for number in range(5)]
        self.writers = [Writer(number, self.nodes[number % 2]) for number in range(5)]
        for place in self.places[:3]:
            place.open(size=4, full="block")
        a.connect(b.name)

    # What may happen.

    @rule(
        writer=st.integers(0, 4),
        place=st.integers(0, 4),
        sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=8),
        timeout=st.sampled_from([None, None, 0.0, 0.02]),
    )
    def send(self, writer: int, place: int, sizes: list[int], timeout: float | None) -> None:
        self.writers[writer].order(self.places[place], sizes, timeout)

    @rule(writer=st.integers(0, 4), place=st.integers(0, 4), count=st.sampled_from([30, 1000]))
    def send_many(self, writer: int, place: int, count: int) -> None:
        self.writers[writer].order(self.places[place], [HEAD.size + 200] * count, None)

    @rule(place=st.integers(0, 4), count=st.integers(1, 5))
    def read(self, place: int, count: int) -> None:
        self.places[place].read(count)

    @rule(place=st.integers(0, 4), go=st.booleans())
    def read_on(self, place: int, go: bool) -> None:
        if go:
            self.places[place].go()
        else:
            self.places[place].still()

    @rule(
        place=st.integers(0, 4),
        size=st.sampled_from([1, 3, 50, 4096]),
        max_bytes=st.sampled_from([1, 50_000, 16 * 1024 * 1024]),
        full=st.sampled_from(["block", "block", "error", "drop_newest", "drop_oldest"]),
    )
    def close_or_open(self, place: int, **options: Any) -> None:
        chosen = self.places[place]
        if chosen.box is None:
            chosen.open(**options)
        else:
            chosen.close()

    @rule(turns=st.sampled_from([1, 3, 100]))
    def let_run(self, turns: int) -> None:
        for _ in range(turns):
            gevent.sleep(0)

    @rule(ways=st.sampled_from([("to",), ("from",), ("to", "from")]))
    def stall(self, ways: tuple[str, ...]) -> None:
        self.proxy.stall(*ways)

    @rule()
    def heal(self) -> None:
        self.proxy.heal()

    @rule(how=st.sampled_from(["a", "b", "cut", "reset"]))
    def end_the_link(self, how: str) -> None:
        self.proxy.heal()
        if how in ("cut", "reset"):
            getattr(self.proxy, how)()
            return
        for session in list(self.nodes["ab".index(how)].sessions.values()):
            session.close()

    # What must hold.

    @invariant()
    def bounded(self) -> None:
        """No mailbox holds more than two senders may put there, no outbox more than one message too much."""
        for place in self.places if hasattr(self, "places") else ():
            if place.box is not None:
                assert len(place.box) <= place.size + max(min(16, place.size), place.size // 2)
        for node in self.nodes if hasattr(self, "nodes") else ():
            for session in node.sessions.values():
                assert session._outbox.waiting < self.outbox + max(SIZES) + 100_000

    def teardown(self) -> None:
        try:
            if hasattr(self, "nodes"):
                self.finish()
        finally:
            for place in getattr(self, "places", ()):
                place.still()
            for writer in getattr(self, "writers", ()):
                writer.stop()
            for node in getattr(self, "nodes", ()):
                node.stop()
            self.proxy.close()
            losses._PAUSE = self.pause
        until(lambda: len(live_greenlets()) <= self.greenlets, "the end", detail=live_greenlets)

    def finish(self) -> None:
        self.proxy.heal()
        for place in self.places:
            place.go()
        until(lambda: all(writer.idle for writer in self.writers), "no sender waits", timeout=30)
        assert [writer.trouble for writer in self.writers] == [[]] * len(self.writers)
        # If the link is up, all that was sent on it is accounted for; what an earlier one had may be lost.
        until(self.accounted, "all is accounted for", timeout=5, detail=self.missing)
        for place in self.places:
            self.check_order(place)
            dropped = place.dropped + (place.box.dropped if place.box is not None else 0)
            assert dropped == self.ledgers[place.number % 2].received[place.name]
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
        return not any(link in up for link, _ in missing)


class TestChaos(Chaos.TestCase):  # type: ignore[name-defined, misc]
    """Whatever senders, readers, mailboxes and links do: in order, once, whole, and nothing lost in silence."""

    settings = settings(
        max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
