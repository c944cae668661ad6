"""One process of the demo: a node that reports on its links and ends with its standard input."""

from __future__ import annotations

import contextlib
import os
import time

import click
import gevent
import gevent.socket
from gevent.queue import Queue

from ...config import Config
from ...errors import LinkError, NodeStateError, SessionError
from ...events import Event, HandshakeFailed, NodeDown, NodeUp
from ...link.bus import Subscription
from ...node import Node
from .reports import Kind, Report

#: Short, so that the links are seen to be alive; the timeout leaves a busy machine some room.
_CONFIG = Config(heartbeat_interval=0.5, heartbeat_timeout=3.0)
_PING_EVERY = 0.4
_STDIN = 0

_Outgoing = Queue[Report | None]


@click.command("demo-node", hidden=True)
@click.option("--name", required=True)
@click.option("--dial-only", is_flag=True)
def demo_node(name: str, dial_only: bool) -> None:
    """One node of `snowgreen demo`: takes the names of nodes to link with, a line each, from stdin."""
    outgoing: _Outgoing = Queue()
    node = Node(name, listen=False if dial_only else None, config=_CONFIG)
    events = node.subscribe()
    with node:
        outgoing.put(Report(kind=Kind.READY, at=time.time(), name=node.name, incarnation=node.incarnation))
        helpers: list[gevent.Greenlet[..., None]] = [
            gevent.spawn(_relay, events, outgoing),
            gevent.spawn(_ping, node, outgoing),
            gevent.spawn(_listen_to_stdin, node, outgoing),
        ]
        # Only this greenlet writes, so that a demo that has died ends this process and nothing else.
        for report in iter(outgoing.get, None):
            click.echo(report.to_line())
        gevent.killall(helpers, block=False)


def _listen_to_stdin(node: Node, outgoing: _Outgoing) -> None:
    """Dial whom we are told to; put None in the queue at the end of the input, whatever ended it."""
    rest = b""
    while True:
        gevent.socket.wait_read(_STDIN)
        data = os.read(_STDIN, 4096)
        if not data:
            outgoing.put(None)
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            gevent.spawn(_dial, node, line.decode())


def _dial(node: Node, peer: str) -> None:
    with contextlib.suppress(LinkError, NodeStateError):  # what becomes of it is an event
        node.connect(peer)


def _ping(node: Node, outgoing: _Outgoing) -> None:
    while True:
        gevent.sleep(_PING_EVERY)
        for session in list(node.sessions.values()):
            with contextlib.suppress(SessionError):  # the next one may be answered
                rtt = session.ping(timeout=1.0)
                outgoing.put(Report(kind=Kind.RTT, at=time.time(), peer=session.peer, seconds=rtt))


def _relay(events: Subscription, outgoing: _Outgoing) -> None:
    for event in events:
        outgoing.put(_report(event))


def _report(event: Event) -> Report:
    match event:
        case NodeUp():
            return Report(
                kind=Kind.UP,
                at=event.at,
                peer=event.peer,
                incarnation=event.incarnation,
                initiated=event.initiated,
            )
        case NodeDown():
            return Report(
                kind=Kind.DOWN,
                at=event.at,
                peer=event.peer,
                incarnation=event.incarnation,
                lost=event.lost,
                text=event.reason,
            )
        case HandshakeFailed():
            return Report(
                kind=Kind.FAILED,
                at=event.at,
                peer=event.claimed or "",
                initiated=event.initiated,
                error=type(event.error).__name__,
                text=event.error.problem,
            )
        case _:
            return Report(kind=Kind.SAID, at=time.time(), text=str(event))
