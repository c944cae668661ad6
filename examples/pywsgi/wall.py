"""A wall to write on, in gevent's own WSGI server: each process is a node, and shows what is written at any.

::

    python wall.py 8000 left@127.0.0.1:9101 right@127.0.0.1:9102
    python wall.py 8001 right@127.0.0.1:9102 left@127.0.0.1:9101

    curl -d 'hello' http://127.0.0.1:8000/
    curl http://127.0.0.1:8001/

The first argument is the port of the web server, the second the node's own name, and the others are the nodes
it is to be linked with. Nothing here is monkey-patched: pywsgi and snowgreen use gevent by themselves.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.pywsgi import WSGIServer

import snowgreen

port, name, *peers = sys.argv[1:]
node = snowgreen.Node(name, peers=peers)
wall: deque[str] = deque(maxlen=100)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """GET shows the wall, POST writes on it."""
    if environ["REQUEST_METHOD"] == "POST":
        text = environ["wsgi.input"].read(1000).decode(errors="replace")
        node.broadcast("wall", text)
        start_response("204 No Content", [])
        return []
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{line}\n".encode() for line in wall]


def read() -> None:
    """Take down what is written here or elsewhere; ends when the node stops."""
    for message in node.join("wall"):
        wall.append(f"{message.sender}: {message.body}")


with node:  # stopped at the end: the peers are told that it left
    server = WSGIServer(("127.0.0.1", int(port)), application)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    gevent.spawn(read)
    print(node.name, "shows", f"http://127.0.0.1:{port}/", flush=True)
    server.serve_forever()
