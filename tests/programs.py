"""Programs as a user starts them, real HTTP to them, and an end for each."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent

# Python's own would take a child for ended with status 0 that gevent's loop has waited for.
import gevent.subprocess as subprocess
import pytest

from tests.waiting import until

#: Where the programs of this environment are.
BIN = Path(sys.executable).parent


class Process:
    """A started program, with all that it has written so far."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._popen = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file)
        self.pid = self._popen.pid
        #: Whether it may say that something went wrong.
        self.expected = False

    @property
    def output(self) -> str:
        return self._log.read_text()

    def says(self, text: str, count: int = 1) -> None:
        """Wait until it has written `text`, so many times."""
        seen = f"it says {text!r}"
        until(lambda: self.output.count(text) >= count, seen, timeout=30, detail=lambda: self.output)

    def ends(self) -> int:
        """Wait for its end; its exit status."""
        until(lambda: self._popen.poll() is not None, "it ends", timeout=30, detail=lambda: self.output)
        return int(self._popen.returncode)

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()


Start = Callable[..., Process]


@pytest.fixture(name="start")
def started_programs(tmp_path: Path) -> Iterator[Start]:
    """A starter of programs for a fresh user, without a cookie yet. All of them are ended afterwards."""
    started: list[Process] = []
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SNOWGREEN")}
    home = tmp_path / "home"  # and not where the programs run: its "snowgreen" would be found as a package
    home.mkdir()
    fresh = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "PYTHONUNBUFFERED": "1"}

    def run(*command: str, folder: Path, **env: str) -> Process:
        log = tmp_path / f"{len(started)}.log"
        process = Process(list(command), folder, {**kept, **fresh, **env}, log)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
    for process in started:
        assert process.expected or "Traceback" not in process.output
        assert process.expected or "Warning" not in process.output


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def http(url: str, **form: str) -> tuple[int, str]:
    """GET, or with `form` POST; the status and the text. It waits off the loop."""
    data = urllib.parse.urlencode(form).encode() if form else None

    def ask() -> tuple[int, str]:
        # One connection each, so that each may get to another worker.
        asked = urllib.request.Request(url, data, {"Connection": "close"})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    return gevent.get_hub().threadpool.apply(ask)
