"""One attempt to link: a TCP connection, from dialing to a registered session or an error.

What a peer says of itself decides nothing before it has proved the cookie. A dial that knows whom it dials
follows the pairing rule from the start; one that knows an address only stays outside the table until ACK, or
a REJECT with a MAC, has proved the name. It ranks below every other connection, so that a link which is
there already always stays.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import gevent
import gevent.socket

from ..errors import AuthenticationError, LinkError, PolicyError, Rejected, Unreachable
from ..names import Address, is_literal
from ..protocol import pairing
from ..protocol.handshake import Challenged, Established, Form, Refused
from ..protocol.messages import RejectCode
from ..protocol.pairing import Candidate
from . import faults, tls
from .converse import Conversation
from .deadline import Deadline

if TYPE_CHECKING:
    from ..protocol.handshake import Initiator, Step
    from .endpoint import Endpoint
    from .secured import Plain, Secured
    from .session import Session

#: What a dial says in NAME that knows an address only: the lowest rank there is.
UNNAMED = pairing.Dial(epoch=0, attempt=0)


class Dialing(Protocol):
    """What an attempt needs of the dial it is made for."""

    endpoint: Endpoint
    key: str
    address: Address
    #: Whom it dials, None while that is not known.
    name: str | None
    #: What is being done, for messages.
    step: str
    #: Whether REPLY is sent.
    committed: bool
    #: Whether an address that the host name has may be dialed; None: any may.
    vet: Callable[[str], bool] | None

    @property
    def settled(self) -> bool:
        """Whether the outcome is known already."""

    def learn(self, name: str) -> None:
        """The peer has proved its name."""


class Attempt:
    """One TCP connection, from dialing to a session or an error."""

    def __init__(self, dial: Dialing, serial: int, counters: pairing.Dial) -> None:
        self.dial = dial
        self.endpoint = dial.endpoint
        self.serial = serial
        self.counters = counters
        self._kept = False
        self._talk: Conversation | None = None
        self._began = self.endpoint.runtime.monotonic()
        self._process = os.getpid()

    def run(self) -> Session | None:
        """The session; None if the rule says to look again."""
        dial, limits = self.dial, self.endpoint.config.limits
        sock: Secured | gevent.socket.socket | Plain | None = None
        self.endpoint.journal.dials += 1
        try:
            sock = self._connect()
            if os.getpid() != self._process:  # in a child of a fork, to which the connection does not belong
                raise gevent.GreenletExit
            dial.step = "the TLS handshake"
            with Deadline(limits.handshake_timeout, "the handshake", dial.key):
                remote = sock.getpeername()
                end = self.endpoint.client_end()
                sock = secured = tls.wrap_client(sock, end)
                classic = self.endpoint.allows_classic(dial.name)
                talk = self._talk = Conversation(secured, dial.key)
                with Deadline(limits.tls_timeout, "the TLS handshake", dial.key):
                    seen = talk.secure(self.endpoint.hub.turns, classic=classic, certified=end.certified)
                machine = self.endpoint.initiator(dial.name, self.counters, end, seen)
                return self._handshake(talk, machine, remote)
        except LinkError:
            raise  # LinkTimeout is an OSError too
        except OSError as error:  # reset between connect and here
            raise faults.securing(error, dial.key) from error
        finally:
            if self._talk is not None:
                self._talk.close()
            if not self._kept:
                if sock is not None:
                    sock.close()
                if dial.name is not None:
                    self.endpoint.table.ended(dial.name, self.serial)

    def _connect(self) -> gevent.socket.socket | Plain:
        self.dial.step = f"connecting to {self.dial.address}"
        try:
            sock = self._tcp(self.dial.address)
            tls.no_delay(sock)
        except OSError as error:
            raise faults.connecting(error, self.dial.key) from error
        return sock

    def _tcp(self, address: Address) -> gevent.socket.socket | Plain:
        if self.endpoint.runtime.reach is not None:
            return self.endpoint.runtime.reach(address)
        if is_literal(address.host):
            # Without the resolver there is no turn through gevent's thread pool.
            return _connected(socket.AF_INET6 if ":" in address.host else socket.AF_INET, tuple(address))
        found = gevent.socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        vet = self.dial.vet  # only now: it may have been lifted meanwhile
        places = [(family, place) for family, *_, place in found if vet is None or vet(str(place[0]))]
        if not places:
            raise Unreachable(
                "its host name leads only to addresses, such as loopback, that are not dialed at the word "
                "of a peer elsewhere",
                peer=self.dial.key,
            )
        for family, place in places[:-1]:
            with contextlib.suppress(OSError):
                return _connected(family, place)
        return _connected(*places[-1])

    def _handshake(self, talk: Conversation, machine: Initiator, remote: tuple[Any, ...]) -> Session | None:
        dial, endpoint = self.dial, self.endpoint
        dial.step = "awaiting CHALLENGE"
        challenged = self._converse(talk, machine, machine.start())
        if not isinstance(challenged, Challenged):
            raise AssertionError(f"an initiator does not stop at {challenged!r} first")
        peer = challenged.peer
        if dial.name is not None:
            decision = endpoint.table.challenged(
                peer.name, self.serial, peer.incarnation, endpoint.runtime.monotonic()
            )
            if not isinstance(decision, pairing.Commit):
                machine.withdraw("another link came first")
                return endpoint.table.sessions.get(peer.name)
        dial.step, dial.committed = "awaiting ACK", True
        try:
            established = self._converse(talk, machine, machine.prove())
        except Rejected as error:
            if error.code == RejectCode.DUPLICATE and dial.name is None:
                # Its MAC has proved the name that the peer gave: from here on we dial by the rule.
                self._check_allowed(peer.name)
                dial.learn(peer.name)
                return None
            raise
        if not isinstance(established, Established):
            raise AssertionError(f"an initiator does not stop at {established!r} last")
        return self._decide(talk, established, remote)

    def _converse(self, talk: Conversation, machine: Initiator, step: Step) -> Step:
        step = talk.run(machine, step)
        if isinstance(step, Refused):
            raise faults.refusal(step, self.dial.key)
        return step

    def _check_allowed(self, name: str) -> None:
        """Look the name up that a dial by address was answered with, once it is proved."""
        if not self.endpoint.allows(name):
            problem = f"{name} answers there, which this node's allow-list does not have"
            raise PolicyError(problem, peer=self.dial.key)

    def _decide(
        self, talk: Conversation, established: Established, remote: tuple[Any, ...]
    ) -> Session | None:
        """The peer has proved the cookie, too: register the link, unless a better one came first."""
        table, peer = self.endpoint.table, established.peer
        if self.dial.settled or self.endpoint.stopped:
            return None  # superseded, or stopped, a moment ago; the kill is on its way
        if not self.endpoint.trusts(established.key):
            raise AuthenticationError(faults.FORGOTTEN, peer=peer.name)
        self._check_allowed(peer.name)
        if self.dial.name is None and peer.form is Form.CLASSIC and peer.name in table.sessions:
            return table.sessions[peer.name]  # a classic peer could not say DUPLICATE
        node_id = table.ids.take()
        if node_id is None:
            raise Rejected(
                "this node has 65,535 links, and no more numbers", code=RejectCode.BUSY, peer=peer.name
            )
        # No switch to another greenlet from here until the session is registered.
        candidate = Candidate(
            self.serial,
            peer.incarnation,
            self.counters.epoch,
            table.smaller(peer.name),
            self.counters.attempt,
        )
        decision = table.acknowledged(peer.name, candidate)
        if not isinstance(decision, pairing.Admit):
            table.ids.release(node_id)
            return table.sessions.get(peer.name)
        self._kept = True
        return self.endpoint.register(
            talk,
            established,
            serial=self.serial,
            initiated=True,
            remote=remote,
            node_id=node_id,
            began=self._began,
        )


def _connected(family: int, place: tuple[Any, ...]) -> gevent.socket.socket:
    """A TCP connection to the socket address `place`."""
    sock = gevent.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock
