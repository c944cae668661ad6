"""The node's end of the control socket: who asks is checked, and neither waited for nor let ask too much."""

from __future__ import annotations

import contextlib
import os
import socket as constants
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import gevent
import msgspec
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from .. import forks, status
from ..errors import ConfigurationError
from ..link.bus import Subscription
from ..names import printable
from ..node import Node
from . import places
from .messages import LONGEST_REQUEST, VERSION, Answer, Reported, Request

#: Connections that are served at once.
CONNECTIONS = 32
#: Seconds for a whole request to come, from the connection or from the answer before it.
REQUEST_SECONDS = 10.0
#: Seconds in which some of an answer must be read.
ANSWER_SECONDS = 30.0
#: Items that are written before other greenlets have their turn.
_BATCH = 64

_PEER = struct.Struct("3i")  # pid, uid, gid: Linux's struct ucred
_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(Request)


class Control:
    """A socket through which this user's ``snowgreen top``, ``links`` and ``events`` watch `node`.

    :param node: started or not; all of its lives can be watched.
    :param path: where the socket is to be, as a str or Path. Default: a file named after the node in
        ``$XDG_RUNTIME_DIR/snowgreen``, where the commands look.
    :raises ConfigurationError: naming the argument that cannot be used.

    Only the user whom the process runs as, and root, can connect, and nobody can change anything through it.
    Use it in the thread that the node is used in. A child of a fork has no part in it, and may start it anew.
    """

    def __init__(self, node: Node, path: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(node, Node):
            raise ConfigurationError("node", f"must be a snowgreen.Node, not {type(node).__name__}")
        if path is not None and not isinstance(path, str | os.PathLike):
            raise ConfigurationError("path", f"must be a str or a Path, not {type(path).__name__}")
        self._node = node
        self._wanted = None if path is None else Path(path).absolute()
        self._bound: places.Bound | None = None
        self._server: StreamServer | None = None
        self._talks: set[_Talk] = set()
        forks.watch(self)

    @property
    def path(self) -> Path | None:
        """Where the socket is; None while it is not open."""
        return None if self._bound is None else self._bound.path

    def start(self) -> Control:
        """Open the socket. One that is open is left as it is.

        :returns: itself.
        :raises ConfigurationError: if it cannot be opened: its directory is not this user's alone, or
            something else is at its path.
        """
        if self._bound is None:
            forks.settle()
            bound = places.bind(self._node.name, self._wanted)
            if self.path is not None:  # another greenlet was quicker
                places.remove(bound)
                bound.socket.close()
                return self
            self._bound = bound
            self._server = StreamServer(bound.socket, self._serve, spawn=Pool())
            self._server.start()
        return self

    def stop(self, timeout: float = 0.5) -> None:
        """Close the socket, and remove it. A second call does nothing.

        Who is being answered, or follows the events, has `timeout` seconds to read the rest.
        """
        bound, server = self._bound, self._server
        if bound is None or server is None:
            return
        self._bound = self._server = None
        places.remove(bound)
        for talk in self._talks:
            talk.finish()
        server.stop(timeout)

    def let_go(self) -> None:
        """In a child of a fork, called before anything else: the socket is the parent's."""
        bound, server = self._bound, self._server
        if bound is None or server is None:
            return
        self._bound = self._server = None
        for talk in self._talks:
            talk.let_go()
        self._talks = set()
        server.close()

    def __enter__(self) -> Control:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = "closed" if self._bound is None else f"at {self._bound.path}"
        return f"<Control of {self._node.name} {where}>"

    def _serve(self, connection: socket.socket, address: object) -> None:
        talk = _Talk(self._node, connection)
        talks, crowded = self._talks, len(self._talks) >= CONNECTIONS
        talks.add(talk)
        try:
            if crowded:
                talk.refuse(f"{CONNECTIONS} connections are open already, which is the most; close some")
            elif (user := _user(connection)) not in (0, os.geteuid()):
                talk.refuse(f"this node answers the user it runs as, of id {os.geteuid()}, and not {user}")
            else:
                talk.run()
        except OSError:
            pass  # who asked is gone, or takes nothing
        finally:
            talks.discard(talk)
            connection.close()


class _Talk:
    """One connection."""

    def __init__(self, node: Node, connection: socket.socket) -> None:
        self._node = node
        self._connection = connection
        self._received = b""
        self._finishing = False
        self._followed: Subscription | None = None

    def run(self) -> None:
        """Answer until there are no more questions."""
        while not self._finishing:
            line = self._line()
            if line is None:
                return
            try:
                request = _requests.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self.refuse(f"that is no request: {printable(str(error), 200)}")
                return
            problem = _problem(request)
            if problem is not None:
                self.refuse(problem)
                return
            if request.follow:
                self._follow(request.newest)
            else:
                self._send(_answers(self._node, request))
            self._send([Answer(end=True)])
            gevent.sleep(0)  # neither recv nor sendall gives way to others while it need not wait

    def refuse(self, problem: str) -> None:
        """Say why there is no answer."""
        self._connection.settimeout(0.0)  # it fits into any buffer, and nobody is waited for
        self._connection.send(_encoder.encode_lines([Answer(error=problem)]))

    def finish(self) -> None:
        """Say no more than what is said already."""
        self._finishing = True
        if self._followed is not None:
            self._followed.close()
        with contextlib.suppress(OSError):
            self._connection.shutdown(constants.SHUT_RD)  # there is no request to wait for any more

    def let_go(self) -> None:
        """Close this process's descriptor of what is the parent's connection."""
        self._finishing = True
        self._connection.close()

    def _line(self) -> bytes | None:
        """The next request; None if there is none."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while b"\n" not in self._received:
            if len(self._received) >= LONGEST_REQUEST:
                self.refuse(f"a request has {LONGEST_REQUEST} bytes at most")
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._connection.settimeout(left)
            received = self._connection.recv(LONGEST_REQUEST - len(self._received))
            if not received:
                return None
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _send(self, answers: Iterable[Answer]) -> None:
        batch: list[Answer] = []
        for answer in answers:
            batch.append(answer)
            if len(batch) == _BATCH:
                self._write(batch)
                batch = []
                gevent.sleep(0)
        if batch:
            self._write(batch)

    def _write(self, batch: list[Answer]) -> None:
        self._connection.settimeout(ANSWER_SECONDS)
        self._connection.sendall(_encoder.encode_lines(batch))

    def _follow(self, newest: int) -> None:
        """Tell the newest events, and then each as it happens, through all lives of the node."""
        subscription = self._node.subscribe()
        watcher = gevent.spawn(self._watch)
        try:
            # Between the subscription and this nothing waits: no event is missing, and none is told twice.
            known = status.events(self._node)[:newest]
            self._send(Answer(event=event) for event in reversed(known))
            while not self._finishing:
                self._followed = subscription
                with subscription:
                    for event in subscription:
                        self._write([Answer(event=status.event_status(event))])
                subscription = self._node.subscribe()  # the node was stopped: to be there in its next life
        finally:
            self._followed = None
            subscription.close()
            watcher.kill()

    def _watch(self) -> None:
        """Notice that the follower has gone, also while there is nothing to tell him."""
        socket.wait_read(self._connection.fileno())
        self.finish()


def _problem(request: Request) -> str | None:
    if request.version != VERSION:
        return f"this node speaks version {VERSION} of the control protocol, not {request.version}"
    if request.follow and request.ask != "events":
        return f"only events can be followed, not {request.ask}"
    return None


def _answers(node: Node, request: Request) -> Iterator[Answer]:
    if request.ask == "status":
        yield Answer(status=status.node_status(node))
    elif request.ask == "links":
        for _, session in sorted(node.sessions.items()):
            if not session.closed:  # since the last batch
                yield Answer(link=status.link_status(session))
    elif request.ask == "failures":
        yield from [Answer(failure=failure) for failure in status.failures(node)]
    elif request.ask == "events":
        known = status.events(node)[: request.newest]
        yield from [Answer(event=event) for event in reversed(known)]
    else:
        for peer, others in status.mesh(node).items():
            yield Answer(mesh=Reported(peer, others))


def _user(connection: socket.socket) -> int:
    """Who is at the other end."""
    found = connection.getsockopt(constants.SOL_SOCKET, constants.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(found)[1])
