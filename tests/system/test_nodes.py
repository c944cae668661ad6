"""Nodes in processes of their own: they link once per pair, notice deaths, and come back."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import Child

COOKIE = {"SNOWGREEN_COOKIE": "correct horse battery staple"}
CHILD = str(Path(__file__).with_name("node_child.py"))


def node(name: str, **env: str) -> Child:
    return Child(CHILD, name, env={**COOKIE, **env})


def links(child: Child) -> dict[str, Any]:
    child.tell(do="sessions")
    return child.expect("sessions")["links"]


def assert_one_link(a: Child, b: Child, names: tuple[str, str]) -> None:
    """Both hold one session with the other, and it is the same connection."""
    at_a, at_b = links(a)[names[1]], links(b)[names[0]]
    assert sorted(at_a["ends"]) == sorted(at_b["ends"])
    assert at_a["initiated"] != at_b["initiated"]


def test_two_processes_link() -> None:
    """The main job: two processes, one link, both told, and a clean end seen by the other."""
    with node("a@127.0.0.1:0") as a, node("b@127.0.0.1:0") as b:
        names = a.expect("started")["name"], b.expect("started")["name"]
        a.tell(do="connect", peer=names[1])
        assert a.expect("connected")["rtt"] > 0
        assert b.expect("NodeUp")["peer"] == names[0]
        assert_one_link(a, b, names)
        a.tell(do="close", peer=names[1])
        assert a.expect("NodeDown")["reason"] == "asked to"
        assert b.expect("NodeDown")["reason"] == "the peer said goodbye: asked to"
        assert links(a) == links(b) == {}


@pytest.mark.parametrize("round_", range(5))
def test_simultaneous_dials_between_processes(round_: int) -> None:
    """Dials that cross on the wire end, on both sides, with the same single link."""
    with node("a@127.0.0.1:0") as a, node("b@127.0.0.1:0") as b:
        names = a.expect("started")["name"], b.expect("started")["name"]
        a.tell(do="connect", peer=names[1])
        b.tell(do="connect", peer=names[0])
        a.expect("connected")
        b.expect("connected")
        assert_one_link(a, b, names)
        for child in (a, b):
            kinds = [event["event"] for event in child.seen]
            assert kinds.count("NodeUp") == 1
            assert "NodeDown" not in kinds
            assert "HandshakeFailed" not in kinds


def test_a_wrong_cookie_between_processes() -> None:
    """Both processes say AuthenticationError."""
    with node("a@127.0.0.1:0") as a, node("b@127.0.0.1:0", SNOWGREEN_COOKIE="another cookie altogether") as b:
        a.expect("started")
        b.tell(do="connect", peer=a.seen[0]["name"])
        assert b.expect("failed")["error"] == "AuthenticationError"
        failed = a.expect("HandshakeFailed")
        assert failed["error"] == "AuthenticationError"
        assert failed["claimed"] == b.seen[0]["name"]


def test_a_killed_process_is_noticed_and_welcomed_back() -> None:
    """A kill -9 is seen as a loss; under the same name and a new incarnation the node links again."""
    with node("a@127.0.0.1:0") as a:
        a.expect("started")
        b = node("b@127.0.0.1:0")
        first = b.expect("started")
        a.tell(do="connect", peer=first["name"])
        a.expect("connected")
        b.kill()
        assert "cut" in a.expect("NodeDown")["reason"]
        with node(first["name"]) as again:
            second = again.expect("started")
            assert second["name"] == first["name"]
            assert second["incarnation"] > first["incarnation"]
            again.tell(do="connect", peer=a.seen[0]["name"])
            assert a.expect("NodeUp")["incarnation"] == second["incarnation"]
            again.expect("connected")
            assert_one_link(a, again, (a.seen[0]["name"], first["name"]))
        b._reader.join()
        b._process.stdin.close()
        b._process.stdout.close()


def test_a_stopped_process_is_given_up_by_the_heartbeat_and_told_when_it_wakes() -> None:
    """SIGSTOP leaves the connection open and silent: the heartbeat ends it, and both can link anew."""
    with node("a@127.0.0.1:0") as a, node("b@127.0.0.1:0") as b:
        name = b.expect("started")["name"]
        a.tell(do="connect", peer=name)
        a.expect("connected")
        b._process.send_signal(signal.SIGSTOP)
        try:
            assert "no answer to a ping" in a.expect("NodeDown")["reason"]
        finally:
            b._process.send_signal(signal.SIGCONT)
        b.expect("NodeDown")
        a.tell(do="connect", peer=name)
        a.expect("connected")
        b.expect("NodeUp")
        assert_one_link(a, b, (a.seen[0]["name"], name))


def test_five_processes_storm() -> None:
    """Five processes that all dial all others at once end with ten links and no more."""
    children = [node(f"n{i}@127.0.0.1:0") for i in range(5)]
    try:
        names = [child.expect("started")["name"] for child in children]
        for child in children:
            for name in names:
                if name != child.seen[0]["name"]:
                    child.tell(do="connect", peer=name, timeout=20)
        for child in children:
            for _ in range(4):
                child.expect("connected", timeout=20)
        for i, a in enumerate(children):
            for j, b in enumerate(children[:i]):
                assert_one_link(a, b, (names[i], names[j]))
            assert len(links(a)) == 4
    finally:
        for child in children:
            child.__exit__(None)
