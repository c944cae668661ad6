"""docs/embedding.md: each of its programs does what the page says, started as it says."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.programs import BIN, Process, Start, free_ports, http
from tests.programs import started_programs as started_programs  # the fixture "start"
from tests.waiting import until

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "embedding.md").read_text("utf-8")
BLOCKS = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


def titled(title: str, index: int = 0) -> str:
    """The block of that title, the first one unless told."""
    return [text for _, named, text in BLOCKS if named == title][index]


@pytest.fixture
def ports() -> list[int]:
    """Of the hub, and of the web server."""
    return free_ports(2)


@pytest.fixture
def hub(start: Start, ports: list[int], tmp_path: Path) -> Process:
    """The hub, by the command of the page."""
    (command,) = re.findall(r"`snowgreen (start --name hub@127\.0\.0\.1:9100)`", PAGE)
    words = command.replace("9100", str(ports[0])).split()
    process = start(sys.executable, "-m", "snowgreen", *words, folder=tmp_path)
    process.says("fingerprint")
    return process


def local(text: str, ports: list[int]) -> str:
    return text.replace("hub@127.0.0.1:9100", f"hub@127.0.0.1:{ports[0]}").replace("8000", str(ports[1]))


@pytest.mark.parametrize("way", ["module", "configurations"])
def test_flask_under_gunicorn(start: Start, hub: Process, ports: list[int], tmp_path: Path, way: str) -> None:
    """With the hooks taken either way, both workers answer as shown, linked with the hub, and leave with a goodbye.

    The two configurations of the page are made one, with the patch and --preload.
    """
    (tmp_path / "app.py").write_text(local(titled("app.py"), ports))
    (command,) = [text for language, _, text in BLOCKS if language == "sh"]
    words = command.split()[1:]
    if way != "module":
        del words[words.index("-c") : words.index("-c") + 2]
        conf = titled("gunicorn.conf.py", 1) + titled("gunicorn.conf.py", 0)
        (tmp_path / "gunicorn.conf.py").write_text(conf)
        words.insert(0, "--preload")
    server = start(str(BIN / "gunicorn"), "-b", f"127.0.0.1:{ports[1]}", *words, folder=tmp_path)
    (shown,) = re.findall(r"^\$ curl -s (\S+)\n(.*)$", PAGE, re.MULTILINE)
    url, answer = (local(part, ports) for part in shown)
    seen: set[str] = set()

    def both() -> bool:
        status, text = http(url)
        if status and json.loads(text)["linked"] == json.loads(answer)["linked"]:
            seen.add(json.loads(text)["me"].partition("@")[0])
        return seen == {"web-1", "web-2"}

    until(both, "both workers answer", detail=lambda: server.output)
    assert json.loads(answer)["me"].startswith("web-1@127.0.0.1:")
    os.kill(server.pid, signal.SIGTERM)
    assert server.ends() == 0
    hub.says("has left: ", count=2)


def test_pywsgi(start: Start, hub: Process, ports: list[int], tmp_path: Path) -> None:
    """It shows who is linked, and at SIGTERM ends with a goodbye."""
    server = start(sys.executable, "-c", local(titled("serve.py"), ports), folder=tmp_path)
    shown = re.compile(rf"web@127\.0\.0\.1:\d+ hub@127\.0\.0\.1:{ports[0]}")
    until(lambda: shown.fullmatch(http(f"http://127.0.0.1:{ports[1]}/")[1]), "it answers")
    os.kill(server.pid, signal.SIGTERM)
    assert server.ends() == 0
    hub.says("has left: ")


def test_a_node_of_ones_own(start: Start, hub: Process, tmp_path: Path) -> None:
    """A node that is started and registered to stop by hand says goodbye when its process ends."""
    name = re.search(r"hub@\S+", hub.output)[0]
    code = titled("other.py") + f"\nnode.connect({name!r})\nprint(node.name)\n"
    process = start(sys.executable, "-c", code, folder=tmp_path)
    assert process.ends() == 0
    assert process.output == f"web-{process.pid}@{process.output.partition('@')[2]}"
    hub.says("has left: ")


def test_several_nodes(start: Start, ports: list[int], tmp_path: Path) -> None:
    """What comes to the one node goes on from the other, each under a cookie of its own."""
    code = titled("several.py")
    probe = f"""
import gevent, snowgreen
worker = snowgreen.Node("worker@127.0.0.1:{ports[0]}", cookie="what those inside know").start()
inbox = worker.mailbox("jobs")
def probe():
    with snowgreen.Node(cookie="what those outside know") as client:
        client.send(outside.name, "jobs", "knock")
        print(inbox.get(timeout=5).body)
    outside.stop()
gevent.spawn(probe)
"""
    before, loop = code.split("\nfor ")
    code = before + probe + "\nfor " + loop.replace("worker@127.0.0.1:9101", f"worker@127.0.0.1:{ports[0]}")
    process = start(sys.executable, "-c", code, folder=tmp_path)
    assert process.ends() == 0, process.output
    assert process.output == "knock\n"


def test_the_tests(start: Start, tmp_path: Path) -> None:
    """The tests that the page shows pass, with warnings as errors."""
    (tmp_path / "test_jobs.py").write_text(titled("test_jobs.py"))
    process = start(sys.executable, "-W", "error", "-m", "pytest", "-q", "test_jobs.py", folder=tmp_path)
    assert process.ends() == 0, process.output
    assert "5 passed" in process.output


def test_the_examples_are_shown_as_they_are() -> None:
    """The page shows every file of Python in examples/, whole, and tests/test_examples.py runs them."""
    files = {f"examples/{path.relative_to(EXAMPLES)}": path for path in EXAMPLES.rglob("*.py")}
    shown = {title for _, title, _ in BLOCKS if title.startswith("examples/")}
    assert shown == set(files)
    for title, path in files.items():
        assert titled(title) == path.read_text("utf-8"), f"{title} is another one in the page"


def test_every_program_is_run() -> None:
    """No other block of Python is left out above."""
    titles = [
        title for language, title, _ in BLOCKS if language == "python" and not title.startswith("examples/")
    ]
    assert titles == [
        *("app.py", "gunicorn.conf.py", "other.py", "serve.py", "several.py"),
        *("gunicorn.conf.py", "test_jobs.py"),
    ]
