"""The dashboard on a port of its own, for a node that is part of no web application."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import gevent
from gevent import socket
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIHandler, WSGIServer

from ..errors import ConfigurationError
from ..names import Address, is_loopback, parse_address
from .app import dashboard
from .reply import words

if TYPE_CHECKING:
    from ..node import Node

log = logging.getLogger("snowgreen.web")

DEFAULT_PORT = 9180
#: Connections at once; more wait to be accepted.
_CONNECTIONS = 128
#: Seconds for a request to come, and for a write to be taken.
_REQUEST_SECONDS = 10.0
_IDLE_SECONDS = 30.0
#: Bytes of a request's headers. gevent would take 6.5 MB.
_LONGEST_HEAD = 32 * 1024


def check_address(address: str, *, protected: bool, argument: str = "address") -> Address:
    """`address` as one that a dashboard may be bound to.

    :param protected: whether the dashboard has a token.
    :raises ConfigurationError: if it is no address, or lies beyond loopback without a token.
    """
    parsed = parse_address(address, argument=argument, default_port=DEFAULT_PORT)
    if not protected and not is_loopback(parsed.host):
        raise ConfigurationError(
            argument,
            f"{parsed.host} may be reached from outside, and whoever reaches it would see names, addresses "
            "and events: add a token (--dashboard-token-file on the command line), or bind to "
            f"127.0.0.1:{parsed.port}",
        )
    return parsed


def serve(node: Node, address: str = "127.0.0.1:9180", *, token: str | None = None) -> WSGIServer:
    """Serve the dashboard of `node` at `address` until ``stop()`` of what is returned is called.

    It is plain HTTP: beyond loopback, put a proxy with TLS before it, or a tunnel.

    :param address: ``host:port`` or ``host`` (then port 9180); port 0 takes a free one, which
        ``server_port`` of what is returned then tells.
    :param token: as of :func:`~snowgreen.web.dashboard`; needed for any address but a loopback one.
    :returns: the started server.
    :raises ConfigurationError: naming the argument that cannot be used, also where the address is taken.
    """
    application = dashboard(node, token=token)
    protected = token is not None
    del token
    where = check_address(address, protected=protected)
    try:
        listening = _bound(where)
    except OSError as error:
        problem = f"{where} cannot be bound: {error.strerror or error}"
        raise ConfigurationError("address", problem) from error
    places = Pool(_CONNECTIONS)
    server = _Server(
        listening,
        application,
        log=None,
        error_log=log,
        handler_class=_Handler,
        spawn=places,
        environ={"SERVER_NAME": where.host},  # which it would otherwise ask the name servers for
    )
    server.start()
    _serving.add(server)
    return server


def _bound(where: Address) -> socket.socket:
    """A socket that listens there. Made here, as the server leaves one that cannot be bound to the collector.

    :raises OSError: if there is no such address, or another process has it.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_CONNECTIONS)
    except OSError:
        listening.close()
        raise
    return listening


class _Server(WSGIServer):
    """A server with which a child of a fork has nothing to do."""

    def let_go(self) -> None:
        """In that child: close its descriptors of what are the parent's connections."""
        answering = self.pool
        self.close()
        if answering is not None:
            answering.kill(block=False)


# Not in snowgreen.forks: what is there is started again in the workers of gunicorn, and this cannot be.
_serving: WeakSet[_Server] = WeakSet()


def _in_child() -> None:
    for server in list(_serving):
        server.let_go()


os.register_at_fork(after_in_child=_in_child)


class _Head:
    """The headers of a request as they are read: no more of them than :data:`_LONGEST_HEAD`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = _LONGEST_HEAD

    def readline(self, size: int) -> Any:
        line = self._file.readline(min(size, self._left))
        self._left -= len(line)
        if self._left <= 0:
            raise ValueError(f"more than {_LONGEST_HEAD} bytes of headers")
        return line


class _Handler(WSGIHandler):
    """A connection whose other end has only so long for everything, and of whose faults nothing is logged.

    What it sends may hold the token, and whoever reaches the port can send as much of it as he likes.
    """

    def __init__(self, sock: Any, address: Any, server: WSGIServer) -> None:
        sock.settimeout(_IDLE_SECONDS)
        super().__init__(sock, address, server)

    def read_requestline(self) -> str:
        with gevent.Timeout(_IDLE_SECONDS, TimeoutError("no request came")):
            return super().read_requestline()

    def read_request(self, raw_requestline: str) -> Any:
        with gevent.Timeout(_REQUEST_SECONDS, TimeoutError("the request did not come")):
            return super().read_request(raw_requestline)

    def MessageClass(self, fp: Any, *more: Any) -> Any:  # noqa: N802  # gevent calls it so
        head: Any = _Head(fp)
        return super().MessageClass(head, *more)

    def get_environ(self) -> Any:
        environ = super().get_environ()
        if self.content_length or "HTTP_TRANSFER_ENCODING" in environ:
            # No answer needs a body, and gevent would read all of it, however slowly it comes.
            self.close_connection = True
            self.wsgi_input = environ["wsgi.input"] = Input(self.rfile, 0)
        return environ

    def handle_error(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, OSError):  # the browser has gone, or does not read
            self.close_connection = True
        else:
            super().handle_error(kind, value, trace)

    def _handle_client_error(self, error: BaseException) -> tuple[str, bytes] | None:
        self.close_connection = True
        if isinstance(error, OSError):
            return None
        log.debug("a request could not be read: %s", type(error).__name__)
        reply = words(400, "That is no request in HTTP.", ("Connection", "close"))
        head = "".join(f"{name}: {value}\r\n" for name, value in reply.all_headers())
        return str(reply.status), b"".join(
            [f"HTTP/1.1 {reply.line}\r\n{head}\r\n".encode(), *reply.pieces(head=False)]
        )
