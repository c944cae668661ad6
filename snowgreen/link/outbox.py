"""What waits to be written on one link, and the only one that writes there.

What gathers in one turn of the loop leaves together, in the order that
:class:`~snowgreen.protocol.lanes.Lanes` gives it, cut into TLS records. Of bulk no more is on its way than
:class:`~snowgreen.protocol.flight.Flight` allows, since whatever is written later waits behind it. A peer
that does not read stops the writing, not the loop; how much then waits is for the session to judge, by
:attr:`Outbox.full`.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from ..protocol.flight import Flight
from ..protocol.frames import encode_ping
from ..protocol.lanes import Lanes

if TYPE_CHECKING:
    from ..config import Limits
    from .secured import Secured

#: One TLS record. OpenSSL writes no more at once, and a retry must offer the very same bytes.
RECORD = 16 * 1024
#: Bytes one session may read, or write, before the loop looks at the others again.
TURN_BYTES = 64 * 1024
#: Frames that a peer's own made us owe it. Whoever makes us owe more, and does not read, is not read from.
OWING = 1000
_WRITE = 2
#: Bytes that the kernel may hold unsent before it calls the socket writable: what is queued there can no
#: longer be overtaken by a more urgent frame.
_UNSENT = 128 * 1024


class Outbox:
    """The outbox of one session.

    :param flush: called when there is something to write, or room to write it: by the loop, or at once where
        much has gathered. It is to call :meth:`write`, and to deal with what that raises.
    :param clock: seconds, monotonic.
    """

    __slots__ = (
        "_armed",
        "_clock",
        "_flight",
        "_flush",
        "_lanes",
        "_limits",
        "_loop",
        "_refused",
        "_sending",
        "_sent",
        "_sock",
        "_watcher",
        "blocked",
        "bytes_sent",
        "frames_sent",
        "full",
        "owing",
    )

    def __init__(
        self, sock: Secured, loop: Any, limits: Limits, flush: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._limits = limits
        self._flush = flush
        self._clock = clock
        self._lanes = Lanes()
        self._flight: Flight | None = None  # of the bulk, once there was some
        self._sending = b""  # what is being written; kept until OpenSSL has taken all of it
        self._sent = 0
        self._refused = False  # whether OpenSSL did not take what it was offered last, and must be again
        self._armed = False  # whether the loop will call _flush
        self._watcher: Any = None
        #: Whether writing waits for the loop: because the peer does not read, or the turn is used up.
        self.blocked = False
        #: Whether as much waits for the peer to read as the limits allow. It is found out when that may have
        #: changed, since senders ask before each message.
        self.full = False
        #: Control frames posted and not yet handed to TLS.
        self.owing = 0
        self.bytes_sent = 0
        self.frames_sent = 0

    @property
    def waiting(self) -> int:
        """Bytes posted and not yet written."""
        return self._lanes.waiting + len(self._sending) - self._sent

    @property
    def crowded(self) -> bool:
        """Whether that much waits even without the bulk, which small frames go ahead of."""
        lanes = self._lanes
        return lanes.ahead >= self._limits.outbox_bytes or lanes.frames >= self._limits.outbox_frames

    @property
    def held(self) -> bool:
        """Whether bulk waits until the peer has read more of what is on its way."""
        return self._flight is not None and self._flight.room <= 0 and self._lanes.bulk > 0

    def begin(self, handshake: bytes) -> None:
        """Write the end of the handshake, ahead of what waits already; it is not counted.

        :raises OSError: if the connection is broken.
        """
        self.bytes_sent = -len(handshake)
        if self._armed:
            self._sending = handshake  # one record takes both
            self._flush()
        else:
            self._put(handshake)

    def post(self, frame: bytes) -> None:
        """Have the control frame `frame` written, with what else gathers in this turn of the loop."""
        self._lanes.control(frame)
        self._weigh()
        self.owing += 1
        if not self._armed:
            self._arm()

    def message(self, key: Hashable, head: bytes, body: bytes | memoryview) -> None:
        """Have the frame of `head` and `body` written, behind all earlier ones of `key`."""
        lanes, limits = self._lanes, self._limits
        lanes.message(key, head, body)
        if lanes.waiting >= limits.outbox_bytes or lanes.frames >= limits.outbox_frames:
            self.full = True  # as _weigh() does, written out: this runs once for each message
        if not self._armed:
            self._arm()
        if lanes.waiting > TURN_BYTES and not self.blocked and (lanes.ahead > TURN_BYTES or not self.held):
            # The peer can begin to read while the sender goes on; and memory is joined in small pieces.
            self._flush()

    def holds(self, key: Hashable) -> bool:
        """Whether bulk of `key` waits, which what is posted under it now goes behind."""
        return self._lanes.holds(key)

    def whole(self, frame: bytes) -> None:
        """Have the frame `frame` written in its turn, in one piece whatever its size."""
        self._lanes.post(frame)
        self._weigh()
        if not self._armed:
            self._arm()

    def at_once(self, frame: bytes) -> bool:
        """Write the frame `frame`, of one TLS record at most, now; if anything waits, do nothing: False.

        :raises OSError: if the connection is broken.
        """
        if self._armed or self._sending or self._lanes.frames:
            return False
        self.frames_sent += 1
        self._put(frame)
        return True

    def last(self, frame: bytes) -> None:
        """Have `frame` written behind everything else."""
        self._lanes.last(frame)
        self._weigh()
        if not self._armed:
            self._arm()

    def write(self, budget: float = TURN_BYTES) -> bool:
        """Write what there is, as far as the peer takes it and the turn allows; whether that is done.

        :raises OSError: if the connection is broken.
        """
        self._armed = False
        while True:
            if len(self._sending) - self._sent < RECORD and not self._refused:
                # What is left of a batch is less than a record: it goes with the next batch, if there is one.
                self._sending, count = self._next(self._sending[self._sent :], freely=budget == math.inf)
                if not self._sending:
                    break
                self.owing = 0
                self.frames_sent += count
                self._sent = 0
            count = self._sock.send(self._sending[self._sent : self._sent + RECORD])
            self._refused = not count
            if count:
                self._sent += count
                self.bytes_sent += count
                if self._sent == len(self._sending):
                    self._sending = b""
                    self._sent = 0
                budget -= count
            if not count or (budget <= 0 and (self._sending or self._lanes)):
                self._await_writable()
                return False
        if self.blocked:
            self.blocked = False
            self._watcher.stop()
        return True

    def landed(self, number: int) -> None:
        """The answer to the mark `number` has come: what was written before it is read."""
        flight = self._flight
        if flight is not None and flight.landed(number, self._clock()) and self._lanes and not self._armed:
            self._arm()

    def close(self) -> None:
        """Forget what waits, and let go of the loop."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._armed = True  # from now on nothing is written
        self._lanes.clear()
        self.full = False
        self._sending = b""
        self._sent = self.owing = 0
        self._flush = _nothing  # it holds the session, which holds this

    def _next(self, before: bytes, *, freely: bool) -> tuple[bytes, int]:
        """`before` and the next batch, and how many frames end in that.

        :param freely: also what the peer is not ready for.
        """
        lanes = self._lanes
        if freely or not lanes.bulk:
            batch = lanes.take(before)
            self._weigh()
            return batch
        flight = self._flight
        if flight is None:
            flight = self._flight = Flight()
        waited = lanes.bulk
        batch = lanes.take(before, room=flight.room)
        size = waited - lanes.bulk
        if size and flight.took(size, more=lanes.bulk > 0):
            lanes.control(encode_ping(flight.mark(self._clock())))  # it leaves with the next batch
        self._weigh()
        return batch

    def _weigh(self) -> None:
        lanes, limits = self._lanes, self._limits
        self.full = lanes.waiting >= limits.outbox_bytes or lanes.frames >= limits.outbox_frames

    def _put(self, data: bytes) -> None:
        """Write `data`, where nothing waits; what the peer leaves of it the loop writes, once it reads."""
        count = self._sock.send(data)
        self.bytes_sent += count
        if count < len(data):
            self._sending, self._sent, self._refused = data, count, not count
            self._await_writable()

    def _arm(self) -> None:
        self._armed = True
        self._loop.run_callback(self._flush)

    def _await_writable(self) -> None:
        # While the watcher is active post() need not arm anything: that would flush twice.
        self._armed = True
        if self._watcher is None:
            self._watcher = self._loop.io(self._sock.fileno(), _WRITE)
            with contextlib.suppress(OSError, AttributeError):  # Linux has it, and others may not
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        if not self.blocked:
            self.blocked = True
            self._watcher.start(self._flush)


def _nothing() -> None:
    """What a closed outbox does."""
