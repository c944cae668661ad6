"""The accepting side: one greenlet per connection, from accept to a registered session or an error."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket
from gevent.server import StreamServer
from greenlet import greenlet

from ..errors import LinkError, SessionError
from ..names import Address
from ..protocol.handshake import Cause, Form, Proved, Refused
from ..protocol.messages import RejectCode
from ..protocol.pairing import Admit, Candidate, Probe
from . import faults, tls
from .converse import converse, part, secure
from .deadline import Deadline
from .endpoint import Endpoint

if TYPE_CHECKING:
    import gevent.ssl

    from ..protocol.handshake import Acceptor
    from .session import Session

log = logging.getLogger("snowgreen.listener")


class Listener(StreamServer):
    """Accepts, secures, authenticates and registers; what comes after is the session's.

    :param endpoint: the node's link side; set before :meth:`start`.
    """

    def __init__(self, address: tuple[str, int], server: tls.ServerTLS, *, backlog: int = 1024) -> None:
        super().__init__(address, backlog=backlog)
        self.endpoint: Endpoint | None = None
        self._server = server
        self._handlers: set[greenlet] = set()

    @classmethod
    def get_listener(
        cls, address: Any, backlog: int | None = None, family: int | None = None
    ) -> gevent.socket.socket:
        """Bind and listen; unlike gevent's own, resolve a host name off the hub, and close what fails."""
        host, port = address
        found = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, resolved = found[0]
        sock = gevent.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(resolved)
            sock.listen(cls.backlog if backlog is None else backlog)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock

    @property
    def bound(self) -> Address:
        """Where it is bound."""
        address: tuple[Any, ...] = self.socket.getsockname()
        return Address(str(address[0]), int(address[1]))

    def handle(self, sock: gevent.socket.socket, address: tuple[Any, ...]) -> None:
        """One connection, in a greenlet of its own."""
        endpoint = self.endpoint
        if endpoint is None:  # accepted in the moment between bind and start
            sock.close()
            return
        handler = gevent.getcurrent()
        self._handlers.add(handler)
        try:
            _Inbound(endpoint, self._server, address).run(sock)
        finally:
            self._handlers.discard(handler)

    def do_close(self, sock: gevent.socket.socket, *args: Any) -> None:
        """Leave the socket alone: by now a session owns its descriptor, or :meth:`handle` closed it."""

    def close(self) -> None:
        """Stop accepting, and end the handshakes under way."""
        super().close()
        gevent.killall(list(self._handlers), block=False)


class _Inbound:
    """One inbound connection until it is a session, or is not."""

    def __init__(self, endpoint: Endpoint, server: tls.ServerTLS, address: tuple[Any, ...]) -> None:
        self.endpoint = endpoint
        self.server = server
        self.address = address
        self.claimed: str | None = None
        #: A REJECT is on its way to the peer, and wants to arrive.
        self.rejected = False

    def run(self, raw: gevent.socket.socket) -> None:
        endpoint, limits = self.endpoint, self.endpoint.config.limits
        sock: gevent.ssl.SSLSocket | None = None
        kept = False
        try:
            with Deadline(limits.handshake_timeout, "the handshake"):
                try:
                    tls.no_delay(raw)
                    sock = tls.wrap_server(raw, self.server)
                except OSError as error:  # reset between accept and here
                    raise faults.securing(error, None) from error
                secure(sock, limits.tls_timeout, None, classic=endpoint.allows_classic())
                kept = self._handshake(sock) is not None
        except LinkError as error:
            endpoint.handshake_failed(
                error,
                claimed=self.claimed,
                address=str(Address(str(self.address[0]), int(self.address[1]))),
                initiated=False,
            )
        finally:
            if self.rejected and sock is not None:
                part(sock)
            elif not kept:
                (raw if sock is None else sock).close()

    def _handshake(self, sock: gevent.ssl.SSLSocket) -> Session | None:
        endpoint = self.endpoint
        machine = endpoint.acceptor(self.server.fingerprint)
        try:
            step = converse(sock, machine, machine.feed(b""))
        finally:
            self.claimed = machine.claimed
        if isinstance(step, Refused):
            if step.cause is Cause.CLOSED and self._lost_to_another(machine):
                log.debug("%s withdrew its dial in favour of another link", machine.claimed)
                return None
            self.rejected = bool(step.send)
            raise faults.refusal(step, None)
        if not isinstance(step, Proved):
            raise AssertionError(f"an acceptor does not stop at {step!r}")
        outcome = self._decide(sock, machine, step)
        if isinstance(outcome, RejectCode):
            self._decline(sock, machine, outcome)
            return None
        return outcome

    def _lost_to_another(self, machine: Acceptor) -> bool:
        """Whether the peer closed where the pairing rule lets a dialer close, and has cause to."""
        pair = self.endpoint.table.pair(machine.claimed or "")
        return machine.withdrawable and not pair.idle

    def _decide(self, sock: gevent.ssl.SSLSocket, machine: Acceptor, proved: Proved) -> Session | RejectCode:
        """The peer has proved the cookie: register it, or say with which code to decline."""
        endpoint, peer = self.endpoint, proved.peer
        table = endpoint.table
        if peer.name == endpoint.name.text:
            return RejectCode.SELF
        if peer.form is Form.CLASSIC and not self._probe_existing(peer.name):
            return RejectCode.DUPLICATE
        node_id = table.ids.take()
        if node_id is None:
            return RejectCode.BUSY
        candidate = Candidate(
            table.serial(),
            peer.incarnation,
            peer.epoch or 0,
            smaller_initiates=not table.smaller(peer.name),
            attempt=peer.attempt or 0,
        )
        # No switch to another greenlet from here until the session is registered.
        decision = table.proved(peer.name, candidate, endpoint.runtime.monotonic())
        if isinstance(decision, Admit):
            return endpoint.register(
                sock,
                machine.accept(),
                serial=candidate.token,
                initiated=False,
                remote=self.address,
                node_id=node_id,
            )
        table.ids.release(node_id)
        if isinstance(decision, Probe):  # a link came up while we probed another: it is alive
            return RejectCode.DUPLICATE
        current = table.sessions.get(peer.name)
        if decision.probe and current is not None:
            gevent.spawn(probe, current, endpoint.config.probe_timeout)
        return decision.code

    def _probe_existing(self, peer: str) -> bool:
        """Whether no live link with the classic `peer` is in the way; it cannot say which of two is newer."""
        current = self.endpoint.table.sessions.get(peer)
        return current is None or not probe(current, self.endpoint.config.probe_timeout)

    def _decline(self, sock: gevent.ssl.SSLSocket, machine: Acceptor, code: RejectCode) -> None:
        refused = machine.reject(code, f"declined with {code.name}")
        if refused.send:
            with contextlib.suppress(OSError):  # gone already: then it needs no telling
                sock.sendall(refused.send)
                self.rejected = True
        if code is RejectCode.DUPLICATE:
            # Two dials met, and this one lost: nothing has failed.
            log.debug("a second link from %s was declined", self.claimed)
            return
        raise faults.refusal(refused, None)


def probe(session: Session, timeout: float) -> bool:
    """Whether `session` answers a ping within `timeout` seconds; if not, it is ended."""
    try:
        session.ping(timeout)
    except SessionError:
        session.close(f"no answer to a ping for {timeout:g} s, while the peer was dialing in anew")
    return not session.closed
