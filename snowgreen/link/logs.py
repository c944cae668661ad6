"""How log lines are written: by one greenlet, in turn, with an event's parts beside its words.

Handlers of logging are the user's: they may wait, and may raise. Neither may happen in a callback of the
loop, nor between a decision and its record; so a line is put down here, and written later. How many wait has
a bound, and so has how many tell of failed handshakes, which strangers can bring about at any rate they like.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import gevent

from ..errors import LinkError
from ..events import (
    CertificateProblem,
    ConnectionsRefused,
    Event,
    EventsDropped,
    HandshakeFailed,
    LoopStalled,
    MessagesDropped,
    NodeDown,
    NodeUp,
    PeerListRefused,
)
from ..protocol.quiet import Quiet
from .advice import advice
from .journal import cause, host_of

log = logging.getLogger("snowgreen.link")

#: What each kind of event is called, here and wherever else events are plain values.
KINDS: dict[type[Event], str] = {
    NodeUp: "up",
    NodeDown: "down",
    HandshakeFailed: "handshake_failed",
    ConnectionsRefused: "connections_refused",
    LoopStalled: "loop_stalled",
    CertificateProblem: "certificate_problem",
    MessagesDropped: "messages_dropped",
    PeerListRefused: "peer_list_refused",
    EventsDropped: "events_dropped",
}

#: Lines that may wait, as so many links can end in one turn of the loop; they take about 7 MB. Once there are
#: so many, new ones are lost until half of them are written.
WAITING = 10_000
#: Lines written before the loop gets a turn.
_TURN = 32
#: Seconds from the first line about a failed handshake that is held back to the line that says how many were.
_QUIET = 5.0


class Line(NamedTuple):
    """One call of ``Logger.log``, to be made later."""

    log: logging.Logger
    level: int
    text: str
    args: tuple[object, ...]
    error: BaseException | None
    #: What a record has as its attribute ``snowgreen``.
    facts: Mapping[str, object]

    def write(self) -> None:
        """Make it. Whatever the handlers do, they do it here."""
        self.log.log(
            self.level, self.text, *self.args, exc_info=self.error, extra={"snowgreen": dict(self.facts)}
        )


class Scribe:
    """Writes the lines of one hub, from a greenlet that is there while there are any."""

    __slots__ = ("_busy", "_lines", "_lost", "_writing")

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._lost = 0
        self._busy = False  # whether there is a greenlet
        self._writing = False  # whether it is at a line, and a handler perhaps waits

    def put(self, line: Line) -> None:
        """Have `line` written. Never waits; where too many wait already, it is lost, and counted."""
        if len(self._lines) >= WAITING or (self._lost and len(self._lines) > WAITING // 2):
            self._lost += 1
            return
        self._own_up()
        self._lines.append(line)
        if not self._busy:
            self._busy = True
            gevent.spawn(self._run)

    def finish(self) -> None:
        """When the process ends: write what waits here and now, unless a handler hangs."""
        while self._lines and not self._writing:
            # Out of the greenlet's sight: while a handler waits here, it would begin with the next line.
            lines, self._lines = self._lines, deque()
            for line in lines:
                line.write()

    def forget(self) -> None:
        """In a child of a fork: what waits is the parent's to write."""
        self._lines.clear()
        self._lost = 0

    def _own_up(self) -> None:
        if self._lost:
            count, self._lost = self._lost, 0
            text = "%d log lines were lost: they came faster than the handlers of logging write them"
            facts = {"kind": "lines_lost", "count": count}
            self._lines.append(Line(log, logging.WARNING, text, (count,), None, facts))

    def _run(self) -> None:
        written = 0
        try:
            while self._lines:
                self._writing = True
                self._lines.popleft().write()
                self._writing = False
                if not self._lines:
                    self._own_up()
                written += 1
                if written % _TURN == 0:
                    gevent.sleep(0)
        finally:  # a handler that raises ends this greenlet, which gevent reports; the rest is for the next
            self._writing = False
            if not self._lines:
                self._own_up()
            if self._lines:
                gevent.spawn(self._run)
            else:
                self._busy = False


class FailedHandshakes:
    """The lines about one node's failed handshakes.

    :param say: writes a line: level, text, its arguments, and its facts.
    :param clock: the runtime's monotonic clock.
    :param timer: makes a timer of the loop: ``loop.timer``.
    """

    def __init__(self, node: str, say: Callable[..., None], clock: Callable[[], float], timer: Any) -> None:
        self._node = node
        self._say = say
        self._clock = clock
        self._make_timer = timer
        self._timer: Any = None
        self._quiet = Quiet()
        self._since = 0.0
        self._closed = False

    def tell(self, event: HandshakeFailed) -> None:
        """Write the line about `event`, or count it with those that are held back. Never waits."""
        if log.getEffectiveLevel() > logging.WARNING:
            return
        now = self._clock()
        place = event.address if event.initiated else host_of(event.address)
        if self._quiet.admit(cause(event.error), place, now, initiated=event.initiated):
            check = advice(event.error, initiated=event.initiated)
            self._say(log, logging.WARNING, "%s: %s; %s", self._node, event, check)
        elif self._timer is None and not self._closed:
            self._since = now
            self._timer = self._make_timer(_QUIET, ref=False)  # a process may end before it fires
            self._timer.start(self._sum_up)

    def close(self) -> None:
        """Say how many were held back, and look after them no longer."""
        self._closed = True
        if self._timer is not None:
            self._sum_up()

    def let_go(self) -> None:
        """In a child of a fork: what was held back is the parent's to tell."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _sum_up(self) -> None:
        self._stop()
        held, seconds = self._quiet.held(), self._clock() - self._since
        causes = ", ".join(f"{why}: {count}" for why, count in held.most_common())
        self._say(
            log,
            logging.WARNING,
            "%s: %d more failed handshakes within %.1f s were not logged (%s)",
            self._node,
            held.total(),
            seconds,
            causes,
            facts={
                "kind": "handshakes_not_logged",
                "node": self._node,
                "count": held.total(),
                "seconds": round(seconds, 3),
                "causes": dict(held),
            },
        )


def facts_of(args: tuple[object, ...]) -> dict[str, object]:
    """What a line with these arguments is about, as plain values: the event among them, and its node.

    The node's name stands before the event.
    """
    for place, event in enumerate(args):
        if isinstance(event, Event):
            node = str(args[place - 1]) if place else None
            return {"kind": KINDS[type(event)], "node": node, **_parts(event)}
    return {}


def _parts(event: Event) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(event):
        name, value = field.name, getattr(event, field.name)
        if isinstance(value, LinkError):
            assert isinstance(event, HandshakeFailed)  # noqa: S101  # no other event has an error
            found["cause"] = cause(value)
            found["problem"] = one_line(value.problem)
            found["advice"] = advice(value, initiated=event.initiated)
        elif name == "incarnation":
            found[name] = None if value is None else str(value)  # more than a JSON number holds everywhere
        else:
            name = "peer" if name == "claimed" else name
            found[name] = one_line(value) if isinstance(value, str) else value
    return found


def one_line(text: str) -> str:
    """`text` with whatever could end a line, or speak to a terminal, escaped.

    What comes from peers is escaped where it is received; this is the last gate before a log.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
