"""One live link: frames in, frames out, pings, and an end that comes once and says why.

No greenlet waits here. A level-triggered watcher calls the session when bytes have come, and the parser
runs there, in the loop itself: an idle link costs its TLS state and little else. So nothing in this
module may wait, except :meth:`Session.ping`, which runs in its caller's greenlet; and nothing of a
user's runs in the loop.

Only its :class:`~snowgreen.link.outbox.Outbox` writes to the socket.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from gevent.event import AsyncResult

from ..config import check_timeout
from ..errors import OutboxFull, PingTimeout, SessionClosed
from ..names import Address, printable
from ..protocol import frames, heartbeat
from ..protocol.flight import MARKS
from ..protocol.frames import BadFrame, Capability, Farewell, FrameTag
from ..protocol.handshake import Established
from ..protocol.heartbeat import Verdict
from ..protocol.wire import TooLong
from . import faults
from .journal import Journal
from .linger import Linger
from .outbox import OWING, RECORD, TURN_BYTES, Outbox
from .pings import Pings
from .runtime import READ_BUFFER_BYTES, HubState, Runtime, say

if TYPE_CHECKING:
    from ..config import Config
    from .secured import Secured

log = logging.getLogger("snowgreen.session")

#: Our usual reasons as the peer is to hear them: what "this node" is depends on who reads it.
STOPPED = "this node was stopped"
CLOSED = "closed by this node"
REPLACED = "replaced by a newer link with the same peer"
_TO_THE_PEER = {
    STOPPED: "it was stopped",
    CLOSED: "it closed the link",
    REPLACED: "it has a newer link with this node",
}
#: Multiples of it, taken modulo 1, spread evenly however many there are.
_GOLDEN = 0.6180339887498949


class Owner(Protocol):
    """What a session needs of the node it belongs to."""

    config: Config
    runtime: Runtime
    hub: HubState
    pulse: heartbeat.Pulse
    rounds: heartbeat.Rounds[Session]
    journal: Journal

    receivers: dict[int, Callable[[Session, bytes], None]]
    runs: dict[int, Callable[[Session, bytes, Iterator[bytes]], bytes | None]]

    def session_ended(self, session: Session) -> None:
        """Called once, when `session` has closed. It must not wait."""


class Carried(Protocol):
    """What messaging keeps of a session."""

    def room(self) -> None:
        """Called by the loop when something was written. It must not wait."""


class Session:
    """A live, mutually authenticated link with one peer. Made by the node, never by hand."""

    __slots__ = (
        "__weakref__",
        "_capabilities",
        "_decoder",
        "_local",
        "_outbox",
        "_owner",
        "_partial",
        "_parting",
        "_paused",
        "_pinged_at",
        "_pings",
        "_read_watcher",
        "_remote",
        "_sock",
        "_spread",
        "bytes_received",
        "carried",
        "connected_at",
        "cookie_id",
        "creation",
        "farewell",
        "form",
        "frames_received",
        "incarnation",
        "initiated",
        "last_received",
        "lost",
        "node_id",
        "peer",
        "reason",
        "round",
        "rtt",
        "serial",
    )

    def __init__(
        self,
        owner: Owner,
        sock: Secured,
        watcher: Any,
        established: Established,
        *,
        serial: int,
        node_id: int,
        initiated: bool,
        remote: tuple[Any, ...],
    ) -> None:
        peer = established.peer
        #: The peer's node name (str).
        self.peer: str = peer.name
        #: The peer's incarnation (u64), None for a classic peer.
        self.incarnation: int | None = peer.incarnation
        #: The peer's creation (u8), the classic form's shadow of the incarnation.
        self.creation: int = peer.creation
        #: ``"bound"`` or ``"classic"``.
        self.form: str = str(peer.form.value)
        key = established.key
        #: The fingerprint of the cookie it was made with, as in ``Node.fingerprints``; None if classic.
        self.cookie_id: str | None = None if key is None else key.fingerprint
        #: True if this node dialed.
        self.initiated = initiated
        #: This link's number on this node, 1 to 65,535; a later link may get it again.
        self.node_id = node_id
        #: Wall-clock time of the registration, seconds since the epoch.
        self.connected_at = owner.runtime.wall()
        #: Round-trip time of the last answered ping in seconds, None before the first.
        self.rtt: float | None = None
        #: Payload bytes and frames received since the handshake.
        self.bytes_received = 0
        self.frames_received = 0
        #: Why the session ended, None while it lives.
        self.reason: str | None = None
        #: How the peer said goodbye, None if it did not, or closed this one link only.
        self.farewell: Farewell | None = None
        #: Once ended: True if nobody meant it to.
        self.lost = False
        #: What cleanup goes by; no two connections of a node share one.
        self.serial = serial
        #: When the last bytes came, on the runtime's monotonic clock.
        self.last_received = owner.runtime.monotonic()

        #: What messaging keeps of this link, None until it is used.
        self.carried: Carried | None = None

        self._owner = owner
        self._sock = sock
        self._remote = remote
        self._local: tuple[Any, ...] | None = None
        self._decoder = established.decoder
        self._decoder.limit = owner.config.limits.max_frame
        #: When the heartbeat looks at it; the heartbeat's own.
        self.round: int | None = None
        self._partial = False  # whether the heartbeat knows that a frame has begun and not ended
        self._pinged_at: float | None = None
        self._pings = Pings()
        self._paused = False
        self._parting: str | None = None
        self._capabilities = peer.capabilities
        self._spread = serial * _GOLDEN % 1.0
        self._read_watcher = watcher
        self._outbox = Outbox(sock, owner.hub.loop, owner.config.limits, self._flush, owner.runtime.monotonic)

    # What a user sees.

    @property
    def closed(self) -> bool:
        """Whether the session has ended; :attr:`reason` then says why."""
        return self.reason is not None

    @property
    def bytes_sent(self) -> int:
        """Payload bytes that TLS has taken since the handshake."""
        return self._outbox.bytes_sent

    @property
    def frames_sent(self) -> int:
        """Frames sent since the handshake."""
        return self._outbox.frames_sent

    @property
    def bytes_waiting(self) -> int:
        """Bytes that wait to be sent, until the peer reads."""
        return self._outbox.waiting

    @property
    def state(self) -> str:
        """``"up"``; ``"waiting"`` where the peer leaves unread what was sent; ``"parting"``; ``"closed"``."""
        if self.reason is not None:
            return "closed"
        if self._parting is not None:
            return "parting"
        return "waiting" if self._outbox.blocked or self._outbox.held else "up"

    @property
    def local_address(self) -> str:
        """This end, as ``host:port``."""
        if self._local is None:
            with contextlib.suppress(OSError):
                self._local = self._sock.getsockname()
        return _address(self._local)

    @property
    def remote_address(self) -> str:
        """The other end, as ``host:port``: where the connection came from or went to."""
        return _address(self._remote)

    @property
    def remote_host(self) -> str:
        """The other end's IP address."""
        return str(self._remote[0])

    def ping(self, timeout: float | None = 5.0) -> float:
        """Measure the round trip to the peer and back.

        :param timeout: seconds to wait, None for as long as the session lives.
        :returns: seconds.
        :raises PingTimeout: if the answer did not come in time. The session goes on.
        :raises SessionClosed: if the session has ended, or ends meanwhile.
        :raises OutboxFull: if the peer has left too much unread for another ping to be queued.
        """
        check_timeout(timeout)
        if self.reason is not None:
            raise SessionClosed(self.peer, self.reason)
        if self._outbox.owing >= OWING:  # however many messages wait, it goes ahead of them
            raise OutboxFull(f"{self.peer} does not read: {self._outbox.waiting} bytes wait for it")
        waiter: AsyncResult[float] = AsyncResult()
        number = self._send_ping(waiter)
        try:
            waiter.wait(timeout)
            if not waiter.ready():
                raise PingTimeout(f"{self.peer} did not answer a ping within {timeout:g} s")
        finally:
            self._pings.forget(number)
        rtt = waiter.get(block=False)
        assert rtt is not None  # noqa: S101  # ready, and no exception: it is what its answer set
        return rtt

    def close(self, reason: str = CLOSED) -> None:
        """End the session at once: send what can be sent, say goodbye, close. A second call does nothing.

        :param reason: what :attr:`reason` and ``NodeDown`` will say, here and in the peer's words there.
        """
        self.leave(Farewell.CLOSING, str(reason or CLOSED))

    def __repr__(self) -> str:
        way = "dialed" if self.initiated else "accepted"
        if self.reason is not None:
            return f"<Session {self.peer} closed: {printable(self.reason)}>"
        rtt = "" if self.rtt is None else f" rtt={self.rtt * 1000:.2f}ms"
        return f"<Session {self.peer} up {self.form} {way} node_id={self.node_id}{rtt}>"

    # What the node calls.

    def open(self, first: bytes = b"") -> None:
        """Begin: send `first`, the raw end of the handshake, then take what came behind it."""
        if first:
            self._guarded(lambda: self._outbox.begin(first))
        if self.reason is None:
            self.bytes_received = self._decoder.buffered
            self._read_watcher.start(self._readable)
            if self._decoder.mid_message or self._sock.pending():
                # Bytes that OpenSSL or the decoder hold already will not wake the watcher.
                self._owner.hub.loop.run_callback(self._early)

    @property
    def capabilities(self) -> int:
        """What the peer can do: bits of :class:`~snowgreen.protocol.frames.Capability`."""
        return self._capabilities

    @property
    def full(self) -> bool:
        """Whether a sender has to wait: the peer has left too much unread."""
        return self._outbox.full

    @property
    def crowded(self) -> bool:
        """Whether also the sender of a small message has to wait, which goes ahead of large ones."""
        return self._outbox.crowded

    def post_control(self, frame: bytes) -> None:
        """Send the whole frame `frame` ahead of messages. Never waits; a closed session ignores it."""
        if self.reason is None:
            self._outbox.post(frame)

    def post_message(self, key: Hashable, head: bytes, body: bytes | memoryview) -> None:
        """Send the frame of `head`, the tag and the fields, and `body`, behind earlier ones of `key`.

        Never waits: whoever may, looks at :attr:`full` first. A closed session ignores it.
        """
        if self.reason is None and self._parting is None:
            self._outbox.message(key, head, body)

    def post_at_once(self, frame: bytes) -> bool:
        """Write `frame`, of one TLS record at most, now; if anything waits do nothing: False.

        It is False, too, if the session has ended or ends now.
        """
        if self.reason is None and self._parting is None:
            try:
                return self._outbox.at_once(frame)
            except OSError as error:
                self._end(faults.reading(error), orderly=False)
        return False

    def holds(self, key: Hashable) -> bool:
        """Whether a large message of `key`, or one behind it, waits to be sent."""
        return self._outbox.holds(key)

    def post_whole(self, frame: bytes) -> None:
        """As :meth:`post_message`, for a whole frame to a peer that knows no fragments."""
        if self.reason is None and self._parting is None:
            self._outbox.whole(frame)

    @property
    def ending(self) -> str | None:
        """Why nothing more can be sent, None while it can."""
        return self.reason if self.reason is not None else self._parting

    def let_go(self) -> None:
        """In a child of a fork: the link is the parent's. Close our copy of it, and send nothing."""
        self._pings.abandon()
        self._end("this process was forked: the link stays with its parent", orderly=False)

    def leave(self, farewell: Farewell, reason: str) -> None:
        """End the session at once, with this goodbye."""
        if self.reason is None:
            self._say_goodbye(farewell, reason)
            self._end(reason, orderly=True, linger=True)

    def part(self, farewell: Farewell, reason: str) -> None:
        """Begin to end: say goodbye behind all that waits to be sent; the session ends when the peer closes.

        A peer that knows no GOODBYE is closed at once.
        """
        if self.reason is not None or self._parting is not None:
            return
        if not self._say_goodbye(farewell, reason):
            self._end(reason, orderly=True, linger=True)
            return
        self._parting = reason
        if not self._paused and not self._read_watcher.active:
            # The loop does not go on with a watcher whose callback raised, as Ctrl-C may have it do.
            self._read_watcher.start(self._readable)
        if self.carried is not None:
            self.carried.room()  # who waits for room waits in vain

    def beat(self, now: float, *, grace: bool) -> None:
        """One look by the heartbeat sweep."""
        if self.reason is not None:
            return
        verdict = heartbeat.poll(
            now,
            last_received=self.last_received,
            pinged_at=self._pinged_at,
            mid_frame=self._decoder.mid_message,
            pulse=self._owner.pulse,
            spread=self._spread,
            grace=grace,
        )
        if verdict is Verdict.PING:
            self._pinged_at = now
            if self._outbox.owing < OWING:
                self._send_ping(None)
        elif verdict is Verdict.SILENT:
            self._end(f"no answer to a ping for {self._owner.pulse.timeout:g} s", orderly=False)
        elif verdict is Verdict.STUCK:
            self._end(
                f"the peer stopped for {self._owner.pulse.frame_timeout:g} s in the middle of a frame",
                orderly=False,
            )

    def await_look(self) -> None:
        """Have the heartbeat look again when it may have something to do."""
        if self.reason is not None:
            return
        self._partial = self._decoder.mid_message
        due = heartbeat.look_again(
            last_received=self.last_received,
            pinged_at=self._pinged_at,
            mid_frame=self._partial,
            pulse=self._owner.pulse,
            spread=self._spread,
        )
        self._owner.rounds.put(self, due)

    # Reading: in the loop's callbacks.

    def _early(self) -> None:
        if self.reason is None:
            self._guarded(lambda: self._take(b""))
            self._readable()

    def _readable(self) -> None:
        if self.reason is None:
            self._owner.hub.busy_wait.came(self._owner.config.busy_wait)
            self._guarded(self._read)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (TooLong, BadFrame) as error:
            self._end(f"the peer broke the protocol: {error}", orderly=False)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            parting = self._parting
            self._end(faults.reading(error) if parting is None else parting, orderly=parting is not None)
        except Exception as error:  # noqa: BLE001  # a bug of ours ends its link, not the loop
            say(log, logging.ERROR, "internal error on the link with %s", self.peer, error=error)
            self._end("an internal error on this node; its log has the details", orderly=False)
        except BaseException:
            # Ctrl-C may come anywhere, and sys.exit() from a codec. What had come is half taken, so that no
            # byte behind it would make sense.
            self._end("this process was interrupted while it served the link", orderly=False)
            raise

    def _read(self) -> None:
        view = self._owner.hub.view
        budget = TURN_BYTES
        while budget > 0:
            count = self._sock.recv_into(view, READ_BUFFER_BYTES)
            if not count:
                self._closed_by_peer()
                return
            self.bytes_received += count
            self.last_received = self._owner.runtime.monotonic()
            self._take(view[:count])
            if self.reason is not None or self._paused:
                return
            if count < RECORD:
                break  # less than a whole record: the watcher fires again if more comes
            budget -= count
        if self._sock.pending():
            self._owner.hub.loop.run_callback(self._readable)

    def _closed_by_peer(self) -> None:
        if self._parting is not None:
            self._end(self._parting, orderly=True)
        elif self._decoder.mid_message:
            self._end("the peer closed the connection in the middle of a frame", orderly=False)
        else:
            self._end("the peer closed the connection", orderly=True)

    def _take(self, data: memoryview | bytes) -> None:
        payloads = self._decoder.feed(data)
        self.frames_received += len(payloads)
        behind = iter(payloads)
        for first in behind:
            frame: bytes | None = first
            while frame:
                frame = self._dispatch(frame, behind)
                if self.reason is not None:
                    return
                if self._outbox.owing >= OWING and not self._paused:
                    # What it sends calls for answers, and it does not read them. Not reading on is the one
                    # answer that costs us nothing.
                    self._paused = True
                    self._read_watcher.stop()
        if not self._partial and self._decoder.mid_message:
            self.await_look()

    def _dispatch(self, frame: bytes, behind: Iterator[bytes]) -> bytes | None:
        """Have `frame` taken, and those of `behind` that go with it; the next one, if it was taken off."""
        tag, owner = frame[0], self._owner
        run = owner.runs.get(tag)  # first: messages are what there is most of
        if run is not None:
            return run(self, frame, behind)
        receive = owner.receivers.get(tag)
        if receive is not None:
            receive(self, frame)
        elif tag == FrameTag.PING:
            self._outbox.post(frames.encode_pong(frame))
        elif tag == FrameTag.PONG:
            self._ponged(frames.decode_pong(frame))
        elif tag == FrameTag.GOODBYE:
            farewell, why = frames.decode_goodbye(frame)
            if farewell is not Farewell.CLOSING:
                self.farewell = farewell
            self._end(f"the peer said goodbye: {printable(why, 200)}", orderly=True)
        return None

    def _ponged(self, number: int) -> None:
        if number > MARKS:
            self._outbox.landed(number)
            return
        rtt = self._pings.answered(number, self._owner.runtime.monotonic())
        if rtt is not None:
            self.rtt = rtt
            self._owner.journal.rtts.observe(rtt)

    # Writing: in the loop's callbacks, too.

    def _say_goodbye(self, farewell: Farewell, reason: str) -> bool:
        """Queue a GOODBYE; False if the peer would not understand it."""
        known = bool(self._capabilities & Capability.GOODBYE)
        if known and self._parting is None:
            self._outbox.last(frames.encode_goodbye(farewell, _TO_THE_PEER.get(reason, reason)))
        return known

    def _send_ping(self, waiter: AsyncResult[float] | None) -> int:
        number = self._pings.begin(self._owner.runtime.monotonic(), waiter)
        self._outbox.post(frames.encode_ping(number))
        return number

    def _flush(self) -> None:
        if self.reason is None:
            self._guarded(self._write)
            self._owner.hub.busy_wait.sent(self._owner.config.busy_wait)

    def _write(self) -> None:
        self._outbox.write()
        if self.carried is not None:
            self.carried.room()
        if self._paused and not self._outbox.owing and self.reason is None:
            self._paused = False
            self._read_watcher.start(self._readable)
            self._owner.hub.loop.run_callback(self._readable)

    # The end.

    def _end(self, reason: str, *, orderly: bool, linger: bool = False) -> None:
        """Close once. The first reason stands.

        :param linger: it is this end that closes first, and what was written is to arrive.
        """
        if self.reason is not None:
            return
        _ = self.local_address  # the last moment at which it can be asked for
        with contextlib.suppress(OSError, ValueError):
            if orderly:
                self._outbox.write(math.inf)
        self.reason = reason
        self.lost = not orderly
        self._read_watcher.stop()
        self._read_watcher.close()
        self._outbox.close()
        with contextlib.suppress(OSError, ValueError):
            if orderly:
                self._sock.unwrap()  # one attempt; the socket never waits
        if linger:
            Linger(self._sock, self._owner.hub.loop)
        else:
            self._sock.close()
        self._pings.fail(lambda: SessionClosed(self.peer, reason))
        self._owner.session_ended(self)


def _address(address: tuple[Any, ...] | None) -> str:
    return str(Address(str(address[0]), int(address[1]))) if address else "unknown"
