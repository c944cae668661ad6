"""A real fork: the child lets go without a sound, the parent's links go on, and the child can be a node of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PREAMBLE = """
import os, sys
{patch}
import gevent, gevent.os, snowgreen
from gevent.event import Event
COOKIE = "correct horse battery staple"
CONFIG = snowgreen.Config(heartbeat_interval=0.05, heartbeat_timeout=1, limits=snowgreen.Limits.trusted())

def until(condition):
    with gevent.Timeout(10):
        while not condition():
            Event().wait(0.005)

def node(name, **more):
    return snowgreen.Node(name, cookie=COOKIE, config=CONFIG, **more)

def in_child(work):
    "Run work() in a forked child; its exit status is 0 only if it came through."
    pid = {fork}()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid

def finished(pid):
    def ended():
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0, status
        return found
    until(ended)
"""

WAYS = {
    "unpatched": ("", "os.fork"),
    "gevent": ("", "gevent.os.fork_gevent"),
    "patched": ("from gevent import monkey; monkey.patch_all()", "os.fork"),
}


def run(way: str, body: str) -> None:
    patch, fork = WAYS[way]
    code = (
        PREAMBLE.replace("{patch}", patch).replace("{fork}", fork)
        + textwrap.dedent(body)
        + "\nprint('through')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "through\n"
    assert "Traceback" not in done.stderr


every_way = pytest.mark.parametrize("way", WAYS)


@every_way
def test_a_live_node_is_the_parents(way: str) -> None:
    """In the child the node is not started, says so, and has no sessions; the parent's link never notices."""
    run(
        way,
        """
        a, b = node("a@127.0.0.1:0").start(), node("b@127.0.0.1:0").start()
        session = a.connect(b.name)
        session.ping()
        name, incarnation, up = a.name, a.incarnation, a.subscribe()

        def child():
            assert not a.started and not a.sessions and a.incarnation is None
            assert session.closed and "forked" in session.reason
            try:
                a.connect(b.name)
            except snowgreen.NodeStateError as error:
                assert "call start() here" in str(error)
            else:
                raise AssertionError("it dialed")
            for _ in range(20):
                Event().wait(0.01)  # the loop runs, with whatever was inherited in it

        pid = in_child(child)
        finished(pid)
        for _ in range(20):
            session.ping()
        assert (a.name, a.incarnation) == (name, incarnation)
        assert a.sessions[b.name] is session and not session.closed
        assert up.get(0) is None
        c = node("c@127.0.0.1:0").start()
        assert c.connect(a.name).ping() > 0
        """,
    )


@every_way
def test_the_child_can_start_it_anew(way: str) -> None:
    """Started in the child it is another node: own port, own certificate, own incarnation; it can link with the parent."""
    run(
        way,
        """
        a, b = node("a@127.0.0.1:0").start(), node("b@127.0.0.1:0").start()
        session = a.connect(b.name)

        def child():
            a.start()
            assert a.name != session.peer and a.started
            assert a.connect(before).ping() > 0
            a.stop()

        old, before = (a.name, a.incarnation), b.name
        with b.subscribe() as events:
            pid = in_child(child)
            with gevent.Timeout(10):
                up = next(event for event in events if isinstance(event, snowgreen.NodeUp))
            assert up.peer != old[0] and up.incarnation != old[1], up
            finished(pid)
        assert session.ping() > 0 and not session.closed
        """,
    )


@every_way
def test_a_node_made_before_the_fork_and_started_after_it(way: str) -> None:
    """As under a preloading server: each worker that starts the node made by the master is a node of its own name."""
    run(
        way,
        """
        shared = snowgreen.Node(cookie=COOKIE, config=CONFIG)
        hub = node("hub@127.0.0.1:0").start()
        with hub.subscribe() as events:
            go, where = os.pipe(), hub.name

            def worker():
                os.close(go[1])
                shared.start()
                assert shared.connect(where).ping() > 0
                gevent.os.tp_read(go[0], 1)  # until the parent has seen all of them

            pids = [in_child(worker) for _ in range(3)]
            names, incarnations = set(), set()
            with gevent.Timeout(10):
                while len(names) < 3:
                    event = next(event for event in events if isinstance(event, snowgreen.NodeUp))
                    names.add(event.peer)
                    incarnations.add(event.incarnation)
            assert len(incarnations) == 3
            assert len(hub.sessions) == 3
            os.close(go[0]); os.close(go[1])
            for pid in pids:
                finished(pid)
        assert not shared.started
        """,
    )


@every_way
def test_a_fixed_port_is_the_parents(way: str) -> None:
    """A node with a fixed port cannot be started twice: the child is told that the port is taken."""
    run(
        way,
        """
        a = node("a@127.0.0.1:0").start()
        fixed = node(a.name)
        a.stop()
        fixed.start()

        def child():
            try:
                fixed.start()
            except snowgreen.ConfigurationError as error:
                assert "taken" in str(error)
            else:
                raise AssertionError("it was bound twice")

        finished(in_child(child))
        assert node(None).start().connect(fixed.name).ping() > 0
        """,
    )


@every_way
def test_a_fork_in_the_middle_of_dials(way: str) -> None:
    """Dials, handshakes and redials under way at the fork go on in the parent alone."""
    run(
        way,
        """
        from gevent.server import StreamServer
        silent = StreamServer(("127.0.0.1", 0), lambda sock, _: Event().wait(5))
        silent.start()
        a, b = node("a@127.0.0.1:0").start(), node("b@127.0.0.1:0").start()
        a.keep("ghost@127.0.0.1:%d" % silent.server_port)
        pending = gevent.spawn(a.connect, b.name)
        gevent.sleep(0)
        until(lambda: a._dialer._all())

        def child():
            for _ in range(20):
                Event().wait(0.01)
            assert not a.sessions and not a.started
            a.start()
            a.stop()

        pid = in_child(child)
        assert pending.get(timeout=10).ping() > 0
        finished(pid)
        assert a.sessions[b.name].ping() > 0
        """,
    )


@every_way
def test_a_fork_while_bytes_of_handshakes_have_come(way: str) -> None:
    """What the loop had found before the fork spoils no handshake: the child neither reads nor answers it."""
    run(
        way,
        """
        hub = node("hub@127.0.0.1:0").start()
        others = [node("n%d@127.0.0.1:0" % number).start() for number in range(12)]
        pids = []

        def forks():
            for _ in range(6):
                gevent.sleep(0.003)  # woken in a turn of the loop in which bytes are found, too
                pids.append(in_child(lambda: gevent.sleep(0.01)))

        forking = gevent.spawn(forks)
        while not forking.dead:
            dials = [gevent.spawn(other.connect, hub.name) for other in others]
            assert all(dial.get(timeout=10).ping() > 0 for dial in dials)
            for other in others:
                other.sessions[hub.name].close()
            until(lambda: not hub.sessions)
        for pid in pids:
            finished(pid)
        """,
    )
