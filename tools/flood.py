"""Stress one node with thousands of links at once, and measure what each of them costs.

``python tools/flood.py --links 5000`` starts a node in a process of its own and dials it from this one,
with a client node per link. It holds the links while it pings over a sample of them, has every one
answer at the end, closes them all and looks whether the server has forgotten them. ``--target`` floods
a node that runs already on this machine; its sessions cannot be counted.

The exit status is 0 only if every link asked for was made and held and nothing was left over; otherwise
it is 1, and 130 after Ctrl-C. Where the limit on file descriptors is what stops a run, the run says so.

A run is a row of phases over a :class:`Fleet` of links; another kind of load is another phase. ``--attack``
and ``--messages`` are other runs altogether: one holds the links through an attack, as ``siege.py`` says, and
one sends messages over a single link, as ``messages.py`` says.
"""

# ruff: noqa: E402  # what is imported before the patching would be left unpatched
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import click
import gevent
import measure
from attacks import KINDS
from gevent.pool import Group
from measure import descriptors, percentiles, usage
from messages import Exchange
from messages import Report as ExchangeReport
from rich.console import Console
from rich.progress import Progress
from siege import Report as SiegeReport
from siege import Siege
from target import Halt, Server, prepare

from snowgreen import Config, Cookie, Node, Session
from snowgreen import cookie as cookies
from snowgreen.errors import CookieError, InvalidName, LinkTimeout, SnowgreenError
from snowgreen.names import is_loopback, parse_name

#: Descriptors left free in each process, for what it opens beside its links.
SPARE: Final = 8
#: Links that are pinged in turn while all are held, and seconds between two such pings.
SAMPLE: Final = 200
PING_PAUSE: Final = 0.005
T = TypeVar("T")


@dataclass
class Fleet:
    """The links of this process, each from a node of its own to the one target."""

    target: str
    cookie: Cookie
    timeout: float
    concurrency: int
    #: The target's process, if it is known: it may run out of descriptors, too.
    server_pid: int | None
    config: Config = field(default_factory=Config)
    links: list[tuple[Node, Session]] = field(default_factory=list)
    #: Seconds from dialing to the session, of each link that was made.
    latencies: list[float] = field(default_factory=list)
    attempted: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    #: What the first failure of each class said.
    words: dict[str, str] = field(default_factory=dict)
    #: Which process has run out of descriptors.
    exhausted: str | None = None

    def dial(self, number: int) -> None:
        """Make a link, or count why not; none any more once a process has run out of descriptors."""
        if self.exhausted:
            return
        self.attempted += 1
        began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            name = f"flood-{number:06}@127.0.0.1:0"
            node = stack.enter_context(Node(name, listen=False, cookie=self.cookie, config=self.config))
            try:
                session = node.connect(self.target, self.timeout)
            except Exception as error:  # noqa: BLE001  # whatever becomes of a link is what is counted
                self._failed(error)
                return
            self.latencies.append(time.perf_counter() - began)
            self.links.append((node, session))
            stack.pop_all()  # the node lives on

    def ping(self, seconds: float) -> tuple[list[float], int]:
        """Ping a sample of the links in turn for `seconds`: the round trips in seconds, and the failures."""
        trips: list[float] = []
        failures = 0
        until = time.monotonic() + seconds
        for _node, session in itertools.cycle(random.sample(self.links, min(SAMPLE, len(self.links)))):
            if time.monotonic() > until:
                break
            try:
                trips.append(session.ping(self.timeout))
            except SnowgreenError:
                failures += 1
            gevent.sleep(PING_PAUSE)
        return trips, failures

    def alive(self) -> int:
        """How many links answer."""
        answered: list[Session] = []

        def call(link: tuple[Node, Session]) -> None:
            with contextlib.suppress(SnowgreenError):
                link[1].ping(self.timeout)
                answered.append(link[1])

        together(self.concurrency, call, self.links, "links asked")
        return len(answered)

    def close(self) -> None:
        """Close every link."""
        for node, _session in self.links:
            node.stop()
            gevent.sleep(0)

    def _failed(self, error: Exception) -> None:
        cause = type(error).__name__
        self.failed[cause] = self.failed.get(cause, 0) + 1
        self.words.setdefault(cause, str(error))
        if getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE):
            self.exhausted = "the client process"
        elif isinstance(error, LinkTimeout):  # a listener without descriptors leaves its callers waiting
            theirs = descriptors(self.server_pid)
            if theirs is not None and theirs[1] <= 0:
                self.exhausted = "the server process"


def together(count: int, do: Callable[[T], None], items: Sequence[T], title: str) -> None:
    """Do it with every item, `count` at a time; on a terminal a bar shows how far it is."""
    shared, crew = iter(items), Group()
    with Progress(disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=len(items))

        def work() -> None:
            for item in shared:
                do(item)
                bar.advance(task)

        try:
            for _ in range(count):
                crew.spawn(work)
            crew.join(raise_error=True)
        finally:
            crew.kill()


@dataclass
class Report:
    """The figures of a run, by the names they have in the JSON; None for what could not be seen."""

    target: str
    asked: int
    ok: bool = False
    stopped_by: str | None = None
    attempted: int = 0
    made: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    failures_say: dict[str, str] = field(default_factory=dict)
    dial_seconds: float | None = None
    links_per_second: float | None = None
    handshake_ms: dict[str, float] | None = None
    server_per_link: dict[str, float] | None = None
    client_per_link: dict[str, float] | None = None
    held_seconds: float | None = None
    pings: int = 0
    pings_failed: int = 0
    rtt_ms: dict[str, float] | None = None
    live_on_client: int | None = None
    live_on_server: int | None = None
    left_on_server: int | None = None


class Flood:
    """One run: its phases in order, each of which fills in its part of the report."""

    def __init__(self, fleet: Fleet, server: Server | None, asked: int) -> None:
        self.report = Report(fleet.target, asked, failed=fleet.failed, failures_say=fleet.words)
        self._fleet = fleet
        self._server = server
        self._pids = {"server": fleet.server_pid, "client": os.getpid()}
        self._baseline = 0 if server is None else server.sessions()

    def run(self, hold: float, max_seconds: float) -> None:
        """All phases, the last one whatever happens."""
        report = self.report
        try:
            with halting(max_seconds):
                # One link first, so that what a process pays only once is not counted as its links'.
                warm_up = Fleet(report.target, self._fleet.cookie, self._fleet.timeout, 1, None)
                warm_up.dial(0)
                warm_up.close()
                if self._server is not None:
                    self._server.settle(self._baseline)
                self._dial(self._fitting())
                self._hold(hold)
        except Halt as end:
            report.stopped_by = str(end)
        finally:
            self._fleet.close()
            if self._server is not None:
                with contextlib.suppress(Halt):  # what follows from it is in the report
                    report.left_on_server = self._server.settle(self._baseline) - self._baseline
        held = {report.made, report.live_on_client}
        if self._server is not None:
            held |= {report.live_on_server, report.asked if report.left_on_server == 0 else None}
        report.ok = not report.stopped_by and not report.pings_failed and held == {report.asked}

    def _fitting(self) -> int:
        """As many of the links as the descriptors of both processes allow."""
        asked = count = self.report.asked
        for side, pid in self._pids.items():
            limit, free = descriptors(pid) or (0, asked + SPARE)
            if free < asked + SPARE:
                fit = max(0, free - SPARE)
                self._limited(
                    f"the {side} process may have {limit} open, and has room for {fit} of {asked} links"
                )
                count = min(count, fit)
        return count

    def _limited(self, how: str) -> None:
        self.report.stopped_by = "the descriptor limit"
        click.echo(f"FILE DESCRIPTOR LIMIT: {how}. See ulimit -n")

    def _dial(self, count: int) -> None:
        fleet, report = self._fleet, self.report
        # Held back, so that a process that has run out of descriptors can still look into /proc.
        spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE // 2)]
        before = {side: usage(pid) for side, pid in self._pids.items()}
        click.echo(f"making {count} links with {report.target} (process {fleet.server_pid or 'unknown'})")
        began = time.perf_counter()
        try:
            together(fleet.concurrency, fleet.dial, range(1, count + 1), "links dialed")
        finally:
            report.dial_seconds = time.perf_counter() - began
            for descriptor in spare:
                os.close(descriptor)
            report.attempted, report.made = fleet.attempted, len(fleet.links)
            report.links_per_second = report.made / report.dial_seconds
            report.handshake_ms = percentiles(fleet.latencies)
        for side, then in before.items():
            if (now := usage(self._pids[side])) and then and report.made:
                each = {what: (now[what] - then[what]) / report.made for what in now}
                setattr(report, f"{side}_per_link", each)
        if fleet.exhausted:
            self._limited(f"{fleet.exhausted} has none left, with {report.made} links made")

    def _hold(self, seconds: float) -> None:
        fleet, report, began = self._fleet, self.report, time.monotonic()
        click.echo(f"{report.made} links made in {report.dial_seconds:.1f} s; holding them for {seconds:g} s")
        trips, report.pings_failed = fleet.ping(seconds)
        report.pings, report.rtt_ms = len(trips), percentiles(trips)
        report.live_on_client = fleet.alive()
        if self._server is not None:
            report.live_on_server = self._server.sessions() - self._baseline
        report.held_seconds = time.monotonic() - began


@contextlib.contextmanager
def halting(seconds: float) -> Iterator[None]:
    """Throw :class:`Halt` into the block after `seconds`, or at Ctrl-C."""
    # Outside the block Ctrl-C ends this process as it would any, and the server with its input.
    interrupt = gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), Halt("Ctrl-C"))
    try:
        with gevent.Timeout(seconds, Halt(f"--max-seconds {seconds:g}")):
            yield
    finally:
        interrupt.cancel()


def cookie_for(target: str, file: Path | None) -> Cookie:
    """The cookie of a node that runs already; the flood is for this machine only."""
    try:
        if not is_loopback(parse_name(target).host):
            raise click.UsageError(f"{target} is not on this machine, and only loopback is flooded")
        return cookies.find() if file is None else cookies.load(file)
    except (InvalidName, CookieError, FileNotFoundError) as error:
        raise click.UsageError(str(error)) from error


def flood(target: str | None, given: dict[str, Any]) -> Report:
    """Make links, with a node of its own or with one that runs already, and measure them."""
    with contextlib.ExitStack() as stack:
        server, pid = None, given["server_pid"]
        if target is None:
            server = stack.enter_context(contextlib.closing(Server()))
            target, cookie, pid = server.name, server.cookie, server.pid
        else:
            cookie = cookie_for(target, given["cookie_file"])
        fleet = Fleet(target, cookie, given["timeout"], given["concurrency"], pid)
        run = Flood(fleet, server, given["links"])
        run.run(given["hold"], given["max_seconds"])
    return run.report


def besiege(kinds: tuple[str, ...], given: dict[str, Any]) -> SiegeReport:
    """Hold links with a node of its own through an attack."""
    with contextlib.closing(Server("default")) as server:
        address = parse_name(server.name).address
        siege = Siege(
            server.name,
            (address.host, address.port),
            server.cookie,
            server.look,
            pid=server.pid,
            kinds=kinds,
            attackers=given["attackers"],
            sources=given["sources"],
            links=given["links"],
        )
        try:
            with halting(given["max_seconds"]):
                siege.run(given["hold"])
                siege.report.left_on_server = server.settle(0)
        except Halt as end:
            siege.report.stopped_by = str(end)
    siege.judge()
    return siege.report


def exchange(given: dict[str, Any]) -> ExchangeReport:
    """Send messages to a node of its own, and measure them."""
    with contextlib.closing(Server()) as server:
        click.echo(f"sending messages to {server.name} (process {server.pid})")
        run = Exchange(server, os.getpid())
        try:
            with halting(given["max_seconds"]):
                run.run(given["hold"], given["count"])
                run.report.left_on_server = server.settle(0)
        except Halt as end:
            run.report.stopped_by = str(end)
    run.judge()
    return run.report


def parse_kinds(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """The kinds of attack that were asked for."""
    kinds = tuple(value.split(",")) if value else ()
    if not set(kinds) <= set(KINDS):
        raise click.BadParameter(f"give some of {','.join(KINDS)}")
    return kinds


@click.command()
@click.option("--links", default=1000, show_default=True, type=click.IntRange(1, 65_535))
@click.option("--concurrency", default=64, show_default=True, type=click.IntRange(1), help="Dials at once.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds for a dial, and for a ping.")
@click.option("--hold", default=5.0, show_default=True, help="Seconds.")
@click.option("--max-seconds", default=300.0, show_default=True, help="For all but the closing.")
@click.option("--target", metavar="NAME@HOST:PORT", help="A running node, instead of one of the flood's own.")
@click.option("--cookie-file", type=Path, help="The target's. Default: SNOWGREEN_COOKIE, or the user's file.")
@click.option("--server-pid", type=int, help="The target's process, to see what it uses.")
@click.option("--attack", metavar="KIND,…", callback=parse_kinds, help=f"Any of {','.join(KINDS)}.")
@click.option("--attackers", default=1000, show_default=True, type=click.IntRange(1), help="Of each kind.")
@click.option("--sources", default=3, show_default=True, type=click.IntRange(1, 50), help="Of each kind.")
@click.option("--messages", is_flag=True, help="Send messages over one link instead: --hold for each size.")
@click.option("--count", default=1_000_000, show_default=True, type=click.IntRange(1), help="Of each size.")
@click.option("--json", "output", type=click.File("w", lazy=False), help="Write the figures here, too.")
def main(
    target: str | None, attack: tuple[str, ...], messages: bool, output: TextIO | None, **given: Any
) -> None:
    """Open thousands of links with one node, hold them, and measure them."""
    prepare()
    report: Report | SiegeReport | ExchangeReport
    if messages:
        report = exchange(given)
    elif attack:
        report = besiege(attack, given)
    else:
        report = flood(target, given)
    Console().print(measure.table(asdict(report)), soft_wrap=True)
    if output is not None:
        output.write(json.dumps(asdict(report), indent=2) + "\n")
    raise SystemExit(0 if report.ok else 130 if report.stopped_by == "Ctrl-C" else 1)


if __name__ == "__main__":
    main()
