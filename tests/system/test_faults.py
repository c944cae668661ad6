"""Two and three real processes across a network that cuts, stalls, resets, delays and forgets.

After each fault, within the stated time: exactly one live link per pair where the network allows it, none
where it does not, and no greenlet or descriptor more than before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.subprocess import PIPE, Popen

from tests.proxy import Proxy
from tests.system.processes import Child
from tests.waiting import until

CHILD = str(Path(__file__).with_name("node_child.py"))
COOKIE = {"SNOWGREEN_COOKIE": "correct horse battery staple"}
#: Seconds within which a fault must be noticed or overcome: heartbeat, dial deadline and backoff, twice.
SOON = 12.0


class Network:
    """The proxies in front of both nodes, spoiled together."""

    def __init__(self, *proxies: Proxy) -> None:
        self._proxies = proxies

    def __getattr__(self, what: str) -> Any:
        methods = [getattr(proxy, what) for proxy in self._proxies]
        return lambda *args: [method(*args) for method in methods]

    def slow(self, *, delay: float = 0.0, trickle: int = 0) -> None:
        for proxy in self._proxies:
            proxy.delay, proxy.trickle = delay, trickle


class Pair:
    """Two nodes that keep each other, each announcing the port of a proxy in front of it as its own."""

    def __init__(self, a: Child, b: Child, *proxies: Proxy) -> None:
        self.a, self.b, self.network = a, b, Network(*proxies)
        found = []
        for child, proxy in zip((a, b), proxies, strict=True):
            started = child.expect("started")
            found.append(started["name"])
            host, port = started["address"].rsplit(":", 1)
            proxy.target = (host, int(port))
        self.names = (found[0], found[1])

    def links(self) -> tuple[dict[str, Any], dict[str, Any]]:
        found = []
        for child in (self.a, self.b):
            child.tell(do="sessions")
            found.append(child.expect("sessions")["links"])
        return found[0], found[1]

    def one_link(self) -> bool:
        """Whether both have the other, and a ping goes through."""
        at_a, at_b = self.links()
        if set(at_a) != {self.names[1]} or set(at_b) != {self.names[0]}:
            return False
        if at_a[self.names[1]]["initiated"] == at_b[self.names[0]]["initiated"]:
            return False
        self.a.tell(do="ping", peer=self.names[1])
        found = until(
            lambda: next((e for e in self.a._fresh if e["event"] in ("pinged", "not pinged")), None),
            "an answer",
        )
        self.a._fresh.clear()
        return found["event"] == "pinged"

    def no_link(self) -> bool:
        return self.links() == ({}, {})

    def left_over(self) -> list[tuple[int, int]]:
        found = []
        for child in (self.a, self.b):
            child.tell(do="left over")
            event = child.expect("left over")
            found.append((event["greenlets"], event["descriptors"]))
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two linked nodes that keep each other; afterwards both have what they had, and no more."""
    with Proxy() as to_a, Proxy() as to_b, contextlib.ExitStack() as stack:
        a, b = (
            stack.enter_context(
                Child(CHILD, f"{name}@127.0.0.1:{proxy.port}", env={**COOKIE, "LISTEN": "127.0.0.1:0"})
            )
            for name, proxy in (("a", to_a), ("b", to_b))
        )
        made = Pair(a, b, to_a, to_b)
        a.tell(do="keep", peer=made.names[1])
        b.tell(do="keep", peer=made.names[0])
        until(made.one_link, "the first link", timeout=SOON)
        before = made.left_over()
        yield made
        made.network.heal()
        until(made.one_link, "one link at the end", timeout=SOON)
        until(
            lambda: made.left_over() <= before,
            "nothing left over",
            timeout=SOON,
            detail=lambda: (before, made.left_over()),
        )


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_broken_connection_comes_back(pair: Pair, fault: str) -> None:
    """A cut and a reset are noticed at once on both sides, and the link is made anew."""
    for _ in range(3):
        getattr(pair.network, fault)()
        pair.a.expect("NodeDown", timeout=SOON, peer=pair.names[1])
        pair.b.expect("NodeDown", timeout=SOON, peer=pair.names[0])
        pair.a.expect("NodeUp", timeout=SOON, peer=pair.names[1])
        until(pair.one_link, "one link", timeout=SOON)


@pytest.mark.parametrize("ways", [("to",), ("from",), ("to", "from")])
def test_a_stalled_network_is_noticed_and_overcome(pair: Pair, ways: tuple[str, ...]) -> None:
    """Silence one way or both: the heartbeat ends the link on both sides, and when it passes one link stands."""
    pair.network.stall(*ways)
    pair.a.expect("NodeDown", timeout=SOON, peer=pair.names[1])
    pair.b.expect("NodeDown", timeout=SOON, peer=pair.names[0])
    until(pair.no_link, "no link while it lasts", timeout=SOON)
    pair.network.heal()
    until(pair.one_link, "one link", timeout=SOON)


def test_a_half_open_link_is_replaced_by_the_redial(pair: Pair) -> None:
    """When only the accepting node knows that the link is gone, one link stands again soon after."""
    pair.network.forget()
    pair.network.heal()
    pair.a.expect("NodeUp", timeout=SOON)
    pair.b.expect("NodeUp", timeout=SOON)
    until(pair.one_link, "one link", timeout=SOON)


def test_a_slow_network_is_no_fault(pair: Pair) -> None:
    """A delay of 100 ms a piece, and a trickle of 40 bytes at a time, keep the link up."""
    pair.a._fresh.clear()
    pair.network.slow(delay=0.1)
    assert pair.one_link()
    pair.network.slow(trickle=40)
    assert pair.one_link()
    pair.network.heal()
    assert not any(event["event"] == "NodeDown" for event in pair.a.seen)


def test_links_are_made_over_a_slow_network(pair: Pair) -> None:
    """A handshake that arrives in pieces of 100 bytes still makes the link."""
    pair.network.slow(trickle=100)
    pair.network.cut()
    pair.a.expect("NodeDown", timeout=SOON)
    pair.a.expect("NodeUp", timeout=SOON)


def test_dials_from_both_sides_through_a_storm_of_cuts(pair: Pair) -> None:
    """With both sides dialing and the network cut again and again, one link is left in the end."""
    for _ in range(10):
        pair.network.cut()
        pair.a.expect("NodeDown", timeout=SOON)
        pair.b.tell(do="connect", peer=pair.names[0])
        pair.a.tell(do="connect", peer=pair.names[1])
        pair.a.expect("NodeUp", timeout=SOON)
    until(pair.one_link, "one link", timeout=SOON)


def test_three_nodes_lose_one_and_get_it_back() -> None:
    """Of three nodes that keep each other one is killed; the others stay linked, and its next life joins both."""
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(Child(CHILD, f"{n}@127.0.0.1:0", env=COOKIE)) for n in "ab")
        c = Child(CHILD, "c@127.0.0.1:0", env=COOKIE)
        names = [child.expect("started")["name"] for child in (a, b, c)]
        for child in (a, b, c):
            for name in names:
                child.tell(do="keep", peer=name)

        def full(*children: Child) -> bool:
            counts = []
            for child in children:
                child.tell(do="sessions")
                counts.append(len(child.expect("sessions")["links"]))
            return counts == [2] * len(children)

        until(lambda: full(a, b, c), "the triangle", timeout=SOON)
        c.kill()
        for child in (a, b):
            assert "cut" in child.expect("NodeDown", timeout=SOON, peer=names[2])["reason"]
        c._reader.join()
        c._process.stdin.close()
        c._process.stdout.close()
        again = stack.enter_context(Child(CHILD, names[2], env=COOKIE))
        incarnation = again.expect("started")["incarnation"]
        for child in (a, b):
            assert child.expect("NodeUp", timeout=SOON, peer=names[2])["incarnation"] == incarnation
            assert not any(e["event"] == "NodeDown" and e["peer"] in names[:2] for e in child.seen)
        for name in names:
            again.tell(do="keep", peer=name)
        until(lambda: full(a, b, again), "the triangle again", timeout=SOON)


def test_sigterm_says_goodbye() -> None:
    """A stopped `snowgreen start` is seen to leave, not to be lost."""
    with Child(CHILD, "a@127.0.0.1:0", env=COOKIE) as a:
        name = a.expect("started")["name"]
        started = Popen(
            [sys.executable, "-m", "snowgreen", "start", "--name", "z@127.0.0.1:0", "--connect", name],
            env={**os.environ, **COOKIE},
            stdout=PIPE,
        )
        a.expect("NodeUp", timeout=30)
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=15) == 0
        down = a.expect("NodeDown", timeout=SOON)
        assert "said goodbye: it was stopped" in down["reason"]
        started.stdout.close()
