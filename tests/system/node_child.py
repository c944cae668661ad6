"""A node in a process of its own, driven by JSON lines; it ends with its input."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
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


def shown(body: Any) -> Any:
    """A body as a line can carry it."""
    if isinstance(body, bytes):
        return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return body


def read(node: snowgreen.Node, command: dict[str, Any]) -> None:
    """Open a mailbox, and say what comes; or, with a count, only what so many came to."""
    count, digest = command.get("count"), hashlib.sha256()
    box = node.mailbox(command["mailbox"], **command.get("options", {}))
    say("open", mailbox=box.name)
    for number, message in enumerate(box, 1):
        if count is None:
            say("message", mailbox=message.mailbox, sender=message.sender, body=shown(message.body))
            continue
        digest.update(message.body)
        if number == count:
            say("collected", mailbox=box.name, digest=digest.hexdigest())


def send(node: snowgreen.Node, command: dict[str, Any]) -> None:
    """Send one body, or so many of any size that a seed gives."""
    count, chance, digest = command.get("count", 1), random.Random(command.get("seed")), hashlib.sha256()
    done = 0
    try:
        for _ in range(count):
            body = command["body"] if "body" in command else chance.randbytes(int(10 ** chance.uniform(0, 5)))
            node.send(command["peer"], command["mailbox"], body, command.get("timeout"))
            digest.update(body if isinstance(body, bytes) else b"")
            done += 1
        say("sent", mailbox=command["mailbox"], count=done, digest=digest.hexdigest())
    except snowgreen.SnowgreenError as error:
        say("not sent", error=type(error).__name__, text=str(error), count=done)


def call(node: snowgreen.Node, command: dict[str, Any]) -> None:
    try:
        timeout = command.get("timeout", 10)
        value = node.call(command["peer"], command["handler"], *command.get("args", ()), timeout=timeout)
        say("returned", value=shown(value))
    except snowgreen.SnowgreenError as error:
        say("raised", error=type(error).__name__, text=str(error))


def add_handlers(node: snowgreen.Node) -> None:
    @node.handler("echo")
    def echo(*args: Any) -> Any:
        return [snowgreen.current_call().caller, *args]

    @node.handler("raise")
    def fail(text: str) -> None:
        raise ValueError(text)

    @node.handler("sleep")
    def sleep(seconds: float) -> str:
        say("begun")
        try:
            gevent.sleep(seconds)
        except BaseException as error:
            say("ended", error=type(error).__name__)
            raise
        return "awake"


#: What messages need; each runs in a greenlet of its own.
MESSAGING = {"read": read, "send": send, "call": call}


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
            limits=snowgreen.Limits.trusted(
                tls_timeout=1,
                handshake_timeout=1.5,
                frame_timeout=1,
                outbox_bytes=int(os.environ.get("OUTBOX", 8 * 1024 * 1024)),
            ),
        ),
    )
    add_handlers(node)
    node.start()
    gevent.spawn(watch, node.subscribe())
    say("started", name=node.name, incarnation=node.incarnation, pid=os.getpid(), address=node.address)
    for line in FileObject(sys.stdin.buffer, "rb"):
        command = json.loads(line)
        if command["do"] in MESSAGING:
            gevent.spawn(MESSAGING[command["do"]], node, command)
        elif command["do"] == "connect":
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
