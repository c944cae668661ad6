"""A node that sends to itself and calls itself: the same bounds and errors as over a link, without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event

import snowgreen
from snowgreen import MessagesDropped
from tests.conftest import FAST, MakeNode
from tests.waiting import event_of, until

MIB = 2**20


class Point(msgspec.Struct):
    x: int


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` returns; of what it raises the exception."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001
        return error


def config(**limits: Any) -> snowgreen.Config:
    return dataclasses.replace(FAST, limits=dataclasses.replace(FAST.limits, **limits))


@pytest.fixture
def node(make_node: MakeNode) -> snowgreen.Node:
    return make_node()


def send(node: snowgreen.Node, mailbox: str, body: Any, **options: Any) -> None:
    node.send(node.name, mailbox, body, **options)


def spawn(node: snowgreen.Node, mailbox: str, body: Any, **options: Any) -> gevent.Greenlet:
    """A send in a greenlet of its own, of which ``get()`` returns None or the error."""
    return gevent.spawn(outcome, send, node, mailbox, body, **options)


# Messages.


def test_what_is_sent_to_oneself_arrives_as_from_a_peer(node: snowgreen.Node) -> None:
    """Bodies are encoded, so that what the sender does to them afterwards is no matter of the reader."""
    inbox = node.mailbox("inbox")
    typed = node.mailbox("typed", type=Point)
    body = {"a": [1, (2, 3)]}
    buffer = bytearray(b"buffer")
    send(node, "inbox", body)
    send(node, "inbox", b"raw")
    send(node, "inbox", buffer)
    send(node, "typed", Point(4))
    body["a"].append(5)
    buffer[0] = 0
    first = inbox.get(0)
    assert (first.body, first.sender, first.mailbox) == ({"a": [1, [2, 3]]}, node.name, "inbox")
    assert inbox.get(0).body == b"raw"
    assert inbox.get(0).body == b"buffer"
    assert typed.get(0).body == Point(4)
    assert not node.sessions


def test_a_body_that_does_not_fit_is_dropped_and_told(node: snowgreen.Node) -> None:
    """A typed mailbox passes over what is not of its type, also if this node sent it."""
    events = node.subscribe()
    typed = node.mailbox("typed", type=Point)
    send(node, "typed", {"x": "one"})
    send(node, "typed", {"x": 2})
    assert typed.get(5).body == Point(2)
    event = event_of(events, MessagesDropped)
    assert (event.peer, event.mailbox, event.count, event.sent) == (node.name, "typed", 1, False)
    assert "does not fit Point" in event.reason


def test_there_must_be_such_a_mailbox(node: snowgreen.Node) -> None:
    """Without one, or with a name that none can have, the error is that of a send to a peer."""
    with pytest.raises(snowgreen.UnknownMailbox) as caught:
        send(node, "nowhere", b"")
    assert (caught.value.peer, caught.value.mailbox) == (node.name, "nowhere")
    for name in ("", "x" * 256, "a\nb", 5):
        with pytest.raises(snowgreen.ConfigurationError):
            send(node, name, b"")  # type: ignore[arg-type]
    node.mailbox("closed").close()
    with pytest.raises(snowgreen.UnknownMailbox):
        send(node, "closed", b"")


def test_a_body_has_the_same_limit_as_one_for_a_peer(make_node: MakeNode) -> None:
    """``Limits.max_message`` counts here, too."""
    node = make_node(config=config(max_message=MIB))
    inbox = node.mailbox("inbox")
    send(node, "inbox", bytes(MIB))
    with pytest.raises(snowgreen.PayloadTooLarge):
        send(node, "inbox", bytes(MIB + 1))
    assert len(inbox.get(0).body) == MIB
    assert len(inbox) == 0


@pytest.mark.parametrize("bound", [{"size": 2}, {"max_bytes": 100}])
def test_a_sender_waits_for_room_in_its_turn(node: snowgreen.Node, bound: dict[str, int]) -> None:
    """Senders to a full mailbox wait, and go in the order in which they came."""
    inbox = node.mailbox("inbox", **bound)
    send(node, "inbox", bytes(60))
    send(node, "inbox", bytes(60))
    waiting = [spawn(node, "inbox", bytes([number])) for number in range(1, 6)]
    gevent.idle()
    assert len(inbox) == 2
    assert not any(sender.ready() for sender in waiting)
    assert [inbox.get(5).body for _ in range(7)] == [bytes(60)] * 2 + [bytes([n]) for n in range(1, 6)]
    assert [sender.get(timeout=5) for sender in waiting] == [None] * 5


def test_a_sender_that_gives_up_has_not_sent(node: snowgreen.Node) -> None:
    """Out of time, or killed, it leaves the line to the next."""
    inbox = node.mailbox("inbox", size=1)
    send(node, "inbox", 0)
    for timeout in (0, 0.02):
        with pytest.raises(snowgreen.SendTimeout, match="the mailbox has no room") as caught:
            send(node, "inbox", "late", timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
    killed, next_ = spawn(node, "inbox", "killed"), spawn(node, "inbox", 1)
    gevent.idle()
    killed.kill()
    assert inbox.get(0).body == 0
    assert inbox.get(5).body == 1
    assert next_.get(timeout=5) is None
    send(node, "inbox", 2, timeout=0)
    assert inbox.get(0).body == 2
    assert len(inbox) == 0


def test_those_that_wait_for_a_mailbox_hear_of_its_end(node: snowgreen.Node) -> None:
    """They get UnknownMailbox, the new mailbox of that name none of their messages, and it is open to others."""
    inbox = node.mailbox("inbox", size=1)
    send(node, "inbox", 0)
    waiting = [spawn(node, "inbox", number) for number in range(1, 4)]
    gevent.idle()
    inbox.close()
    again = node.mailbox("inbox", size=1)
    for sender in waiting:
        found = sender.get(timeout=5)
        assert isinstance(found, snowgreen.UnknownMailbox)
        assert "it is closed" in str(found)
    send(node, "inbox", "new", timeout=0)
    assert again.get(0).body == "new"
    assert inbox.get(0).body == 0
    with pytest.raises(snowgreen.MailboxClosed):
        inbox.get(0)


def test_those_that_wait_hear_of_the_nodes_end(node: snowgreen.Node) -> None:
    """When the node stops nobody goes on waiting, and the next life begins with what it is given."""
    inbox = node.mailbox("inbox", size=1)
    send(node, "inbox", 0)
    waiting = spawn(node, "inbox", 1)
    gevent.idle()
    node.stop()
    assert isinstance(waiting.get(timeout=5), snowgreen.UnknownMailbox)
    assert [message.body for message in inbox] == [0]
    with pytest.raises(snowgreen.NodeStateError):
        send(node, "inbox", 2)
    node.start()
    again = node.mailbox("inbox", size=1)
    send(node, "inbox", 3, timeout=0)
    assert again.get(0).body == 3


def test_a_full_mailbox_that_says_so_keeps_nobody_waiting(node: snowgreen.Node) -> None:
    """``full="error"`` is MailboxFull at once, until there is room."""
    inbox = node.mailbox("inbox", size=2, full="error")
    for _ in range(3):
        send(node, "inbox", 1)
        send(node, "inbox", 2)
        for _ in range(3):
            with pytest.raises(snowgreen.MailboxFull):
                send(node, "inbox", 3)
        assert [inbox.get(0).body, inbox.get(0).body] == [1, 2]


@pytest.mark.parametrize(("full", "left"), [("drop_newest", [0, 1]), ("drop_oldest", [98, 99])])
def test_a_mailbox_that_drops_tells_how_many(node: snowgreen.Node, full: str, left: list[int]) -> None:
    """The sender never waits; what was dropped is counted, and told together and not one by one."""
    events = node.subscribe()
    inbox = node.mailbox("inbox", size=2, full=full)
    for number in range(100):
        send(node, "inbox", number, timeout=0)
    assert inbox.dropped == 98
    event = event_of(events, MessagesDropped)
    assert (event.peer, event.mailbox, event.count, event.sent) == (node.name, "inbox", 98, False)
    assert event.reason == "the mailbox is full"
    assert [inbox.get(0).body, inbox.get(0).body] == left


def test_what_is_lost_in_the_last_moment_is_told_before_the_end(node: snowgreen.Node) -> None:
    """A loss that was not told yet when the node stops is told then."""
    events = node.subscribe()
    node.mailbox("inbox", size=1, full="drop_newest")
    send(node, "inbox", 1)
    send(node, "inbox", 2)
    node.stop()
    assert event_of(events, MessagesDropped).count == 1


def test_a_node_and_its_peers_share_a_mailbox(make_node: MakeNode) -> None:
    """Neither starves the other, and every message of both arrives in its order."""
    node, peer = make_node(), make_node()
    inbox = node.mailbox("inbox", size=4)
    senders = [
        gevent.spawn(lambda who=who: [who.send(node.name, "inbox", number) for number in range(300)])
        for who in (node, peer)
    ]
    came: dict[str, list[int]] = {node.name: [], peer.name: []}
    for _ in range(600):
        message = inbox.get(10)
        came[message.sender].append(message.body)
    assert came == {node.name: list(range(300)), peer.name: list(range(300))}
    gevent.joinall(senders, raise_error=True)


# Calls. What they have in common with those of a peer is in test_calls.py.


def test_calls_of_its_own_do_not_wait_for_those_of_peers(make_node: MakeNode) -> None:
    """``Limits.handlers`` is what peers may ask for: a node that they keep busy can still call itself."""
    node, peer = make_node(config=config(handlers=1)), make_node()
    gate = Event()
    busy = Event()

    @node.handler("wait")
    def wait() -> int:
        busy.set()
        gate.wait()
        return 1

    @node.handler("down")
    def down(depth: int) -> int:
        return 1 + int(node.call(node.name, "down", depth - 1)) if depth else 0

    theirs = gevent.spawn(peer.call, node.name, "wait", timeout=None)
    assert busy.wait(10)
    assert node.call(node.name, "down", 10, timeout=5) == 10
    own = gevent.spawn(node.call, node.name, "wait", timeout=None)
    gate.set()
    assert (theirs.get(), own.get()) == (1, 1)


def test_a_handler_may_call_its_own_node_while_it_takes_the_only_place(make_node: MakeNode) -> None:
    """A call of a peer that leads to calls of the node to itself does not wait for its own end."""
    node, peer = make_node(config=config(handlers=1)), make_node()
    node.handler("outer")(lambda: node.call(node.name, "inner", timeout=5))
    node.handler("inner")(lambda: "in")
    assert peer.call(node.name, "outer") == "in"


def test_a_call_that_is_given_up_at_once_is_never_run(node: snowgreen.Node) -> None:
    """A caller that is gone before the loop has had a turn has called nobody."""
    called = []
    node.handler("note")(lambda: called.append(1))
    for _ in range(3):
        call = gevent.spawn(node.call, node.name, "note")
        with pytest.raises(snowgreen.CallTimeout):
            node.call(node.name, "note", timeout=0)
        call.get()
    assert len(called) == 3


def test_arguments_and_results_are_copies(node: snowgreen.Node) -> None:
    """A handler of the same process gets values of its own, as one of another would."""
    seen = []

    @node.handler("f")
    def f(value: list[int]) -> list[int]:
        seen.append(value)
        return value

    given = [1, 2]
    result = node.call(node.name, "f", given)
    assert result == given == seen[0]
    assert len({id(given), id(result), id(seen[0])}) == 3


def test_a_result_has_the_same_limit_as_one_of_a_peer(make_node: MakeNode) -> None:
    """``Limits.max_message`` counts for arguments and results of the node's own calls."""
    node = make_node(config=config(max_message=MIB))
    node.handler("zeros")(lambda size: bytes(size))
    node.handler("size")(len)
    assert len(node.call(node.name, "zeros", MIB)) == MIB
    with pytest.raises(snowgreen.CallError, match="its result cannot be sent"):
        node.call(node.name, "zeros", MIB + 1)
    with pytest.raises(snowgreen.PayloadTooLarge):
        node.call(node.name, "size", bytes(MIB))


def test_a_shielded_call_of_its_own_outlives_the_node(node: snowgreen.Node) -> None:
    """stop() neither ends a shielded handler nor waits for it; its caller gets the result."""
    gate, begun = Event(), Event()

    @node.handler("charge", shielded=True)
    def charge() -> str:
        begun.set()
        gate.wait()
        return "charged"

    call = gevent.spawn(node.call, node.name, "charge", timeout=None)
    assert begun.wait(10)
    node.stop()
    assert not call.ready()
    gate.set()
    assert call.get(timeout=5) == "charged"


def test_nothing_is_kept_of_calls_that_are_over(node: snowgreen.Node) -> None:
    """After many calls that ended in every way the node knows of none."""
    node.handler("echo")(lambda value: value)
    node.handler("wait")(lambda: Event().wait())
    for number in range(300):
        outcome(node.call, node.name, "echo", number)
        outcome(node.call, node.name, "echo")
        outcome(node.call, node.name, "missing")
        outcome(node.call, node.name, "wait", timeout=0)
        gevent.spawn(outcome, node.call, node.name, "wait").kill()
        call = gevent.spawn(outcome, node.call, node.name, "wait")
        gevent.sleep(0)
        call.kill()
    board = node._board
    assert board is not None
    until(lambda: not board.local.running, "nothing is left of them")
