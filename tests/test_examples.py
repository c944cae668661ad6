"""The examples, started as a user starts them: real servers, real HTTP, real links between their nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.programs import BIN, Process, Start, free_ports, http
from tests.programs import started_programs as started_programs  # the fixture "start"
from tests.waiting import until

EXAMPLES = Path(__file__).parents[1] / "examples"
JOBS, PYWSGI = EXAMPLES / "jobs", EXAMPLES / "pywsgi"


class Board:
    """A job board behind one server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def look(self) -> dict[str, Any]:
        """What one of its workers has on its board."""
        status, text = http(f"{self.url}/jobs")
        assert status in (0, 200), text
        return json.loads(text) if status else {"node": "", "members": [], "jobs": []}

    def workers(self, members: int) -> set[str]:
        """The names of its workers, once each of two is seen to be one of so many members."""
        seen: set[str] = set()

        def all_seen() -> bool:
            found = self.look()
            if len(found["members"]) == members:
                seen.add(found["node"])
            return len(seen) == 2

        what = f"two workers, each among {members} members"
        until(all_seen, what, timeout=30, detail=lambda: (seen, self.look()))
        return seen

    def shows(self, text: str, taken_by: str | None) -> None:
        """Wait until both workers have that job on their board."""
        seen: set[str] = set()

        def on_all() -> bool:
            found = self.look()
            if any(job["text"] == text and job["taken_by"] == taken_by for job in found["jobs"]):
                seen.add(found["node"])
            return len(seen) == 2

        until(on_all, f"{text} on every board", timeout=30, detail=self.look)


def serve_jobs(start: Start, port: int, name: str, hub: int, *options: str) -> Process:
    return start(
        *(str(BIN / "gunicorn"), "-b", f"127.0.0.1:{port}", *options, "app:app"),
        folder=JOBS,
        JOBS_NAME=name,
        JOBS_HUB=f"hub@127.0.0.1:{hub}",
    )


def test_the_job_board_is_one_on_two_servers(start: Start) -> None:
    """Two gunicorns with two workers each, one of them preloaded: what is posted at one worker all show, it is taken once, and at SIGTERM all say goodbye."""
    hub_port, web_port, api_port = free_ports(3)
    hub = start(sys.executable, "hub.py", folder=JOBS, JOBS_HUB=f"hub@127.0.0.1:{hub_port}")
    hub.says("is there")
    servers = [
        serve_jobs(start, web_port, "web", hub_port),
        serve_jobs(start, api_port, "api", hub_port, "--preload"),
    ]
    web, api = Board(web_port), Board(api_port)
    names = web.workers(members=5) | api.workers(members=5)
    assert {name.partition("@")[0] for name in names} == {"web-1", "web-2", "api-1", "api-2"}

    assert http(f"{web.url}/jobs", text="paint <b>it</b>")[0] == 200  # after the redirect, the page
    api.shows("paint <b>it</b>", taken_by=None)
    assert "paint &lt;b&gt;it&lt;/b&gt;" in http(web.url)[1]
    (job,) = web.look()["jobs"]
    take = f"{api.url}/jobs/{job['id']}/take"
    answers = [http(take, by="ann")[0], http(take, by="bob")[0]]
    assert answers == [200, 409]
    web.shows("paint <b>it</b>", taken_by="ann")
    assert http(f"{web.url}/jobs", text="")[0] == 400

    for server in servers:
        os.kill(server.pid, signal.SIGTERM)
    assert [server.ends() for server in servers] == [0, 0]
    hub.says("has left: the peer said goodbye", count=4)
    assert "is down" not in hub.output


def test_the_wall_is_one_on_two_servers(start: Start) -> None:
    """Two pywsgi servers without a monkey-patch show what is written on either, and leave with a goodbye."""
    left_port, right_port, one, other = free_ports(4)
    left_name, right_name = f"left@127.0.0.1:{one}", f"right@127.0.0.1:{other}"
    wall = [sys.executable, "wall.py"]
    left = start(*wall, str(left_port), left_name, right_name, folder=PYWSGI)
    left.says("shows")
    right = start(*wall, str(right_port), right_name, left_name, folder=PYWSGI)
    right.says("shows")
    here, there = f"http://127.0.0.1:{left_port}/", f"http://127.0.0.1:{right_port}/"

    def written(text: str) -> bool:
        """Whether it is on the other wall; whoever is not linked yet is not told, so say it again."""
        assert http(here, text=text)[0] in (0, 204)
        return f"{left_name}: text={text}\n" in http(there)[1]

    until(lambda: written("hello"), "what is written on one wall is on the other")
    assert f"{left_name}: text=hello\n" in http(here)[1]
    for process in (left, right):
        os.kill(process.pid, signal.SIGTERM)
        assert process.ends() == 0


def test_a_crash_and_a_reload_leave_no_name_twice(start: Start) -> None:
    """A killed worker's successor has its number; after SIGHUP the new workers have the next ones, and the old ones have said goodbye."""
    hub_port, port = free_ports(2)
    hub = start(sys.executable, "hub.py", folder=JOBS, JOBS_HUB=f"hub@127.0.0.1:{hub_port}")
    hub.says("is there")
    server = serve_jobs(start, port, "web", hub_port, "--graceful-timeout", "4")
    board = Board(port)
    assert numbers(board.workers(members=3)) == {"web-1", "web-2"}
    os.kill(int(re.findall(r"Booting worker with pid: (\d+)", server.output)[0]), signal.SIGKILL)
    hub.says("web-1@", count=3)  # it was up, is down, and its successor is up
    assert re.search(r"^web-1@\S+ is down", hub.output, re.MULTILINE)
    assert numbers(board.workers(members=3)) == {"web-1", "web-2"}
    os.kill(server.pid, signal.SIGHUP)
    hub.says("has left: the peer said goodbye", count=2)
    assert numbers(board.workers(members=3)) == {"web-3", "web-4"}
    os.kill(server.pid, signal.SIGTERM)
    assert server.ends() == 0
    hub.says("has left: the peer said goodbye", count=4)


def numbers(names: set[str]) -> set[str]:
    return {name.partition("@")[0] for name in names}
