"""``python -m benchmarks``: snowgreen and what one would use instead, side by side in one run."""

from __future__ import annotations

import json
import os
import platform
import ssl
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table

from . import bars, plots
from .measures import MEASURES
from .pairs import CALM, Book, Run
from .peers import PEERS
from .peers.common import roomy


def chosen(known: tuple[str, ...]) -> Any:
    """What reads an option that takes some of these names, with commas between them; none: all."""

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
        names = tuple(value.split(",")) if value else known
        if not set(names) <= set(known):
            raise click.BadParameter(f"give some of {','.join(known)}")
        return names

    return read


def machine() -> dict[str, Any]:
    """Where it runs."""
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
    }


def figures(book: Book) -> Table:
    """All figures, for people."""
    made = Table(title="What was measured", box=None, title_justify="left", pad_edge=False)
    made.add_column("")
    for column in ("median", "lowest", "highest"):
        made.add_column(column, justify="right")
    for figure, peers in book.figures.items():
        made.add_row(f"[bold]{figure}[/bold]")
        for peer in peers:
            summary = book.summary(figure, peer)
            assert summary is not None
            made.add_row(f"  {peer}", *map(bars.shown, (summary.median, summary.low, summary.high)))
    return made


def report(run: Run, loads: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """All of it, for programs."""
    book = run.book
    return {
        "machine": machine(),
        "load": {"before": loads[0], "after": loads[1]},
        "turns": {"all": book.turns, "disturbed": book.disturbed},
        "rounds": run.rounds,
        "quick": run.quick,
        "peers": run.hellos,
        "figures": {
            figure: {peer: asdict(summary) for peer in peers if (summary := book.summary(figure, peer))}
            for figure, peers in book.figures.items()
        },
        "bars": bars.as_json(book),
        "notes": [note._asdict() for note in book.notes],
    }


@click.command()
@click.option("--peers", metavar="NAME,…", callback=chosen(tuple(PEERS)), help="Default: all there are.")
@click.option(
    "--measures", metavar="NAME,…", callback=chosen(tuple(MEASURES)), help=f"Some of {', '.join(MEASURES)}."
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--quick", is_flag=True, help="A little of everything: to see that it runs.")
@click.option("--json", "output", type=click.File("w", lazy=False), help="Write all figures here, too.")
@click.option("--plots", "folder", type=click.Path(path_type=Path, file_okay=False), help="Draw SVG there.")
def main(
    peers: tuple[str, ...],
    measures: tuple[str, ...],
    rounds: int,
    quick: bool,
    output: TextIO | None,
    folder: Path | None,
) -> None:
    """Measure snowgreen and its peers on this machine, and compare them within this run."""
    roomy()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    run = Run(peers, 1 if quick else rounds, quick, console.print)
    loads = [os.getloadavg()]
    for measure in measures:
        console.print(f"measuring {measure}")
        MEASURES[measure](run)
    loads.append(os.getloadavg())
    for made in (figures(run.book), bars.table(run.book)):
        console.print(made, soft_wrap=True)
    for note in run.book.notes:
        console.print(f"not measured: {note.peer}, {note.measure}: {note.why}", soft_wrap=True, markup=False)
    console.print(
        f"in {run.book.disturbed} of {run.book.turns} turns over {CALM:.0%} of the processors went to others"
    )
    console.print(f"load of the machine: {loads[0][0]:.1f} before, {loads[1][0]:.1f} after")
    if output is not None:
        output.write(json.dumps(report(run, loads), indent=2) + "\n")
    if folder is not None:
        for path in plots.draw(run.book, folder):
            console.print(f"drawn: {path}")


if __name__ == "__main__":
    main()
