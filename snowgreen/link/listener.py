"""The accepting side: one greenlet per connection, from accept to a registered session or an error."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket
from gevent.server import StreamServer

from ..config import Limits
from ..errors import CertificateError, LinkError, LinkTimeout, SessionError
from ..events import ConnectionsRefused
from ..names import Address, is_literal
from ..protocol.admission import Admission, Rates, Refusal
from ..protocol.handshake import Cause, Continue, Form, Proved, Refused
from ..protocol.messages import RejectCode
from ..protocol.pairing import Admit, Candidate, Probe
from . import faults, tls
from .converse import Conversation
from .crew import Crew
from .deadline import Deadlines, too_long
from .endpoint import Endpoint
from .runtime import say
from .secured import Plain, accept, plain

if TYPE_CHECKING:
    from ..protocol.handshake import Acceptor
    from .secured import Secured
    from .session import Session

log = logging.getLogger("snowgreen.listener")


#: Errors of accept() that mean: not now.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
#: Seconds between two looks whether a paused listener may go on.
_PAUSE = 0.05
#: Seconds between two events, or log lines, about what was refused at the door.
_QUIET = 1.0


class _Late(gevent.GreenletExit):
    """Ends a handshake that has taken too long.

    :param error: what to say of it.
    """

    def __init__(self, error: LinkTimeout) -> None:
        super().__init__()
        self.error = error


class Listener(StreamServer):
    """Accepts, secures, authenticates and registers; what comes after is the session's.

    Who may begin a handshake :class:`~snowgreen.protocol.admission.Admission` decides, before a greenlet is
    spent on it; while it is full, nothing is accepted, and the kernel's backlog holds the next ones.

    :param server: gives the end of TLS to accept with. It may wait, and is asked for each connection.
    :param limits: the bounds on handshakes.
    """

    # How the base class spells "none": it stops by setting both.
    _watcher: Any
    _timer: Any

    def __init__(
        self,
        address: tuple[str, int],
        server: Callable[[], tls.End],
        limits: Limits,
        *,
        backlog: int = 1024,
    ) -> None:
        self.endpoint: Endpoint | None = None
        self._handlers: dict[int, _Inbound] = {}
        #: Whose greenlets do the handshakes.
        self.crew = Crew()
        #: For TLS alone, and for all of the handshake.
        self.securing = _deadlines("the TLS handshake", limits.tls_timeout)
        self.handshakes = _deadlines("the handshake", limits.handshake_timeout)
        # Without a spawner handle() runs in the loop, and spends a greenlet only on who is let in.
        super().__init__(address, backlog=backlog, spawn=None)
        self.server = server
        rates = Rates(
            limits.pending,
            limits.pending_per_source,
            int(limits.pending * limits.reserved_share),
            limits.connections_per_second,
            limits.connections_burst,
            limits.pending_grace,
        )
        #: Sources of the operator's own peers, for whom places are kept.
        self.configured: set[str] = set()
        self.admission = Admission(rates, self.configured)
        self._refused = 0
        self._told_at = float("-inf")

    def serve(self, endpoint: Endpoint) -> None:
        """Begin to accept, for `endpoint`."""
        self.endpoint = endpoint
        self.start_accepting()

    @classmethod
    def get_listener(
        cls, address: Any, backlog: int | None = None, family: int | None = None
    ) -> gevent.socket.socket:
        """Bind and listen; unlike gevent's own, resolve a host name off the hub, and close what fails."""
        host, port = address
        resolved: tuple[Any, ...] = (host, port)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if not is_literal(host):
            family, _, _, _, resolved = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = gevent.socket.socket(family, socket.SOCK_STREAM)
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

    def close(self) -> None:
        """Stop accepting, and end the handshakes under way."""
        super().close()
        self.end_handshakes()

    def end_handshakes(self) -> None:
        """End the handshakes under way."""
        self.crew.dismiss()
        for inbound in list(self._handlers.values()):
            inbound.end(gevent.GreenletExit())
        self.securing.close()
        self.handshakes.close()

    # Called by the base class, in the loop: nothing here may wait.

    def full(self) -> bool:
        """Whether to leave the next connection in the kernel's backlog."""
        endpoint = self.endpoint
        if endpoint is None:
            return True
        return self.admission.full(endpoint.runtime.monotonic())

    def do_read(self) -> Any:
        """Accept one connection; None when there is none, or no descriptor for it."""
        try:
            return accept(self.socket)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self.stop_accepting()
            self._tell("this node", f"no descriptor left to accept with ({errno.errorcode[error.errno]})")
            return None

    def handle(self, sock: gevent.socket.socket | Plain, address: tuple[Any, ...]) -> None:
        """Take the accepted connection in, or close it."""
        endpoint = self.endpoint
        if endpoint is None:
            sock.close()
            return
        now = endpoint.runtime.monotonic()
        verdict = self.admission.arrive(str(address[0]), now)
        if isinstance(verdict, Refusal):
            sock.close()
            self._tell(_shown(address), verdict.value)
            return
        if verdict.evict is not None:
            self._handlers[verdict.evict].end(
                _Late(LinkTimeout("it was slow, and made room for newer connections"))
            )
        inbound = _Inbound(self, endpoint, verdict.ticket, plain(sock), address, now)
        self._handlers[verdict.ticket] = inbound
        self.securing.put(inbound)
        self.handshakes.put(inbound)

    def over(self, inbound: _Inbound) -> None:
        """`inbound` is a session now, or nothing."""
        del self._handlers[inbound.ticket]
        self.take_off_clock(inbound)
        self.admission.done(inbound.ticket, inbound.endpoint.runtime.monotonic(), failed=inbound.failed)

    def take_off_clock(self, inbound: _Inbound) -> None:
        """From now on `inbound` may take its time."""
        self.securing.drop(inbound)
        self.handshakes.drop(inbound)

    def do_handle(self, *args: Any) -> None:
        """Unlike gevent's own, leave the socket open: the handshake has only begun."""
        self.handle(*args)

    def _do_read(self) -> None:
        super()._do_read()  # type: ignore[misc]  # missing from gevent's stubs
        if self._watcher is None and self._timer is None and self.started:
            # Full, or out of descriptors: look again soon.
            self._timer = self.loop.timer(_PAUSE)
            self._timer.start(self._resume)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()

    def _tell(self, address: str, reason: str) -> None:
        """Say, now and again, that connections are refused."""
        self._refused += 1
        endpoint = self.endpoint
        if endpoint is None or endpoint.runtime.monotonic() - self._told_at < _QUIET:
            return
        event = ConnectionsRefused(self._refused, address, reason, endpoint.runtime.wall())
        self._told_at, self._refused = endpoint.runtime.monotonic(), 0
        say(log, logging.WARNING, "%s: %s", endpoint.name, event)
        endpoint.bus.publish(event)


class _Inbound:
    """One inbound connection until it is a session, or is not, in a greenlet of its own.

    :param ticket: its place in the account at the door.
    :param now: when it was accepted, on the runtime's monotonic clock.
    """

    def __init__(
        self,
        listener: Listener,
        endpoint: Endpoint,
        ticket: int,
        sock: Plain,
        address: tuple[Any, ...],
        now: float,
    ) -> None:
        self.listener = listener
        self.endpoint = endpoint
        self.ticket = ticket
        self.address = address
        self.claimed: str | None = None
        #: A REJECT, or an alert of TLS about the peer's certificate, is on its way and wants to arrive.
        self.rejected = False
        #: Whether it counts against its source, or for it; None while neither.
        self.failed: bool | None = None
        self.withdrew = False
        self.began = now
        self._sock: Plain | None = sock  # until the greenlet has begun
        self._greenlet: Any = listener.crew.begin(self._live)  # None when it has done its work

    def end(self, why: gevent.GreenletExit) -> None:
        """End it, wherever it is, as soon as the loop comes to it."""
        self.listener.take_off_clock(self)
        sock, self._sock = self._sock, None
        if sock is None:
            self.endpoint.hub.loop.run_callback(self._throw, why)
        else:
            sock.close()
            self.listener.over(self)

    def _throw(self, why: gevent.GreenletExit) -> None:
        if self._greenlet is not None:
            self._greenlet.throw(why)

    def _live(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return  # it was ended before it began
        try:
            self._run(sock)
        except gevent.GreenletExit:
            pass
        except Exception as error:  # noqa: BLE001  # a bug of ours ends its connection, not the loop
            say(log, logging.ERROR, "internal error in a handshake", error=error)
        finally:
            self._greenlet = None
            self.listener.over(self)

    def _run(self, raw: Plain) -> None:
        endpoint = self.endpoint
        sock: Secured | None = None
        talk: Conversation | None = None
        kept = False
        try:
            end = self.listener.server()
            if endpoint.stopped:  # as in a child of a fork, to which the connection does not belong
                raise gevent.GreenletExit
            try:
                tls.no_delay(raw)
                sock = tls.wrap_server(raw, end)
            except OSError as error:  # reset between accept and here
                raise faults.securing(error, None, dialed=False) from error
            talk = Conversation(sock)
            seen = talk.secure(endpoint.hub.turns, classic=endpoint.allows_classic(), certified=end.certified)
            self.listener.securing.drop(self)
            kept = self._handshake(sock, talk, endpoint.acceptor(end, seen)) is not None
        except LinkError as error:
            self.rejected |= isinstance(error, CertificateError)
            self._report(error)
        except _Late as late:
            self._report(late.error)
            raise
        finally:
            try:
                if self.rejected and talk is not None:
                    self.listener.take_off_clock(self)  # parting has a deadline of its own
                    talk.part()
                elif not kept:
                    (raw if sock is None else sock).close()
            finally:
                if talk is not None:
                    talk.close()

    def _report(self, error: LinkError) -> None:
        if self.failed is None and not self.withdrew:
            self.failed = True  # unlike one who proved the cookie, and is declined for another reason
        self.endpoint.handshake_failed(
            error, claimed=self.claimed, address=_shown(self.address), initiated=False
        )

    def _handshake(self, sock: Secured, talk: Conversation, machine: Acceptor) -> Session | None:
        try:
            step = talk.run(machine, Continue(b""))
        finally:
            self.claimed = machine.claimed
        if isinstance(step, Refused):
            if step.cause is Cause.CLOSED and machine.withdrawable:
                # As the pairing rule lets a dialer do. It counts for and against nobody, whatever name was
                # claimed; it is worth an event only if we know of no cause for it.
                self.withdrew = True
                if not self.endpoint.table.pair(machine.claimed or "").idle:
                    return None
            self.rejected = bool(step.send)
            raise faults.refusal(step, None)
        if not isinstance(step, Proved):
            raise AssertionError(f"an acceptor does not stop at {step!r}")
        if not self.endpoint.trusts(machine.key):
            self._decline(sock, machine, RejectCode.AUTH_FAILED)
            return None
        self.failed = False
        outcome = self._decide(talk, machine, step)
        if isinstance(outcome, RejectCode):
            self._decline(sock, machine, outcome)
            return None
        return outcome

    def _decide(self, talk: Conversation, machine: Acceptor, proved: Proved) -> Session | RejectCode:
        """The peer has proved the cookie: register it, or say with which code to decline."""
        endpoint, peer = self.endpoint, proved.peer
        table = endpoint.table
        if peer.name == endpoint.name.text:
            return RejectCode.SELF
        if peer.name in endpoint.left or not endpoint.allows(peer.name):
            return RejectCode.NAME_NOT_ALLOWED
        if peer.form is Form.CLASSIC and not self._probe_existing(peer.name):
            return RejectCode.DUPLICATE
        if endpoint.stopped:  # this greenlet is being ended, and was a moment quicker
            return RejectCode.SHUTTING_DOWN
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
                talk,
                machine.accept(),
                serial=candidate.token,
                initiated=False,
                remote=self.address,
                node_id=node_id,
                began=self.began,
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

    def _decline(self, sock: Secured, machine: Acceptor, code: RejectCode) -> None:
        refused = machine.reject(code, f"declined with {code.name}")
        if refused.send:
            with contextlib.suppress(OSError):  # gone already: then it needs no telling
                self.rejected = bool(sock.send(refused.send))
        if code is RejectCode.DUPLICATE:
            # Two dials met, and this one lost: nothing has failed.
            say(log, logging.DEBUG, "a second link from %s was declined", self.claimed)
            return
        raise faults.refusal(refused, None)


def probe(session: Session, timeout: float) -> bool:
    """Whether `session` answers a ping within `timeout` seconds; if not, it is ended."""
    try:
        session.ping(timeout)
    except SessionError:
        session.close(f"no answer to a ping for {timeout:g} s, while the peer was dialing in anew")
    return not session.closed


def _deadlines(step: str, seconds: float) -> Deadlines[_Inbound]:
    return Deadlines(seconds, lambda inbound: inbound.end(_Late(too_long(step, seconds))))


def _shown(address: tuple[Any, ...]) -> str:
    return str(Address(str(address[0]), int(address[1])))
