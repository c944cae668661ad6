"""The nodes that run here: ``snowgreen nodes``, and which of them another command is about."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..control import client
from ..control.client import NoAnswer, Running
from ..errors import ConfigurationError
from ..status import NodeStatus
from .errors import Failure
from .shown import clean, duration, json_line

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Names in an error.
_LISTED = 10
#: A shell waits for its completions.
_COMPLETION_SECONDS = 0.5


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for scripts.")
def nodes(as_json: bool) -> None:
    """List your nodes on this machine.

    These are the nodes of `snowgreen start`, and those of programs that have opened a control socket with
    snowgreen.control.Control(node).
    """
    found = client.running()
    for node in found:
        if node.problem is not None:
            click.echo(f"warning: {clean(node.problem)}", err=True)
    known = [node.status for node in found if node.status is not None]
    if as_json:
        for status in known:
            click.echo(json_line(status))
        return
    lines = [("NAME", "PID", "UP", "LINKS", "LISTENS ON")]
    lines += [
        (
            clean(status.name),
            str(status.pid),
            age(status),
            str(status.links),
            clean(status.address or "nothing"),
        )
        for status in known
    ]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.secho(text, bold=True if number == 0 else None)


def age(status: NodeStatus) -> str:
    """For how long a node has been up."""
    return "not started" if status.started_at is None else duration(time.time() - status.started_at)


def node_argument(command: _Command) -> _Command:
    """The argument NODE: which node a command is about; may be left out where only one runs."""
    return click.argument("node", metavar="[NODE]", required=False, shell_complete=complete_node)(command)


def complete_node(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of the nodes that run here, for the shell."""
    try:
        found = client.running(_COMPLETION_SECONDS)
    except ConfigurationError:
        return []  # the command itself will say it
    names = sorted({node.status.name for node in found if node.status is not None})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def find(wanted: str | None) -> Path:
    """The control socket of the node that is wanted.

    :param wanted: its name, the part of it before "@", its process id, or the path of its socket; None for
        the only one there is.

    :raises Failure: if there is no such node, or more than one.
    """
    if wanted is not None and "/" in wanted:
        return Path(wanted)
    found = client.running()
    fitting = [node for node in found if _fits(node, wanted)]
    if wanted is not None and len(fitting) > 1:
        fitting = [node for node in fitting if node.status and node.status.name == wanted] or fitting
    if len(fitting) == 1:
        node = fitting[0]
        if node.problem is not None:
            raise Failure(f"{clean(node.problem)}; is its process stopped, or its event loop blocked?")
        return node.path
    raise Failure(_not_one(wanted, fitting or found, several=bool(fitting)))


def _fits(node: Running, wanted: str | None) -> bool:
    if wanted is None:
        return True
    if node.status is None:  # all that is known of its name is what its socket is called
        return wanted in (node.path.stem, node.path.stem.partition("@")[0])
    name = node.status.name
    return wanted in (name, name.partition("@")[0], str(node.status.pid))


def _not_one(wanted: str | None, found: list[Running], *, several: bool) -> str:
    if not found:
        what = (
            "none of your nodes runs on this machine" if wanted is None else f"no node {clean(wanted)} runs"
        )
        return (
            f"{what}, or it has no control socket: `snowgreen start` opens one, and a program of yours with "
            "snowgreen.control.Control(node)"
        )
    listed = ", ".join(_named(node) for node in found[:_LISTED])
    if len(found) > _LISTED:
        listed += f" and {len(found) - _LISTED} more (`snowgreen nodes` lists them)"
    if not several:
        return f"no node {clean(wanted or '')} runs on this machine, but: {listed}"
    return f"{len(found)} nodes fit; say which one, by name or process id: {listed}"


def _named(node: Running) -> str:
    if node.status is None:
        return clean(str(node.path))
    return f"{clean(node.status.name)} ({node.status.pid})"


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Within the block, a node that does not answer ends the command in one line."""
    try:
        yield
    except NoAnswer as error:
        raise Failure(clean(str(error))) from error
