"""``snowgreen doctor``: why a link with a node does not come about, step by step."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from .. import arguments
from .. import cookie as cookies
from ..certificates import TLSConfig
from ..cookie import VARIABLE, Cookie
from ..doctor import Outcome, Step, examine
from ..errors import CookieError
from .options import cookie_file_option, find_cookie, seconds_option, tls_options
from .signals import interruptible

#: outcome → its sign, the sign for a terminal that lacks that, and its colour.
_SIGNS = {
    Outcome.OK: ("✓", "ok", "green"),
    Outcome.WARNING: ("!", "!", "yellow"),
    Outcome.FAILED: ("✗", "FAIL", "red"),
    Outcome.NOT_REACHED: ("·", "-", None),
}
_WIDTH = 100


@click.command()
@click.argument("target", metavar="NAME|HOST:PORT")
@seconds_option(
    "--timeout", default=5.0, about="How long to give each step, and each address of a host name."
)
@click.option(
    "--name",
    metavar="NODE",
    help="Ask under this node's name, so that an allow-list is tried with it; its links are left alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead, when all is done.")
@cookie_file_option
@tls_options
def doctor(
    target: str,
    timeout: float,
    name: str | None,
    as_json: bool,
    cookie_file: Path | None,
    tls: TLSConfig | None,
) -> None:
    """Go through all that it takes to link with a node, and say at the first failure what to do.

    Name resolution, TCP, TLS, certificate, form of the handshake, clock, cookie, name, and whether the link
    is let in: it is one ordinary handshake, ended with a goodbye. Run it where the node runs that is to link,
    as the same user. Exits with 0 if a link comes about, even if there is something to mind (!), else with 1.
    """
    found = arguments.target(target)
    steps = examine(found, cookie=_look_for_cookie(cookie_file), tls=tls, name=name, timeout=timeout)
    with interruptible():
        well = _as_document(target, steps) if as_json else _as_text(target, steps)
    if not well:
        raise click.exceptions.Exit(1)


def _look_for_cookie(file: Path | None) -> Cookie | CookieError:
    """The cookie that a node would take here, or why there is none. Unlike a node, it makes none."""
    try:
        if (
            file is None
            and VARIABLE not in os.environ
            and not os.path.lexists(path := cookies.default_path())
        ):
            return CookieError("cookie", f"this user has none yet on this machine: {path} does not exist")
        return find_cookie(file)
    except CookieError as error:
        return error


def _as_document(target: str, steps: Iterator[Step]) -> bool:
    done = list(steps)
    well = _well(done)
    click.echo(
        json.dumps({"target": target, "ok": well, "steps": [step.as_dict() for step in done]}, indent=2)
    )
    return well


def _as_text(target: str, steps: Iterator[Step]) -> bool:
    done = []
    fancy = _takes("".join(sign for sign, _, _ in _SIGNS.values()))
    click.echo(f"can this machine link with {target}?")
    for step in steps:
        done.append(step)
        _print_step(step, fancy)
    failed = [step for step in done if step.outcome is Outcome.FAILED]
    minded = [step.name for step in done if step.outcome is Outcome.WARNING]
    if failed:
        click.echo(f"no: {failed[0].name} failed")
    else:
        click.echo("yes" + (f", but mind: {', '.join(minded)}" if minded else ""))
    return _well(done)


def _print_step(step: Step, fancy: bool) -> None:
    sign, plain, colour = _SIGNS[step.outcome]
    head = click.style(f"{sign if fancy else plain:<{1 if fancy else 4}}", fg=colour)
    taken = "" if step.seconds is None else f"{step.seconds * 1000:.1f} ms"
    start = f"{head} {step.name:<11} {taken:>10}  "
    indent = " " * len(click.unstyle(start))
    click.echo(_wrapped(step.text, start, indent))
    for detail in step.details:
        click.echo(_wrapped(detail, indent, indent))
    if step.advice:
        arrow = "→ " if fancy and _takes("→") else "-> "
        click.echo(_wrapped(step.advice, indent + arrow, indent + " " * len(arrow)))


def _wrapped(text: str, start: str, indent: str) -> str:
    room = max(40, _WIDTH - len(indent))
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    return start + f"\n{indent}".join(lines)


def _takes(text: str) -> bool:
    """Whether stdout can show `text`."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _well(steps: list[Step]) -> bool:
    return all(step.outcome in (Outcome.OK, Outcome.WARNING) for step in steps)
