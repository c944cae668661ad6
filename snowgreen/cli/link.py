"""``snowgreen connect`` and ``snowgreen ping``: one link, from a node that only dials."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import gevent

from .. import arguments
from ..certificates import TLSConfig
from ..errors import OutboxFull, PingTimeout, SessionClosed
from ..link.session import Session
from ..node import Node
from .options import (
    clock,
    cookie_file_option,
    fact,
    find_cookie,
    passing_name,
    print_event,
    seconds_option,
    tls_options,
)
from .running import complete_node
from .signals import Interrupted, interruptible


@click.command()
@click.argument("name", shell_complete=complete_node)
@seconds_option("--timeout", default=10.0, about="How long to try.")
@click.option("--stay", is_flag=True, help="Keep the link, and print events, until interrupted.")
@cookie_file_option
@tls_options
def connect(name: str, timeout: float, stay: bool, cookie_file: Path | None, tls: TLSConfig | None) -> None:
    """Link with the node NAME, print the facts of the session, and end.

    NAME is name@host, name@host:port, or host:port to learn the name from whoever answers there.
    """
    node = _passing_node("connect", name, cookie_file, tls)
    events = node.subscribe()
    with node, interruptible():
        session = node.connect(name, timeout)
        rtt = session.ping(timeout)
        fact("peer", session.peer)
        fact("incarnation", "none: a classic peer" if session.incarnation is None else session.incarnation)
        fact("form", session.form)
        fact("local", session.local_address)
        fact("remote", session.remote_address)
        fact("rtt", f"{rtt * 1000:.3f} ms")
        if stay:
            try:
                for event in events:
                    print_event(event)
                    if session.closed:
                        # This node only dials, so nothing more can come.
                        raise SessionClosed(session.peer, session.reason or "")
            except Interrupted as interruption:
                node.stop()
                click.echo(f"{clock()}  stopped by {interruption}")


@click.command()
@click.argument("name", shell_complete=complete_node)
@click.option(
    "-c", "count", type=click.IntRange(min=0), default=5, show_default=True, help="How many; 0: no end."
)
@seconds_option("-i", "interval", default=1.0, about="From one to the next.")
@seconds_option("--timeout", default=5.0, about="How long to try to link, and then to wait for each answer.")
@cookie_file_option
@tls_options
def ping(
    name: str,
    count: int,
    interval: float,
    timeout: float,
    cookie_file: Path | None,
    tls: TLSConfig | None,
) -> None:
    """Link with the node NAME and measure round trips over the link.

    Exits with 0 if every ping was answered, else with 1. Ctrl-C ends it early, with the summary.
    """
    node = _passing_node("ping", name, cookie_file, tls)
    with node, interruptible():
        session = node.connect(name, timeout)
        tally = _Tally(session.peer)
        try:
            for number in _paced(count, interval):
                tally.ping(session, number, timeout)
        except Interrupted:
            click.echo()  # behind the terminal's ^C
        finally:
            tally.summary()
    if not tally.all_answered:
        raise click.exceptions.Exit(1)


class _Tally:
    """The pings sent to one peer, and their answers."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.sent = 0
        self.answers: list[float] = []  # milliseconds

    @property
    def all_answered(self) -> bool:
        return len(self.answers) == self.sent > 0

    def ping(self, session: Session, number: int, timeout: float) -> None:
        """Send one ping, and print what came of it."""
        self.sent += 1
        try:
            rtt = session.ping(timeout) * 1000
        except Interrupted:
            self.sent -= 1  # it was not given its time to be answered
            raise
        except (PingTimeout, OutboxFull):
            click.echo(f"no answer from {self.peer}: seq={number} within {timeout:g} s")
            return
        self.answers.append(rtt)
        click.echo(f"answer from {self.peer}: seq={number} time={rtt:.3f} ms")

    def summary(self) -> None:
        """Print what it comes to."""
        answered = len(self.answers)
        loss = 100 * (self.sent - answered) / self.sent if self.sent else 0.0
        click.echo(f"--- {self.peer} ---")
        click.echo(f"{self.sent} sent, {answered} answered, {loss:.3g}% lost")
        if self.answers:
            from statistics import median  # slow to import, and needed only here

            low, middle, high = min(self.answers), median(self.answers), max(self.answers)
            click.echo(f"rtt min/p50/max = {low:.3f}/{middle:.3f}/{high:.3f} ms")


def _paced(count: int, interval: float) -> Iterator[int]:
    """1, 2, … each `interval` after the one before, or at once if that is over; 0 stands for no end."""
    due = time.monotonic()
    number = 0
    while not count or number < count:
        if number:
            due = max(due + interval, time.monotonic())
            gevent.sleep(max(0.0, due - time.monotonic()))
        number += 1
        yield number


def _passing_node(command: str, peer: str, cookie_file: Path | None, tls: TLSConfig | None) -> Node:
    arguments.target(peer)  # before a cookie file may be made for nothing
    name = passing_name(command, tls)
    return Node(name, cookie=find_cookie(cookie_file), listen=False, tls=tls)
