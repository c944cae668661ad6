"""TLS over a socket with the bytes in between in sight: what answers in place of TLS is there to be shown."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

import gevent
import gevent.socket

from ..link import tls
from ..link.deadline import Deadline
from ..names import printable

_READ_BYTES = 16 * 1024
_FIRST_BYTES = 256
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 64 * 1024


class Channel:
    """A TLS client's end on `sock`, which it owns from now on."""

    def __init__(self, sock: gevent.socket.socket, end: tls.End) -> None:
        self.sock = sock
        #: The first bytes that came, as they came.
        self.first = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: Any = end.context.wrap_bio(self._incoming, self._outgoing, server_hostname=tls.SNI)

    def handshake(self) -> None:
        """Do the TLS handshake.

        :raises OSError: of TLS or of the connection.
        """
        self._through(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        """Send `data` through TLS."""
        self._tls.write(data)
        self._flush()

    def receive(self) -> bytes:
        """What comes next; empty if the peer has closed.

        :raises OSError: of TLS or of the connection.
        """
        try:
            data: bytes = self._through(lambda: self._tls.read(_READ_BYTES))
        except ssl.SSLZeroReturnError:
            return b""
        return data

    @property
    def version(self) -> str | None:
        """The version agreed on, as soon as it is; it may be known where the handshake then failed."""
        version: str | None = self._tls.version()
        return version

    @property
    def cipher(self) -> str:
        """The cipher suite."""
        return str(self._tls.cipher()[0])

    @property
    def alpn(self) -> str | None:
        """The application protocol agreed on, None if there is none."""
        chosen: str | None = self._tls.selected_alpn_protocol()
        return chosen

    @property
    def certificate(self) -> bytes:
        """The other end's, in DER."""
        return self._tls.getpeercert(True) or b""

    @property
    def verified(self) -> Any:
        """The other end's certificate as ``ssl`` describes one that it has verified."""
        return self._tls.getpeercert()

    def close(self) -> None:
        """Close at once."""
        self.sock.close()

    def part(self) -> None:
        """Say that no more comes, read for at most a second until the peer has closed, too, and close.

        For what was sent last to arrive: closing over unread bytes would be a reset.
        """
        try:
            with contextlib.suppress(OSError, ValueError), Deadline(_LINGER_SECONDS, "parting"):
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
                self.sock.shutdown(socket.SHUT_WR)
                left = _LINGER_BYTES
                while left > 0 and (data := self.sock.recv(4096)):
                    left -= len(data)
        finally:
            self.sock.close()

    def _through(self, operation: Any) -> Any:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that says why
                raise
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        waiting = self._outgoing.read()
        if waiting:
            self.sock.sendall(waiting)

    def _fill(self) -> None:
        gevent.sleep(0)  # recv need not wait for a peer that floods us, and no deadline would ever pass
        data = self.sock.recv(_READ_BYTES)
        if len(self.first) < _FIRST_BYTES:
            self.first += data[: _FIRST_BYTES - len(self.first)]
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def what_answered(first: bytes) -> str | None:
    """What something that does not speak TLS is, by its first bytes; None if they are no text."""
    line = first.split(b"\n", 1)[0].rstrip(b"\r")
    if first.startswith(b"SSH-"):
        return f"an SSH server answers there: '{_shown(line)}'"
    if first.startswith(b"HTTP/") or first.lower().startswith((b"<!doctype html", b"<html")):
        return f"a web server answers there, without TLS: '{_shown(line)}'"
    if line and all(0x20 <= byte < 0x7F or byte == 0x09 for byte in line):
        return f"something answers there in plain text: '{_shown(line)}'"
    return None


def _shown(line: bytes) -> str:
    return printable(line.decode("latin-1"), 60)
