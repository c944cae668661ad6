"""The dashboard over HTTP: served by itself, inside another application, and by the command line."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.pywsgi import WSGIServer

import snowgreen
from snowgreen import web
from snowgreen.web import feed as feeds
from snowgreen.web import server as servers
from tests.conftest import COOKIE, MakeNode
from tests.staged import Staged
from tests.system.processes import until_line
from tests.test_web_access import TOKEN
from tests.test_web_picture import Page
from tests.waiting import until


class Client:
    """A browser of one connection."""

    def __init__(self, port: int, **options: Any) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        for option, value in options.items():
            self.sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        self.file = self.sock.makefile("rb")
        self.reader: gevent.Greenlet[..., None] | None = None

    def get(self, path: str = "/", version: str = "1.1", **headers: str) -> tuple[int, dict[str, str]]:
        lines = [f"GET {path} HTTP/{version}", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        status = int(self.file.readline().split()[1])
        found = {}
        while (line := self.file.readline().decode().rstrip()) != "":
            name, _, value = line.partition(": ")
            found[name.lower()] = value
        return status, found

    def body(self, headers: dict[str, str]) -> bytes:
        return self.file.read(int(headers["content-length"]))

    def chunks(self) -> Iterator[bytes]:
        while (size := int(self.file.readline(), 16)) > 0:
            yield self.file.read(size + 2)[:-2]

    def close(self) -> None:
        if self.reader is not None:
            self.reader.kill()
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watching:
    """A client that follows the events, and the page it puts together."""

    def __init__(self, client: Client, path: str = "/events", **headers: str) -> None:
        self.status, self.headers = client.get(path, **headers)
        assert self.status == 200, self.status
        self.page = Page()
        self.greenlet = client.reader = gevent.spawn(self._read, client)

    def _read(self, client: Client) -> None:
        for chunk in client.chunks():
            if chunk.startswith(b"event"):
                self.page.apply(json.loads(chunk.split(b"data: ")[1]))

    @property
    def peers(self) -> set[str]:
        return {link["peer"] for link in self.page.links.values()}


@pytest.fixture
def serve() -> Any:
    """A maker of served dashboards, each of which is stopped."""
    running: list[WSGIServer] = []

    def make(node: snowgreen.Node, **options: Any) -> int:
        server = web.serve(node, "127.0.0.1:0", **options)
        running.append(server)
        return int(server.server_port)

    make.running = running  # type: ignore[attr-defined]  # a function may have attributes
    yield make
    for server in running:
        server.stop(timeout=0)
        until(lambda server=server: not server.application._feed.watched, "the feed has ended")


def test_a_real_link_is_seen_to_come_and_go(make_node: MakeNode, serve: Any):
    """The page is served, and its stream tells within two seconds of a link that comes up, and goes down."""
    node, peer = make_node(), make_node()
    port = serve(node)
    with Client(port) as client:
        status, headers = client.get("/")
        assert status == 200
        assert b"static/app.js" in client.body(headers)
        watching = Watching(client)
        assert watching.headers["content-type"].startswith("text/event-stream")
        assert watching.headers["x-accel-buffering"] == "no"
        until(lambda: "name" in vars(watching.page).get("node", {}), "it has begun")
        peer.connect(node.name)
        until(lambda: watching.peers == {peer.name}, "the link is seen", timeout=2)
        peer.stop()
        until(lambda: not watching.peers, "its end is seen", timeout=2)
        assert watching.page.events[-1]["kind"] == "down"


def test_several_requests_on_one_connection(serve: Any):
    """Every answer says how long it is, so that a browser's connection is used again."""
    with Client(serve(Staged())) as client:
        for path in ("/", "/static/style.css", "/nothing", "/status.json", "/static/app.js"):
            _, headers = client.get(path)
            assert client.body(headers)


def test_a_stream_for_an_old_client(serve: Any):
    """A client that does not know chunks (HTTP/1.0) gets the stream as it is."""
    with Client(serve(Staged())) as client:
        status, headers = client.get("/events", version="1.0")
        assert (status, client.file.readline()) == (200, b"retry: 1000\n")
        assert "transfer-encoding" not in headers
        assert client.file.readline() == b"\n"
        assert client.file.readline() == b"event: change\n"


def test_a_closed_browser_frees_its_place(serve: Any, monkeypatch: pytest.MonkeyPatch):
    """Whoever goes away without a word is noticed with the next words to him."""
    monkeypatch.setattr(feeds, "PERIOD", 0.05)
    port = serve(Staged())
    feed = serve.running[0].application._feed
    client = Client(port)
    Watching(client)
    until(lambda: feed.watched, "somebody watches")
    client.close()
    until(lambda: not feed.watched, "nobody watches", timeout=2)


def test_who_does_not_read_is_cut_off(serve: Any, monkeypatch: pytest.MonkeyPatch):
    """A client that leaves everything unread loses its connection; the one beside it misses nothing."""
    monkeypatch.setattr(feeds, "PERIOD", 0.01)
    node = Staged()
    sessions = [node.up(f"{'n' * 60}{number}@127.0.0.1:1") for number in range(1500)]
    port = serve(node)
    feed = serve.running[0].application._feed

    def move() -> None:
        while True:
            for session in sessions:
                session.bytes_sent += 10**12 + 1
            gevent.sleep(0.01)

    mover = gevent.spawn(move)
    with Client(port, SO_RCVBUF=4096) as slow, Client(port) as quick:
        slow.get("/events")
        watching = Watching(quick)
        until(lambda: len(feed._viewers) == 2, "both watch")
        until(lambda: len(feed._viewers) == 1, "the slow one is let go", timeout=20)
        mover.kill()
        until(
            lambda: {link["bytes_sent"] for link in watching.page.links.values()} == {sessions[0].bytes_sent},
            "the other one is up to date",
        )


def test_a_request_has_only_so_long(serve: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    """A request that comes in drips, or not at all, ends its connection, quietly."""
    monkeypatch.setattr(servers, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(servers, "_IDLE_SECONDS", 0.3)
    port = serve(Staged())
    began = time.monotonic()
    with Client(port) as silent, Client(port) as dripping:
        dripping.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")

        def drip() -> None:
            with contextlib.suppress(OSError):
                while True:
                    dripping.sock.sendall(b"x")
                    gevent.sleep(0.02)

        drips = gevent.spawn(drip)
        assert silent.file.read() == b""
        drips.join(5)
        assert drips.dead
    assert time.monotonic() - began < 5
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "begin",
    ["GET /", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"],
    ids=["line", "body"],
)
def test_drips_hold_no_connection(serve: Any, monkeypatch: pytest.MonkeyPatch, begin: str):
    """A request line that comes in drips has only so long, and a body is not waited for at all."""
    monkeypatch.setattr(servers, "_IDLE_SECONDS", 0.3)
    with Client(serve(Staged())) as dripping:
        dripping.sock.sendall(begin.encode())

        def drip() -> None:
            with contextlib.suppress(OSError):
                while True:
                    dripping.sock.sendall(b"x")
                    gevent.sleep(0.02)

        drips = gevent.spawn(drip)
        drips.join(5)
        dripped = drips.dead
        drips.kill()
        assert dripped


@pytest.mark.parametrize(
    "request_text",
    [
        f"GET /?token={TOKEN} and more HTTP/1.1\r\n\r\n",
        f"GET /?token={TOKEN} HTTP/1\r\n\r\n",
        f"DO {TOKEN}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{TOKEN}: {'x' * 70_000}\r\n\r\n",
        "GET / HTTP/1.1\r\n" + f"{TOKEN}: x\r\n" * 200 + "\r\n",
        "GET / HTTP/1.1\r\n" + f"{TOKEN}: {'x' * 1000}\r\n" * 40 + "\r\n",
        f"GET / HTTP/1.1\r\nContent-Length: {TOKEN}\r\n\r\n",
    ],
    ids=["spaces", "version", "method", "long", "many", "large", "length"],
)
def test_what_is_no_request_leaves_no_trace(serve: Any, caplog: Any, capfd: Any, request_text: str):
    """It is refused with all the headers of an answer; what it held, perhaps the token, is not logged."""
    caplog.set_level("DEBUG")
    with Client(serve(Staged(), token=TOKEN)) as client:
        client.sock.sendall(request_text.encode())
        answer = client.file.readline()
        while (line := client.file.readline().strip()) and b"Content-Security-Policy" not in line:
            pass
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert line
    assert TOKEN not in caplog.text
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    assert capfd.readouterr().err == ""


def test_the_head_of_a_stream_ends_with_itself(serve: Any):
    """What comes behind it on the same connection is the next answer, and no end of chunks."""
    with Client(serve(Staged())) as client:
        client.sock.sendall(b"HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while client.file.readline().strip():
            pass
        assert client.get("/status.json")[0] == 200


def test_stopping_the_server_ends_the_streams(serve: Any):
    """A server that is stopped does not wait for those who watch."""
    with Client(serve(Staged())) as client:
        watching = Watching(client)
        until(lambda: "name" in vars(watching.page).get("node", {}), "it has begun")
        began = time.monotonic()
        serve.running[0].stop(timeout=0)
        watching.greenlet.join(2)
        assert watching.greenlet.dead
        assert time.monotonic() - began < 2


def test_a_child_of_a_fork_answers_nobody():
    """Its node is another one: who asks, the child itself too, and who watches, hear of the parent's."""
    code = """
        import json, os, gevent, gevent.os, snowgreen
        from gevent import socket
        from snowgreen import web
        node = snowgreen.Node("p@127.0.0.1:0", cookie="correct horse battery staple").start()
        server = web.serve(node, "127.0.0.1:0")
        place = ("127.0.0.1", server.server_port)
        def ask(path):
            sock = socket.create_connection(place, timeout=10)
            sock.sendall(f"GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n".encode())
            return sock.makefile("rb")
        watched = ask("/events")
        while b"data" not in watched.readline():
            pass
        parent = os.getpid()
        read, write = os.pipe()
        pid = gevent.os.fork_gevent()
        if pid == 0:
            try:
                told = {json.loads(ask("/status.json").read().split(b"\\n")[-1])["node"]["pid"] for _ in range(20)}
                gevent.sleep(0)
                os.write(write, b"ok" if told == {parent} and not server.pool else b"no")
            finally:
                os._exit(0)
        print(gevent.os.tp_read(read, 2).decode())
        while b"data" not in (line := watched.readline()):
            assert line
        server.stop(timeout=0)
        node.stop()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_the_token_over_http(serve: Any):
    """A browser with the token in its address gets a cookie and the page without it; a program sends it."""
    with Client(serve(Staged(), token=TOKEN)) as client:
        status, headers = client.get("/")
        assert status == 401
        assert TOKEN.encode() not in client.body(headers)
        status, headers = client.get(f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, "./")
        client.body(headers)
        cookie = headers["set-cookie"].split(";")[0]
        status, headers = client.get("/", Cookie=cookie)
        assert status == 200
        client.body(headers)
        assert Watching(client, Authorization=f"Bearer {TOKEN}").status == 200


def test_beyond_loopback_only_with_a_token():
    """A dashboard that others could reach is refused without a token, and the error says what to do."""
    for address in ("0.0.0.0:9180", "[::]:9180", "192.0.2.1", "node.example:80"):
        with pytest.raises(
            snowgreen.ConfigurationError, match=r"^address: .* add a token .*, or bind to 127\.0\.0\.1:\d+"
        ):
            web.serve(Staged(), address)
        assert str(servers.check_address(address, protected=True)).startswith(address.split(":")[0])
    assert str(servers.check_address("localhost", protected=False)) == "localhost:9180"


def test_with_a_token_it_is_served_to_others():
    """All addresses of this machine can be bound with a token, and every request has to have it."""
    server = web.serve(Staged(), "0.0.0.0:0", token=TOKEN)
    try:
        with Client(server.server_port) as client:
            assert client.get("/")[0] == 401
    finally:
        server.stop(timeout=0)


@pytest.mark.parametrize("address", ["", "127.0.0.1:x", "127.0.0.1:99999", "http://localhost:9180", "::1"])
def test_what_is_no_address_is_refused(address: str):
    """An address that is none is named in the error."""
    with pytest.raises(snowgreen.ConfigurationError, match=r"^address: "):
        web.serve(Staged(), address)


def test_an_address_that_is_taken_is_refused(serve: Any):
    """The error names the address."""
    port = serve(Staged())
    with pytest.raises(snowgreen.ConfigurationError, match=rf"^address: 127.0.0.1:{port} cannot be bound: "):
        web.serve(Staged(), f"127.0.0.1:{port}")


def test_inside_a_flask_application(make_node: MakeNode):
    """Mounted beside the routes of a Flask application, under two names at once, each with its node."""
    flask = pytest.importorskip("flask")
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    one, other = make_node(), make_node()
    app = flask.Flask("shop")
    app.add_url_rule("/", view_func=lambda: "the shop")
    mounts = {"/ops/one": web.dashboard(one), "/ops/other": web.dashboard(other)}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, mounts)
    server = WSGIServer(("127.0.0.1", 0), app, log=None)
    server.start()
    try:
        with Client(server.server_port) as client:
            assert client.body(client.get("/")[1]) == b"the shop"
            status, headers = client.get("/ops/one")
            assert (status, headers["location"]) == (308, "./one/")
            client.body(headers)
            for path, node in (("one", one), ("other", other)):
                status, headers = client.get(f"/ops/{path}/status.json")
                assert json.loads(client.body(headers))["node"]["name"] == node.name
            watching = Watching(client, "/ops/other/events")
            one.connect(other.name)
            until(lambda: watching.peers == {one.name}, "the link is seen", timeout=2)
    finally:
        server.stop(timeout=0)
    until(lambda: not mounts["/ops/other"]._feed.watched, "the feed has ended")  # type: ignore[attr-defined]


# The command line.


def command(tmp_path: Path, *arguments: str) -> list[str]:
    cookie = tmp_path / "cookie"
    cookie.write_text(COOKIE)
    cookie.chmod(0o600)
    return [
        sys.executable,
        "-m",
        "snowgreen",
        "start",
        "--no-control",
        "--cookie-file",
        str(cookie),
        *arguments,
    ]


def test_start_serves_the_dashboard(tmp_path: Path):
    """`snowgreen start --dashboard` says where its page is, serves it with the token only, and ends at a signal."""
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    where = ["--dashboard", "127.0.0.1:0", "--dashboard-token-file", str(token)]
    running = subprocess.Popen(
        command(tmp_path, "--name", "shown@127.0.0.1:0", *where),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PYTHONUNBUFFERED": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    try:
        line = until_line(running.stdout, "dashboard")
        found = re.search(r"http://127\.0\.0\.1:(\d+)/$", line.strip())
        assert found, line
        until_line(running.stdout, "fingerprint")
        with Client(int(found[1])) as client:
            assert client.get("/status.json")[0] == 401
        with Client(int(found[1])) as client:
            _, headers = client.get("/status.json", Authorization=f"Bearer {TOKEN}")
            assert json.loads(client.body(headers))["node"]["name"].startswith("shown@127.0.0.1:")
            watching = Watching(client, Authorization=f"Bearer {TOKEN}")
            until(lambda: "name" in vars(watching.page).get("node", {}), "it has begun")
            running.terminate()
            rest, _ = running.communicate(timeout=10)
        assert "stopped by SIGTERM" in rest
        assert "Traceback" not in rest
        assert running.returncode == 0
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dashboard", "0.0.0.0:9180"], r"error: --dashboard: 0\.0\.0\.0 may be reached from outside.*add a token"),
        (["--dashboard", "nonsense:port"], r"error: --dashboard: .*is no address"),
        (["--dashboard", "127.0.0.1", "--dashboard-token-file", "{}/none"], r"does not exist; make it with"),
        (["--dashboard", "127.0.0.1", "--dashboard-token-file", "{}/open"], r"open to other users"),
        (["--dashboard", "127.0.0.1", "--dashboard-token-file", "{}/weak"], r"--dashboard-token-file: .*shorter than 16"),
        (["--dashboard-token-file", "{}/weak"], r"--dashboard-token-file goes with --dashboard"),
    ],
)  # fmt: skip
def test_start_refuses_before_it_starts(tmp_path: Path, arguments: list[str], words: str):
    """What cannot be served safely is one clear line on stderr, and no node was started for it."""
    for name, mode, text in (("open", 0o644, TOKEN), ("weak", 0o600, "not-so-long")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    run = subprocess.run(
        command(tmp_path, *(argument.format(tmp_path) for argument in arguments)),
        capture_output=True,
        text=True,
        timeout=20,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert run.returncode in (1, 2)
    assert run.stdout == ""
    assert re.search(words, run.stderr), run.stderr
    assert "not-so-long" not in run.stderr
    assert "Traceback" not in run.stderr
