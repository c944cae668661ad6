"""What is measured: each measure starts the peers afresh, and goes through them round after round."""

from __future__ import annotations

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from .bars import ACCEPT, RTT, TRIP_CPU, contested
from .harness import Figures
from .messages import Linked
from .pairs import Case, Ended, Failed, Pair, Process, Run, Unsupported
from .peers.common import slices

SIZES: Final = {"64 B": 64, "1 KiB": 1024, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
#: Links at which memory is looked at, and those at which the CPU of an idle process is.
LEVELS: Final = (500, 1000, 5000, 10_000, 15_000)
IDLE_AT: Final = 10_000
#: Links made before the first look: what a process pays only once is not counted as its links'.
WARM: Final = 20
#: Descriptors left free in each process, for what it opens beside its links.
SPARE: Final = 100
#: Seconds that a peer may take to make links; those that bars are about may take longer.
CLIMB: Final = {"snowgreen": 180.0, "erlang": 40.0}
CLIMB_OTHERS: Final = 8.0
#: Links that get a broadcast, and its bytes.
CROWD: Final = 5000
BROADCAST: Final = 256
#: Seconds from the order to dial until a storm is there: for its nodes to be made.
BREWING: Final = 0.03
#: What a session does beside a stream, by the titles of the benchmarks of messages.
BESIDE: Final = ("ping", "ping beside another link's", "call", "call beside a stream")


def cases_of(run: Run, measure: str, pairs: list[Pair], begin: Callable[[Pair], object]) -> list[Pair]:
    """The `pairs` that have begun."""
    begun = []
    for pair in pairs:
        with run.noting(pair.name, measure):
            begin(pair)
            begun.append(pair)
    return begun


# Links that are accepted.


def accept(run: Run) -> None:
    """How fast links are accepted, and what one costs the server."""
    count = run.pick(100, 40)

    def once(pair: Pair) -> Figures:
        pair.server.rest()
        before = pair.server.cpu()
        seconds = pair.link(count, light=True)
        pair.server.rest()
        spent = pair.server.cpu() - before
        pair.client.order("drop")
        return {ACCEPT: spent / count * 1e6, "links/s": count / seconds}

    def floor(process: Process) -> Figures:
        return {ACCEPT: process.order("accept", count=count)["cpu"] / count * 1e6}

    with contextlib.ExitStack() as stack:
        openssl = stack.enter_context(Process("openssl", "floor"))
        pairs = cases_of(run, "accept", run.pairs(stack, "accept"), lambda pair: pair.link(2, light=True))
        close = contested(ACCEPT)
        cases = [Case(pair.name, partial(once, pair), pair=pair, close=pair.name in close) for pair in pairs]
        alone = Case("OpenSSL alone", partial(floor, openssl), close=True)
        run.in_turn("accept", [alone, *cases], often=8)


# Links that are held.


def links(run: Run) -> None:
    """Memory per idle link, the CPU of idling, and how many links one process holds: one climb for each."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limit - SPARE if limit != resource.RLIM_INFINITY else 65_000
    levels = [level for level in LEVELS if level <= most]
    levels = [50, 100] if run.quick else [*levels, *([most] if levels[-1:] < [most] else [])]
    for name in run.peers:
        with contextlib.ExitStack() as stack:
            for pair in run.pairs(stack, "links", [name]):
                run.tell(f"links of {name}")
                with run.noting(name, "links"):
                    _climb(run, pair, levels)


def _climb(run: Run, pair: Pair, levels: list[int]) -> None:
    book, made, seconds, most = run.book, WARM, 0.0, CLIMB.get(pair.name, CLIMB_OTHERS)
    pair.link(WARM)
    pair.server.rest()
    base = pair.server.usage()
    for level in levels:
        before, started = pair.server.cpu(), made
        try:
            for part in slices(level - made, 250):
                if seconds > most or scarce():
                    raise Failed(f"{made} links in {seconds:.0f} s: no time, or no memory, for {level}")
                seconds += pair.link(part)
                made += part
        finally:
            pair.server.rest()
            if not run.quick:
                book.figures.setdefault("links held", {})[pair.name] = [float(_held(pair, made))]
        now = pair.server.usage()
        book.add(
            pair.name,
            {
                f"RSS per link at {level:,}, bytes": (now.rss - base.rss) / (level - WARM),
                f"PSS per link at {level:,}, bytes": (now.pss - base.pss) / (level - WARM),
                f"server CPU per link up to {level:,}, µs": (now.cpu - before) / (level - started) * 1e6,
            },
        )
        if level == IDLE_AT or run.quick:
            with run.noting(pair.name, "links"):
                _idle(run, pair, level)
    # Whether those that are held still answer: one does for all, as the server has counted them.
    with run.noting(pair.name, "links"):
        pair.client.order("rtt", rounds=1)


def scarce() -> bool:
    """Whether this machine has no memory to spare."""
    figures = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free, whole = (int(figures[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    return free < whole / 4


def _held(pair: Pair, made: int) -> int:
    """How many there are: by the server's own count, if it has one."""
    with contextlib.suppress(Failed):
        return int(pair.server.order("links")["links"])
    return made


def _idle(run: Run, pair: Pair, level: int) -> None:
    # Between two heartbeats; then, of snowgreen, over a whole one: every link is pinged once.
    with contextlib.suppress(Unsupported):
        pair.server.order("freshen")
    for name, usual in (("idle CPU", 10.0), ("idle CPU over a minute", 60.0)):
        if usual > 10.0 and pair.name != "snowgreen":
            continue
        pair.server.rest()
        seconds = usual if not run.quick else 0.2
        spent = pair.server.order("idle", seconds=seconds)["cpu"]
        run.book.add(pair.name, {f"{name} at {level:,} links, % of a core": spent / seconds * 100})


# Messages.


def rtt(run: Run) -> None:
    """Round trips, one after the other."""
    rounds = run.pick(1000, 100)

    def once(pair: Pair) -> Figures:
        before = pair.server.cpu() + pair.client.cpu()
        trips = pair.client.order("rtt", rounds=rounds)
        spent = pair.server.cpu() + pair.client.cpu() - before
        return {
            **{f"RTT {share}, µs": trips[share] * 1e6 for share in ("p50", "p99")},
            TRIP_CPU: spent / rounds * 1e6,
        }

    def asleep(stack: contextlib.ExitStack) -> Iterator[Case]:
        pair = Pair("snowgreen", stack)
        pair.greet()
        with run.noting("snowgreen asleep", "rtt"):
            pair.start(busy_wait=0.0)
            pair.client.order("link_asleep", address=pair.address)
            yield Case("snowgreen", partial(once, pair), "snowgreen asleep", pair, close=True)

    with contextlib.ExitStack() as stack:
        pairs = cases_of(run, "rtt", run.pairs(stack, "rtt"), lambda pair: pair.link(1))
        close = contested(RTT)
        cases = [Case(pair.name, partial(once, pair), pair=pair, close=pair.name in close) for pair in pairs]
        if "snowgreen" in run.peers:
            cases += asleep(stack)
        run.in_turn("rtt", cases, often=6)


class Flow:
    """One-way messages of one size from one peer's client to its server, sent in one way."""

    def __init__(self, pair: Pair, title: str, way: str, seconds: float) -> None:
        self._pair = pair
        self._title = title
        self._details: dict[str, Any] = {"size": SIZES[title], **({"way": way} if way else {})}
        self._seconds = seconds
        self._count = 0

    def __call__(self) -> Figures:
        """Measure once; at first, find out how many messages that takes."""
        if not self._count:
            self._count, seconds = max(4, 65536 // self._details["size"]), 0.0
            while seconds < self._seconds / 3:
                seconds = self._flow()[0]
                factor = min(20.0, self._seconds / max(seconds, 1e-4))
                self._count = max(self._count, int(self._count * factor))
        seconds, server, client = self._flow()
        each = 1e6 / self._count
        return {
            f"{self._title}: messages/s": self._count / seconds,
            f"{self._title}: MB/s": self._count * self._details["size"] / seconds / 1e6,
            f"{self._title}: server CPU per message, µs": server * each,
            f"{self._title}: client CPU per message, µs": client * each,
        }

    def _flow(self) -> tuple[float, float, float]:
        pair = self._pair
        total = pair.server.order("received")["messages"] + self._count
        before, began = (pair.server.cpu(), pair.client.cpu()), time.perf_counter()
        pair.client.order("send", count=self._count, **self._details)
        try:
            pair.server.order("wait", messages=total)
        except Failed as error:
            raise Ended(str(error)) from error  # it loses messages, and each loss would take minutes
        seconds = time.perf_counter() - began
        return seconds, pair.server.cpu() - before[0], pair.client.cpu() - before[1]


def messages(run: Run) -> None:
    """One-way messages of some sizes, as fast as each peer's own way of sending lets them go."""
    seconds = run.pick(250, 30) / 1000
    titles = list(SIZES)[:: run.pick(1, 2)]
    with contextlib.ExitStack() as stack:
        pairs = cases_of(run, "messages", run.pairs(stack, "messages"), lambda pair: pair.link(1))
        cases = []
        for title in titles:
            close = contested(f"{title}: messages/s", f"{title}: MB/s")
            for pair in pairs:
                for way in ("", *run.hellos[pair.name].get("ways", ())):
                    if way == "values" and title != "64 B":
                        continue  # small dicts, of about that size
                    label = f"{pair.name} {way}".strip()
                    flow = Flow(pair, title, way, seconds)
                    cases.append(Case(pair.name, flow, label, pair, close=label in close))
        run.in_turn("messages", cases, often=3)


def broadcast(run: Run) -> None:
    """One small message to thousands of links."""
    crowd = run.pick(CROWD, 50)
    figure = f"broadcast of {BROADCAST} B to {crowd:,} links"

    def begin(pair: Pair) -> None:
        pair.link(2)
        pair.server.order("broadcast", size=BROADCAST)  # which tells whether it can
        seconds, most = 0.0, CLIMB.get(pair.name, CLIMB_OTHERS)
        for part in slices(crowd - 2, 250):
            if seconds > most or scarce():
                raise Failed(f"no time, or no memory, for {crowd} links")
            seconds += pair.link(part)
        with contextlib.suppress(Unsupported):
            pair.client.order("join")
        pair.server.rest()

    def once(pair: Pair, order: str) -> Figures:
        pair.client.rest()
        pair.server.rest()
        before = pair.server.cpu()
        answer = pair.server.order(order, size=BROADCAST)
        spent = pair.server.cpu() - before
        if answer.get("links", crowd) != crowd:
            raise Failed(f"it reached {answer['links']} of {crowd} links")
        return {f"{figure}, ms": answer["seconds"] * 1000, f"{figure}, CPU ms": spent * 1000}

    with contextlib.ExitStack() as stack:
        pairs = cases_of(run, "broadcast", run.pairs(stack, "broadcast"), begin)
        cases = []
        for pair in pairs:
            ours = pair.name == "snowgreen"
            cases.append(Case(pair.name, partial(once, pair, "broadcast"), pair=pair, close=ours))
            if ours:
                cases.append(Case(pair.name, partial(once, pair, "bare"), "bare writes", pair, close=True))
        run.in_turn("broadcast", cases, often=8)


# What others wait.


def beside(run: Run) -> None:
    """What pings and calls wait while large messages stream, over another link and over the same one."""
    if "snowgreen" not in run.peers:
        return
    seconds = run.pick(1000, 100) / 1000
    with contextlib.ExitStack() as stack:
        linked = Linked(stack)

        def once(title: str) -> Figures:
            # Without the unit, which is the same for all: "ping: p99, ms".
            return {
                f"{name.removesuffix(' ms')}, ms": figure
                for name, figure in linked.ask(title, seconds).items()
            }

        cases = [Case("snowgreen", partial(once, title), close=True) for title in BESIDE]
        run.in_turn("beside", cases, often=3)


def storm(run: Run) -> None:
    """What the pings over a link that is held wait while a hundred others are made at once."""
    if "snowgreen" not in run.peers:
        return
    count, gusts, seconds = run.pick(100, 5), run.pick(5, 1), run.pick(200, 20) / 1000

    def once(pair: Pair, dialers: Process) -> Figures:
        quiet, stormy = [], []
        for _ in range(gusts):
            quiet.append(pair.client.order("beat", seconds=seconds)["p99"] * 1000)
            dialers.begin("storm", address=pair.address, count=count)
            time.sleep(BREWING)
            stormy.append(pair.client.order("beat", seconds=seconds)["p99"] * 1000)
            made = dialers.finish()["made"]
            if made != count:
                raise Failed(f"of {count} links only {made} were made")
            pair.server.rest()
        return {
            "ping: p99 in a storm, ms": statistics.median(stormy),
            "ping: p99 before it, ms": statistics.median(quiet),
        }

    def begun(stack: contextlib.ExitStack, pair: Pair, label: str, *, unsparing: bool) -> Case:
        pair.start(unsparing=unsparing)
        pair.link(1)
        dialers = stack.enter_context(Process("peers.snowgreen", "client"))
        return Case(pair.name, partial(once, pair, dialers), label, pair)

    def cases(stack: contextlib.ExitStack) -> Iterator[Case]:
        # The second is without what spares live links.
        for label, unsparing in (("snowgreen", False), ("snowgreen unsparing", True)):
            pair = Pair("snowgreen", stack)
            pair.greet()
            with run.noting(label, "storm"):
                yield begun(stack, pair, label, unsparing=unsparing)

    with contextlib.ExitStack() as stack:
        run.in_turn("storm", list(cases(stack)))


MEASURES: Final[dict[str, Callable[[Run], None]]] = {
    "accept": accept,
    "links": links,
    "rtt": rtt,
    "messages": messages,
    "broadcast": broadcast,
    "beside": beside,
    "storm": storm,
}
