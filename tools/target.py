"""The node that the load tools try, in a process of its own.

As a program it is that process: a line of JSON for each line of JSON, until there are no more.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import resource
import secrets
import subprocess
import sys
import time
from collections import Counter
from typing import Any, Final

import gevent
from gevent.fileobject import FileObject
from messages import Receiver

from snowgreen import Config, ConnectionsRefused, Cookie, HandshakeFailed, Limits, Node

#: Seconds the server may take to answer, to forget its sessions, to exit.
PATIENCE: Final = 20.0


class Halt(BaseException):
    """The run ends here, for the reason given."""


def prepare() -> None:
    """Make room for thousands of links, in the descriptors and in the log."""
    # Failures are counted; the log would give each of thousands a line.
    logging.getLogger("snowgreen").setLevel(logging.ERROR)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems refuse their own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Ledger:
    """What a node did with those who came, by the address they came from."""

    def __init__(self, node: Node) -> None:
        self.refused = 0
        self.failed: dict[str, Counter[str]] = {}
        self._events = node.subscribe()
        gevent.spawn(self._read)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"refused": self.refused, "failed": self.failed}

    def _read(self) -> None:
        for event in self._events:
            if isinstance(event, ConnectionsRefused):
                self.refused += event.count
            elif isinstance(event, HandshakeFailed):
                source = event.address.rpartition(":")[0]
                self.failed.setdefault(source, Counter())[type(event.error).__name__] += 1


def serve() -> None:
    """Be a node, and give a line of JSON for each line of JSON, until there are no more."""
    orders = map(json.loads, FileObject(sys.stdin.fileno(), "r", closefd=False))
    first = next(orders)
    # By default so many from one address would be kept out.
    config = Config(limits=Limits() if first["limits"] == "default" else Limits.trusted())
    with Node("flooded@127.0.0.1:0", cookie=first["cookie"], config=config) as node:
        ledger, receiver = Ledger(node), Receiver(node)
        for order in itertools.chain([first], orders):
            answer = {"number": order["number"], "name": node.name, "sessions": len(node.sessions)}
            answer |= ledger.as_json()
            if "kind" in order:
                answer["received"] = receiver.look(order["kind"], order["messages"])
            print(json.dumps(answer), flush=True)


class Server:
    """The node under test, in a process that this one starts and ends.

    :param limits: which profile of limits it has, "trusted" or "default".
    """

    def __init__(self, limits: str = "trusted") -> None:
        secret, pipe = secrets.token_hex(32), subprocess.PIPE
        # In a session of its own: Ctrl-C is for the flood, which ends the server in its turn.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        self._orders = 0
        self.cookie = Cookie.wrap(secret, "flood")
        self.pid = self._process.pid
        try:
            self.name = str(self._ask(cookie=secret, limits=limits)["name"])
        except BaseException:
            self.close()
            raise

    def look(self) -> dict[str, Any]:
        """All that it says of itself."""
        return self._ask()

    def sessions(self) -> int:
        """How many sessions the node has."""
        return int(self._ask()["sessions"])

    def received(self, kind: str, messages: int) -> dict[str, Any]:
        """What has come of a `kind` of messages, once there are so many, or no more come."""
        return dict(self._ask(kind=kind, messages=messages)["received"])

    def settle(self, sessions: int) -> int:
        """Wait until there are no more than `sessions`, or too long; return how many there are."""
        until = time.monotonic() + PATIENCE
        while (now := self.sessions()) > sessions and time.monotonic() < until:
            gevent.sleep(0.02)
        return now

    def close(self) -> None:
        """End the process: its input ends; if that does not help, it is killed."""
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, **order: str | int) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._orders += 1
        slow = gevent.Timeout(PATIENCE, Halt("the server process does not answer"))
        with slow, contextlib.suppress(OSError):
            stdin.write(json.dumps({"number": self._orders, **order}) + "\n")
            stdin.flush()
            for answer in map(json.loads, stdout):
                if answer["number"] == self._orders:  # not to an earlier order, whose wait was cut short
                    return dict(answer)
        raise Halt(f"the server process ended by itself, with status {self._process.wait(PATIENCE)}")


if __name__ == "__main__":
    prepare()
    serve()
