"""The asker's end of the control socket: to find the nodes that run here, and to ask one."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import gevent
import msgspec
from gevent import socket
from gevent.pool import Pool

from ..names import printable
from ..status import NodeStatus
from . import places
from .messages import LONGEST_ANSWER, VERSION, Answer, Request, What

#: Seconds in which a node says something of its answer.
PATIENCE = 5.0
#: Seconds for all the nodes that run here to say who they are.
ROLL_CALL = 2.0
_AT_ONCE = 16
_ENDED = "the node has ended"

_answers = msgspec.json.Decoder(Answer)


class NoAnswer(Exception):
    """A node did not answer, or not in full; the text says why.

    :ivar gone: whether that is because nobody is there, or no longer.
    """

    def __init__(self, problem: str, *, gone: bool = False) -> None:
        super().__init__(problem)
        self.gone = gone


class Running(NamedTuple):
    """A node that runs on this machine as this user."""

    path: Path
    #: What it says of itself; None if it does not answer.
    status: NodeStatus | None
    #: Why it does not.
    problem: str | None = None


class Connection:
    """A connection to the control socket at `path`; use it in a ``with``.

    :param patience: seconds to wait for each part of an answer.
    :raises NoAnswer: if nobody listens there.
    """

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._path, self._patience = path, patience
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect()
        except OSError as error:
            self._socket.close()
            gone = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            problem = "no node listens there" if gone else str(error.strerror or error)
            raise NoAnswer(f"{path}: {problem}", gone=gone) from error

    def _connect(self) -> None:
        deadline = time.monotonic() + self._patience
        self._socket.setblocking(False)
        while True:
            problem = self._socket.connect_ex(os.fspath(self._path))
            if not problem:
                return
            # Not for want of a listener, but because many are waiting for it.
            if problem != errno.EAGAIN or time.monotonic() > deadline:
                raise OSError(problem, os.strerror(problem))
            gevent.sleep(0.01)

    def ask(self, what: What, *, newest: int | None = None, follow: bool = False) -> Iterator[Answer]:
        """Ask for `what`, and iterate over the items of the answer; with `follow`, without a deadline.

        :param newest: of events, how many of those that the node remembers. Default: all.
        :raises NoAnswer: if there is none, or it breaks off.
        """
        request = Request(VERSION, what, follow)
        if newest is not None:
            request = msgspec.structs.replace(request, newest=newest)
        try:
            self._socket.settimeout(self._patience)
            self._socket.sendall(msgspec.json.encode(request) + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why before it closed
        except OSError as error:
            raise NoAnswer(f"{self._path}: {_reason(error)}") from error
        self._socket.settimeout(None if follow else self._patience)
        return self._answer()

    def _answer(self) -> Iterator[Answer]:
        while True:
            answer = self._next()
            if answer.error is not None:
                raise NoAnswer(f"{self._path}: it refused: {printable(answer.error, 300)}")
            if answer.end:
                return
            yield answer

    def _next(self) -> Answer:
        begin = 0
        while (end := self._received.find(b"\n", begin)) < 0:
            begin = len(self._received)
            if begin > LONGEST_ANSWER:
                raise NoAnswer(f"{self._path}: a line of its answer is too long")
            try:
                received = self._socket.recv(65536)
            except OSError as error:
                gone = isinstance(error, ConnectionResetError)
                raise NoAnswer(f"{self._path}: {_reason(error)}", gone=gone) from error
            if not received:
                raise NoAnswer(f"{self._path}: {_ENDED}", gone=True)
            self._received += received
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return _answers.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            what = printable(str(error), 200)
            raise NoAnswer(
                f"{self._path}: this version of snowgreen cannot read its answer: {what}"
            ) from error

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def status_at(path: Path, patience: float = PATIENCE) -> NodeStatus:
    """What the node at `path` says of itself.

    :raises NoAnswer: if it says nothing.
    """
    with Connection(path, patience) as connection:
        for answer in connection.ask("status"):
            if answer.status is not None:
                return answer.status
    raise NoAnswer(f"{path}: it did not say who it is")


def running(patience: float = ROLL_CALL) -> list[Running]:
    """The nodes of this user that run on this machine, by name; those that do not answer last.

    :raises ConfigurationError: if the directory of their sockets is not this user's alone.
    """
    found = Pool(_AT_ONCE).map(lambda path: _called(path, patience), list(places.sockets()))
    return sorted(
        (node for node in found if node is not None),
        key=lambda node: (node.status is None, node.status.name if node.status else "", node.path),
    )


def _called(path: Path, patience: float) -> Running | None:
    try:
        return Running(path, status_at(path, patience))
    except NoAnswer as error:
        return None if error.gone else Running(path, None, str(error))


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return _ENDED if isinstance(error, ConnectionResetError) else str(error.strerror or error)
