"""A picture of a node as lines of text, no more of them than a screen has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...status import FailureStatus, NodeStatus
from ..events import colour
from ..shown import NONE, Row, clean, duration, moment, size, table
from .picture import COLUMNS, Picture, View, missing

if TYPE_CHECKING:
    from rich.text import Text

#: Events and causes shown where the links could fill the screen by themselves.
_FEW_EVENTS = 6
_FEW_FAILURES = 4
#: Lines that are there in any case: three about the node, an empty one, the table's header, and the keys.
_FIXED = 6
#: An empty line and a title.
_BLOCK = 2

_KEYS = "q quit   s sort   r reverse   / filter"


@dataclass(frozen=True)
class Room:
    """How many lines each part gets."""

    links: int
    failures: int
    events: int


def share(height: int, links: int, failures: int, events: int) -> Room:
    """Share `height` lines among so many links, causes and events; the links have half of what there is."""
    free = max(0, height - _FIXED)
    spare = free - min(links, max(1, free // 2))
    blocks = 2 if events else 1
    shown_failures = min(failures, _FEW_FAILURES, max(0, (spare - blocks * _BLOCK) // blocks))
    spare -= shown_failures + _BLOCK if shown_failures else 0
    wanting = max(0, links - free // 2)
    shown_events = min(events, max(0, spare - _BLOCK))
    if wanting:
        shown_events = min(shown_events, _FEW_EVENTS)
    taken = sum(number + _BLOCK for number in (shown_failures, shown_events) if number)
    return Room(free - taken, shown_failures, shown_events)


def render(
    picture: Picture,
    rows: list[Row],
    view: View,
    *,
    width: int | None,
    height: int | None,
    only_ascii: bool = False,
    notice: str | None = None,
) -> list[Text]:
    """All of it as lines.

    :param width: what a line may have; None for what it needs.
    :param height: how many lines there may be; None for all that there is to say.
    :param notice: what to say of the node instead of the keys, such as that it has ended.
    """
    from rich.text import Text

    chosen = view.chosen(rows)
    if height is None:
        room = Room(len(chosen), len(picture.failures), len(picture.events))
    else:
        room = share(height, len(chosen), len(picture.failures), len(picture.events))
    lines = [_styled(text, "bold" if at == 0 else "") for at, text in enumerate(_facts(picture, rows))]
    lines += [Text(), *_links(picture, chosen, view, width, room.links)]
    if room.failures:
        lines += [Text(), _styled("FAILED HANDSHAKES", "bold")]
        lines += [_styled(_failure(kind), "yellow") for kind in picture.failures[: room.failures]]
    if room.events:
        lines += [Text(), _styled("EVENTS", "bold")]
        lines += [
            _styled(f"{moment(event.at)}  {clean(event.text)}", colour(event) or "")
            for event in picture.events[: room.events]
        ]
    if height is not None:
        del lines[max(0, height - 1) :]
        lines += [Text()] * max(0, height - 1 - len(lines))
        lines.append(_footer(view, notice))
    return [_fitted(line, width, only_ascii=only_ascii) for line in lines]


def _facts(picture: Picture, rows: list[Row]) -> list[str]:
    status = picture.status
    incoming = [row.received for row in rows if row.received is not None]
    outgoing = [row.sent for row in rows if row.sent is not None]
    known = bool(incoming) or not rows
    return [
        f"{clean(status.name)}  {_life(status, picture.wall)}",
        f"{_count(status.links, 'link')}, {_kept(picture)}   "
        f"in {size(sum(incoming)) + '/s' if known else NONE}   "
        f"out {size(sum(outgoing)) + '/s' if known else NONE}   "
        f"waiting {size(sum(row.link.waiting for row in rows))}   "
        f"listens on {clean(status.address or 'nothing')}",
        f"failed handshakes {status.failed}   refused {status.refused}   "
        f"messages dropped {status.messages_dropped}   stalls {status.stalls} ({status.stalled:.1f} s)   "
        f"process {status.pid}   snowgreen {clean(status.version)}",
    ]


def _kept(picture: Picture) -> str:
    absent = missing(picture)
    if not absent:
        return f"{len(picture.status.kept)} kept"
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return f"{len(picture.status.kept)} kept, but not {clean(absent[0])}{more}"


def _life(status: NodeStatus, now: float) -> str:
    return "not started" if status.started_at is None else f"up {duration(now - status.started_at)}"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def _links(picture: Picture, chosen: list[Row], view: View, width: int | None, room: int) -> list[Text]:
    from rich.text import Text

    shown = chosen if len(chosen) <= room else chosen[: max(0, room - 1)]
    header, lines = table(COLUMNS, shown, picture.wall, width)
    title = Text()
    for column, cell in header:
        title.append("  " if title else "")
        title.append(cell.upper(), "bold reverse" if column is view.sort else "bold")
    body = [
        _styled(line, "" if row.link.state == "up" else "yellow")
        for line, row in zip(lines, shown, strict=True)
    ]
    if len(shown) < len(chosen):
        body.append(_styled(f"and {len(chosen) - len(shown):,} more", "dim"))
    elif not chosen:
        body.append(_styled("none that fits the filter" if picture.links else "no links", "dim"))
    return [title, *body]


def _failure(kind: FailureStatus) -> str:
    way = "to" if kind.initiated else "from"
    who = f", {'' if kind.initiated else 'claims to be '}{clean(kind.claimed)}" if kind.claimed else ""
    where = f"{way} {clean(kind.host)}"
    return f"{moment(kind.at)}  {kind.count} x {clean(kind.cause)} {where}{who}: {clean(kind.problem)}"


def _footer(view: View, notice: str | None) -> Text:
    if view.typing:
        return _styled(f"filter: {clean(view.filter)}_   enter keeps it, escape drops it", "reverse")
    if notice is not None:
        return _styled(clean(notice), "bold red")
    order = f"   sorted by {view.sort.title}" + (", reversed" if view.backwards else "")
    only = f"   only {clean(view.filter)!r}, escape shows all" if view.filter else ""
    return _styled(_KEYS + order + only, "dim")


def _styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style, no_wrap=True)


def _fitted(line: Text, width: int | None, *, only_ascii: bool) -> Text:
    if only_ascii and not line.plain.isascii():
        line = _styled(clean(line.plain, only_ascii=True), str(line.style))
    if width is not None:
        line.truncate(width, overflow="crop" if only_ascii else "ellipsis")
    line.no_wrap = True
    return line
