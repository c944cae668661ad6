"""Children that speak JSON lines, with a deadline on every line and an end for every child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.subprocess import PIPE, Popen

_poll = Event()


class Child:
    """A process of ours: lines in, JSON events out, and it is gone when the block is left."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        self._process = Popen(
            [sys.executable, *command],
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        self.seen: list[dict[str, Any]] = []
        self._fresh: list[dict[str, Any]] = []
        self._reader = gevent.spawn(self._read)

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid)

    def _read(self) -> None:
        for line in self._process.stdout:
            event = json.loads(line)
            self.seen.append(event)
            self._fresh.append(event)

    def tell(self, **command: Any) -> None:
        """Send one command."""
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def expect(self, event: str, timeout: float = 15.0, **fields: Any) -> dict[str, Any]:
        """The next `event` with these `fields`; what comes before it is passed over."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            while self._fresh:
                found = self._fresh.pop(0)
                if found["event"] == event and all(found.get(key) == value for key, value in fields.items()):
                    return found
            _poll.wait(0.005)
        raise AssertionError(f"no {event} {fields} within {timeout:g} s; seen: {self.seen}")

    def kill(self) -> None:
        """SIGKILL, and wait for it to be gone."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> int:
        """End it by closing its input; its exit status."""
        self._process.stdin.close()
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError("the child did not end with its input") from None
        self._reader.join(timeout=5)
        self._process.stdout.close()
        return int(status)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process.poll() is None and kind is not None:
            self._process.kill()
        try:
            self.finish()
        except (AssertionError, BrokenPipeError):
            if kind is None:
                raise


Spawn = Callable[..., Child]


def until_line(stream: Any, text: str, timeout: float = 30.0) -> str:
    """The next line of `stream` with `text` in it, read without stopping the loop."""
    with gevent.Timeout(timeout, AssertionError(f"no line with {text!r} within {timeout:g} s")):
        while True:
            line = gevent.get_hub().threadpool.apply(stream.readline)
            if text in line:
                return str(line)
            assert line, f"the stream ended without a line with {text!r}"
