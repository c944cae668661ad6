"""``snowgreen start``: a node in the foreground, until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import click
import gevent

from ..config import Config
from ..errors import ConfigurationError, LinkError, NodeStateError
from ..names import Address, NodeName, is_loopback, parse_name
from ..node import Node
from .options import (
    clock,
    cookie_file_option,
    fact,
    find_cookie,
    parse_peer,
    passing_name,
    print_event,
    seconds_option,
)
from .signals import on_signal

_LONGEST_PATIENCE = Config().heartbeat_timeout


@click.command()
@click.option("--name", help="name@host or name@host:port; port 0, as in the default, takes a free one.")
@click.option("--listen", metavar="ADDR", help="Bind to host:port or host, if not to the name's own address.")
@click.option("--no-listen", is_flag=True, help="Dial only; no other node can dial this one.")
@cookie_file_option
@click.option("--connect", "peers", metavar="PEER", multiple=True, help="Link with PEER; may be repeated.")
@seconds_option(
    "--heartbeat",
    about="Ping a peer that was silent for so long, and count it as dead if it stays silent for as long "
    f"again, {_LONGEST_PATIENCE:g} s at most. Default: {Config().heartbeat_interval:g}.",
)
def start(
    name: str | None,
    listen: str | None,
    no_listen: bool,
    cookie_file: Path | None,
    peers: tuple[str, ...],
    heartbeat: float | None,
) -> None:
    """Run a node until SIGINT or SIGTERM, and print what happens to its links.

    The cookie is never printed, and never taken from the command line: `ps` would show it.
    """
    if listen is not None and no_listen:
        raise click.UsageError("--listen and --no-listen exclude each other")
    requested = parse_name(name or passing_name("snowgreen"))
    _check_listen(requested, listen, no_listen)
    for peer in peers:
        _check_peer(peer, requested)
    cookie = find_cookie(cookie_file)
    node = Node(
        requested.text, cookie=cookie, listen=False if no_listen else listen, config=_config(heartbeat)
    )
    events = node.subscribe()
    stopped_by: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        stopped_by.append(number)
        node.stop()  # which ends the events, too

    with node, on_signal(stop):
        fact("name", node.name)
        fact("listens on", node.address or "nothing: it only dials")
        fact("cookie from", cookie.source)
        for peer in peers:
            gevent.spawn(_dial, node, peer)
        for event in events:
            print_event(event)
    click.echo(f"{clock()}  stopped" + "".join(f" by {number.name}" for number in stopped_by))


def _config(heartbeat: float | None) -> Config:
    if heartbeat is None:
        return Config()
    return Config(heartbeat_interval=heartbeat, heartbeat_timeout=min(heartbeat, _LONGEST_PATIENCE))


def _check_listen(name: NodeName, listen: str | None, no_listen: bool) -> None:
    if listen is None and not no_listen and not is_loopback(name.host):
        raise ConfigurationError(
            "--listen",
            f"the name announces {name.host}, which may be reached from outside, and binding beyond loopback "
            f"is a choice: add --listen {name.address}, --listen 0.0.0.0:{name.port}, or --no-listen",
        )


def _check_peer(peer: str, name: NodeName) -> None:
    target = parse_peer(peer)
    address = target if isinstance(target, Address) else target.address
    if address.port == 0:
        raise ConfigurationError("--connect", f"{peer} only dials and cannot be dialed: its port is 0")
    if str(target) == name.text:
        raise ConfigurationError("--connect", f"{peer} is this node itself")


def _dial(node: Node, peer: str) -> None:
    # What becomes of it is an event, printed like any other.
    with contextlib.suppress(LinkError, NodeStateError):
        node.connect(peer)
