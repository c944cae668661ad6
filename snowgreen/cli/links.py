"""``snowgreen links``: the links of a node that runs on this machine."""

from __future__ import annotations

import click

from ..control.client import Connection
from . import shown
from .running import asking, find, node_argument

_COLUMNS = (
    shown.PEER,
    shown.STATE,
    shown.WAY,
    shown.FORM,
    shown.AGE,
    shown.RTT,
    shown.IN,
    shown.OUT,
    shown.WAITING,
    shown.ADDRESS,
)


@click.command()
@node_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for scripts.")
def links(node: str | None, as_json: bool) -> None:
    """Print the live links of your node NODE on this machine.

    NODE is its name, the part of it before "@", its process id, or the path of its control socket. It may be
    left out where only one node of yours runs.
    """
    with asking(), Connection(find(node)) as connection:
        found = [answer.link for answer in connection.ask("links") if answer.link is not None]
    if as_json:
        for link in found:
            click.echo(shown.json_line(link))
    else:
        shown.echo_table(_COLUMNS, [shown.Row(link) for link in found])
