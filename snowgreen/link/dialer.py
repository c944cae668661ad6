"""The dialing side: one dial per peer at a time, however many greenlets wait for its link."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket
from gevent.event import AsyncResult

from ..errors import (
    AuthenticationError,
    LinkError,
    LinkTimeout,
    NodeStateError,
    Rejected,
    SelfLinkError,
    Unreachable,
)
from ..names import Address, NodeName, is_literal
from ..protocol import pairing
from ..protocol.handshake import Challenged, Established, Refused
from ..protocol.messages import RejectCode
from ..protocol.pairing import Candidate
from . import faults, tls
from .converse import converse, secure
from .deadline import Deadline

if TYPE_CHECKING:
    import gevent.ssl

    from ..protocol.handshake import Initiator, Step
    from .endpoint import Endpoint
    from .session import Session

log = logging.getLogger("snowgreen.dialer")

#: What an unnamed peer's dial says in NAME: the counters of a first dial, which most are.
_FIRST = pairing.Dial(epoch=1, attempt=1)


class Dialer:
    """One node's dials."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._dials: dict[str, Dial] = {}  # by node name, or by address until the name is known
        self._retired: set[Dial] = set()
        self._stopped = False
        endpoint.on_registered.append(self._registered)

    def connect(self, target: NodeName | Address, timeout: float | None) -> Session:
        """The session with `target`: the one there is, or a new one.

        :raises LinkError: as documented for :meth:`snowgreen.Node.connect`.
        """
        if self._stopped:
            raise NodeStateError("the node is stopped")
        key = str(target)
        address, name = target, None
        if isinstance(target, NodeName):
            address, name = target.address, target.text
            if name == self.endpoint.name.text:
                raise SelfLinkError("that is this node's own name", peer=name)
            session = self.endpoint.table.sessions.get(name)
            if session is not None:
                return session
        if address.port == 0:
            raise Unreachable("port 0 says that this node only dials and cannot be dialed", peer=key)
        dial = self._dials.get(key)
        if dial is None:
            dial = self._dials[key] = Dial(self, key, Address(address.host, address.port), name)
        return dial.wait(timeout)

    def stop(self) -> None:
        """End every dial; who waits for one gets :class:`NodeStateError`."""
        self._stopped = True
        for dial in [*self._dials.values(), *self._retired]:
            dial.fail(NodeStateError("the node was stopped"))

    def let_go(self) -> None:
        """In a child of a fork: end the dials; who waits for one waits in the parent."""
        self._stopped = True
        for dial in [*self._dials.values(), *self._retired]:
            dial.end()

    def find(self, key: str) -> Dial | None:
        """The dial in progress for a name or address."""
        return self._dials.get(key)

    def learn(self, dial: Dial, name: str) -> None:
        """`dial` has met `name`: whoever wants that name waits for it, too."""
        self._dials.setdefault(name, dial)

    def forget(self, dial: Dial) -> None:
        """`dial` is over."""
        for key in {dial.key, dial.name or dial.key}:
            if self._dials.get(key) is dial:
                del self._dials[key]

    def retire(self, dial: Dial) -> None:
        """`dial` is served, and only has to withdraw; :meth:`stop` does not wait for that."""
        if not dial.finished:
            self._retired.add(dial)

    def retired(self, dial: Dial) -> None:
        """`dial` has come to its end."""
        self._retired.discard(dial)

    def _registered(self, session: Session) -> None:
        dial = self._dials.get(session.peer)
        if dial is not None:
            dial.succeed(session)


class Dial:
    """One attempt after another at one peer, in a greenlet of its own, while anybody waits for it."""

    def __init__(self, dialer: Dialer, key: str, address: Address, name: str | None) -> None:
        self.dialer = dialer
        self.endpoint = dialer.endpoint
        self.key = key
        self.address = address
        self.name = name
        self.step = "starting"
        #: Whether the attempt under way has sent its REPLY.
        self.committed = False
        self._waiters = 0
        self._result: AsyncResult[Session] = AsyncResult()
        self._greenlet = gevent.spawn(self._run)

    def wait(self, timeout: float | None) -> Session:
        """Wait for the outcome. The dial ends when nobody waits for it any more."""
        self._waiters += 1
        try:
            self._result.wait(timeout)
            if self.settled:
                session = self._result.get(block=False)
                assert session is not None  # noqa: S101  # settled without an exception: by succeed()
                return session
            error = LinkTimeout(f"no link within {timeout:g} s; at the end: {self.step}", peer=self.key)
            if self._waiters == 1:
                self._report(error)
            raise error
        finally:
            self._waiters -= 1
            if not self._waiters and not self.settled:
                self.fail(LinkTimeout("nobody waits for this link any more", peer=self.key))

    @property
    def finished(self) -> bool:
        """Whether its greenlet has nothing left to do."""
        return self._greenlet is gevent.getcurrent() or bool(self._greenlet.dead)

    @property
    def settled(self) -> bool:
        """Whether the outcome is known."""
        return bool(self._result.ready())

    def succeed(self, session: Session) -> None:
        """There is a link with this peer; how it came about does not matter.

        An attempt of ours that is still under way is over once its REPLY is sent. Before that it goes on to
        CHALLENGE and withdraws there, as the rule has it: cut off earlier, it would look like a failure to
        the peer.
        """
        if not self.settled:
            self._result.set(session)
        self.dialer.forget(self)
        if self.committed:
            self.end()
        else:
            self.dialer.retire(self)

    def fail(self, error: Exception) -> None:
        """There will be no link."""
        if not self.settled:
            self._result.set_exception(error)
        self.dialer.forget(self)
        self.end()

    def end(self) -> None:
        """End the attempt under way, wherever it is, and tell nobody."""
        if self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)

    def _report(self, error: LinkError) -> None:
        self.endpoint.handshake_failed(error, claimed=self.name, address=str(self.address), initiated=True)

    def _run(self) -> None:
        try:
            while not self.settled:
                session = self._try_once()
                if session is not None:
                    self.succeed(session)
        except LinkError as error:
            if not self.settled:  # another link came first, and this failure concerns nobody
                self._report(error)
                self.fail(error)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self.dialer.retired(self)

    def _try_once(self) -> Session | None:
        """One dial by the pairing rule. None: try again."""
        table = self.endpoint.table
        serial = table.serial()
        counters = _FIRST
        if self.name is not None:
            decision = table.dial(self.name, serial)
            if isinstance(decision, pairing.UseLink):
                return table.sessions[self.name]
            if isinstance(decision, pairing.AwaitDial):
                return self._await_other()
            counters = decision
        self.committed = False
        try:
            return _Attempt(self, serial, counters).run()
        except Rejected as error:
            if error.code != RejectCode.DUPLICATE:
                raise
        self._await_inbound()
        return None

    def _await_inbound(self) -> None:
        """The peer prefers a link of its own: leave it about a second to come; succeed() ends the wait."""
        self.step = "waiting for the peer's own link"
        spread = self.endpoint.runtime.entropy(1)[0] / 255  # so that two peers do not retry in step
        gevent.sleep(self.endpoint.config.duplicate_wait * (0.75 + 0.5 * spread))

    def _await_other(self) -> Session | None:
        """Another dial, begun under another name for the same peer, is on its way."""
        other = self.dialer.find(self.name or self.key)
        if other is None or other is self:
            self._await_inbound()
            return None
        self.step = "waiting for another dial to the same node"
        return other.wait(None)


class _Attempt:
    """One TCP connection, from dialing to a session or an error."""

    def __init__(self, dial: Dial, serial: int, counters: pairing.Dial) -> None:
        self.dial = dial
        self.endpoint = dial.endpoint
        self.serial = serial
        self.counters = counters
        self._kept = False

    def run(self) -> Session | None:
        """The session; None if the rule says to look again."""
        dial, limits = self.dial, self.endpoint.config.limits
        sock: gevent.ssl.SSLSocket | gevent.socket.socket | None = None
        try:
            sock = self._connect()
            dial.step = "the TLS handshake"
            with Deadline(limits.handshake_timeout, "the handshake", dial.key):
                remote = sock.getpeername()
                end = self.endpoint.client_end()
                sock = secured = tls.wrap_client(sock, end)
                classic = self.endpoint.allows_classic(dial.name)
                seen = secure(secured, limits.tls_timeout, dial.key, classic=classic, certified=end.certified)
                machine = self.endpoint.initiator(dial.name, self.counters, end, seen)
                return self._handshake(secured, machine, remote)
        except LinkError:
            raise  # LinkTimeout is an OSError too
        except OSError as error:  # reset between connect and here
            raise faults.securing(error, dial.key) from error
        finally:
            if not self._kept:
                if sock is not None:
                    sock.close()
                if dial.name is not None:
                    self.endpoint.table.ended(dial.name, self.serial)

    def _connect(self) -> gevent.socket.socket:
        self.dial.step = f"connecting to {self.dial.address}"
        try:
            sock = _tcp(self.dial.address)
            tls.no_delay(sock)
        except OSError as error:
            raise faults.connecting(error, self.dial.key) from error
        return sock

    def _handshake(
        self, sock: gevent.ssl.SSLSocket, machine: Initiator, remote: tuple[Any, ...]
    ) -> Session | None:
        dial, endpoint = self.dial, self.endpoint
        dial.step = "awaiting CHALLENGE"
        challenged = self._converse(sock, machine, machine.start())
        if not isinstance(challenged, Challenged):
            raise AssertionError(f"an initiator does not stop at {challenged!r} first")
        peer = challenged.peer
        if dial.name is None and not self._adopt(peer.name):
            machine.withdraw("its name is known now; dial again by the rule")
            return None
        decision = endpoint.table.challenged(
            peer.name, self.serial, peer.incarnation, endpoint.runtime.monotonic()
        )
        if not isinstance(decision, pairing.Commit):
            machine.withdraw("another link came first")
            return endpoint.table.sessions.get(peer.name)
        dial.step, dial.committed = "awaiting ACK", True
        established = self._converse(sock, machine, machine.prove())
        if not isinstance(established, Established):
            raise AssertionError(f"an initiator does not stop at {established!r} last")
        return self._decide(sock, established, remote)

    def _adopt(self, name: str) -> bool:
        """The dial has learnt whom it dials. Whether this connection is what the rule would have dialed."""
        dial, table = self.dial, self.endpoint.table
        fresh = table.pair(name) == pairing.Pair()
        dial.name = name
        dial.dialer.learn(dial, name)
        if fresh:
            table.dial(name, self.serial)
        return fresh

    def _converse(self, sock: gevent.ssl.SSLSocket, machine: Initiator, step: Step) -> Step:
        step = converse(sock, machine, step, self.dial.key)
        if isinstance(step, Refused):
            raise faults.refusal(step, self.dial.key)
        return step

    def _decide(
        self, sock: gevent.ssl.SSLSocket, established: Established, remote: tuple[Any, ...]
    ) -> Session | None:
        """The peer has proved the cookie, too: register the link, unless a better one came first."""
        table, peer = self.endpoint.table, established.peer
        if self.dial.settled:
            return None  # superseded a moment ago; the kill is on its way
        if not self.endpoint.trusts(established.key):
            raise AuthenticationError(faults.FORGOTTEN, peer=peer.name)
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
            sock, established, serial=self.serial, initiated=True, remote=remote, node_id=node_id
        )


def _tcp(address: Address) -> gevent.socket.socket:
    """A TCP connection to `address`."""
    if not is_literal(address.host):
        return gevent.socket.create_connection(address)  # every address the name has is tried
    # Without the resolver there is no turn through gevent's thread pool.
    sock = gevent.socket.socket(
        socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM
    )
    try:
        sock.connect(tuple(address))
    except BaseException:
        sock.close()
        raise
    return sock
