"""What the demo knows by now, from reports alone: the nodes, their links, and the story so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from .reports import Kind, Report, role_of


@dataclass(slots=True)
class Link:
    """One node's view of its link with another."""

    state: str  # "up", "down" or "refused"
    rtt: float | None = None


@dataclass(slots=True)
class Player:
    """One node, in whichever process it lives now."""

    pid: int
    state: str  # "ready", "killed", "stopped" or "failed"
    name: str = ""
    incarnation: int | None = None
    links: dict[str, Link] = field(default_factory=dict)  # by the role of the other


class Line(NamedTuple):
    """One line of the story."""

    #: "step", "good", "bad", "warn", "done" or "failed".
    tone: str
    at: float
    #: The process it is about; the number, for a step.
    who: str
    text: str


class Board:
    """Everything a view shows."""

    def __init__(self) -> None:
        self.players: dict[str, Player] = {}
        self.story: list[Line] = []

    def begin(self, number: int, title: str) -> Line:
        """A step begins."""
        return self._tell(Line("step", time.time(), str(number), title))

    def succeed(self, seconds: float) -> Line:
        """The step is done."""
        return self._tell(Line("done", time.time(), "", f"observed in {seconds:.1f} s"))

    def fail(self, problem: str) -> Line:
        """The step, and with it the demo, has failed."""
        return self._tell(Line("failed", time.time(), "", problem))

    def observe(self, report: Report, *, awaited: bool) -> Line | None:
        """Take a report in; return the line that it adds to the story, if it does.

        Pings are reported all the time, so only one that was `awaited` is worth a line.
        """
        player = self.players.setdefault(report.role, Player(report.pid, "ready"))
        other = role_of(report.peer)
        tone = "good"
        match report.kind:
            case Kind.READY:
                self.players[report.role] = Player(report.pid, "ready", report.name, report.incarnation)
            case Kind.UP:
                player.links[other] = Link("up")
            case Kind.DOWN:
                player.links[other] = Link("down")
                tone = "bad"
            case Kind.FAILED:
                tone = "warn"
                if report.initiated:
                    player.links[other] = Link("refused")
            case Kind.RTT:
                link = player.links.get(other)
                if link is not None and link.state == "up":
                    link.rtt = report.seconds
                if not awaited:
                    return None
            case Kind.EXIT:
                tone = "good" if report.status == 0 else "bad"
                player.state = {0: "stopped", -9: "killed"}.get(report.status, "failed")
                # Links end with their process; that one was refused stays a fact.
                player.links = {
                    other: link for other, link in player.links.items() if link.state == "refused"
                }
            case Kind.SAID:
                tone = "bad"
        return self._tell(Line(tone, report.at, report.role, self.describe(report)))

    def describe(self, report: Report) -> str:
        """A report in words, to stand behind the name of the node it came from."""
        other = role_of(report.peer) or "somebody"
        match report.kind:
            case Kind.READY:
                place = report.name.partition("@")[2]
                where = "dialing only" if place.endswith(":0") else f"on {place}"
                return f"process {report.pid} {where}, incarnation {life(report.incarnation)}"
            case Kind.UP:
                way = "dialed" if report.initiated else "accepted"
                return f"{way} {other}, incarnation {life(report.incarnation)}: the link is up"
            case Kind.DOWN:
                verb = "lost" if report.lost else "saw the end of its link with"
                return f"{verb} {other}, incarnation {life(report.incarnation)}: {report.text}"
            case Kind.FAILED if report.initiated:
                return f"was refused by {other} ({report.error}): {report.text}"
            case Kind.FAILED:
                return f"refused {other} ({report.error}): {report.text}"
            case Kind.EXIT if report.status < 0:
                return f"was ended by signal {-report.status}"
            case Kind.EXIT:
                return f"ended with status {report.status}"
            case Kind.RTT:
                return f"pinged {other}: answered in {report.seconds * 1000:.2f} ms"
            case Kind.SAID:
                return f"said: {report.text}"

    def _tell(self, line: Line) -> Line:
        self.story.append(line)
        return line


def life(incarnation: int | None) -> str:
    """The end of an incarnation: enough to tell two lives of a node apart."""
    return "none" if incarnation is None else f"{incarnation & 0xFFFFFFFF:08x}"
