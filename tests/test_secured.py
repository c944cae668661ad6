"""Connections in TLS: our thin object and gevent's own behave alike, for all that links do with them."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

import snowgreen
from snowgreen.link import secured, tls
from snowgreen.link.secured import Bare, Plain
from tests.conftest import MakeNode

Ends = tuple[secured.Secured, secured.Secured]


@pytest.fixture(params=["private", "public"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With Python's private constructor, and as where there is none."""
    if request.param == "public":
        monkeypatch.setattr(secured, "PRIVATE", False)
    return str(request.param)


def shake(*ends: secured.Secured) -> None:
    """Do the TLS handshake between both ends, which never wait."""
    left = list(ends)
    for _ in range(10):
        for end in list(left):
            try:
                end.do_handshake()
                left.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not left


@pytest.fixture
def ends(way: str) -> Iterator[Ends]:
    """A client's and a server's end of one connection, the handshake done."""
    listening = gevent.socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    dialed = gevent.socket.create_connection(listening.getsockname())
    gevent.socket.wait_read(listening.fileno())
    accepted, _ = secured.accept(listening)
    listening.close()
    end = tls.server_end(tls.ephemeral_certificate(datetime.datetime.now(datetime.UTC)))
    client, server = tls.wrap_client(dialed, tls.client_end()), tls.wrap_server(accepted, end)
    shake(client, server)
    yield client, server
    client.close()
    server.close()


def test_the_thin_one_is_used_where_python_has_it(ends: Ends, way: str) -> None:
    """This Python has the private constructor; without it both ends are gevent's sockets."""
    assert secured.PRIVATE is (way == "private")
    assert {isinstance(end, Bare) for end in ends} == {way == "private"}


def test_bytes_go_through_and_nothing_waits(ends: Ends) -> None:
    """What is sent arrives; reading where nothing is, raises; the buffer form takes what it is given."""
    client, server = ends
    with pytest.raises(ssl.SSLWantReadError):
        server.recv(10)
    assert client.send(b"hello") == 5
    gevent.socket.wait_read(server.fileno())
    assert server.recv(2) == b"he"
    assert server.pending() == 3
    buffer = bytearray(10)
    assert server.recv_into(memoryview(buffer), 10) == 3
    assert bytes(buffer[:3]) == b"llo"
    assert server.pending() == 0


def test_a_peer_that_does_not_read_stops_the_sending(ends: Ends) -> None:
    """When the connection takes no more, send() takes nothing, and the same bytes again once there is room."""
    client, server = ends
    piece, sent = bytes(16384), 0
    while count := client.send(piece):
        sent += count
    assert client.send(piece) == 0
    received = 0
    while received < sent:
        try:
            received += len(server.recv(65536))
        except ssl.SSLWantReadError:
            gevent.socket.wait_read(server.fileno())
    assert client.send(piece) == len(piece)


def test_the_end_of_tls_is_told_from_the_end_of_the_connection(ends: Ends) -> None:
    """A peer that says that it ends reads as no bytes; one that is cut off is an error."""
    client, server = ends
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()
    gevent.socket.wait_read(server.fileno())
    assert server.recv(10) == b""


def test_a_connection_that_is_cut_off_is_an_error(ends: Ends) -> None:
    """The end of TCP without the end of TLS is no end."""
    client, server = ends
    client.shutdown(socket.SHUT_WR)
    gevent.socket.wait_read(server.fileno())
    with pytest.raises(ssl.SSLEOFError):
        server.recv(10)


def test_both_know_what_was_agreed_on(ends: Ends) -> None:
    """The application protocol, the certificate and the addresses can be asked for."""
    client, server = ends
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == tls.ALPN
    assert len(tls.peer_fingerprint(client)) == 32
    assert tls.peer_fingerprint(server) == b""
    assert client.getsockname()[0] == "127.0.0.1"


def test_a_closed_connection_has_no_descriptor(ends: Ends) -> None:
    """Closing gives the descriptor back, and doing it twice does no harm."""
    for end in ends:
        end.close()
        end.close()
        assert end.fileno() == -1


@pytest.mark.usefixtures("way")
def test_a_connection_that_was_reset_before_tls_loses_no_descriptor() -> None:
    """Whether the error comes when TLS is put on or at its first step, closing leaves nothing open."""
    listening = gevent.socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    dialed = gevent.socket.create_connection(listening.getsockname())
    gevent.socket.wait_read(listening.fileno())
    accepted, _ = secured.accept(listening)
    listening.close()
    dialed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    dialed.close()
    end = tls.server_end(tls.ephemeral_certificate(datetime.datetime.now(datetime.UTC)))
    gevent.socket.wait_read(accepted.fileno())
    descriptor = accepted.fileno()
    try:
        made: secured.Secured | Plain = tls.wrap_server(accepted, end)
    except OSError:
        made = accepted
    else:
        with pytest.raises(OSError):  # noqa: PT011  # which of its kinds depends on the system
            made.do_handshake()
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=descriptor)


@pytest.mark.usefixtures("way")
def test_links_work_either_way(make_node: MakeNode) -> None:
    """Two nodes link, ping, send a large message and part, with the thin object and with gevent's own."""
    server, client = make_node(), make_node()
    box = server.mailbox("box")
    session = client.connect(server.name)
    assert session.ping() > 0
    client.send(server.name, "box", bytes(3_000_000))
    assert len(box.get(timeout=10).body) == 3_000_000
    stranger = make_node(cookie="another cookie than theirs")
    with pytest.raises(snowgreen.AuthenticationError):
        stranger.connect(server.name)
    session.close()
