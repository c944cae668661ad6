"""The last moments of a connection that this end closes in order: what still comes is read and thrown away.

A system that closes a connection over bytes that nobody has read, or that gets some afterwards, answers with
a reset (RFC 1122, section 4.2.2.13), and forgets what it had yet to send: the last messages, and the goodbye
behind them. So this end says that it sends no more, and closes when the peer has; HTTP's servers do the same
(RFC 9112, section 9.6).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .secured import Secured

#: For how long, at most: a peer that reads may take so long to come to the end.
SECONDS = 2.0
_BYTES = 64 * 1024
_READ = 1


class Linger:
    """Closes `sock`, which is spent, once the peer has closed it or the time is over. Never waits."""

    __slots__ = ("_sock", "_timer", "_watcher")

    def __init__(self, sock: Secured, loop: Any, seconds: float = SECONDS) -> None:
        self._sock = sock
        # Neither keeps a program alive that has nothing else to do.
        self._watcher: Any = loop.io(sock.fileno(), _READ, ref=False)
        self._timer: Any = loop.timer(seconds, ref=False)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is broken: nothing comes
            self._close()
            return
        self._watcher.start(self._discard)
        self._timer.start(self._close, update=True)

    def _discard(self) -> None:
        try:
            ended = not self._sock.recv(_BYTES)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._close()

    def _close(self) -> None:
        for watcher in (self._watcher, self._timer):
            watcher.stop()
            watcher.close()
        self._sock.close()
