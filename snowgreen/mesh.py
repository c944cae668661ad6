"""The mesh: peers tell each other whom they are linked with, and dial those that they lack.

Whom, and when, :class:`~snowgreen.protocol.mesh.Mesh` decides. One greenlet waits for whoever is due next;
the dials run in a small pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import gevent
from gevent.event import Event
from gevent.pool import Pool

from .errors import (
    AuthenticationError,
    CertificateError,
    InvalidName,
    LinkError,
    NameMismatch,
    NodeStateError,
    PolicyError,
    Rejected,
    SelfLinkError,
)
from .events import PeerListRefused
from .link.dialer import Dialer
from .link.endpoint import Endpoint
from .link.runtime import say
from .link.session import Session
from .names import parse_name
from .protocol.frames import Farewell, FrameTag
from .protocol.handshake import Form
from .protocol.mail import decode_peer_list, encode_peer_list
from .protocol.mesh import Dial, Heard, Mesh, Rules, dials_only, special
from .protocol.messages import RejectCode

log = logging.getLogger("snowgreen.mesh")

#: Seconds for one dial, all in all; the deadlines inside it are shorter.
_PATIENCE = 30.0
#: Seconds between two events, or log lines, about the lists of one peer.
_QUIET = 1.0
_MANY = 1 << 32
#: Pairs of nodes that are remembered of what peers tell, for those who want to see the mesh.
_PAIRS = 10_000
#: After these another dial would fail in the same way.
_FINAL = (
    AuthenticationError,
    CertificateError,
    NameMismatch,
    PolicyError,
    SelfLinkError,
)
_FINAL_CODES = {RejectCode.NAME_NOT_ALLOWED, RejectCode.CAPABILITIES}


class Mesher:
    """One node's part in a mesh.

    :param allowed: whether a node may be dialed at all; one that this node has left may not.
    """

    def __init__(self, endpoint: Endpoint, dialer: Dialer, allowed: Callable[[str], bool]) -> None:
        config = endpoint.config
        rules = Rules(
            config.limits.known_peers,
            config.limits.dials,
            config.redial_base,
            config.redial_ceiling,
            config.mesh_patience,
        )
        self._endpoint = endpoint
        self._dialer = dialer
        self._mesh = Mesh(endpoint.name.text, rules, self._chance, allowed)
        self._allowed = allowed
        self._dials: dict[str, gevent.Greenlet[..., None]] = {}
        self._unreachable: dict[str, Session] = {}  # linked, and nobody else can dial them
        self._refusals: dict[str, tuple[float, int]] = {}  # peer → when it was told, and what was not since
        self._reported: dict[str, frozenset[str]] = {}
        self._pairs = 0
        self._changed = Event()
        self._pool = Pool(config.limits.dials)
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._stopped = False
        endpoint.on_registered.append(self._registered)
        endpoint.on_ended.append(self._ended)
        endpoint.receivers[FrameTag.PEER_LIST] = self._received

    @property
    def reported(self) -> Mapping[str, frozenset[str]]:
        """Peer name → the other nodes it has told of."""
        return MappingProxyType(self._reported)

    def leave(self, name: str) -> None:
        """Forget `name`, and end the dial to it, if one is under way."""
        self._mesh.forget(name)
        dial = self._dials.get(name)
        if dial is not None:
            dial.kill(block=False)

    def stop(self) -> None:
        """Dial no more, and listen to no list."""
        self._stopped = True
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None
        self._pool.kill(block=False)

    # In the loop's callbacks, and between a decision and its record: nothing here may wait.

    def _registered(self, session: Session) -> None:
        if self._stopped:
            return
        self._mesh.up(session.peer, host=session.remote_host, now=self._now())
        self._tell(session, self._endpoint.table.sessions.values())
        # Nobody is told of a peer that only dials. So it is the one to be told of whoever comes later.
        for other in self._unreachable.values():
            self._tell(other, (session,))
        if dials_only(session.peer):
            self._unreachable[session.peer] = session

    def _ended(self, session: Session) -> None:
        if self._stopped or session.peer in self._endpoint.table.sessions:
            return  # of two links with one peer, the other lives on
        self._unreachable.pop(session.peer, None)
        self._refusals.pop(session.peer, None)
        self._pairs -= len(self._reported.pop(session.peer, ()))
        self._mesh.down(session.peer, self._now(), lost=session.farewell is None)
        self.wake()

    def _tell(self, session: Session, others: Iterable[Session]) -> None:
        """Tell the peer of `session` that this node is linked with `others`."""
        classic = session.form == Form.CLASSIC.value
        names = self._mesh.to_send(
            session.peer,
            [other.peer for other in others if not classic or other.form == Form.CLASSIC.value],
            to_host=session.remote_host,
        )
        if names:
            session.post_control(encode_peer_list(names))

    def _received(self, session: Session, frame: bytes) -> None:
        """A PEER_LIST.

        :raises BadFrame: if it is none.
        """
        names = decode_peer_list(frame)
        if self._stopped:
            return
        classic = session.form == Form.CLASSIC.value
        heard = self._mesh.heard(
            names,
            from_host=session.remote_host,
            now=self._now(),
            entitled=self._endpoint.allows_classic if classic else _anybody,
        )
        self._note(session.peer, names)
        if heard.refused:
            self._complain(session.peer, heard)
        if heard.new:
            self.wake()

    def _note(self, peer: str, names: Iterable[str]) -> None:
        known = self._reported.get(peer, frozenset())
        new = [name for name in names if name not in known and _is_name(name)][: _PAIRS - self._pairs]
        if new:
            self._reported[peer] = known.union(new)
            self._pairs += len(self._reported[peer]) - len(known)

    def _complain(self, peer: str, heard: Heard) -> None:
        """Say what was refused; of lists in quick succession, once, and how many names more with the next."""
        now = self._now()
        told_at, count = self._refusals.get(peer, (float("-inf"), 0))
        count += heard.refused.total()
        if now - told_at < _QUIET:
            self._refusals[peer] = (told_at, count)
            return
        self._refusals[peer] = (now, 0)
        event = PeerListRefused(peer, count, heard.problem, self._endpoint.runtime.wall())
        say(log, logging.WARNING, "%s: %s", self._endpoint.name, event)
        self._endpoint.bus.publish(event)

    def wake(self) -> None:
        """Look who is due. Never waits."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        self._changed.set()

    def _now(self) -> float:
        return self._endpoint.runtime.monotonic()

    def _chance(self) -> float:
        return int.from_bytes(self._endpoint.runtime.entropy(4), "little") / _MANY

    # In greenlets of its own.

    def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._now()
            due = self._mesh.due(now)
            for dial in due.dials:
                self._begin(dial)
            self._changed.wait(None if due.again is None else due.again - now)

    def _begin(self, dial: Dial) -> None:
        name = dial.name.text
        greenlet = self._dials[name] = self._pool.spawn(self._dial, dial)

        def done(_: object) -> None:  # even of one that was ended before it began
            if self._dials.get(name) is greenlet:
                del self._dials[name]
            self._mesh.over()
            self._changed.set()

        greenlet.rawlink(done)

    def _dial(self, dial: Dial) -> None:
        name = dial.name.text
        vetted: list[bool] = []  # of each address that the name's host has

        def vet(address: str) -> bool:
            vetted.append(special(address) is None)
            return vetted[-1]

        try:
            self._dialer.connect(dial.name, _PATIENCE, None if dial.anywhere else vet)
        except NodeStateError:
            pass
        except LinkError as error:
            rejected = isinstance(error, Rejected) and error.code in _FINAL_CODES
            nowhere = bool(vetted) and not any(vetted)
            final = isinstance(error, _FINAL) or rejected or nowhere
            self._mesh.failed(name, self._now(), final=final)
        finally:
            if not self._stopped and not self._allowed(name):
                self._part(name)

    def _part(self, name: str) -> None:
        """Node.leave() was called while the dial was under way, and the link came in that very moment."""
        session = self._endpoint.table.sessions.get(name)
        if session is not None and session.initiated:
            session.leave(Farewell.LEAVING, f"{self._endpoint.name} left")


def _is_name(text: str) -> bool:
    try:
        parse_name(text)
    except InvalidName:
        return False
    return True


def _anybody(_: str) -> bool:
    return True
