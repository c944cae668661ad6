"""Messages over one link, as many as go through, and what each of them costs.

``python tools/flood.py --messages`` links with a node in a process of its own and sends it messages: those of
each size for so many seconds. Then it pings and calls that node, one time after another: alone, beside large
messages that stream over the same link, and beside such a stream over another link of that node.

Every message has a number, and its reader in the other process holds it against what was to come next. One
that is lost, out of order or not as it was sent fails the run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gevent
from gevent.event import Event
from measure import percentiles, usage

from snowgreen import Mailbox, Node
from snowgreen.errors import SnowgreenError

if TYPE_CHECKING:
    from target import Server

#: Seconds that one message, ping or call may take; and after which, if nothing comes, nothing more will.
PATIENCE: Final = 10.0
SILENCE: Final = 2.0
#: Messages sent between two looks at the clock.
BUNCH: Final = 50
#: Pings, or calls, in a row at most, and seconds between two of them.
ROW: Final = 5000
PAUSE: Final = 0.001


class Kind(NamedTuple):
    """Messages of one size: how many bytes a body has, and what makes the body that has a number."""

    size: int
    make: Callable[[int], Any]


def raw(size: int) -> Kind:
    """Bytes, which begin with the number."""
    rest = bytes(size - 8)
    return Kind(size, lambda number: number.to_bytes(8) + rest)


def reading(number: int) -> dict[str, Any]:
    """A small dict: in MessagePack it has 64 bytes from the 65,536th on, and a few less before."""
    return {"number": number, "sensor": "boiler-3/outlet", "celsius": 71.25, "alarm": False}


#: By the names of their mailboxes.
KINDS: Final[Mapping[str, Kind]] = {
    "64 B": raw(64),
    "64 B dict": Kind(64, reading),
    "1 KiB": raw(1024),
    "64 KiB": raw(64 * 1024),
    "1 MiB": raw(1024 * 1024),
}
#: The kind that streams while others are timed; it is not timed itself.
STREAM: Final = "1 MiB"


class Tally:
    """What has come of one kind, and whether it is what was sent."""

    def __init__(self, kind: Kind) -> None:
        self.messages = 0
        #: The first that was not what should have come, if any.
        self.wrong: int | None = None
        self._make = kind.make
        self._awaited = 0
        self._came = Event()

    def take(self, body: Any) -> None:
        """The next message has come."""
        if self.wrong is None and body != self._make(self.messages):
            self.wrong = self.messages
        self.messages += 1
        if self.messages == self._awaited:
            self._came.set()

    def wait(self, messages: int) -> None:
        """Wait until there are so many `messages`, or no more come."""
        self._awaited, before = messages, -1
        while before < self.messages < messages:
            before = self.messages
            self._came.clear()
            self._came.wait(SILENCE)


class Receiver:
    """The other end, in the target's process: a mailbox for each kind, and a handler that answers."""

    def __init__(self, node: Node) -> None:
        self._tallies = {name: Tally(kind) for name, kind in KINDS.items()}
        for name, tally in self._tallies.items():
            gevent.spawn(self._read, node.mailbox(name), tally)
        node.handler("echo")(lambda value: value)

    def look(self, kind: str, messages: int) -> dict[str, int | None]:
        """What has come of `kind`, once there are so many `messages`, or no more come."""
        tally = self._tallies[kind]
        tally.wait(messages)
        return {"messages": tally.messages, "wrong": tally.wrong}

    def _read(self, mailbox: Mailbox, tally: Tally) -> None:
        for message in mailbox:
            tally.take(message.body)


class Wrong(Exception):
    """What came is not what was sent."""


@dataclass
class Report:
    """The figures of a run, by the names they have in the JSON."""

    target: str
    ok: bool = False
    stopped_by: str | None = None
    failure: str | None = None
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    #: By kind; a megabyte has 10⁶ bytes, and the CPU time is that of one message at either end.
    throughput: dict[str, dict[str, float]] = field(default_factory=dict)
    #: Of pings and calls; beside a stream also as multiples of what they take alone.
    rtt_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    rtt_ratio: dict[str, dict[str, float]] = field(default_factory=dict)
    left_on_server: int | None = None


class Exchange:
    """One run with `server`; `pid` is this process."""

    def __init__(self, server: Server, pid: int) -> None:
        self.report = Report(server.name, sent=dict.fromkeys(KINDS, 0))
        self._server = server
        self._pids = {"sender": pid, "receiver": server.pid}

    def run(self, seconds: float, count: int) -> None:
        """All that is measured, for `seconds` each and with no more than `count` messages of a kind."""
        cookie, report = self._server.cookie, self.report
        try:
            with (
                Node("sender@127.0.0.1:0", listen=False, cookie=cookie) as node,
                Node("beside@127.0.0.1:0", listen=False, cookie=cookie) as other,
            ):
                node.connect(report.target)
                other.connect(report.target)
                for name in KINDS:
                    if name != STREAM:
                        self._throughput(node, name, seconds, count)
                self._round_trips(node, "alone", seconds)
                with self._streaming(node, count):
                    self._round_trips(node, "beside a stream", seconds)
                with self._streaming(other, count):
                    self._round_trips(node, "beside another link's", seconds)
        except (SnowgreenError, Wrong) as error:
            report.failure = f"{type(error).__name__}: {error}"

    def judge(self) -> None:
        """Whether all came that was sent, and nothing failed."""
        report = self.report
        report.ok = report.stopped_by is report.failure is None and report.left_on_server == 0

    def _throughput(self, node: Node, name: str, seconds: float, count: int) -> None:
        before, began = self._cpu_ms(), time.perf_counter()
        while self._send(node, name, BUNCH, count) and time.perf_counter() < began + seconds:
            pass
        self._settle(name)
        took, after = time.perf_counter() - began, self._cpu_ms()
        sent = self.report.sent[name]
        self.report.throughput[name] = {
            "messages_per_second": sent / took,
            "mb_per_second": sent * KINDS[name].size / took / 1e6,
            **{f"{end}_cpu_us": (after[end] - before[end]) * 1000 / sent for end in after},
        }

    def _send(self, node: Node, name: str, messages: int, count: int) -> bool:
        """Send so many `messages`, but not more than `count` in all; whether that leaves more to send."""
        sent, make, target = self.report.sent, KINDS[name].make, self.report.target
        for number in range(sent[name], min(sent[name] + messages, count)):
            node.send(target, name, make(number), PATIENCE)
            sent[name] = number + 1
        return sent[name] < count

    def _settle(self, name: str) -> None:
        """Wait until all that was sent of a kind has come, and see that it has."""
        sent, came = self.report.sent[name], self._server.received(name, self.report.sent[name])
        self.report.received[name] = came["messages"]
        if came["wrong"] is not None:
            raise Wrong(f"{name}: in place of message {came['wrong']} came another")
        if came["messages"] != sent:
            raise Wrong(f"{name}: {sent} messages were sent, and {came['messages']} came")

    @contextlib.contextmanager
    def _streaming(self, node: Node, count: int) -> Iterator[None]:
        over = Event()

        def stream() -> None:
            while not over.is_set() and self._send(node, STREAM, 1, count):
                pass

        greenlet = gevent.spawn(stream)
        try:
            yield
        finally:
            over.set()
            greenlet.get()
        self._settle(STREAM)

    def _round_trips(self, node: Node, beside: str, seconds: float) -> None:
        session = node.sessions[self.report.target]
        asks: dict[str, Callable[[], object]] = {
            "ping": lambda: session.ping(PATIENCE),
            "call": lambda: node.call(session.peer, "echo", 1, timeout=PATIENCE),
        }
        for what, ask in asks.items():
            figures = self.report.rtt_ms[f"{what} {beside}"] = percentiles(timed(ask, seconds)) or {}
            alone = self.report.rtt_ms[f"{what} alone"]
            if figures is not alone:
                self.report.rtt_ratio[f"{what} {beside}"] = {at: figures[at] / alone[at] for at in alone}

    def _cpu_ms(self) -> dict[str, float]:
        used = {end: usage(pid) for end, pid in self._pids.items()}
        return {end: figures["cpu_ms"] for end, figures in used.items() if figures is not None}


def timed(ask: Callable[[], object], seconds: float) -> list[float]:
    """How long it took to `ask`, once or more: the seconds of each time."""
    trips: list[float] = []
    until = time.perf_counter() + seconds
    while not trips or (len(trips) < ROW and time.perf_counter() < until):
        began = time.perf_counter()
        ask()
        trips.append(time.perf_counter() - began)
        gevent.sleep(PAUSE)
    return trips
