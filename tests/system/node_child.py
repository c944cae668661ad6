"""A node in a process of its own, driven by JSON lines; it ends with its input."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import gevent
from gevent.fileobject import FileObject

import snowgreen


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def watch(subscription: snowgreen.Subscription) -> None:
    for event in subscription:
        fields = {
            name: getattr(event, name)
            for name in ("peer", "incarnation", "form", "initiated", "reason", "claimed", "count")
            if hasattr(event, name)
        }
        if isinstance(event, snowgreen.HandshakeFailed):
            fields["error"] = type(event.error).__name__
        say(type(event).__name__, text=str(event), **fields)


def connect(node: snowgreen.Node, peer: str, timeout: float) -> None:
    try:
        session = node.connect(peer, timeout)
        say(
            "connected", peer=session.peer, initiated=session.initiated, form=session.form, rtt=session.ping()
        )
    except snowgreen.SnowgreenError as error:
        say("failed", error=type(error).__name__, text=str(error))


def ping(node: snowgreen.Node, peer: str) -> None:
    try:
        say("pinged", rtt=node.sessions[peer].ping(2))
    except (KeyError, snowgreen.SnowgreenError) as error:
        say("not pinged", error=repr(error))


def live() -> int:
    return sum(1 for item in gc.get_objects() if isinstance(item, gevent.Greenlet) and item)


def main() -> None:
    node = snowgreen.Node(
        sys.argv[1],
        classic=json.loads(os.environ.get("CLASSIC", "null")),
        listen=os.environ.get("LISTEN"),
        mesh=bool(os.environ.get("MESH")),
        config=snowgreen.Config(
            heartbeat_interval=0.5,
            heartbeat_timeout=float(os.environ.get("HEARTBEAT_TIMEOUT", "0.5")),
            duplicate_wait=0.2,
            probe_timeout=0.5,
            redial_base=0.1,
            redial_ceiling=0.5,
            rejoin_wait=0.5,
            limits=snowgreen.Limits.trusted(tls_timeout=1, handshake_timeout=1.5, frame_timeout=1),
        ),
    ).start()
    gevent.spawn(watch, node.subscribe())
    say("started", name=node.name, incarnation=node.incarnation, pid=os.getpid(), address=node.address)
    for line in FileObject(sys.stdin.buffer, "rb"):
        command = json.loads(line)
        if command["do"] == "connect":
            gevent.spawn(connect, node, command["peer"], command.get("timeout", 10))
        elif command["do"] == "sessions":
            say(
                "sessions",
                links={
                    name: {
                        "ends": [s.local_address, s.remote_address],
                        "initiated": s.initiated,
                        "incarnation": s.incarnation,
                    }
                    for name, s in node.sessions.items()
                },
            )
        elif command["do"] == "keep":
            node.keep(command["peer"])
        elif command["do"] == "leave":
            node.leave(command["peer"])
        elif command["do"] == "ping":
            gevent.spawn(ping, node, command["peer"])
        elif command["do"] == "left over":
            gc.collect()
            say("left over", greenlets=live(), descriptors=len(os.listdir("/proc/self/fd")))
        elif command["do"] == "close":
            node.sessions[command["peer"]].close("asked to")
    node.stop()


main()
