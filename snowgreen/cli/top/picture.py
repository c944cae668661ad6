"""What ``snowgreen top`` shows: a picture of the node, and what its user wants to see of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ...control.client import Connection, NoAnswer
from ...status import EventStatus, FailureStatus, LinkStatus, NodeStatus
from .. import shown
from ..shown import Column, Row, in_order

#: The columns, the ones to keep on a narrow screen first.
COLUMNS = (
    shown.PEER,
    shown.STATE,
    shown.RTT,
    shown.IN_RATE,
    shown.OUT_RATE,
    shown.WAITING,
    shown.AGE,
    shown.WAY,
    shown.FORM,
    shown.ADDRESS,
)
#: Events that a picture holds.
NEWEST = 100


@dataclass(frozen=True)
class Picture:
    """A node at one moment."""

    #: On the monotonic clock, for rates; and since the epoch, for ages.
    at: float
    wall: float
    status: NodeStatus
    links: list[LinkStatus]
    failures: list[FailureStatus]
    #: The newest first.
    events: list[EventStatus]


def take(path: Path) -> Picture:
    """Ask the node at `path` for everything.

    :raises NoAnswer: if it does not answer.
    """
    status = None
    with Connection(path) as connection:
        at, wall = time.monotonic(), time.time()
        for answer in connection.ask("status"):
            status = answer.status or status
        links = [answer.link for answer in connection.ask("links") if answer.link]
        failures = [answer.failure for answer in connection.ask("failures") if answer.failure]
        events = [answer.event for answer in connection.ask("events", newest=NEWEST) if answer.event]
    if status is None:
        raise NoAnswer(f"{path}: it did not say who it is")
    return Picture(at, wall, status, links, failures, events[::-1])


def rows(picture: Picture, before: Picture | None) -> list[Row]:
    """The links of `picture`, with what each has carried since the picture `before`."""
    if before is None or picture.at <= before.at:
        return [Row(link) for link in picture.links]
    seconds = picture.at - before.at
    same_life = picture.status.incarnation == before.status.incarnation
    known = {link.serial: link for link in before.links if same_life}
    found = []
    for link in picture.links:
        old = known.get(link.serial)
        if old is None:
            found.append(Row(link))
        else:
            received = max(0, link.bytes_received - old.bytes_received) / seconds
            found.append(Row(link, received, max(0, link.bytes_sent - old.bytes_sent) / seconds))
    return found


def missing(picture: Picture) -> list[str]:
    """The kept peers that are known by name, and with which there is no link."""
    there = {link.peer for link in picture.links} | {picture.status.name}
    return [peer for peer in picture.status.kept if "@" in peer and peer not in there]


@dataclass
class View:
    """How the links are to be shown, which keys change."""

    sort: Column = shown.PEER
    backwards: bool = False
    #: Only links whose peer, address or state has this in it.
    filter: str = ""
    #: Whether the filter is being typed.
    typing: bool = field(default=False, init=False)

    def press(self, key: str) -> bool:
        """Do what `key` asks for; whether that is to end."""
        if self.typing:
            self._type(key)
            return key == "eof"
        if key in ("q", "Q", "eof"):
            return True
        at = COLUMNS.index(self.sort)
        if key in ("s", "right"):
            self.sort = COLUMNS[(at + 1) % len(COLUMNS)]
        elif key in ("S", "left"):
            self.sort = COLUMNS[at - 1]
        elif key == "r":
            self.backwards = not self.backwards
        elif key == "/":
            self.typing = True
        elif key == "escape":
            self.filter = ""
        return False

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key == "escape":
            self.typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1:
            self.filter = (self.filter + key)[:64]

    def chosen(self, rows: list[Row]) -> list[Row]:
        """Those of `rows` that are to be shown, in order."""
        wanted = self.filter.lower()
        fitting = [row for row in rows if not wanted or wanted in _searched(row.link)]
        return in_order(fitting, self.sort, backwards=self.backwards)


def _searched(link: LinkStatus) -> str:
    return f"{link.peer} {link.address} {link.state}".lower()
