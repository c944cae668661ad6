"""The command line: nodes, links, cookies and a demonstration, for people and for scripts.

Each command is a room of its own; here they are gathered, and here every error of snowgreen's becomes
one line on stderr and the exit status 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

import click

from .._version import __version__
from ..errors import SnowgreenError
from . import certs, completion, cookie, demo, doctor, events, link, links, running, start, top
from .errors import Failure, explained
from .signals import Interrupted


class _Group(click.Group):
    """The commands; what ends one of them ends it in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SnowgreenError as error:
            raise Failure(explained(error)) from error
        except Interrupted as interruption:
            raise click.exceptions.Exit(128 + interruption.number) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="snowgreen", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Trusted links between gevent processes: named nodes, one cookie, TLS.

    Every command that links takes the cookie from SNOWGREEN_COOKIE, or from the file in your config
    directory, or from --cookie-file. There is no option that takes the cookie itself: everybody on
    this machine could read it in the list of processes.
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


for _command in (
    start.start,
    link.connect,
    link.ping,
    doctor.doctor,
    running.nodes,
    links.links,
    events.events,
    top.top,
    completion.completion,
    cookie.cookie,
    certs.certs,
    demo.demo,
    demo.demo_node,
):
    group.add_command(_command)


def run() -> None:
    """Run the command that ``sys.argv`` names, and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character is no reason to stop; a stream that is closed is None.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    internal = logging.StreamHandler()
    internal.setLevel(logging.ERROR)  # what is milder is an event, and printed as one
    logging.getLogger("snowgreen").addHandler(internal)
    group(prog_name="snowgreen")
