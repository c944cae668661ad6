"""``snowgreen start``: a node in the foreground, until it is told to stop."""

from __future__ import annotations

import signal
from contextlib import ExitStack, nullcontext
from pathlib import Path

import click

from .. import arguments
from ..certificates import TLSConfig
from ..config import Config
from ..control import Control
from ..errors import ConfigurationError, SnowgreenError
from ..names import Address, NodeName, is_loopback, parse_name
from ..node import Node
from .dashboard import Dashboard, dashboard_options
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
from .signals import on_hangup, on_signal

_LONGEST_PATIENCE = Config().heartbeat_timeout


@click.command()
@click.option("--name", help="name@host or name@host:port; port 0, as in the default, takes a free one.")
@click.option("--listen", metavar="ADDR", help="Bind to host:port or host, if not to the name's own address.")
@click.option("--no-listen", is_flag=True, help="Dial only; no other node can dial this one.")
@cookie_file_option
@tls_options
@click.option(
    "--connect",
    "peers",
    metavar="PEER",
    multiple=True,
    help="Keep a link with PEER: dial it, and again whenever the link is lost; may be repeated.",
)
@click.option(
    "--no-control",
    is_flag=True,
    help="Open no control socket: `snowgreen top`, links and events then do not find this node.",
)
@dashboard_options
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
    tls: TLSConfig | None,
    peers: tuple[str, ...],
    no_control: bool,
    dashboard: Dashboard | None,
    heartbeat: float | None,
) -> None:
    """Run a node until SIGINT or SIGTERM, and print what happens to its links.

    The cookie is never printed, and never taken from the command line: `ps` would show it. At SIGHUP its file
    is read again: what it holds then is the cookie for new links, and the one before stays accepted.
    """
    if listen is not None and no_listen:
        raise click.UsageError("--listen and --no-listen exclude each other")
    requested = parse_name(name or passing_name("snowgreen", tls))
    _check_listen(requested, listen, no_listen)
    for peer in peers:
        _check_peer(peer, requested)
    cookie = find_cookie(cookie_file)
    where = False if no_listen else listen
    node = Node(requested.text, cookie=cookie, listen=where, config=_config(heartbeat), tls=tls)
    events = node.subscribe()
    stopped_by: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        stopped_by.append(number)
        node.stop()  # which ends the events, too

    def reread() -> None:
        line = _reread(node)
        try:
            click.echo(f"{clock()}  {line}")
        except OSError:  # nobody reads: it was not our operator who sent SIGHUP, but the terminal, as it went
            stop(signal.SIGHUP)

    page = nullcontext() if dashboard is None else dashboard.of(node)
    with ExitStack() as ends, page, node, on_signal(stop), on_hangup(reread):
        if not no_control:
            ends.callback(_open_control(node).stop)
        fact("name", node.name)
        fact("listens on", node.address or "nothing: it only dials")
        fact("cookie from", cookie.source)
        fact("fingerprint", node.fingerprints[0])
        if tls is not None:
            fact("trusts", tls.ca)
        for peer in peers:
            node.keep(peer)  # what becomes of it is an event, printed like any other
        for event in events:
            print_event(event)
    click.echo(f"{clock()}  stopped" + "".join(f" by {number.name}" for number in stopped_by))


def _open_control(node: Node) -> Control:
    """The node's control socket: open, unless something is in the way, which is no reason not to run."""
    control = Control(node)
    try:
        return control.start()
    except ConfigurationError as error:
        click.echo(f"warning: {error}; `snowgreen top`, links and events do not find this node", err=True)
        return control


def _config(heartbeat: float | None) -> Config:
    if heartbeat is None:
        return Config()
    return Config(heartbeat_interval=heartbeat, heartbeat_timeout=min(heartbeat, _LONGEST_PATIENCE))


def _reread(node: Node) -> str:
    """Read the cookie's file again; what came of it, in words."""
    problem = None
    try:
        changed = node.reload_cookie()
    except SnowgreenError as error:
        problem = error
    if not node.started:
        return "the cookie was not read again: the node is being stopped"
    primary, *accepted = node.fingerprints
    if problem is not None:
        return f"the cookie was not read again, and stays {primary}: {problem}"
    if not changed:
        return f"the cookie was read again, and is {primary} as before"
    return f"the cookie was read again, and is {primary} now; also accepted: {', '.join(accepted)}"


def _check_listen(name: NodeName, listen: str | None, no_listen: bool) -> None:
    if listen is None and not no_listen and not is_loopback(name.host):
        raise ConfigurationError(
            "--listen",
            f"the name announces {name.host}, which may be reached from outside, and binding beyond loopback "
            f"is a choice: add --listen {name.address}, --listen 0.0.0.0:{name.port}, or --no-listen",
        )


def _check_peer(peer: str, name: NodeName) -> None:
    target = arguments.target(peer)
    address = target if isinstance(target, Address) else target.address
    if address.port == 0:
        raise ConfigurationError("--connect", f"{peer} only dials and cannot be dialed: its port is 0")
    if str(target) == name.text:
        raise ConfigurationError("--connect", f"{peer} is this node itself")
