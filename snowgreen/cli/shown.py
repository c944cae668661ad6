"""How values are shown in a terminal: times, sizes, tables, and texts that peers had a hand in."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import click
import msgspec

from ..status import LinkStatus

#: What stands for a value that there is not.
NONE = "-"
_SPACE_BETWEEN = 2
_NARROWEST_PEER = 24


def clean(text: str, *, only_ascii: bool = False) -> str:
    """`text` with what a terminal would take for a command, or cannot show, written as an escape."""
    return "".join(
        letter
        if letter.isprintable() and (not only_ascii or letter.isascii())
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )


def json_line(value: msgspec.Struct) -> str:
    """`value` as one line of JSON, in which everything that is not printable is escaped."""
    text = msgspec.json.encode(value).decode()
    return "".join(letter if letter.isprintable() else _json_escape(letter) for letter in text)


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def size(count: float) -> str:
    """A number of bytes, to three digits or four."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def milliseconds(seconds: float | None) -> str:
    """A round trip."""
    return NONE if seconds is None else f"{seconds * 1000:.2f} ms"


def moment(at: float | None) -> str:
    """Local time to the second, with the date unless it is today."""
    if at is None:
        return NONE
    then = datetime.datetime.fromtimestamp(at)
    today = datetime.datetime.fromtimestamp(time.time()).date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%Y-%m-%d %H:%M:%S}"


class Row(NamedTuple):
    """A link, and how many bytes a second it carries; None while that is not known."""

    link: LinkStatus
    received: float | None = None
    sent: float | None = None


@dataclass(frozen=True)
class Column:
    """A column of a table of links."""

    #: As it is called in the header, and by its user.
    title: str
    #: What it shows of a row at a moment.
    text: Callable[[Row, float], str]
    #: What it is sorted by; None goes last.
    value: Callable[[Row], Any]
    #: Whether it holds numbers: flush right, and the largest first.
    number: bool = False


def _way(row: Row) -> str:
    return "dialed" if row.link.initiated else "accepted"


def _rate(value: float | None) -> str:
    return NONE if value is None else f"{size(value)}/s"


PEER = Column("peer", lambda row, now: clean(row.link.peer), lambda row: row.link.peer)
STATE = Column("state", lambda row, now: clean(row.link.state), lambda row: row.link.state)
WAY = Column("way", lambda row, now: _way(row), _way)
FORM = Column("form", lambda row, now: clean(row.link.form), lambda row: row.link.form)
AGE = Column("age", lambda row, now: duration(now - row.link.since), lambda row: -row.link.since, True)
RTT = Column("rtt", lambda row, now: milliseconds(row.link.rtt), lambda row: row.link.rtt, True)
IN = Column("in", lambda row, now: size(row.link.bytes_received), lambda row: row.link.bytes_received, True)
OUT = Column("out", lambda row, now: size(row.link.bytes_sent), lambda row: row.link.bytes_sent, True)
IN_RATE = Column("in", lambda row, now: _rate(row.received), lambda row: row.received, True)
OUT_RATE = Column("out", lambda row, now: _rate(row.sent), lambda row: row.sent, True)
WAITING = Column("waiting", lambda row, now: size(row.link.waiting), lambda row: row.link.waiting, True)
ADDRESS = Column("address", lambda row, now: clean(row.link.address), lambda row: row.link.address)


def in_order(rows: Sequence[Row], column: Column, *, backwards: bool = False) -> list[Row]:
    """`rows` sorted by `column`: texts from A, numbers from the largest, or the other way round.

    Rows without a value come last in any case; where two are equal, the peers' names decide.
    """
    known = [row for row in sorted(rows, key=PEER.value) if column.value(row) is not None]
    unknown = [row for row in sorted(rows, key=PEER.value) if column.value(row) is None]
    return sorted(known, key=column.value, reverse=column.number is not backwards) + unknown


def table(
    columns: Sequence[Column], rows: Sequence[Row], now: float, width: int | None = None
) -> tuple[list[tuple[Column, str]], list[str]]:
    """The cells of the header, each as wide as its column, and the lines under it.

    With a `width`, columns are left out from the right, and then names cut, until a line fits into it.
    """
    texts = [[column.text(row, now) for column in columns] for row in rows]
    widths = [
        max([len(column.title) + 1, *(len(line[at]) for line in texts)]) for at, column in enumerate(columns)
    ]
    if width is not None:
        peer = widths[0]
        widths[0] = min(peer, _NARROWEST_PEER)
        while len(widths) > 1 and sum(widths) + _SPACE_BETWEEN * (len(widths) - 1) > width:
            widths.pop()
        free = width - sum(widths) - _SPACE_BETWEEN * (len(widths) - 1)
        widths[0] = max(1, min(peer, widths[0] + free))
    used = list(zip(columns, widths, strict=False))
    header = [(column, _cell(column.title, column, width)) for column, width in used]
    between = " " * _SPACE_BETWEEN
    lines = [
        between.join(_cell(text, *fit) for text, fit in zip(line, used, strict=False)).rstrip()
        for line in texts
    ]
    return header, lines


def _cell(text: str, column: Column, width: int) -> str:
    if len(text) > width:
        text = text[: max(0, width - 2)] + ".."[:width]
    return text.rjust(width) if column.number else text.ljust(width)


def echo_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print the whole of a table, however wide."""
    header, lines = table(columns, rows, time.time())
    between = " " * _SPACE_BETWEEN
    click.secho(between.join(cell.upper() for _, cell in header).rstrip(), bold=True)
    for line in lines:
        click.echo(line)
