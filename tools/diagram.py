"""Draws the handshake's states from the table the machines run on, so that the picture cannot disagree.

``snowgreen.protocol.handshake.TRANSITIONS`` becomes a Mermaid text, which stands in
``docs/protocol.md`` between two markers, and a picture, ``docs/handshake.svg``. Without an option the
Mermaid text is printed; ``--write`` brings both files up to date; ``--check`` says whether they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import click

from snowgreen.protocol.handshake import TRANSITIONS, Move, State
from snowgreen.protocol.messages import Tag

ROOT: Final = Path(__file__).resolve().parent.parent
BEGIN: Final = "<!-- diagram:begin -->"
END: Final = "<!-- diagram:end -->"

Table: TypeAlias = Mapping[tuple[State, Tag | Move], State]

#: Where a machine ends. `REFUSED` stands beside the others, because most of them lead to it.
SINK: Final[State] = State.REFUSED
ENDS: Final = {State.ESTABLISHED, SINK}
ANYTHING_ELSE: Final = "anything else"


class Edge(NamedTuple):
    """One transition, or with `event` None: whatever is in no table."""

    source: State
    event: Tag | Move | None
    target: State

    @property
    def label(self) -> str:
        """What stands at the arrow."""
        if self.event is None:
            return ANYTHING_ELSE
        return self.event.name if isinstance(self.event, Tag) else self.event.value

    @property
    def kind(self) -> str:
        """Who brings it about."""
        if self.event is None:
            return "else"
        return "message" if isinstance(self.event, Tag) else "move"


def edges(table: Table) -> list[Edge]:
    """The transitions in the table's order, and behind them what every waiting state does besides."""
    drawn = [Edge(source, event, target) for (source, event), target in table.items()]
    waiting = dict.fromkeys(edge.source for edge in drawn if isinstance(edge.event, Tag))
    return drawn + [Edge(state, None, SINK) for state in waiting]


def states(table: Table) -> list[State]:
    """Every state in the table, in the order of its first mention."""
    return list(dict.fromkeys(state for edge in edges(table) for state in (edge.source, edge.target)))


def kind_of(state: State, table: Table) -> str:
    """Whether a state waits for the peer, for the machine's owner, or is an end."""
    if state in ENDS:
        return state.value
    return "deciding" if any(s is state and isinstance(event, Move) for s, event in table) else "waiting"


# Mermaid.


def mermaid(transitions: Mapping[str, Table]) -> str:
    """Both roles as one ``stateDiagram-v2``."""
    lines = ["stateDiagram-v2"]
    for role, table in transitions.items():
        lines += [f"    state {role} {{", "        direction TB"]
        lines += [f"        {line}" for line in _mermaid_role(role, table)]
        lines.append("    }")
    return "\n".join(lines) + "\n"


def _mermaid_role(role: str, table: Table) -> Iterator[str]:
    def ident(state: State) -> str:
        return f"{role}_{state.name}"

    present = states(table)
    for state in present:
        yield f'state "{state.value}" as {ident(state)}'
    yield f"[*] --> {ident(present[0])}"
    for edge in edges(table):
        if edge.event is not None:
            mark = "◀" if edge.kind == "message" else "▶"
            yield f"{ident(edge.source)} --> {ident(edge.target)} : {mark} {edge.label}"
    for state in present:
        if state in ENDS:
            yield f"{ident(state)} --> [*]"
    if SINK in present:
        yield f"note right of {ident(SINK)}"
        yield "    ▶ a move of this side"
        yield "    ◀ a message of the peer"
        yield "    Anything else, and the end of the"
        yield "    stream: refused, from every state"
        yield "    that waits for a message"
        yield "end note"


# SVG. One panel per role: the states one below the other, `SINK` as a tall box to their right.

PANEL: Final = 470
MARGIN: Final = 24
TOP: Final = 116
BOX_W: Final = 178
BOX_H: Final = 46
SINK_X: Final = 350
SINK_W: Final = 100
FOOT: Final = 128
PITCH: Final = 108  # between the rows of the role that has most of them


class Spot(NamedTuple):
    """A state's box."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Its vertical middle."""
        return self.y + self.height / 2


_STYLE: Final = """
  svg { font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
  text { font-size: 13px; fill: #1d2b26 }
  .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .page { fill: #ffffff }
  .panel { fill: #f6f8f7; stroke: #d5deda }
  .title { font-size: 17px; font-weight: 600 }
  .quiet { fill: #5a6b64; font-size: 12px }
  .state rect { fill: #ffffff; stroke: #6b7d76; stroke-width: 1.4 }
  .state text { font-weight: 600 }
  .deciding rect { fill: #fff4dc; stroke: #b57a12 }
  .waiting rect { fill: #e7f0fb; stroke: #3a6ea8 }
  .established rect { fill: #dff3e6; stroke: #23824a; stroke-width: 2.4 }
  .refused rect { fill: #fbe6e4; stroke: #b3443b; stroke-width: 2.4 }
  .edge path { fill: none; stroke-width: 1.8 }
  .edge text { font-size: 12px }
  .message path { stroke: #3a6ea8 }
  .message .head { fill: #3a6ea8; stroke: none }
  .message .tag { fill: #ffffff; stroke: #3a6ea8 }
  .move path { stroke: #b57a12 }
  .move .head { fill: #b57a12; stroke: none }
  .move .tag { fill: #8f5f0a; stroke: #8f5f0a }
  .move text { fill: #ffffff; font-weight: 600 }
  .else path { stroke: #8a9892; stroke-dasharray: 2 4 }
  .else .head { fill: #8a9892; stroke: none }
  .else .tag { fill: #f6f8f7; stroke: none }
  .legend .else .tag { fill: #ffffff }
  .else text { fill: #5a6b64; font-style: italic }
  .start { fill: #1d2b26 }
"""

_DARK: Final = """
  text { fill: #e4ece8 }
  .page { fill: #0f1513 }
  .panel { fill: #161e1b; stroke: #2c3833 }
  .quiet { fill: #9fb0a8 }
  .deciding rect { fill: #3a2d12; stroke: #dba53f }
  .waiting rect { fill: #16283d; stroke: #76a9e0 }
  .established rect { fill: #12331f; stroke: #56c07f }
  .refused rect { fill: #3d1b18; stroke: #e58077 }
  .message path { stroke: #76a9e0 }
  .message .head { fill: #76a9e0 }
  .message .tag { fill: #161e1b; stroke: #76a9e0 }
  .move path { stroke: #dba53f }
  .move .head { fill: #dba53f }
  .move .tag { fill: #dba53f; stroke: #dba53f }
  .move text { fill: #1c1503 }
  .else path { stroke: #75857e }
  .else .head { fill: #75857e }
  .else .tag { fill: #161e1b }
  .legend .else .tag { fill: #0f1513 }
  .else text { fill: #9fb0a8 }
  .start { fill: #e4ece8 }
"""


def svg(transitions: Mapping[str, Table]) -> str:
    """Both roles side by side, self-contained, for light and dark pages."""
    rows = max(len([s for s in states(table) if s is not SINK]) for table in transitions.values())
    bottom = TOP + (rows - 1) * PITCH + BOX_H
    width = MARGIN + len(transitions) * (PANEL + MARGIN)
    height = bottom + FOOT
    dark = _DARK.replace("\n  ", "\n    ")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-labelledby="title desc">',
        '<title id="title">The states of the snowgreen handshake</title>',
        f'<desc id="desc">{escape(_told(transitions))}</desc>',
        f"<style>{_STYLE}  @media (prefers-color-scheme: dark) {{{dark}  }}\n</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="12"/>',
    ]
    for number, (role, table) in enumerate(transitions.items()):
        x = MARGIN + number * (PANEL + MARGIN)
        lines.append(f'<g id="{role}" transform="translate({x} 0)">')
        lines += _panel(role, table, bottom)
        lines.append("</g>")
    lines += _legend(bottom + 76)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _told(transitions: Mapping[str, Table]) -> str:
    """The picture in words, for who cannot see it."""
    return " ".join(
        f"{role.capitalize()}: " + "; ".join(_sentence(edge) for edge in edges(table)) + "."
        for role, table in transitions.items()
    )


def _sentence(edge: Edge) -> str:
    return f"{edge.source.value} → {edge.label} → {edge.target.value}"


def _panel(role: str, table: Table, bottom: float) -> Iterator[str]:
    spots = _layout(table, bottom)
    first = spots[states(table)[0]]
    middle = first.x + first.width / 2
    yield f'<rect class="panel" y="24" width="{PANEL}" height="{bottom}" rx="10"/>'
    yield f'<text class="title" x="20" y="56">{escape(role)}</text>'
    yield f'<circle class="start" cx="{middle:g}" cy="{first.y - 30:g}" r="5"/>'
    yield f'<g class="edge else">{_arrow([(middle, first.y - 24), (middle, first.y)], dashed=False)}</g>'
    drawn = edges(table)
    for edge in drawn:
        beside = [other for other in drawn if other.source is edge.source and other.target is edge.target]
        yield from _edge(edge, spots, beside.index(edge) - (len(beside) - 1) / 2)
    for state, spot in spots.items():
        x, y = spot.x + spot.width / 2, spot.middle + 4.5
        yield f'<g class="state {kind_of(state, table)}"><title>{escape(state.value)}</title>'
        yield f'<rect x="{spot.x:g}" y="{spot.y:g}" width="{spot.width:g}" height="{spot.height:g}" rx="8"/>'
        yield f'<text x="{x:g}" y="{y:g}" text-anchor="middle">{escape(state.value)}</text></g>'


def _layout(table: Table, bottom: float) -> dict[State, Spot]:
    """The states from top to bottom at equal distances; the sink as high as what leads to it."""
    column = [state for state in states(table) if state is not SINK]
    pitch = (bottom - BOX_H - TOP) / max(1, len(column) - 1)
    spots: dict[State, Spot] = {
        state: Spot(20, TOP + row * pitch, BOX_W, BOX_H) for row, state in enumerate(column)
    }
    sources = [spots[edge.source] for edge in edges(table) if edge.target is SINK and edge.source in spots]
    if sources:
        top = min(spot.y for spot in sources) - 10
        spots[SINK] = Spot(SINK_X, top, SINK_W, max(spot.y + spot.height for spot in sources) + 10 - top)
    return spots


def _edge(edge: Edge, spots: Mapping[State, Spot], lane: float) -> Iterator[str]:
    """One arrow with its label. `lane` keeps those between the same two states apart."""
    source, target = spots[edge.source], spots[edge.target]
    if edge.target is SINK:
        y = source.middle + lane * 26
        points = [(source.x + source.width, y), (target.x, y)]
        label = ((source.x + source.width + target.x - 8) / 2, y)
    elif target.y > source.y and target.y - source.y < 2 * PITCH:
        x = source.x + source.width / 2 + lane * 110
        points = [(x, source.y + source.height), (x, target.y)]
        label = (x, (source.y + source.height + target.y - 8) / 2)
    else:  # back, to itself, or past a row: around on the left
        x, shift = 8.0, 9.0
        points = [(source.x, source.middle + shift), (x, source.middle + shift)]
        points += [(x, target.middle - shift), (target.x, target.middle - shift)]
        label = (x + 40, source.middle + 36)
    yield f'<g class="edge {edge.kind}"><title>{escape(_sentence(edge))}</title>'
    yield _arrow(points) + _tag(edge, *label) + "</g>"


def _arrow(points: list[tuple[float, float]], *, dashed: bool = True) -> str:
    """A line through `points` with a head at its end."""
    (x0, y0), (x, y) = points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)  # lines run along the axes
    back = (x - 8 * dx, y - 8 * dy)
    line = "M" + " L".join(f"{px:g} {py:g}" for px, py in [*points[:-1], back])
    wings = [(back[0] - 4.5 * dy, back[1] - 4.5 * dx), (back[0] + 4.5 * dy, back[1] + 4.5 * dx)]
    head = " ".join(f"{px:g},{py:g}" for px, py in [(x, y), *wings])
    plain = "" if dashed else ' style="stroke-dasharray: none"'
    return f'<path d="{line}"{plain}/><polygon class="head" points="{head}"/>'


def _tag(edge: Edge, x: float, y: float) -> str:
    """The label: a card for a message, a pill for a move, bare for the rest."""
    width = len(edge.label) * 7.6 + {"message": 18, "move": 22, "else": 4}[edge.kind]
    radius = {"message": 2, "move": 11, "else": 0}[edge.kind]
    face = ' class="mono"' if edge.kind == "message" else ""
    return (
        f'<rect class="tag" x="{x - width / 2:g}" y="{y - 11:g}" width="{width:g}" height="22" '
        f'rx="{radius}"/><text{face} x="{x:g}" y="{y + 4:g}" text-anchor="middle">{escape(edge.label)}</text>'
    )


def _legend(y: float) -> Iterator[str]:
    samples: tuple[tuple[int, int, Edge, str], ...] = (
        (0, 0, Edge(State.START, Tag.NAME, SINK), "a message received from the peer"),
        (PANEL + MARGIN, 0, Edge(State.START, Move.SEND_NAME, SINK), "a move of this side's own"),
        (0, 34, Edge(State.START, None, SINK), _MEANING_OF_ELSE),
    )
    for dx, dy, edge, meaning in samples:
        x, row = MARGIN + dx, y + dy
        yield f'<g class="legend"><g class="edge {edge.kind}">'
        yield f"{_arrow([(x, row), (x + 170, row)])}{_tag(edge, x + 81, row)}</g>"
        yield f'<text class="quiet" x="{x + 184}" y="{row + 4:g}">{escape(meaning)}</text></g>'


_MEANING_OF_ELSE: Final = (
    "a message out of order, malformed or against the rules, or the end of the stream: refused"
)


# The files.


def block(transitions: Mapping[str, Table]) -> str:
    """What stands between the markers, and the markers."""
    return f"{BEGIN}\n```mermaid\n{mermaid(transitions)}```\n{END}"


def updated(document: str, transitions: Mapping[str, Table]) -> str:
    """`document` with its block as it should be.

    :raises ValueError: if it has not exactly one place for it.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"it needs {BEGIN} once, and {END} once behind it")
    return before + block(transitions) + after


def files(root: Path, transitions: Mapping[str, Table]) -> dict[Path, str]:
    """Each file that holds a drawing, and what it should hold."""
    document = root / "docs" / "protocol.md"
    return {
        document: updated(document.read_text(encoding="utf-8"), transitions),
        root / "docs" / "handshake.svg": svg(transitions),
    }


def stale(root: Path, transitions: Mapping[str, Table]) -> list[Path]:
    """The files that are not what they should be."""
    return [
        path
        for path, content in files(root, transitions).items()
        if not path.exists() or path.read_text(encoding="utf-8") != content
    ]


@click.command()
@click.option("--write", is_flag=True, help="Bring docs/protocol.md and docs/handshake.svg up to date.")
@click.option("--check", is_flag=True, help="Exit status 1 if they are not up to date.")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="The folder that holds docs/.")
def main(write: bool, check: bool, root: Path) -> None:
    """Draw the states of the handshake; print the Mermaid text unless told otherwise."""
    if write and check:
        raise click.UsageError("--write and --check exclude each other")
    if not write and not check:
        click.echo(mermaid(TRANSITIONS), nl=False)
        return
    try:
        old = stale(root, TRANSITIONS)
        if write:
            for path in old:
                path.write_text(files(root, TRANSITIONS)[path], encoding="utf-8")
    except (OSError, ValueError) as error:
        raise click.ClickException(f"docs/protocol.md: {error}") from None
    for path in old:
        click.echo(
            f"{path.name} {'is written' if write else 'is out of date: python tools/diagram.py --write'}"
        )
    if check and old:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
