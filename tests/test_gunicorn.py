"""Nodes in gunicorn's workers: their numbers, their start, and their goodbye within the graceful timeout."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import gevent
import pytest

import snowgreen.gunicorn
from tests.conftest import MakeNode
from tests.programs import BIN, Process, Start, free_ports, http
from tests.programs import started_programs as started_programs  # the fixture "start"
from tests.waiting import until

APP = """
import os, time
import snowgreen

node = snowgreen.Node("web-{worker}@127.0.0.1:0", peers=[os.environ["HUB"]])

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(60)
    start_response("200 OK", [])
    return [f"{node.name} {len(node.sessions)}".encode()]
"""
HUB = """
import snowgreen, sys

with snowgreen.Node(sys.argv[1]) as node:
    print(node.name, "is there", flush=True)
    for event in node.subscribe():
        print(event, flush=True)
"""


def worker(pid: int, number: int | None = None) -> SimpleNamespace:
    """As much of a worker as the hooks look at."""
    more = {} if number is None else {"snowgreen_number": number}
    return SimpleNamespace(pid=pid, cfg=SimpleNamespace(graceful_timeout=1), **more)


@pytest.fixture
def hub_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def hub(start: Start, hub_port: int, tmp_path: Path) -> Process:
    """A node that the workers keep a link with, and that prints what it sees of them."""
    return start(sys.executable, "-c", HUB, f"hub@127.0.0.1:{hub_port}", folder=tmp_path)


def serve(start: Start, folder: Path, port: int, hub_port: int, *options: str) -> Process:
    (folder / "app.py").write_text(APP)
    return start(
        *(str(BIN / "gunicorn"), "-k", "gevent", "-c", "python:snowgreen.gunicorn"),
        *("-b", f"127.0.0.1:{port}", *options, "app:application"),
        folder=folder,
        HUB=f"hub@127.0.0.1:{hub_port}",
    )


def test_the_lowest_free_number_is_taken() -> None:
    """A new worker gets the lowest number that none of the living has, also where some have none."""
    server = SimpleNamespace(WORKERS={11: worker(11, 1), 13: worker(13, 3), 14: worker(14)})
    new = worker(15)
    snowgreen.gunicorn.pre_fork(server, new)
    assert new.snowgreen_number == 2


def test_a_node_that_was_started_in_the_master_is_warned_of(make_node: MakeNode) -> None:
    """Its listener would be there, and nobody behind it; one that is not started is as it should be."""
    node = make_node()
    with pytest.warns(RuntimeWarning, match=f"{node.name} was started in gunicorn's master"):
        snowgreen.gunicorn.pre_fork(SimpleNamespace(WORKERS={}), worker(1))
    node.stop()
    with warnings.catch_warnings(action="error"):
        snowgreen.gunicorn.pre_fork(SimpleNamespace(WORKERS={}), worker(1))


def test_a_worker_knows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the fork the number is in the environment, where the name's placeholder finds it."""
    monkeypatch.setenv("SNOWGREEN_WORKER", "of another")
    snowgreen.gunicorn.post_fork(None, worker(1, 7))
    assert os.environ["SNOWGREEN_WORKER"] == "7"
    snowgreen.gunicorn.post_fork(None, worker(1))
    assert os.environ["SNOWGREEN_WORKER"] == "7"


def test_the_master_stops_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a worker that vanished gunicorn calls worker_exit in the master, too: nothing is stopped there."""
    stopped: list[float] = []
    monkeypatch.setattr(snowgreen.gunicorn, "_stop", stopped.append)
    snowgreen.gunicorn.worker_exit(None, worker(os.getpid() + 1))
    assert stopped == []
    snowgreen.gunicorn.worker_exit(None, worker(os.getpid()))
    assert stopped == [0.25]


def test_other_workers_are_refused() -> None:
    """A worker class without gevent's loop would let links die between requests: it is refused, with what to do."""
    with pytest.raises(
        snowgreen.ConfigurationError, match=r"worker_class: is SimpleNamespace.* gunicorn -k gevent"
    ):
        snowgreen.gunicorn.post_worker_init(worker(1))


def test_an_open_request_does_not_cost_the_goodbye(
    start: Start, hub: Process, hub_port: int, tmp_path: Path
) -> None:
    """With a request that does not end, the links end with a goodbye before gunicorn's graceful timeout does it by force."""
    (port,) = free_ports(1)
    server = serve(start, tmp_path, port, hub_port, "--graceful-timeout", "2")
    url = f"http://127.0.0.1:{port}"
    until(
        lambda: re.fullmatch(r"web-1@127\.0\.0\.1:\d+ 1", http(url)[1]), "its worker is linked with the hub"
    )
    slow = gevent.spawn(http, f"{url}/slow")
    until(lambda: slow.started, "it asks")
    http(url)  # by now the other has arrived
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: "said goodbye" in hub.output, "it said goodbye", detail=lambda: hub.output)
    assert server.ends() == 0
    assert "is down" not in hub.output
    slow.join(timeout=10)


def test_a_worker_that_is_replaced_hands_its_number_on(
    start: Start, hub: Process, hub_port: int, tmp_path: Path
) -> None:
    """After max_requests a worker says goodbye, and its successor has its number; also where the application was loaded before the fork."""
    (port,) = free_ports(1)
    serve(start, tmp_path, port, hub_port, "--preload", "--max-requests", "1")
    url = f"http://127.0.0.1:{port}"
    hub.says("is up")
    assert http(url)[1].startswith("web-1@")
    hub.says("said goodbye")
    hub.says("is up", count=2)
    assert len(set(re.findall(r"^(web-1@\S+) is up", hub.output, re.MULTILINE))) == 2


def test_a_node_that_cannot_start_ends_the_server_and_says_why(
    start: Start, hub: Process, hub_port: int, tmp_path: Path
) -> None:
    """A port that is taken is named in gunicorn's log, and gunicorn does not try for ever."""
    hub.says("is there")
    (tmp_path / "app.py").write_text(APP.replace(":0", f":{hub_port}"))
    (port,) = free_ports(1)
    command = [str(BIN / "gunicorn"), "-k", "gevent", "-c", "python:snowgreen.gunicorn"]
    server = start(
        *command, "-b", f"127.0.0.1:{port}", "app:application", folder=tmp_path, HUB="hub@127.0.0.1:1"
    )
    assert server.ends() == 3
    assert f"127.0.0.1:{hub_port} cannot be bound: it is taken by another process" in server.output
    server.expected = True
