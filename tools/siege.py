"""A node under siege: strangers do their worst while links live on and an honest peer comes and goes.

``python tools/flood.py --attack silent,drip,garbage`` starts a node with the default limits in a process of
its own and links with it from addresses 127.0.1.x and up, no more from each than the limits allow at once.
Then a third process attacks from addresses 127.0.0.x while every link is pinged in turn, over and over, and
an honest peer at 127.1.0.1 links in anew, again and again. Nobody here is a `Node` but the node itself: a
node dials from the address that the system gives it, so links and attackers are bare TLS connections.

By default each kind of attack comes from three addresses. Of the 128 places for handshakes each address can
hold 16: from eight on that hold theirs, all can be taken, and who comes then waits until the oldest has had
its second.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import gevent
from attacks import PATIENCE, Line, Place, Recording
from gevent.pool import Group, Pool
from measure import percentiles, usage

from snowgreen import Cookie
from snowgreen.link.keyring import link_keys

#: Links from one address: no more than may have a handshake under way there at once.
LINKS_PER_SOURCE: Final = 16
#: Links that are pinged at the same time.
PINGERS: Final = 8
HONEST: Final = "127.1.0.1"
#: Seconds from one link of the honest peer to the next, and what each may take.
HONEST_PAUSE: Final = 0.25
HONEST_LIMIT: Final = 1.0


@dataclass
class Report:
    """The figures of a siege, by the names they have in the JSON."""

    target: str
    asked: int
    ok: bool = False
    stopped_by: str | None = None
    made: int = 0
    attack_seconds: float = 0.0
    attack: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused_at_the_door: int = 0
    pings: int = 0
    pings_lost: int = 0
    rtt_ms: dict[str, float] | None = None
    honest_tried: int = 0
    honest_linked: int = 0
    honest_ms: dict[str, float] | None = None
    honest_failures: dict[str, int] = field(default_factory=dict)
    live_at_the_end: int = 0
    left_on_server: int | None = None
    server_before: dict[str, float] | None = None
    server_after: dict[str, float] | None = None


class Siege:
    """One siege of the node `name` at `place`.

    :param look: asks the node's process for its sessions and its ledger.
    :param sources: how many addresses each kind of attack comes from.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        cookie: Cookie,
        look: Callable[[], dict[str, Any]],
        *,
        pid: int,
        kinds: Sequence[str],
        attackers: int,
        sources: int,
        links: int,
    ) -> None:
        self.report = Report(name, links)
        self._place = place
        self._keys = link_keys(cookie)
        self._look = look
        self._pid = pid
        self._attackers = attackers
        self._sources = {
            kind: [f"127.0.0.{2 + at * sources + number}" for number in range(sources)]
            for at, kind in enumerate(kinds)
        }
        self._lines: list[Line] = []
        self._trips: list[float] = []
        self._honest: list[float] = []

    def run(self, seconds: float) -> None:
        """Make the links, hold them through `seconds` of attack, and take stock."""
        report, recording = self.report, Recording()
        Line(self._place, HONEST, "recorded@127.0.0.1:0", self._keys, recording).close()
        self._link()
        report.server_before = usage(self._pid)
        before = self._look()
        try:
            with self._attack(recording) as tallies:
                began = time.monotonic()
                self._hold(began + seconds)
                report.attack_seconds = time.monotonic() - began
            self._take_stock(tallies, before, self._look())
            report.server_after = usage(self._pid)
            report.live_at_the_end = sum(self._answers(line) for line in self._lines)
        finally:
            for line in self._lines:
                line.close()
        report.rtt_ms = percentiles(self._trips, 50, 99, 100)
        report.honest_ms = percentiles(self._honest, 50, 99, 100)
        report.honest_linked = len(self._honest)

    def judge(self) -> None:
        """Whether nothing was lost, and the honest peer was let in each time, and quickly."""
        report = self.report
        report.ok = (
            report.stopped_by is None
            and report.asked == report.made == report.live_at_the_end
            and report.pings > 0
            and report.pings_lost == report.left_on_server == 0
            and report.honest_tried == report.honest_linked > 0
            and max(self._honest) < HONEST_LIMIT
            and all(kind["connections"] >= kind["attackers"] for kind in report.attack.values())
        )

    def _link(self) -> None:
        count = self.report.asked
        sources = -(-count // LINKS_PER_SOURCE)
        pool = Pool(64)

        def make(number: int) -> None:
            at = number % sources
            source = f"127.0.{1 + at // 250}.{1 + at % 250}"
            with contextlib.suppress(OSError):
                self._lines.append(Line(self._place, source, f"link-{number:05}@127.0.0.1:0", self._keys))

        for number in range(count):
            pool.spawn(make, number)
        pool.join()
        self.report.made = len(self._lines)

    @contextlib.contextmanager
    def _attack(self, recording: Recording) -> Iterator[dict[str, Any]]:
        tallies: dict[str, Any] = {}
        plan = {"attackers": self._attackers, "sources": self._sources, **asdict(recording)}
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("attacks.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            host, port = self._place
            process.stdin.write(json.dumps({"host": host, "port": port, **plan}) + "\n")
            process.stdin.flush()
            process.stdout.readline()
            yield tallies
            process.stdin.close()
            tallies.update(json.loads(process.stdout.readline()))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def _hold(self, until: float) -> None:
        group = Group()
        for at in range(PINGERS):
            group.spawn(self._ping, self._lines[at::PINGERS], until)
        group.spawn(self._come_and_go, until)
        group.join(raise_error=True)

    def _ping(self, lines: Sequence[Line], until: float) -> None:
        while lines and time.monotonic() < until:
            for line in lines:
                try:
                    self._trips.append(line.ping())
                except OSError:
                    self.report.pings_lost += 1
                self.report.pings += 1
                if time.monotonic() > until:
                    return
                gevent.sleep(0.001)

    def _come_and_go(self, until: float) -> None:
        while time.monotonic() < until:
            self.report.honest_tried += 1
            began = time.perf_counter()
            name = f"honest-{self.report.honest_tried}@127.0.0.1:0"
            try:
                with gevent.Timeout(PATIENCE, OSError("no link in time")):
                    line = Line(self._place, HONEST, name, self._keys)
            except OSError as error:
                failures = self.report.honest_failures
                failures[str(error)] = failures.get(str(error), 0) + 1
            else:
                self._honest.append(time.perf_counter() - began)
                line.close()
            gevent.sleep(HONEST_PAUSE)

    def _answers(self, line: Line) -> bool:
        try:
            line.ping()
        except OSError:
            return False
        return True

    def _take_stock(self, tallies: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> None:
        self.report.refused_at_the_door = after["refused"] - before["refused"]
        for kind, tally in tallies.items():
            became: Counter[str] = Counter()
            for source in self._sources[kind]:
                became.update(after["failed"].get(source, {}))
            # What was ended and never got as far as a handshake was refused at the door.
            became["refused at the door"] = max(0, tally["ended"] - became.total())
            self.report.attack[kind] = {**tally, "became": dict(became)}
