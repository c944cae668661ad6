"""Messages and calls between nodes in processes of their own, which die, stand still and fork."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.system.processes import Child
from tests.test_forks import every_way, run
from tests.waiting import until

CHILD = str(Path(__file__).with_name("node_child.py"))
ENV = {"SNOWGREEN_COOKIE": "correct horse battery staple", "HEARTBEAT_TIMEOUT": "30"}


class Pair(NamedTuple):
    """Two linked processes and their names."""

    a: Child
    b: Child
    names: tuple[str, str]


def linked(stack: contextlib.ExitStack, **env: str) -> Pair:
    a, b = (stack.enter_context(Child(CHILD, f"{name}@127.0.0.1:0", env={**ENV, **env})) for name in "ab")
    names = a.expect("started")["name"], b.expect("started")["name"]
    a.tell(do="connect", peer=names[1])
    a.expect("connected")
    return Pair(a, b, names)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        yield linked(stack)


def stream(seed: int, count: int) -> str:
    """The digest of the bodies that a child with `seed` sends."""
    chance, digest = random.Random(seed), hashlib.sha256()
    for _ in range(count):
        digest.update(chance.randbytes(int(10 ** chance.uniform(0, 5))))
    return digest.hexdigest()


def seen(child: Child, event: str, **fields: Any) -> dict[str, Any]:
    """The first `event` with these `fields`, whatever else has been looked at before."""

    def look() -> dict[str, Any] | None:
        for found in child.seen:
            if found["event"] == event and all(found.get(key) == value for key, value in fields.items()):
                return found
        return None

    return dict(until(look, f"{event} {fields}", timeout=60, detail=lambda: child.seen))


def bury(child: Child) -> None:
    """SIGKILL, and let go of what is left."""
    child.kill()
    child._reader.join()
    child._process.stdin.close()
    child._process.stdout.close()


def test_messages_between_processes(pair: Pair) -> None:
    """Values cross in both directions with their sender's name; a mailbox that there is not is told."""
    a, b, names = pair
    for child in (a, b):
        child.tell(do="read", mailbox="in")
        child.expect("open")
    for sender, receiver, peer, own in ((a, b, names[1], names[0]), (b, a, names[0], names[1])):
        sender.tell(do="send", peer=peer, mailbox="in", body={"id": 7, "tags": ["ä", None, 1.5]})
        assert sender.expect("sent")["count"] == 1
        message = receiver.expect("message")
        assert (message["sender"], message["body"]) == (own, {"id": 7, "tags": ["ä", None, 1.5]})
        sender.tell(do="send", peer=peer, mailbox="nowhere", body=1)
        assert sender.expect("not sent")["error"] == "UnknownMailbox"


def test_a_message_to_a_process_without_a_link() -> None:
    """The message itself makes the link, and a name at which nobody is any more is told."""
    with Child(CHILD, "a@127.0.0.1:0", env=ENV) as a:
        a.expect("started")
        b = Child(CHILD, "b@127.0.0.1:0", env=ENV)
        name = b.expect("started")["name"]
        b.tell(do="read", mailbox="in")
        b.expect("open")
        a.tell(do="send", peer=name, mailbox="in", body="hello")
        assert b.expect("message")["body"] == "hello"
        bury(b)
        a.expect("NodeDown")
        a.tell(do="send", peer=name, mailbox="in", body="hello")
        assert a.expect("not sent")["error"] == "Unreachable"


def test_calls_between_processes(pair: Pair) -> None:
    """Results, exceptions, deadlines and missing handlers arrive at the caller, in both directions."""
    a, b, names = pair
    for caller, callee, peer, own in ((a, b, names[1], names[0]), (b, a, names[0], names[1])):
        caller.tell(do="call", peer=peer, handler="echo", args=["x", {"y": [1]}])
        assert caller.expect("returned")["value"] == [own, "x", {"y": [1]}]
        caller.tell(do="call", peer=peer, handler="raise", args=["no such thing"])
        raised = caller.expect("raised")
        assert raised["error"] == "RemoteError"
        assert "it raised ValueError: no such thing" in raised["text"]
        caller.tell(do="call", peer=peer, handler="nothing")
        assert caller.expect("raised")["error"] == "UnknownHandler"
        caller.tell(do="call", peer=peer, handler="sleep", args=[60], timeout=0.2)
        callee.expect("begun")
        assert caller.expect("raised")["error"] == "CallTimeout"
        assert callee.expect("ended")["error"] in ("Timeout", "GreenletExit")


def test_the_death_of_the_callee_fails_its_calls_at_once(pair: Pair) -> None:
    """After kill -9 of the callee every call and every waiting send raises SessionClosed, long before its timeout."""
    a, b, names = pair
    b.tell(do="read", mailbox="once", options={"size": 1}, count=1_000_000)
    b.expect("open")
    for _ in range(3):
        a.tell(do="call", peer=names[1], handler="sleep", args=[600], timeout=None)
    for _ in range(3):
        b.expect("begun")
    os.kill(b.pid, signal.SIGSTOP)  # so that its mailbox is not read
    a.tell(do="send", peer=names[1], mailbox="once", count=1_000_000, seed=1)
    bury(b)
    assert seen(a, "not sent")["error"] in ("SessionClosed", "Unreachable")
    until(lambda: sum(event["event"] == "raised" for event in a.seen) == 3, "three failures")
    assert {event["error"] for event in a.seen if event["event"] == "raised"} == {"SessionClosed"}
    assert seen(a, "NodeDown")["peer"] == names[1]


def test_the_death_of_the_caller_ends_the_handler(pair: Pair) -> None:
    """After kill -9 of the caller the handler that works for it is ended."""
    a, b, names = pair
    a.tell(do="call", peer=names[1], handler="sleep", args=[600], timeout=None)
    b.expect("begun")
    bury(a)
    assert b.expect("ended")["error"] == "GreenletExit"


def test_a_callee_that_stops_says_so(pair: Pair) -> None:
    """A callee that ends in order fails its calls with the reason, and its peer does not take it for a loss."""
    a, b, names = pair
    a.tell(do="call", peer=names[1], handler="sleep", args=[600], timeout=None)
    b.expect("begun")
    b._process.stdin.close()
    raised = a.expect("raised")
    assert raised["error"] in ("CallError", "SessionClosed")
    assert "stop" in raised["text"]
    assert "it was stopped" in a.expect("NodeDown")["reason"]
    assert b._process.wait(timeout=10) == 0
    b._reader.join()
    b._process.stdout.close()


@pytest.mark.parametrize("outbox", ["1024", "100000"])
def test_two_processes_that_send_to_each_other_through_tiny_outboxes(outbox: str) -> None:
    """Both send at once, large and small, with no room to speak of: no deadlock, and every byte in its place."""
    count = 300
    with contextlib.ExitStack() as stack:
        a, b, names = linked(stack, OUTBOX=outbox)
        for child in (a, b):
            for mailbox in ("first", "second"):
                child.tell(do="read", mailbox=mailbox, count=count, options={"size": 3})
                child.expect("open")
        for seed, (child, peer) in enumerate(((a, names[1]), (b, names[0]))):
            child.tell(do="send", peer=peer, mailbox="first", count=count, seed=seed)
            child.tell(do="send", peer=peer, mailbox="second", count=count, seed=seed + 10)
        for seed, (child, other) in enumerate(((a, b), (b, a))):
            for mailbox, shift in (("first", 0), ("second", 10)):
                collected = seen(other, "collected", mailbox=mailbox)
                assert collected["digest"] == seen(child, "sent", mailbox=mailbox)["digest"]
                assert collected["digest"] == stream(seed + shift, count)
            assert not any(event["event"] == "NodeDown" for event in child.seen)


def test_a_process_that_stands_still_and_wakes(pair: Pair) -> None:
    """While the receiver is stopped its sender waits; when it goes on, everything comes, in order."""
    a, b, names = pair
    b.tell(do="read", mailbox="in", count=300, options={"size": 10})
    b.expect("open")
    os.kill(b.pid, signal.SIGSTOP)
    try:
        a.tell(do="send", peer=names[1], mailbox="in", count=300, seed=4)
        a.tell(do="send", peer=names[1], mailbox="other", body=1, timeout=0.3)
        failed = a.expect("not sent")
        assert failed["error"] == "SendTimeout"
        assert "it has not answered" in failed["text"]
    finally:
        os.kill(b.pid, signal.SIGCONT)
    assert b.expect("collected", timeout=30)["digest"] == stream(4, 300)
    assert a.expect("sent")["count"] == 300


@every_way
def test_a_forked_child_reads_no_mail_of_its_parents(way: str) -> None:
    """In the child what came and what comes is the parent's; started there, the node has mailboxes of its own."""
    run(
        way,
        """
        a, b = node("a@127.0.0.1:0").start(), node("b@127.0.0.1:0").start()
        box, inbox = b.mailbox("box", size=2), b.join("topic")
        a.send(b.name, "box", 1)
        a.send(b.name, "box", 2)
        until(lambda: len(box) == 2 and a.group("topic"))
        a.broadcast("topic", "news")
        until(lambda: len(inbox) == 1)
        waiting = gevent.spawn(a.send, b.name, "box", 3)
        gevent.sleep(0)
        here = os.getpid()

        def child():
            assert os.getpid() != here
            assert len(box) == 0 and len(inbox) == 0
            for mailbox in (box, inbox):
                try:
                    mailbox.get(0.05)
                except snowgreen.MailboxEmpty:
                    pass
                else:
                    raise AssertionError("it read the parent's")
            try:
                b.send(b.name, "box", "too early")
            except snowgreen.NodeStateError:
                pass
            else:
                raise AssertionError("it sent")
            b.start()
            b.send(b.name, "box", "its own")
            assert box.get(5).body == "its own"
            a.start()
            a.send(b.name, "box", "from the other one")
            assert box.get(5).body == "from the other one"
            assert len(box) == 0
            until(lambda: a.group("topic") == (b.name,))
            a.broadcast("topic", "news of the child")
            assert inbox.get(5).body == "news of the child"
            a.stop(); b.stop()

        pid = in_child(child)
        assert [box.get(5).body for _ in range(3)] == [1, 2, 3]
        assert inbox.get(5).body == "news"
        waiting.get(timeout=5)
        finished(pid)
        a.send(b.name, "box", 4)
        assert box.get(5).body == 4
        assert len(box) == 0 and len(inbox) == 0
        """,
    )


@every_way
def test_a_fork_in_the_middle_of_sends_and_calls(way: str) -> None:
    """Senders, readers, callers and handlers that wait at the fork go on in the parent, and only there."""
    run(
        way,
        """
        a, b = node("a@127.0.0.1:0").start(), node("b@127.0.0.1:0").start()
        box, go, ran = b.mailbox("box", size=1), Event(), []

        @b.handler("wait")
        def wait():
            go.wait()
            ran.append(os.getpid())
            return "done"

        here, got = os.getpid(), []
        def read():
            for message in b.mailbox("read"):
                got.append((os.getpid(), message.body))
        reader = gevent.spawn(read)
        a.send(b.name, "box", 1)
        senders = [gevent.spawn(a.send, b.name, "box", n) for n in (2, 3)]
        caller = gevent.spawn(a.call, b.name, "wait")
        until(lambda: len(box) == 1 and a.sessions[b.name].carried.pending)
        a.sessions[b.name].ping()

        def child():
            for _ in range(20):
                Event().wait(0.01)
            b.start()
            box.close()
            assert not any(greenlet.ready() for greenlet in (reader, caller, *senders))
            assert not ran and not got, (ran, got)

        pid = in_child(child)
        finished(pid)
        go.set()
        assert caller.get(timeout=5) == "done" and ran == [here]
        assert [box.get(5).body for _ in range(3)] == [1, 2, 3]
        gevent.joinall(senders, timeout=5, raise_error=True)
        a.send(b.name, "read", 1)
        until(lambda: got == [(here, 1)])
        b.stop()
        reader.join(5)
        assert reader.successful()
        """,
    )
