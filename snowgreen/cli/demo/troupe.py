"""The processes of the demo: started, told what to do, killed, and none left behind.

Each holds the read end of a pipe as its standard input and ends when that ends. The write end is in this
process alone, so whatever becomes of the demo, SIGKILL included, its children go with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Any

import gevent
import gevent.subprocess
from gevent.queue import Queue

from ...cookie import VARIABLE, Cookie
from .reports import Kind, Report

#: What a node gets to end by itself when the demo is over, before it is killed.
_PATIENCE = 2.0


class Actor:
    """One child process; what it reports goes into `inbox`."""

    def __init__(
        self, role: str, name: str, cookie: Cookie, inbox: Queue[Report], *, dial_only: bool
    ) -> None:
        self.role = role
        self._inbox = inbox
        command = [sys.executable, "-m", "snowgreen", "demo-node", "--name", name]
        # The cookie goes through the environment, which only this user can read; arguments all can.
        # A session of its own, so that a Ctrl-C meant for the demo does not reach the node first.
        self._process: Any = gevent.subprocess.Popen(
            [*command, "--dial-only"] if dial_only else command,
            env={**os.environ, VARIABLE: cookie.reveal().decode()},
            stdin=gevent.subprocess.PIPE,
            stdout=gevent.subprocess.PIPE,
            stderr=gevent.subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid: int = self._process.pid
        gevent.spawn(self._read)

    def link_with(self, name: str) -> None:
        """Have the node dial `name`."""
        with contextlib.suppress(OSError):  # it has ended, and its exit is on the way to the inbox
            self._process.stdin.write(name.encode() + b"\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Have the node stop, cleanly: close its input."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """SIGKILL, by the pid; a process that is over, and whose pid may be another's, is spared."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Wait until the process is over, for `seconds` at most."""
        with contextlib.suppress(gevent.subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _read(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="backslashreplace")
                self._inbox.put(Report.from_line(text, role=self.role, pid=self.pid, at=time.time()))
        status = self._process.wait()
        self._inbox.put(Report(kind=Kind.EXIT, at=time.time(), role=self.role, pid=self.pid, status=status))


class Troupe:
    """All child processes of one demo. Leaving the ``with`` ends them all."""

    def __init__(self) -> None:
        #: What all of them report, as it comes.
        self.inbox: Queue[Report] = Queue()
        self._actors: list[Actor] = []

    def start(self, role: str, name: str, cookie: Cookie, *, dial_only: bool = False) -> Actor:
        """Start a process with the node `name`."""
        actor = Actor(role, name, cookie, self.inbox, dial_only=dial_only)
        self._actors.append(actor)
        return actor

    def __enter__(self) -> Troupe:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            actor.end()
        deadline = time.monotonic() + _PATIENCE
        try:
            for actor in self._actors:
                actor.wait(max(0.0, deadline - time.monotonic()))
        finally:  # even if it was here that the demo was interrupted
            for actor in self._actors:
                actor.kill()
            for actor in self._actors:
                actor.wait(_PATIENCE)
