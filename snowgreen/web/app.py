"""The dashboard as a WSGI application: which request gets which answer."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gevent
import msgspec

from .. import status
from ..errors import ConfigurationError
from ..node import Node
from .access import Guard, asked_token
from .feed import Feed
from .picture import SLICE
from .reply import EVENTS, JSON, Reply, words

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: Bytes of a query; of it, nothing but the token is read.
_LONGEST_QUERY = 1024
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE = "index.html"


def dashboard(node: Node, *, token: str | None = None) -> WSGIApplication:
    """A page that shows what `node` is doing, as a WSGI application that only reads.

    It can be mounted under any path, and is served in the node's thread, by gevent: ``gevent.pywsgi``, or
    ``gunicorn -k gevent``. Of the node it shows names, addresses and events, never a secret or a message. It
    opens nothing, and until somebody looks it costs nothing.

    :param node: started or not; the page also shows that it is stopped, and when it is started again.
    :param token: 16 to 256 characters that whoever looks has to prove to have. Default: None, and only
        requests made on this machine, for localhost or a loopback address, are answered.
    :raises ConfigurationError: if `node` is no node, or the token can be guessed. The token is not shown.
    """
    given: object = node
    if not isinstance(given, Node):
        raise ConfigurationError("node", f"must be a snowgreen.Node, not {type(given).__name__}")
    return _Dashboard(node, Guard(token))


class _Dashboard:
    def __init__(self, node: Node, guard: Guard) -> None:
        self._node = node
        self._guard = guard
        self._feed = Feed(node)
        self._files = _static_files()
        self._routes: dict[str, Callable[[WSGIEnvironment], Reply]] = {
            "/": self._page,
            "/status.json": self._status,
            "/events": self._events,
            "/metrics": self._metrics,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reply = self._answer(environ)
        start_response(reply.line, reply.all_headers())
        return reply.pieces(head=environ["REQUEST_METHOD"] == "HEAD")

    def __repr__(self) -> str:
        return f"<dashboard of {self._node!r}>"

    def _answer(self, environ: WSGIEnvironment) -> Reply:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return words(405, "The dashboard only reads: GET and HEAD.", ("Allow", "GET, HEAD"))
        if len(environ.get("QUERY_STRING", "")) > _LONGEST_QUERY:
            return words(400, f"The query is longer than {_LONGEST_QUERY} characters.")
        path = environ.get("PATH_INFO", "")
        if path in ("", "/"):
            admitted = self._guard.admission(environ)
            if admitted is not None:
                return Reply(303, kind=None, headers=(("Location", _home(environ)), ("Set-Cookie", admitted)))
        refusal = self._guard.refusal(environ)
        if refusal is not None:
            return refusal
        if path == "" and environ.get("SCRIPT_NAME"):  # what the page asks for is beside it
            return Reply(308, kind=None, headers=(("Location", _home(environ)),))
        if path.startswith("/static/"):
            return self._static(environ, path.removeprefix("/static/"))
        route = self._routes.get(path or "/")
        return words(404, "The dashboard has no such page.") if route is None else route(environ)

    def _page(self, environ: WSGIEnvironment) -> Reply:
        if asked_token(environ) is not None:  # it has no place in the address bar, needed or not
            return Reply(303, kind=None, headers=(("Location", _home(environ)),))
        return self._static(environ, _PAGE)

    def _static(self, environ: WSGIEnvironment, name: str) -> Reply:
        if name not in self._files:
            return words(404, "The dashboard has no such file.")
        body, kind, tag = self._files[name]
        headers = (("ETag", tag),)
        if tag in str(environ.get("HTTP_IF_NONE_MATCH", ""))[:_LONGEST_QUERY]:
            return Reply(304, kind=None, headers=headers, keep=True)
        return Reply(200, body, kind, headers, keep=True)

    def _status(self, environ: WSGIEnvironment) -> Reply:
        return Reply(200, status_json(self._node), JSON)

    def _events(self, environ: WSGIEnvironment) -> Reply:
        if not _belongs_here(self._node):
            return words(
                503,
                "The node runs in another thread than this request. Serve its dashboard from the thread that "
                "started it, with gevent.",
            )
        if self._feed.full:
            return words(503, "As many look at this dashboard as may at once.", ("Retry-After", "10"))
        headers = (("X-Accel-Buffering", "no"),)  # nginx would gather events before it passes them on
        if environ["REQUEST_METHOD"] == "HEAD":
            return Reply(200, b"", EVENTS, headers)  # with a length: the end of chunks would be a body
        return Reply(200, self._feed.join(), EVENTS, headers)

    def _metrics(self, environ: WSGIEnvironment) -> Reply:
        try:
            from .. import metrics

            body, kind = metrics.exposition(self._node)
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "prometheus_client":
                raise
            return words(501, "Metrics need the package prometheus-client: pip install 'snowgreen[metrics]'.")
        return Reply(200, body, kind)


def status_json(node: Node) -> bytes:
    """All that there is to tell of `node`, as JSON; written in slices, between which the loop runs."""
    links = []
    for count, (_, session) in enumerate(sorted(node.sessions.items()), 1):
        links.append(msgspec.json.encode(status.link_status(session)))
        if count % SLICE == 0:
            gevent.sleep(0)
    rest: dict[str, Any] = {
        "at": time.time(),
        "node": status.node_status(node),
        "missing": status.missing(node),
        "failures": status.failures(node),
        "events": status.events(node),
        "mesh": status.mesh(node),
    }
    return msgspec.json.encode(rest)[:-1] + b',"links":[' + b",".join(links) + b"]}"


@functools.cache
def _static_files() -> dict[str, tuple[bytes, str, str]]:
    """Name → content, type and entity tag of what the page is made of."""
    found = {}
    for file in (resources.files(__package__) / "static").iterdir():
        ending = file.name.rpartition(".")[2]
        if ending in _KINDS:
            body = file.read_bytes()
            found[file.name] = (body, _KINDS[ending], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def _home(environ: WSGIEnvironment) -> str:
    """The page, relative to what was asked for, which is it or it without its slash.

    Never made from more of the path than that: ``//elsewhere/`` would lead elsewhere.
    """
    if environ.get("PATH_INFO"):
        return "./"
    name = str(environ.get("SCRIPT_NAME", "")).rpartition("/")[2]
    return f"./{quote(name.encode('latin-1', 'replace'), safe='')}/" if name else "./"


def _belongs_here(node: Node) -> bool:
    endpoint = node._endpoint
    return endpoint is None or endpoint.hub.loop is gevent.get_hub().loop
