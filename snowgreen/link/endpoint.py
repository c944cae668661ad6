"""A node as its links see it: who it is, what it may prove, its table, and the one way into that table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gevent

from ..config import Config
from ..cookie import Cookie
from ..errors import LinkError
from ..events import HandshakeFailed, NodeDown, NodeUp
from ..names import NodeName, printable
from ..protocol.handshake import Acceptor, Established, Identity, Initiator
from ..protocol.heartbeat import Pulse
from ..protocol.keys import LinkKeys, Secrets
from ..protocol.messages import CHALLENGE_BYTES
from .bus import Bus
from .runtime import HubState, Runtime
from .session import Session
from .table import Table

if TYPE_CHECKING:
    import gevent.ssl

log = logging.getLogger("snowgreen.link")

ANY_PEER = "*"


class Endpoint:
    """One life of a node, from its start to its stop.

    :param name: the name it announces.
    :param keys: of the cookies it accepts in the bound form, the primary first.
    :param classic: peer name, or ``"*"``, → the cookie of that peer's classic form.
    :param bus: where its events go.
    """

    def __init__(
        self,
        name: NodeName,
        *,
        keys: tuple[LinkKeys, ...],
        classic: Mapping[str, Cookie],
        config: Config,
        runtime: Runtime,
        hub: HubState,
        bus: Bus,
    ) -> None:
        self.name = name
        self.config = config
        self.runtime = runtime
        self.hub = hub
        self.bus = bus
        self.pulse = Pulse(config.heartbeat_interval, config.heartbeat_timeout, config.limits.frame_timeout)
        incarnation = new_incarnation(runtime)
        #: What every handshake says of this node. A creation of 0 would mean "none" to a classic peer.
        self.identity = Identity(name.text, incarnation, creation=(incarnation & 0xFF) or 1)
        self.table = Table(
            name.text, remembered=config.limits.remembered_peers, commit_timeout=config.commit_timeout
        )
        #: Told of every session as it is registered: the dialer's waiters may be served by it.
        self.on_registered: Callable[[Session], None] = lambda session: None
        self._keys = keys
        self._classic = classic
        self._decoy = runtime.entropy(32) if classic else b""

    def acceptor(self, fingerprint: bytes) -> Acceptor:
        """A fresh machine for an inbound connection on the certificate `fingerprint`."""
        return Acceptor(
            self.identity,
            self._keys,
            classic=self._classic_or_decoy if self._classic else None,
            challenge=self.runtime.entropy(CHALLENGE_BYTES),
            binding=fingerprint,
        )

    def initiator(self, expected: str | None, epoch: int, attempt: int, fingerprint: bytes) -> Initiator:
        """A fresh machine for a dial that met the certificate `fingerprint`."""
        classic = self._classic_cookie(expected)
        return Initiator(
            self.identity,
            Secrets(self._keys, None if classic is None else classic.reveal()),
            challenge=self.runtime.entropy(CHALLENGE_BYTES),
            expected=expected,
            epoch=epoch,
            attempt=attempt,
            acceptor_binding=fingerprint,
        )

    def allows_classic(self, peer: str | None = None) -> bool:
        """Whether `peer`, or where it is None anyone who dials in, may be a classic peer."""
        return bool(self._classic) if peer is None else self._classic_cookie(peer) is not None

    def register(
        self,
        sock: gevent.ssl.SSLSocket,
        established: Established,
        *,
        serial: int,
        initiated: bool,
        remote: tuple[Any, ...],
        node_id: int,
    ) -> Session:
        """Record an admitted link, close the one it replaces, and send the end of its handshake.

        From the decision to admit until this returns, no other greenlet runs.
        """
        session = Session(
            self, sock, established, serial=serial, node_id=node_id, initiated=initiated, remote=remote
        )
        replaced = self.table.install(session)
        if replaced is not None:
            replaced.close("replaced by a newer link with the same peer")
        log.info("link with %s is up (%s)", session.peer, session.form)
        self.bus.publish(
            NodeUp(session.peer, session.incarnation, session.form, initiated, session.connected_at)
        )
        self.on_registered(session)
        # Last, so that a link which breaks in this very moment goes down after it came up.
        session.open(established.send)
        return session

    def session_ended(self, session: Session) -> None:
        """Take `session` out, wherever it still is; a session that was replaced takes nothing with it."""
        self.table.ended(session.peer, session.serial)
        self.table.ids.release(session.node_id)
        reason = session.reason or ""
        log.info("link with %s is down: %s", session.peer, reason)
        self.bus.publish(NodeDown(session.peer, session.incarnation, reason, self.runtime.wall()))

    def handshake_failed(
        self, error: LinkError, *, claimed: str | None, address: str, initiated: bool
    ) -> None:
        """Say that an attempt to link came to nothing."""
        shown = printable(claimed) if claimed is not None else None
        event = HandshakeFailed(shown, address, initiated, error, self.runtime.wall())
        log.warning("%s", event)
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
    """``unix milliseconds << 16 | 16 random bits``: one life of a node (specification, section 2)."""
    milliseconds = int(runtime.wall() * 1000)
    return (milliseconds << 16 | int.from_bytes(runtime.entropy(2), "little")) & (2**64 - 1)
