"""A node as its links see it: who it is, what it may prove, its table, and the one way into that table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from ..config import Config
from ..cookie import Cookie
from ..errors import LinkError
from ..events import HandshakeFailed, NodeDown, NodeUp
from ..names import ANY_PEER, NodeName, printable
from ..protocol import pairing
from ..protocol.frames import CAPABILITIES, Farewell
from ..protocol.handshake import Acceptor, Established, Identity, Initiator
from ..protocol.heartbeat import Pulse, Rounds, sweep_interval
from ..protocol.keys import LinkKeys, Secrets
from ..protocol.messages import CHALLENGE_BYTES
from . import tls
from .bus import Bus
from .journal import Journal
from .keyring import Keychain
from .logs import FailedHandshakes
from .runtime import HubState, Runtime, say
from .session import REPLACED, Session
from .table import Table

if TYPE_CHECKING:
    from .converse import Conversation

log = logging.getLogger("snowgreen.link")


def _anybody(_: str) -> bool:
    return True


class Endpoint:
    """One life of a node, from its start to its stop.

    :param name: the name it announces.
    :param keychain: of the cookies it accepts in the bound form.
    :param classic: peer name, or ``"*"``, → the cookie of that peer's classic form.
    :param bus: where its events go.
    :param journal: what remembers them, and counts.
    :param sessions: where its table keeps the sessions.
    :param client_end: gives the end of TLS to dial with. It may wait.
    :param allows: whether a node of that name may be linked with at all. A peer that has not proved its name
        must not learn of it.
    """

    def __init__(
        self,
        name: NodeName,
        *,
        keychain: Keychain,
        classic: Mapping[str, Cookie],
        config: Config,
        runtime: Runtime,
        hub: HubState,
        bus: Bus,
        journal: Journal,
        sessions: dict[str, Session],
        client_end: Callable[[], tls.End] = tls.client_end,
        allows: Callable[[str], bool] = _anybody,
    ) -> None:
        self.name = name
        self.config = config
        self.runtime = runtime
        self.hub = hub
        self.bus = bus
        self.journal = journal
        #: The log of failed handshakes.
        self.failures = FailedHandshakes(name.text, say, runtime.monotonic, hub.loop.timer)
        self.client_end = client_end
        self.allows = allows
        self.pulse = Pulse(config.heartbeat_interval, config.heartbeat_timeout, config.limits.frame_timeout)
        #: Which session the heartbeat looks at next.
        self.rounds: Rounds[Session] = Rounds(sweep_interval(self.pulse))
        incarnation = new_incarnation(runtime)
        #: What every handshake says of this node. A creation of 0 would mean "none" to a classic peer.
        self.identity = Identity(name.text, incarnation, (incarnation & 0xFF) or 1, CAPABILITIES)
        self.table = Table(
            name.text,
            sessions,
            remembered=config.limits.remembered_peers,
            commit_timeout=config.commit_timeout,
        )
        #: When this life began, in seconds since the epoch.
        self.started_at = runtime.wall()
        #: Set when this life ends: from then on nothing is registered.
        self.stopped = False
        #: Told of every session as it is registered, and as it ends. They must not wait.
        self.on_registered: list[Callable[[Session], None]] = []
        self.on_ended: list[Callable[[Session], None]] = []
        #: Frame tag → who takes such frames. They run in the loop's callbacks and must not wait; the session
        #: itself takes PING, PONG and GOODBYE.
        self.receivers: dict[int, Callable[[Session, bytes], None]] = {}
        #: The same for tags of which many frames may come at once: who also takes, off the frames behind it,
        #: those that go with it, and returns the first one that does not, None if all did.
        self.runs: dict[int, Callable[[Session, bytes, Iterator[bytes]], bytes | None]] = {}
        #: Peers that this node left, and that are declined until it wants them again.
        self.left: set[str] = set()
        self._keychain = keychain
        self._classic = classic
        self._decoy = runtime.entropy(32) if classic else b""

    def acceptor(self, end: tls.End, seen: tls.Seen) -> Acceptor:
        """A fresh machine for an inbound connection on `end`, on which TLS has shown `seen`."""
        return Acceptor(
            self.identity,
            self._keychain.ring.keys,
            classic=self._classic_or_decoy if self._classic else None,
            challenge=self.runtime.entropy(CHALLENGE_BYTES),
            binding=end.fingerprint,
            initiator_binding=seen.fingerprint,
            certified=seen.name,
        )

    def initiator(
        self, expected: str | None, counters: pairing.Dial, end: tls.End, seen: tls.Seen
    ) -> Initiator:
        """A fresh machine for a dial from `end`, on which TLS has shown `seen`."""
        classic = self._classic_cookie(expected)
        return Initiator(
            self.identity,
            Secrets(self._keychain.ring.keys, None if classic is None else classic.reveal()),
            challenge=self.runtime.entropy(CHALLENGE_BYTES),
            expected=expected,
            epoch=counters.epoch,
            attempt=counters.attempt,
            acceptor_binding=seen.fingerprint,
            binding=end.fingerprint,
            certified=seen.name,
        )

    def trusts(self, key: LinkKeys | None) -> bool:
        """Whether `key`, which a handshake began with, is still accepted. None: it is of the classic form."""
        return key is None or key in self._keychain.ring

    def drain(self, reason: str) -> int:
        """Close the sessions whose cookie is no longer accepted; how many there were."""
        accepted = self._keychain.ring.fingerprints
        unwanted = [
            session
            for session in self.table.sessions.values()
            if session.cookie_id is not None and session.cookie_id not in accepted
        ]
        for session in unwanted:
            session.close(reason)
        return len(unwanted)

    def allows_classic(self, peer: str | None = None) -> bool:
        """Whether `peer`, or where it is None anyone who dials in, may be a classic peer."""
        return bool(self._classic) if peer is None else self._classic_cookie(peer) is not None

    def register(
        self,
        talk: Conversation,
        established: Established,
        *,
        serial: int,
        initiated: bool,
        remote: tuple[Any, ...],
        node_id: int,
        began: float,
    ) -> Session:
        """Record an admitted link, close the one it replaces, and send the end of its handshake.

        From the decision to admit until this returns, no other greenlet runs.

        :param talk: the handshake's, which hands its connection over.
        :param began: when the connection was accepted or dialed, on the runtime's monotonic clock.
        """
        sock, watcher = talk.hand_over()
        session = Session(
            self,
            sock,
            watcher,
            established,
            serial=serial,
            node_id=node_id,
            initiated=initiated,
            remote=remote,
        )
        replaced = self.table.install(session)
        session.await_look()
        if replaced is not None:
            replaced.close(REPLACED)
        self.journal.links[session.form, initiated] += 1
        self.journal.handshakes[initiated].observe(session.last_received - began)
        event = NodeUp(session.peer, session.incarnation, session.form, initiated, session.connected_at)
        say(log, logging.INFO, "%s: %s", self.name, event)
        self.bus.publish(event)
        for told in self.on_registered:
            told(session)
        # Last, so that a link which breaks in this very moment goes down after it came up.
        session.open(established.send)
        return session

    def part(self, reason: str, timeout: float) -> None:
        """Say goodbye to every peer, and wait for `timeout` seconds at most until all have closed."""
        parted = Event()

        def check(_: Session) -> None:
            if not self.table.sessions:
                parted.set()

        self.on_ended.append(check)
        self.failures.close()
        for session in list(self.table.sessions.values()):
            session.part(Farewell.STOPPING, reason)
        if self.table.sessions:
            parted.wait(timeout)

    def let_go(self) -> None:
        """In a child of a fork: close our copies of the descriptors, and say nothing on the connections."""
        self.failures.let_go()
        for session in list(self.table.sessions.values()):
            session.let_go()

    def session_ended(self, session: Session) -> None:
        """Take `session` out, wherever it still is; a session that was replaced takes nothing with it."""
        self.table.ended(session.peer, session.serial)
        self.table.ids.release(session.node_id)
        self.rounds.drop(session)
        journal = self.journal
        journal.bytes_received += session.bytes_received
        journal.bytes_sent += session.bytes_sent
        journal.frames_received += session.frames_received
        journal.frames_sent += session.frames_sent
        reason = session.reason or ""
        event = NodeDown(session.peer, session.incarnation, reason, self.runtime.wall(), session.lost)
        say(log, logging.INFO, "%s: %s", self.name, event)
        self.bus.publish(event)
        for told in self.on_ended:
            told(session)

    def handshake_failed(
        self, error: LinkError, *, claimed: str | None, address: str, initiated: bool
    ) -> None:
        """Say that an attempt to link came to nothing."""
        shown = printable(claimed) if claimed is not None else None
        event = HandshakeFailed(shown, address, initiated, error, self.runtime.wall())
        self.failures.tell(event)
        self.bus.publish(event)

    def _classic_cookie(self, peer: str | None) -> Cookie | None:
        if peer is not None and peer in self._classic:
            return self._classic[peer]
        return self._classic.get(ANY_PEER)

    def _classic_or_decoy(self, peer: str) -> bytes:
        # A name nobody configured gets a challenge too, which no proof can answer: otherwise the
        # answer would tell a stranger which names are configured.
        cookie = self._classic_cookie(peer)
        return self._decoy if cookie is None else cookie.reveal()

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} with {len(self.table.sessions)} sessions>"


def new_incarnation(runtime: Runtime) -> int:
    """``unix milliseconds << 16 | 16 random bits``: one life of a node (specification, section 2).

    Within a process each is greater than the one before, however quick the restart and wherever the clock
    was put in between.
    """
    global _last_incarnation
    drawn = int(runtime.wall() * 1000) << 16 | int.from_bytes(runtime.entropy(2), "little")
    _last_incarnation = max(drawn, _last_incarnation + 1) & (2**64 - 1)
    return _last_incarnation


_last_incarnation = 0
