"""What the benchmarks have in common: processes that take orders, their CPU time, rounds, the table and JSON.

A machine's speed drifts within seconds, so a figure by itself says little. Everything is therefore measured
in turn, round after round, and compared within each round; what is shown is the median of the rounds and how
far they were apart.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, Self, TextIO

from rich.console import Console
from rich.progress import track
from rich.table import Table

#: Seconds that a process may take to end after its input has.
PATIENCE: Final = 10.0
#: What one measurement gives: figures by their names.
Figures = Mapping[str, float]


class Child:
    """A process that answers each line of JSON with one: ``python -m benchmarks.<module> <arguments>``."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = " ".join([module, *arguments])
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        # In a session of its own: Ctrl-C is for the parent, with which the child's input ends.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def order(self, do: str, **details: Any) -> Any:
        """Have the process do something, and return what it answers."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, **details}) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise SystemExit(f"the process {self._name} ended in the middle of {do}")
        return json.loads(line)

    def cpu(self) -> float:
        """Seconds of CPU that all its threads have used."""
        # The clock that clock_getcpuclockid(3) gives: /proc counts in hundredths of a second.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def obey(role: object, line: str) -> Any:
    """In a child: do what the order `line` says; its words are the names and arguments of methods."""
    order = json.loads(line)
    return getattr(role, order.pop("do"))(**order)


class Ratio(NamedTuple):
    """A comparison: how many times the figure `of` the figure `to` is, in the same round."""

    name: str
    of: str
    to: str


@dataclass
class Summary:
    """One figure over all rounds."""

    median: float
    low: float
    high: float
    rounds: list[float]

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Summary:
        """What they come to."""
        return cls(statistics.median(rounds), min(rounds), max(rounds), list(rounds))


@dataclass
class Result:
    """What a benchmark came to."""

    figures: dict[str, Summary] = field(default_factory=dict)
    ratios: dict[str, Summary] = field(default_factory=dict)

    def show(self, title: str) -> None:
        """Print it as tables."""
        for heading, summaries in ((title, self.figures), ("Compared within each round", self.ratios)):
            table = Table(title=heading, box=None, title_justify="left", pad_edge=False)
            table.add_column("")
            for column in ("median", "lowest", "highest"):
                table.add_column(column, justify="right")
            for name, item in summaries.items():
                table.add_row(name, *(f"{value:,.2f}" for value in (item.median, item.low, item.high)))
            Console().print(table, soft_wrap=True)

    def write(self, file: TextIO) -> None:
        """Write it as JSON."""
        file.write(json.dumps(asdict(self), indent=2) + "\n")


def measure(cases: Sequence[Callable[[], Figures]], ratios: Sequence[Ratio], rounds: int) -> Result:
    """Run all `cases` in turn, `rounds` times after a round that does not count."""
    seen: dict[str, list[float]] = {}
    for number in track(range(rounds + 1), "measuring", disable=not sys.stdout.isatty()):
        for case in cases:
            figures = case()
            if number:
                for name, value in figures.items():
                    seen.setdefault(name, []).append(value)
    result = Result({name: Summary.of(values) for name, values in seen.items()})
    for name, of, to in ratios:
        result.ratios[name] = Summary.of([a / b for a, b in zip(seen[of], seen[to], strict=True)])
    return result


class Tally:
    """Counts the messages of one size, and holds each against the number that was to come next."""

    def __init__(self, size: int) -> None:
        self.messages = 0
        self._size = size

    def take(self, body: bytes | bytearray) -> None:
        """The next one has come."""
        if len(body) != self._size or not body.startswith(self.messages.to_bytes(8)):
            raise SystemExit(f"message {self.messages} of {self._size} bytes was lost, or is out of order")
        self.messages += 1
