"""The handshake on a real connection: TLS, then the machine says what to send, this sends it and reads on.

The connection itself never waits; the greenlet it belongs to does, here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import gevent

from .. import certificates
from ..errors import CertificateError, TLSError
from ..protocol.handshake import Acceptor, Challenged, Continue, Established, Initiator, Proved, Refused, Step
from ..protocol.wire import MAX_HANDSHAKE
from . import faults, tls
from .deadline import Deadline

if TYPE_CHECKING:
    from .secured import Secured
    from .turns import Turns

_READ, _WRITE = 1, 2
_READ_BYTES = MAX_HANDSHAKE + 4
#: What is still read after a REJECT, so that closing does not reset the connection under it.
_LINGER_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0
#: Forks that have led to this process: asking for its id is a system call.
_forks = 0


class Conversation:
    """One connection, from its first byte to the end of its handshake, in the greenlet that calls.

    :param peer: who is dialed, for messages; None on the accepting side.
    """

    __slots__ = ("_forks", "_hub", "_peer", "_sock", "_watcher")

    def __init__(self, sock: Secured, peer: str | None = None) -> None:
        self._sock = sock
        self._peer = peer
        self._forks = _forks
        self._hub: Any = gevent.get_hub()
        # One for all that is waited for: what comes is waited for several times, and each watcher costs.
        self._watcher: Any = self._hub.loop.io(sock.fileno(), _READ)

    def hand_over(self) -> tuple[Secured, Any]:
        """Its connection and the watcher for what comes, which is not active: both are the caller's now."""
        watcher, self._watcher = self._watcher, None
        return self._sock, watcher

    def close(self) -> None:
        """Let go of the loop; the connection is its owner's to close."""
        if self._watcher is not None:
            self._watcher.close()

    def secure(self, turns: Turns, *, classic: bool, certified: bool = False) -> tls.Seen:
        """Do the TLS handshake, and look at what came of it.

        :param turns: of which each step takes one.
        :param classic: whether the other end may be a classic peer.
        :param certified: whether it had to present a certificate of the operator's CA.
        :raises LinkError: as the case may be; the connection is left for the caller to close.
        """
        sock, peer = self._sock, self._peer
        try:
            # A server has nothing to say before the client has.
            turns.wait(None if peer is not None else self._watcher)
            while True:
                self._stay_in_process()
                try:
                    sock.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    turns.wait(self._watcher)
                except ssl.SSLWantWriteError:
                    self._until_writable()
        except OSError as error:
            raise faults.securing(error, peer, dialed=peer is not None) from error
        problem = tls.alpn_problem(sock, classic=classic)
        if problem is not None:
            raise TLSError(problem, peer=peer)
        seen = tls.Seen(tls.peer_fingerprint(sock))
        if not certified:
            return seen
        try:
            # A name that is no text raises an error of Python's own, which is a ValueError, too.
            return seen._replace(name=certificates.peer_name(sock.getpeercert()).text)
        except ValueError as error:
            problem = "it cannot be read" if isinstance(error, UnicodeError) else str(error)
            raise CertificateError(
                f"the other end's certificate names no node: {problem}", peer=peer
            ) from None

    def run(self, machine: Initiator | Acceptor, step: Step) -> Challenged | Proved | Established | Refused:
        """Send what `step` says and feed what comes, until the machine stops or ends.

        :raises CertificateError: if only now the other end says what it thinks of our certificate: in TLS 1.3
            a client's handshake is over before the server has looked at it.
        """
        while True:
            broken: OSError | None = None
            try:
                if step.send:
                    self._send(step.send)
                if not isinstance(step, Continue):
                    return step
                data = self._receive(answer=bool(step.send))
            except OSError as error:
                data, broken = b"", error
            if data:
                step = machine.feed(data)
                continue
            if isinstance(step, Refused):
                return step  # its REJECT could not be sent; the refusal stands
            about_certificate = None if broken is None else faults.certifying(broken, self._peer)
            if about_certificate is not None:
                raise about_certificate from broken
            refused = machine.end_of_stream()
            if broken is None or isinstance(broken, ssl.SSLEOFError):
                return refused
            return refused._replace(problem=f"{faults.reading(broken)} while the handshake was under way")

    def part(self) -> None:
        """Close after a REJECT was sent: let it arrive, for at most a second, then close."""
        sock = self._sock
        try:
            with contextlib.suppress(OSError, ValueError), Deadline(_LINGER_SECONDS, "parting"):
                with contextlib.suppress(ssl.SSLError):
                    sock.unwrap()  # one attempt: a silent peer would hold a second one for ever
                # From here on `sock` reads plain bytes, which nobody looks at; and until the peer has closed:
                # closing over unread bytes is a reset.
                sock.shutdown(socket.SHUT_WR)
                left = _LINGER_BYTES
                while left > 0:
                    self._wait(self._watcher)
                    count = len(sock.recv(4096))
                    if not count:
                        break
                    left -= count
        finally:
            sock.close()

    def _send(self, data: bytes) -> None:
        while data:
            count = self._sock.send(data)
            if not count:
                self._until_writable()
            data = data[count:]

    def _receive(self, *, answer: bool) -> bytes:
        """What has come; with `answer`, to what was just sent: then it cannot be there yet."""
        sock = self._sock
        if answer and not sock.pending():
            self._wait(self._watcher)
        while True:
            try:
                return sock.recv(_READ_BYTES)
            except ssl.SSLWantReadError:
                self._wait(self._watcher)
            except ssl.SSLWantWriteError:
                self._until_writable()

    def _until_writable(self) -> None:
        watcher: Any = self._hub.loop.io(self._sock.fileno(), _WRITE)
        try:
            self._wait(watcher)
        finally:
            watcher.close()

    def _wait(self, watcher: Any) -> None:
        self._hub.wait(watcher)
        self._stay_in_process()

    def _stay_in_process(self) -> None:
        # What the loop had found before a fork it still tells of in the child, and before the end that this
        # greenlet is put down for there. A byte more, and the handshake were spoilt for the parent.
        if self._forks != _forks:
            raise gevent.GreenletExit


def _in_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_in_child)
