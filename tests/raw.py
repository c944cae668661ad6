"""Peers made of a bare TLS connection, for what no node would do: the tests write their every byte."""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.pool
import gevent.server
import gevent.socket
import gevent.ssl

from snowgreen.cookie import Cookie
from snowgreen.link import tls
from snowgreen.link.keyring import link_keys
from snowgreen.names import Address
from snowgreen.protocol.flight import MARKS
from snowgreen.protocol.frames import FrameTag
from snowgreen.protocol.handshake import Acceptor, Established, Identity, Initiator, Proved
from snowgreen.protocol.keys import LinkKeys, Secrets
from tests.conftest import COOKIE


def keys(cookie: str = COOKIE) -> LinkKeys:
    """The bound keys of `cookie`."""
    return link_keys(Cookie.wrap(cookie, "test"))


def split(address: str) -> tuple[str, int]:
    """``host:port`` as a pair."""
    host, port = address.rsplit(":", 1)
    return host, int(port)


def client(
    address: str, *, alpn: str | None = tls.ALPN, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> gevent.ssl.SSLSocket:
    """A TLS connection to a node, with the handshake still to be spoken."""
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    raw = gevent.socket.create_connection(split(address), timeout=10)
    try:
        return context.wrap_socket(raw, server_hostname="x")
    except BaseException:
        raw.close()
        raise


def initiator(
    sock: gevent.ssl.SSLSocket, name: str = "raw@127.0.0.1:0", *, cookie: str = COOKIE, **options: Any
) -> Initiator:
    """A machine that speaks for the client `sock`."""
    options.setdefault("expected", None)
    return Initiator(
        Identity(
            name,
            options.pop("incarnation", 1 << 40),
            options.pop("creation", 1),
            options.pop("capabilities", 0),
        ),
        Secrets((keys(cookie),), None),
        challenge=b"c" * 32,
        acceptor_binding=tls.peer_fingerprint(sock),
        **options,
    )


def read_message(sock: gevent.ssl.SSLSocket) -> bytes:
    """One length-prefixed message, with its length; short if the peer closed."""
    data = read_exactly(sock, 4)
    if len(data) < 4:
        return data
    return data + read_exactly(sock, struct.unpack("<I", data)[0])


def is_ping(frame: bytes) -> bool:
    """Whether the whole `frame` is a PING, and none of the marks that go with bulk."""
    return frame[4] == FrameTag.PING and int.from_bytes(frame[5:], "little") <= MARKS


def read_exactly(sock: gevent.ssl.SSLSocket, count: int) -> bytes:
    """`count` bytes, or fewer if the peer closed."""
    data = b""
    with contextlib.suppress(OSError):
        while len(data) < count:
            chunk = sock.recv(count - len(data))
            if not chunk:
                break
            data += chunk
    return data


def link(
    address: str, name: str = "raw@127.0.0.1:0", **options: Any
) -> tuple[gevent.ssl.SSLSocket, Established]:
    """A client that has done the handshake and from here on speaks frames by hand."""
    sock = client(address)
    machine = initiator(sock, name, **options)
    sock.sendall(machine.start().send)
    machine.feed(read_message(sock))
    sock.sendall(machine.prove().send)
    step = machine.feed(read_message(sock))
    assert isinstance(step, Established), step
    return sock, step


class RawServer:
    """A TLS listener that runs a script on each connection."""

    def __init__(self, server: gevent.server.StreamServer, fingerprint: bytes) -> None:
        self._server = server
        self.fingerprint = fingerprint

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(*self._server.address[:2])

    def name(self, name: str = "raw") -> str:
        """A node name that leads here."""
        return f"{name}@{self.address}"

    def acceptor(
        self, name: str | None = None, *, cookie: str = COOKIE, incarnation: int = 1 << 40
    ) -> Acceptor:
        """A machine that speaks for this listener."""
        return Acceptor(
            Identity(name or self.name(), incarnation),
            (keys(cookie),),
            challenge=b"a" * 32,
            binding=self.fingerprint,
        )

    def accept(self, sock: gevent.ssl.SSLSocket, **options: Any) -> Established:
        """Do the whole handshake on `sock`."""
        machine = self.acceptor(**options)
        sock.sendall(machine.feed(read_message(sock)).send)
        step = machine.feed(read_message(sock))
        assert isinstance(step, Proved), step
        established = machine.accept()
        sock.sendall(established.send)
        return established


@contextlib.contextmanager
def server(
    script: Callable[[RawServer, Any], None],
    *,
    alpn: str | None = tls.ALPN,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    plain: bool = False,
) -> Iterator[RawServer]:
    """Run `script(server, sock)` for each connection; `plain` leaves TLS to the script."""
    import datetime

    certificate = tls.ephemeral_certificate(datetime.datetime.now(datetime.UTC))
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    with tls._as_file(certificate.pem) as path:
        context.load_cert_chain(path)

    def handle(sock: Any, _address: Any) -> None:
        with contextlib.suppress(OSError), contextlib.closing(sock):
            if plain:
                script(raw, sock)
                return
            with contextlib.closing(context.wrap_socket(sock, server_side=True)) as secured:
                script(raw, secured)

    pool = gevent.pool.Pool(64)
    listener = gevent.server.StreamServer(("127.0.0.1", 0), handle, spawn=pool)
    listener.start()
    raw = RawServer(listener, certificate.fingerprint)
    try:
        yield raw
    finally:
        listener.stop(0.1)
        pool.kill()
