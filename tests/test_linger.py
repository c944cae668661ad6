"""Connections that this end closes first: what was written arrives, and they do not stay for long."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from snowgreen.link.linger import Linger
from tests.waiting import until


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection on loopback; neither waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(False)
    yield near, far
    near.close()
    far.close()


def linger(sock: Any, seconds: float = 10.0) -> Linger:
    """Leave it to linger on the test's own loop."""
    return Linger(sock, gevent.get_hub().loop, seconds)


def heard(far: socket.socket) -> bytes:
    """What has come at the far end: waits for some, or for the end."""
    data: list[bytes] = []

    def look() -> bool:
        try:
            data.append(far.recv(1 << 20))
        except BlockingIOError:
            return False
        return True

    until(look, "something came")
    return data[0]


def test_the_far_end_hears_the_end_at_once_and_may_go_on(ends: tuple[socket.socket, socket.socket]) -> None:
    """It gets all that was written and then the end; what it sends meanwhile is read, and brings no reset."""
    near, far = ends
    near.send(b"last words")
    linger(near)
    assert heard(far) == b"last words"
    assert heard(far) == b""
    for _ in range(5):
        far.send(bytes(100_000))
        gevent.idle()
    assert near.fileno() >= 0
    far.close()
    until(lambda: near.fileno() == -1, "it is closed as well")


def test_a_far_end_that_never_closes_is_left(ends: tuple[socket.socket, socket.socket]) -> None:
    """After its time the connection is closed, whether or not something still comes."""
    near, far = ends
    linger(near, seconds=0.05)

    def closed() -> bool:
        try:
            far.send(b"more")
        except OSError:
            return True
        return near.fileno() == -1

    until(closed, "it is closed")
    until(lambda: near.fileno() == -1, "at this end")


def test_a_broken_connection_is_closed_at_once() -> None:
    """Where there is nobody to say it to, nothing is waited for."""
    sock = socket.socket()
    linger(sock)
    assert sock.fileno() == -1


def test_a_reset_ends_it(ends: tuple[socket.socket, socket.socket]) -> None:
    """A far end that resets the connection is waited for no longer."""
    near, far = ends
    linger(near)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    far.close()
    until(lambda: near.fileno() == -1, "it is closed")


def test_it_keeps_no_loop_alive(ends: tuple[socket.socket, socket.socket]) -> None:
    """A program with nothing else to do does not wait for it."""
    lingering = linger(ends[0])
    assert lingering._watcher.ref is False
    assert lingering._timer.ref is False
    lingering._close()
