"""What the viewers of a dashboard have been shown of a node, and what has changed since.

A change holds only what is new, so that a second costs what happened in it, and not what there is. All of it
is absolute: counts, not differences. Long work is done in slices, between which the loop runs.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
import msgspec

from .. import status

if TYPE_CHECKING:
    from ..events import Event
    from ..link.session import Session
    from ..node import Node

Change = dict[str, Any]
_Found = TypeVar("_Found")

#: Links that are looked at in one go: well under a millisecond.
SLICE = 100
#: Events that a new viewer is shown, and at most told of at once.
EVENTS = 200
#: What peers report of others, in all, and the kept peers without a link: more of it fills no picture.
PAIRS = 2000
MISSING = 50
#: Characters of one text.
_TEXT = 500

#: The columns of a link as it comes up, and those of them that change while it lives.
LINK = status.LinkStatus.__struct_fields__
MOVING = ("rtt", "bytes_received", "bytes_sent", "frames_received", "frames_sent", "waiting", "state")
#: In a change that begins anew: forget everything, and read rows by these columns.
_BEGINNING: Change = {"reset": True, "columns": LINK, "moving": MOVING}
_MOVING_AT = [LINK.index(name) for name in MOVING]


def _moving(session: Session) -> tuple[Any, ...]:
    """The serial, and the moving columns behind it: as it is told."""
    return (
        session.serial,
        session.rtt,
        session.bytes_received,
        session.bytes_sent,
        session.frames_received,
        session.frames_sent,
        session.bytes_waiting,
        session.state,
    )


class Picture:
    """One node, as it was shown last.

    :param pause: called between two slices of long work.
    """

    def __init__(self, node: Node, pause: Callable[[], object] = lambda: gevent.sleep(0)) -> None:
        self._node = node
        self._pause = pause
        self._at = 0.0
        self._life: tuple[object, object] | None = None
        self._about: dict[str, Any] = {}
        self._links: dict[int, tuple[Any, ...]] = {}
        self._moved: dict[int, tuple[Any, ...]] = {}
        self._failures: dict[str, dict[str, Any]] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._last: Event | None = None
        self._reported: dict[str, frozenset[str]] = {}
        self._mesh: dict[str, list[str]] = {}

    def advance(self, now: float, *, full: bool = True) -> Change:
        """Take in what the node is doing now, and return what has changed.

        Nothing is taken in before all of it has been looked at, in slices: whoever calls :meth:`whole` in
        between gets what was before, to which this change fits.

        :param now: wall-clock time.
        :param full: False to look only for links that have come or gone, and for events.
        """
        life = (self._node.incarnation, self._node.journal)
        if life == self._life:
            return self._look(now, full=full)
        anew = Picture(self._node, self._pause)
        anew._life = life
        change = _BEGINNING | anew._look(now, full=True)
        vars(self).update(vars(anew))
        return change

    def whole(self) -> Iterator[Change]:
        """All that has been shown, as changes to nothing: for a new viewer."""
        first: Change = _BEGINNING | {
            "at": self._at,
            "full": True,
            "node": dict(self._about),
            "failures": list(self._failures.values()),
            "events": list(self._events),
            "mesh": dict(self._mesh),
        }
        links, moved = list(self._links.items()), dict(self._moved)

        def rest() -> Iterator[Change]:
            for start in range(0, len(links), SLICE):
                some = links[start : start + SLICE]
                yield {
                    "at": first["at"],
                    "full": False,
                    "up": [_row(row, moved[serial]) for serial, row in some],
                }

        return itertools.chain([first], rest())

    def _look(self, now: float, *, full: bool) -> Change:
        sessions = {session.serial: session for session in self._node.sessions.values()}
        gone = [serial for serial in self._links if serial not in sessions]
        come = self._sliced(
            (session for serial, session in sessions.items() if serial not in self._links),
            lambda session: (session.serial, msgspec.structs.astuple(status.link_status(session))),
        )
        moved = self._moves(sessions.values()) if full else []
        # From here on nothing waits.
        change: Change = {"at": now, "full": full}
        for serial in gone:
            del self._links[serial], self._moved[serial]
        for serial, row in come:
            self._links[serial] = row
            self._moved[serial] = (serial, *(row[at] for at in _MOVING_AT))
        for row in moved:
            self._moved[row[0]] = row
        change["down"] = gone
        change["up"] = [row for _, row in come]
        change["links"] = moved
        change["node"] = self._changed_about()
        change["failures"], change["forgotten"] = self._changed_failures()
        change["events"] = self._new_events()
        change["mesh"] = self._changed_mesh() if full else {}
        self._at = now
        return {key: value for key, value in change.items() if value or key in ("at", "full")}

    def _moves(self, sessions: Iterable[Session]) -> list[tuple[Any, ...]]:
        known = self._moved

        def look(session: Session) -> tuple[Any, ...] | None:
            row = _moving(session)
            return row if known.get(session.serial, row) != row else None

        return self._sliced(sessions, look)

    def _sliced(self, sessions: Iterable[Session], look: Callable[[Session], _Found | None]) -> list[_Found]:
        found = []
        for count, session in enumerate(sessions, 1):
            what = None if session.closed else look(session)  # one that ended is gone with the next change
            if what is not None:
                found.append(what)
            if count % SLICE == 0:
                self._pause()
        return found

    def _changed_about(self) -> dict[str, Any]:
        about = msgspec.structs.asdict(status.node_status(self._node))
        missing = status.missing(self._node)
        about |= {"kept": len(about["kept"]), "missing": missing[:MISSING], "missing_count": len(missing)}
        about["mesh"] = sum(map(len, self._node.reported.values()))
        changed = {key: value for key, value in about.items() if self._about.get(key, self) != value}
        self._about = about
        return changed

    def _changed_failures(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The kinds of failures that are new or have grown, the newest last, and those that are forgotten."""
        now = {}
        for failure in reversed(status.failures(self._node)):
            key = f"{failure.cause} {failure.host} {failure.initiated}"
            now[key] = {**_cut(msgspec.structs.asdict(failure)), "id": key}
        before, self._failures = self._failures, now
        changed = [failure for key, failure in now.items() if before.get(key) != failure]
        return changed, [key for key in before if key not in now]

    def _new_events(self) -> list[dict[str, Any]]:
        """The events since the last change, the oldest of them first."""
        new = []
        for event in itertools.islice(reversed(self._node.journal.recent), EVENTS):
            if event is self._last:
                break
            new.append(event)
        if new:
            self._last = new[0]
        told = [_cut(msgspec.structs.asdict(status.event_status(event))) for event in reversed(new)]
        self._events.extend(told)
        return told

    def _changed_mesh(self) -> dict[str, list[str] | None]:
        """Peer → others that it reports, of the peers that report others than before; None for no more."""
        room, shown = PAIRS, {}
        for peer, others in self._node.reported.items():
            if len(others) <= room:
                shown[peer] = others
                room -= len(others)
        changed: dict[str, list[str] | None] = {
            peer: sorted(others) for peer, others in shown.items() if self._reported.get(peer) != others
        }
        gone = [peer for peer in self._reported if peer not in shown]
        self._mesh |= {peer: others for peer, others in changed.items() if others is not None}
        for peer in gone:
            del self._mesh[peer]
        self._reported = shown
        return changed | dict.fromkeys(gone)


def _row(row: tuple[Any, ...], moved: tuple[Any, ...]) -> tuple[Any, ...]:
    """A link's row as it was when it came up, with what has moved since."""
    now = list(row)
    for at, value in zip(_MOVING_AT, moved[1:], strict=True):
        now[at] = value
    return tuple(now)


def _cut(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value[: _TEXT - 1] + "…" if isinstance(value, str) and len(value) > _TEXT else value
        for key, value in values.items()
    }
