"""What waits to be written on one link, and the only one that writes there.

What gathers in one turn of the loop leaves together: joined, and cut into TLS records. A peer that does not
read stops the writing, not the loop; how much then waits is for the session to judge, by :attr:`Outbox.full`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gevent.ssl

    from ..config import Limits

#: One TLS record. OpenSSL writes no more at once, and a retry must offer the very same bytes.
RECORD = 16 * 1024
#: Bytes one session may read, or write, before the loop looks at the others again.
TURN_BYTES = 64 * 1024
_WRITE = 2


class Outbox:
    """The outbox of one session.

    :param flush: called by the loop when there is something to write, or room to write it; it is to call
        :meth:`write`, and to deal with what that raises.
    """

    __slots__ = (
        "_armed",
        "_flush",
        "_frames",
        "_limits",
        "_loop",
        "_sending",
        "_sent",
        "_sock",
        "_watcher",
        "bytes_sent",
        "frames_sent",
        "waiting",
    )

    def __init__(
        self, sock: gevent.ssl.SSLSocket, loop: Any, limits: Limits, flush: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._limits = limits
        self._flush = flush
        self._frames: list[bytes] = []
        self._sending = b""  # what is being written; kept until OpenSSL has taken all of it
        self._sent = 0
        self._armed = False  # whether the loop will call _flush
        self._watcher: Any = None
        #: Bytes posted and not yet written.
        self.waiting = 0
        self.bytes_sent = 0
        self.frames_sent = 0

    @property
    def full(self) -> bool:
        """Whether as much waits for the peer to read as the limits allow."""
        return self.waiting >= self._limits.outbox_bytes or len(self._frames) >= self._limits.outbox_frames

    def begin(self, handshake: bytes) -> None:
        """Send the end of the handshake ahead of everything; it is not counted."""
        self._sending = handshake
        self.bytes_sent = -len(handshake)

    def post(self, frame: bytes) -> None:
        """Have `frame` written, with what else gathers in this turn of the loop. Never waits."""
        self._frames.append(frame)
        self.waiting += len(frame)
        if not self._armed:
            self._armed = True
            self._loop.run_callback(self._flush)

    def write(self) -> bool:
        """Write what there is, as far as the peer takes it and the turn allows; whether all is written.

        :raises OSError: if the connection is broken.
        """
        self._armed = False
        budget = TURN_BYTES
        while self._sending or self._frames:
            if not self._sending:
                self._sending = b"".join(self._frames)
                self.frames_sent += len(self._frames)
                self._frames.clear()
                self._sent = 0
            count = self._sock.send(self._sending[self._sent : self._sent + RECORD])
            if count:
                self._sent += count
                self.bytes_sent += count
                self.waiting = max(0, self.waiting - count)
                if self._sent == len(self._sending):
                    self._sending = b""
                budget -= count
            if not count or (budget <= 0 and (self._sending or self._frames)):
                self._await_writable()
                return False
        if self._watcher is not None:
            self._watcher.stop()
        return True

    def close(self) -> None:
        """Forget what waits, and let go of the loop."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._armed = True  # from now on nothing is written
        self._frames.clear()
        self._sending = b""
        self.waiting = 0
        self._flush = _nothing  # it holds the session, which holds this

    def _await_writable(self) -> None:
        # While the watcher is active post() need not arm anything: that would flush twice.
        self._armed = True
        if self._watcher is None:
            self._watcher = self._loop.io(self._sock.fileno(), _WRITE)
        if not self._watcher.active:
            self._watcher.start(self._flush)


def _nothing() -> None:
    """What a closed outbox does."""
