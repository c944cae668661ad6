"""How the demo is shown: as plain lines, or as a table and a story that redraw themselves in a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import click

from ..options import clock
from .board import Board, Line, Player, life

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

_STYLES = {
    "step": "bold",
    "good": "green",
    "bad": "red",
    "warn": "yellow",
    "done": "bright_black",
    "failed": "bold red",
}
_ROLES = ("alice", "bob", "carol")


class View(Protocol):
    """What the stage needs of a view."""

    def show(self, line: Line | None) -> None:
        """Something has changed: the story by `line`, or only a number in the table."""


class PlainView:
    """Numbered steps, and under each what was reported. For pipes, logs and screen readers."""

    def show(self, line: Line | None) -> None:
        """Print `line`."""
        if line is None:
            return
        match line.tone:
            case "step":
                click.echo(f"{line.who}. {line.text}")
            case "done":
                click.echo(f"   ok: {line.text}")
            case "failed":
                click.echo(f"   FAILED: {line.text}")
            case _:
                click.echo(f"   {clock(line.at)}  {line.who:<7} {line.text}")


class LiveView:
    """A table of nodes and links with the story below it, redrawn at every report.

    Afterwards the whole of it stays in the terminal, however long it has become.
    """

    def __init__(self, console: Console) -> None:
        self.board: Board | None = None
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        from rich.live import Live

        # Redrawn when something has changed, so there is nothing for a refreshing thread to do.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self.board is not None:
            self._console.print(self._picture(self.board, self.board.story, wrap=True))

    def show(self, line: Line | None) -> None:
        """Redraw."""
        if self._live is None or self.board is None:
            return
        frame = 4  # the table's borders and head
        room = max(3, self._console.height - len(self._rows(self.board)) - frame - 1)
        self._live.update(self._picture(self.board, self.board.story[-room:], wrap=False), refresh=True)

    def _picture(self, board: Board, story: list[Line], *, wrap: bool) -> RenderableType:
        from rich.console import Group

        return Group(self._table(board), self._story(story, wrap=wrap))

    def _rows(self, board: Board) -> list[str]:
        return list(dict.fromkeys((*_ROLES, *board.players)))

    def _table(self, board: Board) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(box=box.ROUNDED, border_style="bright_black", pad_edge=True)
        for title in ("node", "process", "incarnation"):
            table.add_column(title, no_wrap=True)
        for role in _ROLES:
            table.add_column(f"→ {role}", no_wrap=True, min_width=10)
        for role in self._rows(board):
            player = board.players.get(role)
            cells = [self._link(player, role, other) for other in _ROLES]
            if player is None:
                table.add_row(role, "starting", "", *cells, style="bright_black")
            elif player.state == "ready":
                table.add_row(role, str(player.pid), life(player.incarnation), *cells)
            else:
                style = "bright_black" if player.state == "stopped" else "red"
                table.add_row(role, player.state, life(player.incarnation), *cells, style=style)
        return table

    def _link(self, player: Player | None, role: str, other: str) -> Text:
        from rich.text import Text

        link = player.links.get(other) if player is not None else None
        if role == other:
            return Text("—", style="bright_black")
        if link is None:
            return Text("")
        if link.state == "up":
            return Text("● up" if link.rtt is None else f"● {link.rtt * 1000:.2f} ms", style="green")
        if link.state == "down":
            return Text("○ down", style="red")
        return Text("✗ refused", style="yellow")

    def _story(self, story: list[Line], *, wrap: bool) -> Table:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=12, no_wrap=True)
        grid.add_column(width=7, no_wrap=True)
        grid.add_column(ratio=1, no_wrap=not wrap, overflow="fold" if wrap else "ellipsis")
        for line in story:
            style = _STYLES[line.tone]
            if line.tone == "step":
                grid.add_row(
                    Text("─" * 12, "bright_black"), Text(f"step {line.who}", style), Text(line.text, style)
                )
            elif line.tone in ("done", "failed"):
                mark = "✓" if line.tone == "done" else "✗"
                grid.add_row(
                    "", Text(f"{mark:>5}", "green" if line.tone == "done" else style), Text(line.text, style)
                )
            else:
                grid.add_row(
                    Text(clock(line.at), "bright_black"), Text(line.who, "cyan"), Text(line.text, style)
                )
        return grid
