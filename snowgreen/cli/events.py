"""``snowgreen events``: what happened to a node that runs on this machine, and what happens to it now."""

from __future__ import annotations

import click

from ..control.client import Connection
from ..link.journal import RECENT
from ..status import EventStatus
from .running import asking, find, node_argument
from .shown import clean, json_line, moment


@click.command()
@node_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for scripts.")
@click.option("-f", "--follow", is_flag=True, help="Go on with events as they happen, until the node ends.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, RECENT),
    default=RECENT,
    show_default=True,
    help="Begin with at most COUNT events of those that the node remembers.",
    metavar="COUNT",
)
def events(node: str | None, as_json: bool, follow: bool, count: int) -> None:
    """Print the events of your node NODE on this machine, the newest last.

    NODE is its name, the part of it before "@", its process id, or the path of its control socket. It may be
    left out where only one node of yours runs.
    """
    with asking(), Connection(find(node)) as connection:
        for answer in connection.ask("events", newest=count, follow=follow):
            if answer.event is not None:
                click.echo(json_line(answer.event) if as_json else _line(answer.event))


def _line(event: EventStatus) -> str:
    return f"{moment(event.at)}  {click.style(clean(event.text), fg=colour(event))}"


def colour(event: EventStatus) -> str | None:
    """How an event is coloured: links that are lost, what else went wrong, and links that come."""
    if event.kind == "down":
        return "red" if event.bad else None
    return "yellow" if event.bad else "green"
