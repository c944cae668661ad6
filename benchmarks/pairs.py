"""The two processes of one peer, and a run: which peers there are, and what has been measured of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.progress import Progress

from .harness import Child, Figures, Summary
from .peers.common import Usage, cpu, family, usage

#: Seconds that a process may take for one order.
PATIENCE: Final = 150.0
#: Seconds that it may take to end after its input has.
ENDING: Final = 10.0
#: How much of the processors may be taken away during a turn, and how many turns are tried for such a one.
CALM: Final = 0.02
TRIES: Final = 4
#: Seconds of one look whether a process has come to rest, and what it may use in one, and how many looks.
LOOK: Final = 0.05
RESTING: Final = 0.002
LOOKS: Final = 60


def stolen() -> float:
    """Seconds of all processors that went to other machines on the same hardware; 0 where nobody tells.

    "steal" of proc_stat(5).
    """
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


class Failed(Exception):
    """A peer did not do what it was ordered, and why."""


class Unsupported(Failed):
    """It cannot."""


class Missing(Failed):
    """It is not installed."""


class Ended(Failed):
    """It is of no more use: its process does not answer, or does not get what is sent to it."""


class Process(Child):
    """A process that answers orders, or is done with."""

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def order(self, do: str, **details: Any) -> Any:
        """Have it do something, and return what it answers.

        :raises Failed: as the case may be.
        """
        self.begin(do, **details)
        return self.finish()

    def begin(self, do: str, **details: Any) -> None:
        """Have it do something; :meth:`finish` gets the answer."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # it has ended: the answer will not come
            stdin.write(json.dumps({"do": do, **details}) + "\n")
            stdin.flush()

    @property
    def answered(self) -> bool:
        """Whether :meth:`finish` would not wait."""
        return self._readable(0)

    def finish(self) -> Any:
        """Wait for the answer."""
        stdout = self._process.stdout
        assert stdout is not None
        if not self._readable(PATIENCE):
            self.kill()
            raise Ended(f"no answer within {PATIENCE:g} s")
        line = stdout.readline()
        if not line:
            raise Ended("its process has ended")
        answer = json.loads(line)
        for word, kind in (("missing", Missing), ("unsupported", Unsupported), ("failed", Failed)):
            if isinstance(answer, dict) and word in answer:
                raise kind("it cannot do that" if answer[word] is True else str(answer[word]))
        return answer

    def _readable(self, seconds: float) -> bool:
        stdout = self._process.stdout
        assert stdout is not None
        return bool(select.select([stdout], [], [], seconds)[0])

    def cpu(self) -> float:
        """Seconds of CPU that it, and what it has started, have used."""
        return cpu(self.pid)

    def usage(self) -> Usage:
        """What it, and what it has started, use."""
        return usage(self.pid)

    def kill(self) -> None:
        """End it, and what it has started."""
        for pid in reversed(family(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=ENDING)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def rest(self) -> None:
        """Wait until it has nothing more to do, or never will."""
        for _ in range(LOOKS):
            before = self.cpu()
            time.sleep(LOOK)
            if self.cpu() - before < RESTING:
                break


class Pair:
    """The server and the client of one peer."""

    def __init__(self, name: str, stack: contextlib.ExitStack) -> None:
        self.name = name
        self.server = stack.enter_context(Process(f"peers.{name}", "server"))
        self.client = stack.enter_context(Process(f"peers.{name}", "client"))
        self.address: Any = None
        #: Whether its links can be of light ends.
        self.crowd = False
        for process in (self.server, self.client):
            process.begin("hello")

    def greet(self) -> dict[str, Any]:
        """What it says of itself."""
        hello = dict(self.server.finish())
        self.client.finish()
        self.crowd = bool(hello.get("crowd"))  # those that are not of Python say nothing of it
        return hello

    def start(self, **options: Any) -> None:
        """Have the server listen."""
        self.address = self.server.order("start", **options)["address"]

    def link(self, count: int, at_once: int = 32, *, light: bool = False) -> float:
        """Make links, and keep them; the seconds that took.

        :param light: from ends that do nothing but be let in, where the peer has such.
        :raises Failed: if not all of them came about.
        """
        how = "knock" if light and self.crowd else "link"
        answer = self.client.order(how, address=self.address, count=count, at_once=at_once)
        if answer["made"] < count:
            raise Failed(f"{answer['made']} of {count} links were made: {answer.get('why', '')}".rstrip(": "))
        return float(answer["seconds"])


class Note(NamedTuple):
    """Why something was not measured."""

    peer: str
    measure: str
    why: str


@dataclass
class Book:
    """All figures of a run."""

    #: Figure → peer → its value in each round.
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    #: Turns that count, and those of them in which the processors were taken away, however often repeated.
    turns: int = 0
    disturbed: int = 0

    def add(self, peer: str, figures: Figures) -> None:
        """What one round of a peer gave."""
        for figure, value in figures.items():
            self.figures.setdefault(figure, {}).setdefault(peer, []).append(value)

    def note(self, peer: str, measure: str, why: object) -> None:
        """Say once that something was not measured."""
        note = Note(peer, measure, str(why))
        if note not in self.notes:
            self.notes.append(note)

    def summary(self, figure: str, peer: str) -> Summary | None:
        """All rounds; None if there were none."""
        values = self.figures.get(figure, {}).get(peer)
        return Summary.of(values) if values else None


@dataclass
class Case:
    """What is measured in each round: of one peer, by a function."""

    peer: str
    once: Callable[[], Figures]
    #: None: whom the figures are noted for; they may be another's, such as a floor's.
    label: str | None = None
    #: Whose cases all end with a failure of this one.
    pair: Pair | None = None
    over: bool = False
    #: Whether a bar goes by it: then it has more than one turn in each round.
    close: bool = False

    @property
    def noted_for(self) -> str:
        """Whom the figures are noted for."""
        return self.label or self.peer


@dataclass
class Run:
    """One run of the benchmarks."""

    peers: Sequence[str]
    rounds: int
    quick: bool
    #: Called with what is being done.
    tell: Callable[[str], None] = lambda what: None
    book: Book = field(default_factory=Book)
    #: What the peers have said of themselves.
    hellos: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pick(self, usual: int, quick: int) -> int:
        """How much to do."""
        return quick if self.quick else usual

    @contextlib.contextmanager
    def noting(self, peer: str, measure: str) -> Iterator[None]:
        """Note what fails in the block, and go on behind it."""
        try:
            yield
        except Failed as error:
            self.book.note(peer, measure, error)

    def pairs(
        self, stack: contextlib.ExitStack, measure: str, peers: Sequence[str] | None = None
    ) -> list[Pair]:
        """Both processes of each peer, that have said hello and whose servers listen."""
        started = [Pair(name, stack) for name in (self.peers if peers is None else peers)]
        ready = []
        for pair in started:
            try:
                self.hellos[pair.name] = pair.greet()
                pair.start()
            except Missing as error:
                self.hellos[pair.name] = {"missing": str(error)}
                self.book.note(pair.name, "all", f"missing: {error}")
            except Failed as error:
                self.book.note(pair.name, measure, error)
            else:
                ready.append(pair)
        return ready

    def in_turn(self, measure: str, cases: Sequence[Case], often: int = 1) -> None:
        """Run all `cases`, round after round, and one round first that does not count.

        :param often: turns of a close case in each round: of what is short, and varies.
        """
        with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
            for number in bar.track(range(self.rounds + 1), description=measure):
                for turn in range(often if number and not self.quick else 1):
                    for case in cases:
                        if case.over or (turn and not case.close):
                            continue
                        try:
                            figures, taken = self._in_calm(case) if number else (case.once(), 0.0)
                        except Failed as error:
                            self.book.note(case.noted_for, measure, error)
                            case.over = True
                            if isinstance(error, Ended):
                                self._give_up(case, cases)
                            continue
                        if number:
                            self.book.add(case.noted_for, figures)
                            self.book.turns += 1
                            self.book.disturbed += taken > CALM

    def _in_calm(self, case: Case) -> tuple[Figures, float]:
        """What one turn gives, and how much of the processors was taken away: of some turns the calmest."""
        found: list[tuple[float, Figures]] = []
        while not found or (found[-1][0] > CALM and len(found) < TRIES and not self.quick):
            began, before = time.monotonic(), stolen()
            figures = case.once()
            whole = (time.monotonic() - began) * (os.cpu_count() or 1)
            found.append(((stolen() - before) / whole, figures))
        taken, figures = min(found, key=lambda one: one[0])
        return figures, taken

    @staticmethod
    def _give_up(failed: Case, cases: Sequence[Case]) -> None:
        for case in cases:
            case.over |= case.pair is not None and case.pair is failed.pair
