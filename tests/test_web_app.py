"""The dashboard as a WSGI application, called as servers call it."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import gevent
import msgspec
import pytest

import snowgreen
from snowgreen import status, web
from snowgreen.web.feed import Viewer
from tests.conftest import COOKIE, MakeNode
from tests.staged import Staged
from tests.test_web_access import TOKEN, request

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script>"


class Answer:
    """What one request got."""

    def __init__(self, app: Callable[..., Any], path: str = "/", **changes: str) -> None:
        def start_response(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            self.line, self.headers = line, dict(headers)
            assert len(headers) == len(self.headers), "a header comes twice"

        self.iterable = app(request(PATH_INFO=path, **changes), start_response)
        self.status = int(self.line.split()[0])
        self.body = b"" if isinstance(self.iterable, Viewer) else b"".join(self.iterable)

    def close(self) -> None:
        close = getattr(self.iterable, "close", None)
        if close is not None:
            close()


@pytest.fixture
def node() -> Staged:
    return Staged()


@pytest.fixture
def app(node: Staged) -> Any:
    return web.dashboard(node)


def test_the_page_and_what_it_is_made_of(app: Any):
    """The page names its parts relative to itself; each is there, with its type and an entity tag."""
    page = Answer(app)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    parts = {
        "static/app.js": "text/javascript",
        "static/style.css": "text/css",
        "static/icon.svg": "image/svg+xml",
    }
    for part, kind in parts.items():
        assert f'"{part}"' in text
        answer = Answer(app, f"/{part}")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)
        again = Answer(app, f"/{part}", HTTP_IF_NONE_MATCH=answer.headers["ETag"])
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    assert 'href="/' not in text
    assert 'src="/' not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "<script>" not in text
    assert "style=" not in text


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/status.json", "/events", "/metrics", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_has_the_headers_that_protect_it(app: Any, path: str, method: str):
    """Whatever is asked: no scripts but ours, no framing, no guessing of types, no referrer, nothing stored."""
    answer = Answer(app, path, REQUEST_METHOD=method)
    answer.close()
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    kept = path in ("/", "/static/app.js") and method != "POST"
    assert answer.headers["Cache-Control"] == ("no-cache" if kept else "no-store")
    assert "Set-Cookie" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", ""]
)
def test_nothing_but_reading(app: Any, method: str):
    """Every other method is refused, whatever the path."""
    for path in ("/", "/events", "/nothing"):
        answer = Answer(app, path, REQUEST_METHOD=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_the_head_has_no_body(app: Any):
    """HEAD gets the headers of GET, and nothing behind them; of the stream, too."""
    for path in ("/", "/static/app.js", "/nothing"):
        head, whole = Answer(app, path, REQUEST_METHOD="HEAD"), Answer(app, path)
        assert (head.status, head.headers, head.body) == (whole.status, whole.headers, b"")
    stream = Answer(app, "/events", REQUEST_METHOD="HEAD")
    assert (stream.status, stream.body) == (200, b"")
    assert not isinstance(stream.iterable, Viewer)


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static/../app.py", "/static/..%2fapp.py", "/static/app.js/", "/static//app.js", "/static/app.py",
     "/app.py", "/status", "//", "/events/", "/STATUS.JSON", "/static/\x00", "/\xff", "status.json"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(app: Any, path: str):
    """There are the pages that there are, and no path leads out of them."""
    assert Answer(app, path).status == 404


@pytest.mark.parametrize(
    ("mount", "path", "location"),
    [("/ops/node", "", "./node/"), ("/ops", "", "./ops/"), ("/a b:c", "", "./a%20b%3Ac/")],
)
def test_a_mount_gets_its_slash(app: Any, mount: str, path: str, location: str):
    """Without a slash at its end the page would look for its parts in the wrong place."""
    answer = Answer(app, path, SCRIPT_NAME=mount)
    assert (answer.status, answer.headers["Location"]) == (308, location)
    assert Answer(app, "/", SCRIPT_NAME=mount).status == 200
    assert Answer(app, "").status == 200


@pytest.mark.parametrize("mount", ["//evil.example", "/x//evil.example", "/\\evil.example", "/évil\r\nX: y"])
def test_no_redirect_leads_elsewhere(node: Staged, mount: str):
    """What a request is told to go to is beside what it asked for."""
    app = web.dashboard(node, token=TOKEN)
    for path in ("", "/"):
        answer = Answer(app, path, SCRIPT_NAME=mount, QUERY_STRING=f"token={TOKEN}")
        location = answer.headers["Location"]
        assert answer.status == 303
        assert location.startswith("./")
        assert not set(location) & set("\r\n\\:")
        assert "//" not in location


def test_the_token_leaves_the_address_bar(node: Staged):
    """The page is asked for once with the token, and from then on with a cookie."""
    app = web.dashboard(node, token=TOKEN)
    assert Answer(app).status == 401
    assert Answer(app, QUERY_STRING="token=wrong").status == 401
    first = Answer(app, QUERY_STRING=f"token={TOKEN}")
    assert (first.status, first.headers["Location"]) == (303, "./")
    cookie = first.headers["Set-Cookie"].split(";")[0]
    assert Answer(app, HTTP_COOKIE=cookie).status == 200
    assert Answer(app, "/status.json", HTTP_COOKIE=cookie).status == 200
    assert Answer(app, "/status.json", QUERY_STRING=f"token={TOKEN}").status == 401
    assert Answer(app, "/status.json", HTTP_AUTHORIZATION=f"Bearer {TOKEN}").status == 200


def test_a_token_where_none_is_wanted_leaves_the_address_bar(app: Any):
    """A dashboard without a token takes one out of the URL all the same, and sets no cookie."""
    answer = Answer(app, QUERY_STRING="token=whatever")
    assert (answer.status, answer.headers["Location"]) == (303, "./")
    assert "Set-Cookie" not in answer.headers


def test_everything_is_behind_the_guard(node: Staged):
    """No path, there or not, tells a stranger anything."""
    for app, code in ((web.dashboard(node), 403), (web.dashboard(node, token=TOKEN), 401)):
        for path in ("", "/", "/static/app.js", "/status.json", "/events", "/metrics", "/nothing"):
            assert Answer(app, path, REMOTE_ADDR="192.0.2.1").status == code


def test_a_query_has_a_bound(app: Any):
    """A query longer than anything that is read of it is refused."""
    assert Answer(app, QUERY_STRING="a" * 1025).status == 400


def test_the_status_is_what_the_node_says(node: Staged, app: Any):
    """status.json is the node's status, its hostile parts as text in JSON."""
    node.up("one@127.0.0.1:1", rtt=0.5)
    node.fail(snowgreen.AuthenticationError(HOSTILE), claimed=HOSTILE)
    node.told = {"one@127.0.0.1:1": frozenset({"two@127.0.0.1:2"})}
    answer = Answer(app, "/status.json")
    assert answer.headers["Content-Type"] == "application/json"
    told = json.loads(answer.body)
    assert told["node"]["name"] == node.name
    for key, kind, real in (
        ("links", list[status.LinkStatus], status.links(node)),
        ("failures", list[status.FailureStatus], status.failures(node)),
        ("events", list[status.EventStatus], status.events(node)),
    ):
        assert msgspec.convert(told[key], kind) == real
    assert told["failures"][0]["claimed"] == HOSTILE
    assert told["mesh"] == {"one@127.0.0.1:1": ["two@127.0.0.1:2"]}


def test_a_large_status_lets_others_run(node: Staged, app: Any):
    """Between slices of a status with 2,000 links other greenlets run."""
    for number in range(2000):
        node.up(f"n{number}@127.0.0.1:1")
    turns = []

    def others() -> None:
        while True:
            turns.append(1)
            gevent.sleep(0)

    with gevent.spawn(others) as other:
        assert len(json.loads(Answer(app, "/status.json").body)["links"]) == 2000
        other.kill()
    assert len(turns) >= 20


def test_metrics(app: Any):
    """/metrics is what snowgreen.metrics says."""
    pytest.importorskip("prometheus_client")
    from snowgreen import metrics

    answer = Answer(app, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert b"snowgreen" in answer.body
    assert answer.headers["Content-Type"] == metrics.exposition(Staged())[1]


def test_metrics_without_their_package(app: Any, monkeypatch: pytest.MonkeyPatch):
    """Where prometheus-client is missing, the answer says what to install; another bug is not hidden by it."""
    missing = "prometheus_client"
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if rest and rest[2] and "metrics" in rest[2]:
            raise ModuleNotFoundError("it is not there", name=missing)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    answer = Answer(app, "/metrics")
    assert answer.status == 501
    assert b"pip install 'snowgreen[metrics]'" in answer.body
    missing = "something_else"
    with pytest.raises(ModuleNotFoundError):
        Answer(app, "/metrics")


def test_viewers_have_a_bound(app: Any):
    """The viewer after the last is told to come again; one who leaves makes room."""
    viewers = [Answer(app, "/events") for _ in range(32)]
    assert {viewer.status for viewer in viewers} == {200}
    for method in ("GET", "HEAD"):
        late = Answer(app, "/events", REQUEST_METHOD=method)
        assert (late.status, late.headers["Retry-After"]) == (503, "10")
    viewers.pop().close()
    viewers.append(Answer(app, "/events"))
    assert viewers[-1].status == 200
    for viewer in viewers:
        viewer.close()


def test_a_server_in_another_thread_is_told_so(make_node: MakeNode):
    """The stream of a node is served where the node runs; elsewhere the answer says why it is not."""
    app = web.dashboard(make_node())
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(Answer(app, "/events")))
    thread.start()
    gevent.get_hub().threadpool.apply(thread.join)
    assert answers[0].status == 503
    assert b"another thread" in answers[0].body


def test_it_keeps_to_wsgi(app: Any):
    """Python's own checker of WSGI applications has nothing to say against it."""
    for path in ("/", "/status.json", "/static/app.js", "/nothing"):
        environ = request(PATH_INFO=path) | {
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "9180",
            "wsgi.version": (1, 0),
            "wsgi.input": _Nothing(),
            "wsgi.errors": _Nothing(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        result = validator(app)(environ, lambda line, headers, exc_info=None: lambda body: None)
        b"".join(result)
        result.close()


class _Nothing:
    def read(self, size: int) -> bytes:
        return b""

    def readline(self) -> bytes:
        return b""

    def readlines(self) -> list[bytes]:
        return []

    def __iter__(self) -> Any:
        return iter(())

    def write(self, text: str) -> None:
        raise AssertionError(text)

    def writelines(self, lines: list[str]) -> None:
        raise AssertionError(lines)

    def flush(self) -> None:
        pass


def test_what_is_no_node_or_no_token_is_refused():
    """Both arguments are checked at once, and the token is in no error."""
    with pytest.raises(snowgreen.ConfigurationError, match=r"node: must be a snowgreen.Node, not str"):
        web.dashboard("node")  # type: ignore[arg-type]
    with pytest.raises(snowgreen.ConfigurationError, match=r"^token: ") as caught:
        web.dashboard(Staged(), token="too short")
    assert "too short" not in str(caught.value)


def test_its_repr_shows_the_node_and_no_secret(node: Staged):
    """The application can be printed."""
    shown = repr(web.dashboard(node, token=TOKEN))
    assert node.name in shown
    assert TOKEN not in shown
    assert COOKIE not in shown
