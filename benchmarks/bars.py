"""What snowgreen is to reach, and whether it does: ratios of medians within one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from .harness import Summary
from .pairs import Book


@dataclass(frozen=True)
class Bar:
    """One figure, or how many times another it is, and how large it may or must be."""

    title: str
    #: Figure and peer.
    of: tuple[str, str]
    over: tuple[str, str] | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bound(self) -> str:
        """As a person would write it."""
        return f"≤ {self.at_most:,g}" if self.at_most is not None else f"≥ {self.at_least:,g}"

    def value(self, book: Book) -> float | None:
        """What it came to; None if a part of it was not measured."""
        of = book.summary(*self.of)
        over = book.summary(*self.over) if self.over else None
        if of is None or (self.over and (over is None or not over.median)):
            return None
        return of.median / over.median if over else of.median

    def spread(self, book: Book) -> tuple[float, float] | None:
        """Lowest and highest of the rounds, each compared within itself."""
        of = book.figures.get(self.of[0], {}).get(self.of[1])
        over = book.figures.get(self.over[0], {}).get(self.over[1]) if self.over else None
        if not of or (self.over and (not over or len(of) != len(over) or not all(over))):
            return None
        summary = Summary.of([a / b for a, b in zip(of, over, strict=True)] if over else of)
        return summary.low, summary.high

    def verdict(self, book: Book) -> str:
        """In words."""
        value = self.value(book)
        if value is None:
            return "not measured"
        reached = value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)
        return "pass" if reached else "not yet"


_SNOWGREEN, _FRAMES, _ERLANG = "snowgreen", "snowgreen frames", "erlang"
ACCEPT: Final = "server CPU per accepted link, µs"
_RSS = "RSS per link at {}, bytes"
_CLIMB = "server CPU per link up to {}, µs"
RTT: Final = "RTT p50, µs"
TRIP_CPU: Final = "RTT: CPU of both ends, µs"
_BROADCAST = "broadcast of 256 B to 5,000 links, ms"


def _against(title: str, figure: str, peer: str, of: str = _SNOWGREEN, **bound: float) -> Bar:
    return Bar(title, (figure, of), (figure, peer), **bound)


BARS: Final = (
    _against("server CPU per accepted link ÷ OpenSSL's", ACCEPT, "OpenSSL alone", at_most=2.3),
    _against("server CPU per accepted link ÷ Erlang's", ACCEPT, _ERLANG, at_most=0.45),
    Bar("RSS per idle link at 5,000, bytes", (_RSS.format("5,000"), _SNOWGREEN), at_most=18_000),
    _against("RSS per idle link at 5,000 ÷ Erlang's", _RSS.format("5,000"), _ERLANG, at_most=0.2),
    Bar("links held by one process", ("links held", _SNOWGREEN), at_least=15_000),
    Bar(
        "RSS per link at 15,000 ÷ at 500",
        (_RSS.format("15,000"), _SNOWGREEN),
        (_RSS.format("500"), _SNOWGREEN),
        at_most=1.2,
    ),
    Bar(
        "server CPU per link from 10,000 to 15,000 ÷ up to 500",
        (_CLIMB.format("15,000"), _SNOWGREEN),
        (_CLIMB.format("500"), _SNOWGREEN),
        at_most=1.2,
    ),
    Bar(
        "idle CPU at 10,000 links, % of a core",
        ("idle CPU at 10,000 links, % of a core", _SNOWGREEN),
        at_most=0.1,
    ),
    _against("frames of 64 B/s ÷ Erlang's messages", "64 B: messages/s", _ERLANG, _FRAMES, at_least=3),
    _against("frames of 1 KiB/s ÷ Erlang's messages", "1 KiB: messages/s", _ERLANG, _FRAMES, at_least=4),
    _against("frames of 64 KiB, MB/s ÷ Erlang's", "64 KiB: MB/s", _ERLANG, _FRAMES, at_least=6),
    _against("mailbox messages of 64 B/s ÷ Erlang's", "64 B: messages/s", _ERLANG, at_least=1),
    _against("RTT p50 ÷ asyncio's", RTT, "asyncio", at_most=1.1),
    _against("RTT p50 ÷ Erlang's", RTT, _ERLANG, at_most=0.8),
    _against("CPU of a round trip ÷ the same asleep", TRIP_CPU, "snowgreen asleep", at_most=1),
    _against("broadcast to 5,000 links ÷ bare writes", _BROADCAST, "bare writes", at_most=1.3),
    Bar(
        "p99 of pings beside another link's stream ÷ alone",
        ("ping beside another link's: p99, ms", _SNOWGREEN),
        ("ping: p99, ms", _SNOWGREEN),
        at_most=3,
    ),
    Bar(
        "p99 of calls beside a stream on their link ÷ alone",
        ("call beside a stream: p99, ms", _SNOWGREEN),
        ("call: p99, ms", _SNOWGREEN),
        at_most=5,
    ),
    Bar(
        "p99 of a held link's pings in a storm ÷ without the limiter",
        ("ping: p99 in a storm, ms", _SNOWGREEN),
        ("ping: p99 in a storm, ms", "snowgreen unsparing"),
        at_most=0.5,
    ),
)


def contested(*figures: str) -> set[str]:
    """Whose `figures` a bar goes by."""
    return {side[1] for bar in BARS for side in (bar.of, bar.over) if side is not None and side[0] in figures}


def table(book: Book) -> Table:
    """All bars, for people."""
    made = Table(title="What is to be reached", box=None, title_justify="left", pad_edge=False)
    made.add_column("")
    for column in ("bar", "median", "rounds", ""):
        made.add_column(column, justify="right" if column else "left")
    for bar in BARS:
        value, spread = bar.value(book), bar.spread(book)
        made.add_row(
            bar.title,
            bar.bound,
            "" if value is None else shown(value),
            "" if spread is None else f"{shown(spread[0])} to {shown(spread[1])}",
            bar.verdict(book),
        )
    return made


def as_json(book: Book) -> list[dict[str, Any]]:
    """All bars, for programs."""
    return [
        {
            "title": bar.title,
            "bar": bar.bound,
            "value": bar.value(book),
            "rounds": bar.spread(book),
            "verdict": bar.verdict(book),
        }
        for bar in BARS
    ]


def shown(value: float) -> str:
    """With three digits that mean something, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
