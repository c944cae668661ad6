"""What a peer sends that no node of ours would, and the books of a sender: over a real link, by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import msgspec
import pytest
from gevent.event import Event

import snowgreen
from snowgreen import MessagesDropped, Node
from snowgreen.config import MIB
from snowgreen.errors import (
    MailboxFull,
    MessagingError,
    PayloadTooLarge,
    SendTimeout,
    SessionClosed,
    UnknownMailbox,
    Unsupported,
)
from snowgreen.messaging.mailbox import Mailbox
from snowgreen.messaging.traffic import MAX_FLOWS
from snowgreen.protocol import mail
from snowgreen.protocol.fragments import Assembly
from snowgreen.protocol.frames import (
    Capability,
    Farewell,
    FrameTag,
    encode,
    encode_goodbye,
    encode_ping,
    encode_pong,
)
from snowgreen.protocol.mail import FaultCode, FlowKind, Mode, Refusal
from snowgreen.protocol.wire import pack
from tests import raw
from tests.conftest import FAST, MakeNode
from tests.waiting import event_of, until

ALL = int(Capability.MESSAGES | Capability.GROUPS)
#: The least that a node may be told to take in a message: what is above it is quickly sent.
SMALL_MESSAGES = dataclasses.replace(
    FAST, limits=snowgreen.Limits.trusted(tls_timeout=2, handshake_timeout=4, max_message=MIB)
)
ARGUMENTS = msgspec.msgpack.encode(((), {}))
LARGE_ARGUMENTS = msgspec.msgpack.encode(((bytes(MIB - 100),), {}))
MANY = 2**40


# Frames, whole.


def opening(flow: int, name: str = "", kind: int = FlowKind.MAILBOX) -> bytes:
    """OPEN."""
    return pack(mail.open_head(flow, kind, name))


def calls(flow: int) -> bytes:
    """OPEN of a flow for calls."""
    return opening(flow, "", FlowKind.CALLS)


def message(flow: int, payload: bytes = b"", codec: int = 0) -> bytes:
    """MESSAGE."""
    return pack(mail.message_head(flow, codec) + payload)


def finish(flow: int) -> bytes:
    """FINISH."""
    return pack(mail.finish_head(flow))


def call(flow: int, number: int, handler: str = "wait", payload: bytes = ARGUMENTS) -> bytes:
    """CALL without a deadline."""
    return pack(mail.call_head(flow, number, 0, MIB, 1, handler) + payload)


def result(number: int, payload: bytes) -> bytes:
    """RESULT of raw bytes."""
    return pack(mail.result_head(number, 0) + payload)


def credit(
    flow: int,
    messages: int = MANY,
    size: int = MANY,
    lost: int = 0,
    largest: int = MIB,
    mode: int = Mode.WAIT,
) -> bytes:
    """CREDIT."""
    return encode(FrameTag.CREDIT, struct.pack("<IQQQIB", flow, messages, size, lost, largest, mode))


def first(stream: int, total: int, data: bytes) -> bytes:
    """FIRST."""
    return encode(FrameTag.FIRST, struct.pack("<II", stream, total) + data)


def part(stream: int, data: bytes) -> bytes:
    """PART."""
    return encode(FrameTag.PART, struct.pack("<I", stream) + data)


def broadcast(topic: str, payload: bytes) -> bytes:
    """BROADCAST of raw bytes."""
    return pack(mail.broadcast_head(topic, 0) + payload)


class Peer:
    """A bare connection that has done the handshake, and the session at its other end."""

    def __init__(self, node: Node, name: str = "raw@127.0.0.1:0", **options: Any) -> None:
        options.setdefault("capabilities", ALL)
        assert node.address is not None
        self.node = node
        self.name = name
        self.sock, _ = raw.link(node.address, name, **options)
        self.session: snowgreen.Session = until(
            lambda: (session := node.sessions.get(name)) and not session.closed and session, "registered"
        )

    def send(self, *frames: bytes) -> None:
        """Write whole frames."""
        self.sock.sendall(b"".join(frames))

    def read(self) -> bytes:
        """The next frame, from its tag on; empty if the node has closed."""
        return raw.read_message(self.sock)[4:]

    def expect(self, tag: FrameTag) -> bytes:
        """The next frame, which is to have this tag."""
        frame = self.read()
        assert frame, f"closed: {self.session.reason}"
        assert frame[0] == tag, frame
        return frame

    def credit(self, flow: int) -> mail.Credit:
        """The next frame, which is to be a CREDIT for `flow`."""
        found = mail.decode_credit(self.expect(FrameTag.CREDIT))
        assert found.flow == flow
        return found

    def refusal(self, flow: int) -> tuple[int, int]:
        """The next frame, which is to be a REFUSE for `flow`: why, and how many had come."""
        number, why, received = mail.decode_refuse(self.expect(FrameTag.REFUSE))
        assert number == flow
        return why, received

    def settled(self) -> None:
        """What was sent has been looked at, nothing is on the way back, and the link goes on."""
        self.send(encode_ping(77))
        assert self.read() == encode_ping(77)[4:].replace(b"\xf0", b"\xf1")

    def close(self) -> None:
        """Cut the connection."""
        self.sock.close()
        until(lambda: self.session.closed, "the node has noticed")


class Setting:
    """A node with two mailboxes and a handler, linked with a node like it and with a bare peer."""

    def __init__(self, make_node: MakeNode) -> None:
        self.node = make_node(config=SMALL_MESSAGES)
        self.box = self.node.mailbox("box", size=4, max_bytes=1000)
        self.good = self.node.mailbox("good")
        self.inbox = self.node.join("topic")
        self.release = Event()
        self.node.handler("wait")(lambda *_: self.release.wait())
        self.neighbour = make_node(config=SMALL_MESSAGES)
        self.neighbour.connect(self.node.name)
        self.peer = Peer(self.node)
        assert mail.decode_join(self.peer.expect(FrameTag.JOIN)) == ["topic"]

    def others_go_on(self) -> None:
        """The neighbour is heard, by message and by call; and what the peer had opened leads nowhere."""
        self.neighbour.send(self.node.name, "good", b"still here", timeout=5)
        assert self.good.get(timeout=5).body == b"still here"
        self.release.set()
        assert self.neighbour.call(self.node.name, "wait", timeout=5) is True
        for room in (self.box.room, self.good.room):
            assert not [flow for flow in room.flows.values() if flow.peer == self.peer.name]

    def breaks(self, reason: str) -> None:
        """That was the end of the peer's link, for this reason, and of no other."""
        session = self.peer.session
        until(lambda: session.closed, "the link ended")
        assert session.reason is not None
        assert session.reason.startswith("the peer broke the protocol: ")
        assert reason in session.reason
        assert list(self.node.sessions) == [self.neighbour.name]
        self.others_go_on()


@pytest.fixture
def setting(make_node: MakeNode) -> Iterator[Setting]:
    """A setting whose peer is closed at the end."""
    made = Setting(make_node)
    yield made
    made.release.set()
    made.peer.sock.close()


# What breaks the protocol.

BREAKS: dict[str, tuple[list[bytes], str]] = {
    "past the messages allowed": ([opening(1, "box"), *[message(1)] * 5], "past the credit"),
    "past the bytes allowed": ([opening(1, "box"), message(1, bytes(1000)), message(1)], "past the credit"),
    "message on an unknown flow": ([message(1, b"x")], "a flow that was never opened"),
    "message above those opened": ([opening(7, "box"), message(8, b"x")], "a flow that was never opened"),
    "message on flow 0": ([message(0, b"x")], "on flow 0"),
    "call on an unknown flow": ([call(1, 1)], "a flow that was never opened"),
    "finish of an unknown flow": ([opening(3, "none"), finish(4)], "a flow that was never opened"),
    "credit for an unknown flow": ([credit(1)], "an answer about a flow that was never opened"),
    "refuse of an unknown flow": ([mail.encode_refuse(1, 1, 0)], "an answer about a flow that was never opened"),
    "a number used again": ([opening(5, "box"), opening(5, "good")], "a number that was used before"),
    "a number that falls": ([opening(5, "box"), opening(4, "good")], "a number that was used before"),
    "a refused number used again": ([opening(5, "none"), opening(5, "box")], "a number that was used before"),
    "a message for the handlers": ([calls(1), message(1, b"x")], "on a flow for calls"),
    "a call of a mailbox": ([opening(1, "box"), call(1, 1)], "on a flow for messages"),
    "past the calls' bytes": (
        [calls(1), *[call(1, number, payload=LARGE_ARGUMENTS) for number in range(1, 19)]],
        "past the credit",
    ),
    "a message that is too large": ([opening(1, "good"), message(1, bytes(MIB + 1))], "too large"),
    "a call that is too large": ([calls(1), call(1, 1, payload=bytes(MIB + 1))], "too large"),
    "a call's number used again": ([calls(1), call(1, 9), call(1, 8), call(1, 9)], "one that is not done"),
    "a result that is too large": ([result(1, bytes(MIB + 1))], "larger than its caller said"),
    "a broadcast that is too large": ([broadcast("topic", bytes(MIB + 1))], "more than 1048576"),
    "a broadcast nobody joined, too large": ([broadcast("x", bytes(MIB + 1))], "more than 1048576"),
    "too many topics": (
        [mail.encode_join([f"{number}"] * (at < 4) + [f"{at} {n}" for n in range(1023)]) for at, number in enumerate("abcde")],
        "more than 4096 topics joined",
    ),
    "a fifth stream": ([first(stream, 9, b"\x45") for stream in range(1, 6)], "while 4 streams are open"),
    "a stream begun twice": ([first(1, 9, b"\x45"), first(1, 9, b"\x45")], "a stream that is open"),
    "part of no stream": ([part(1, b"x")], "a stream that is not open"),
    "an empty part": ([first(1, 9, b"\x45"), part(1, b"")], "which carries nothing"),
    "more than announced": ([first(1, 3, b"\x45"), part(1, b"xyz")], "announced"),
    "a total above all limits": ([first(1, 2 * MIB, b"\x45")], "where at most"),
    "a control frame in fragments": ([first(1, 9, b"\x41")], "may not be fragmented"),
    "a fragment in a fragment": ([first(1, 9, b"\x4a")], "may not be fragmented"),
    "a message in fragments on no flow": (
        [first(1, 9, message(1, b"xyz")[4:7]), part(1, message(1, b"xyz")[7:])],
        "a flow that was never opened",
    ),
    "an OPEN that is cut short": ([encode(FrameTag.OPEN, b"\x01\x00\x00")], "too few for its fields"),
    "a name with control characters": ([opening(1, "a\nb")], "control characters"),
    "a REG_SEND to nothing": ([mail.encode_reg_send("", b"x")], "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_the_protocol(setting: Setting, what: str) -> None:
    """It ends that link, with a reason in words of our own, and nothing that came behind it is looked at."""
    frames, reason = BREAKS[what]
    behind = [opening(1000, "good"), message(1000, b"from behind")]
    writer = gevent.spawn(setting.peer.send, *frames, *behind)
    setting.breaks(reason)
    assert len(setting.good) == 0
    assert len(setting.box) <= 4
    writer.kill()


def test_what_came_before_can_still_be_read(setting: Setting) -> None:
    """What was allowed stays in the mailbox when its sender goes too far."""
    setting.peer.send(opening(1, "box"), *[message(1, b"%d" % number) for number in range(9)])
    setting.breaks("past the credit")
    assert [setting.box.get(0).body for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    assert len(setting.box) == 0


def test_messages_that_come_at_once_count_as_bytes(setting: Setting) -> None:
    """What comes without credit finds the room that they have left, and no more."""
    setting.peer.send(opening(1, "box"), message(1, bytes(450)), message(1, bytes(450)))
    setting.peer.credit(1)
    setting.peer.send(mail.encode_reg_send("box", bytes(200)), mail.encode_reg_send("box", bytes(90)))
    setting.peer.settled()
    assert [len(setting.box.get(timeout=5).body) for _ in range(3)] == [450, 450, 90]
    assert setting.box.dropped == 1


def test_what_comes_at_once_behind_a_goodbye_is_not_looked_at(setting: Setting) -> None:
    """The link is over with it, however much was read together."""
    setting.peer.send(opening(1, "good"))
    setting.peer.credit(1)
    goodbye = encode_goodbye(Farewell.LEAVING, "")
    setting.peer.send(message(1, b"before"), goodbye, message(1, b"behind"), message(9, b"wrong"))
    until(lambda: setting.peer.session.closed, "it has ended")
    assert setting.peer.session.reason is not None
    assert "goodbye" in setting.peer.session.reason
    assert setting.good.get(0).body == b"before"
    assert len(setting.good) == 0


def test_what_is_interrupted_takes_no_room(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before messages that came at once are in the mailbox: their link ends, and their room is there again."""

    def interrupted(*_: Any) -> None:
        raise SystemExit

    setting.peer.send(opening(1, "good"))
    setting.peer.credit(1)
    room = setting.good.room.window
    with monkeypatch.context() as patched:
        patched.setattr(Mailbox, "put_run", interrupted)
        patched.setattr(gevent.get_hub(), "handle_system_error", lambda *_: None)
        setting.peer.send(*[message(1, b"x")] * 100)
        until(lambda: setting.peer.session.closed, "it has ended")
    assert setting.good.room.window == room
    setting.others_go_on()


@pytest.mark.parametrize("at_once", [True, False])
def test_messages_that_come_at_once_are_told_apart(setting: Setting, at_once: bool) -> None:
    """Of two mailboxes and codecs, with other frames between: each is where it belongs, and in order."""
    node, peer = setting.node, setting.peer
    newest = node.mailbox("newest", size=16, full="drop_oldest")
    peer.send(opening(1, "good"), opening(2, "newest"))
    peer.credit(1)
    peer.credit(2)
    before = peer.session.frames_received
    frames: list[bytes] = []
    for number in range(100):
        frames += [message(1, b"%d" % number)] * 3 + [message(2, b"%d" % number), pack(b"")]
        frames += [message(1, msgspec.msgpack.encode(number), codec=1)] * (number % 3) + [message(2, b"")]
    frames += [finish(2), message(2, b"behind the end"), message(1, b"last")]
    for some in [frames] if at_once else [[frame] for frame in frames]:
        peer.send(*some)
    got = []
    while not got or got[-1] != b"last":
        got.append(setting.good.get(timeout=5).body)
    assert got == [
        each for number in range(100) for each in [b"%d" % number] * 3 + [number] * (number % 3)
    ] + [b"last"]
    assert [newest.get(0).body for _ in range(16)] == [
        each for number in range(92, 100) for each in (b"%d" % number, b"")
    ]
    assert len(newest) == 0
    assert newest.dropped == 200 - 16
    assert peer.session.frames_received - before == len(frames)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([credit(1, lost=2)], "reports more messages lost than were sent"),
        ([mail.encode_refuse(1, Refusal.CLOSED, 2)], "counts more messages than were sent"),
        ([credit(2)], "never opened"),
        ([mail.encode_refuse(2, Refusal.CLOSED, 0)], "never opened"),
        ([mail.encode_refuse(1, Refusal.CLOSED, 1), mail.encode_refuse(2, 1, 0)], "never opened"),
        ([credit(0)], "on flow 0"),
    ],
)
def test_answers_that_cannot_be(setting: Setting, answers: list[bytes], reason: str) -> None:
    """With one message sent, a second cannot be lost nor have come; and of flow 2 nobody has spoken."""
    peer = setting.peer
    job = gevent.spawn(setting.node.send, peer.name, "there", b"x")
    assert mail.decode_open(peer.expect(FrameTag.OPEN)) == (1, FlowKind.MAILBOX, "there")
    peer.send(credit(1))
    job.get(timeout=5)
    peer.expect(FrameTag.MESSAGE)
    peer.send(*answers)
    setting.breaks(reason)


def test_who_waits_is_told_when_the_peer_breaks_the_protocol(setting: Setting) -> None:
    """Senders and callers that wait on a link get SessionClosed with the reason, whatever they wait for."""
    node, peer = setting.node, setting.peer
    jobs = [
        gevent.spawn(node.send, peer.name, "full", b"1"),
        gevent.spawn(node.send, peer.name, "full", b"2"),
        gevent.spawn(node.send, peer.name, "silent", b"3"),
        gevent.spawn(node.call, peer.name, "silent", timeout=None),
        gevent.spawn(node.call, peer.name, "credited", timeout=None),
    ]
    for flow in (1, 2, 3):
        assert mail.decode_open(peer.expect(FrameTag.OPEN)).flow == flow
    peer.send(credit(1, messages=0), credit(3, messages=1))
    peer.expect(FrameTag.CALL)
    peer.send(message(1))
    for job in jobs:
        with pytest.raises(SessionClosed, match="never opened"):
            job.get(timeout=5)
    setting.breaks("never opened")


# What is ignored, or refused, and the link goes on.

IGNORED: dict[str, list[bytes]] = {
    "a finish twice": [opening(1, "good"), finish(1), finish(1)],
    "a result nobody waits for": [result(1, b"x"), result(2**32 - 1, bytes(MIB))],
    "a fault nobody waits for": [mail.encode_fault(1, 2, "E", "text"), mail.encode_fault(0, 99, "", "")],
    "the end of no call": [pack(mail.cancel_head(1)), pack(mail.cancel_head(0))],
    "leaving what was never joined": [mail.encode_leave(["x", "topic"]), mail.encode_leave([])],
    "joining nothing": [mail.encode_join([])],
    "joining twice": [mail.encode_join(["x", "x"]), mail.encode_join(["x"])],
    "a broadcast that nobody here has joined": [broadcast("x", b"x")],
    "a list for the mesh that is none": [encode(FrameTag.PEER_LIST, b"\xff" * 100)],
    "a list for the mesh": [mail.encode_peer_list(["a@127.0.0.1:1", "no name"])],
    "an unknown tag": [encode(0x4F, b"x"), encode(0x13, bytes(16))],
    "a stream that is never finished": [first(1, MIB, b"\x45x"), part(1, b"x")],
}


@pytest.mark.parametrize("what", IGNORED)
def test_what_is_ignored(setting: Setting, what: str) -> None:
    """It changes nothing, and the link goes on."""
    setting.peer.send(*IGNORED[what])
    if what == "a finish twice":
        setting.peer.credit(1)
    setting.peer.settled()
    setting.peer.send(opening(9, "box"), message(9, b"x"))
    assert setting.box.get(timeout=5).body == b"x"
    assert set(setting.node.sessions) == {setting.neighbour.name, setting.peer.name}


def test_flows_that_are_refused(setting: Setting) -> None:
    """There is no such mailbox, or no such kind of flow: that is said, and what comes on it is ignored."""
    peer = setting.peer
    peer.send(opening(1, "none"), opening(2, "box", kind=3), opening(3, "", kind=255))
    for flow in (1, 2, 3):
        assert peer.refusal(flow) == (Refusal.UNKNOWN, 0)
    for flow in (1, 2, 3):
        peer.send(message(flow, b"x"), call(flow, flow), message(flow, bytes(2 * MIB)), finish(flow))
    peer.settled()
    assert len(setting.box) == 0


def test_flows_that_are_finished(setting: Setting) -> None:
    """What comes on a flow behind its FINISH is ignored, and what came before it is not."""
    peer = setting.peer
    peer.send(opening(1, "box"), message(1, b"before"), finish(1), message(1, b"behind"))
    peer.send(calls(2), finish(2), call(2, 1))
    assert (peer.credit(1).messages, peer.credit(2).flow) == (4, 2)
    peer.settled()
    assert setting.box.get(0).body == b"before"
    assert len(setting.box) == 0
    assert not peer.session.carried.running


def test_a_mailbox_that_is_closed_under_a_sender(setting: Setting) -> None:
    """REFUSE says how many had come, what crosses it is ignored, and what had come can still be read."""
    peer = setting.peer
    peer.send(opening(1, "box"), message(1, b"1"), message(1, b"2"))
    peer.credit(1)
    until(lambda: len(setting.box) == 2, "they came")
    setting.box.close()
    peer.send(message(1, b"3"), message(1, b"4"), finish(1))
    assert peer.refusal(1) == (Refusal.CLOSED, 2)
    peer.send(opening(2, "box"))
    assert peer.refusal(2) == (Refusal.UNKNOWN, 0)
    assert [received.body for received in setting.box] == [b"1", b"2"]
    peer.settled()  # reading on is not worth a CREDIT to anybody
    again = setting.node.mailbox("box", size=7)
    peer.send(opening(3, "box"), message(3, b"5"))
    assert peer.credit(3).messages == 7
    assert again.get(timeout=5).body == b"5"


def test_as_many_flows_as_there_may_be(setting: Setting) -> None:
    """The 1,025th is refused, and welcome once another is finished. Calls count like mailboxes."""
    node, peer = setting.node, setting.peer
    boxes = [node.mailbox(f"m{number}", size=1) for number in range(MAX_FLOWS)]
    peer.send(calls(1), *[opening(2 + number, f"m{number}") for number in range(MAX_FLOWS)])
    for flow in range(1, MAX_FLOWS + 1):
        assert peer.credit(flow).messages
    assert peer.refusal(MAX_FLOWS + 1) == (Refusal.LIMIT, 0)
    peer.send(opening(MAX_FLOWS + 2, "none"))
    assert peer.refusal(MAX_FLOWS + 2) == (Refusal.UNKNOWN, 0)
    peer.send(finish(500), opening(MAX_FLOWS + 3, f"m{MAX_FLOWS - 1}"), opening(MAX_FLOWS + 4, "m498"))
    assert peer.credit(MAX_FLOWS + 3).messages == 1
    assert peer.refusal(MAX_FLOWS + 4) == (Refusal.LIMIT, 0)
    peer.send(message(MAX_FLOWS + 3, b"x"))
    assert boxes[-1].get(timeout=5).body == b"x"
    assert peer.credit(MAX_FLOWS + 3).messages == 2
    boxes[0].close()
    assert peer.refusal(2) == (Refusal.CLOSED, 0)
    peer.send(opening(MAX_FLOWS + 5, "m498"))
    assert peer.credit(MAX_FLOWS + 5).messages == 1


def test_one_flow_of_a_link_leads_to_one_place(setting: Setting) -> None:
    """A second one to the same mailbox, or to the handlers, is refused: it would be given as much again."""
    peer = setting.peer
    peer.send(opening(1, "box"), opening(2, "box"), calls(3), calls(4))
    assert peer.credit(1).messages == 4
    assert peer.refusal(2) == (Refusal.LIMIT, 0)
    assert peer.credit(3).messages == 1024
    assert peer.refusal(4) == (Refusal.LIMIT, 0)
    peer.send(finish(1), finish(3), opening(5, "box"), calls(6))
    assert peer.credit(5).messages == 4
    assert peer.credit(6).messages == 1024


def test_ending_a_flow_gives_no_new_room(setting: Setting) -> None:
    """Who ends its flow and opens another has the room that its messages leave, until they are read."""
    peer = setting.peer
    peer.send(opening(1, "box"), *[message(1, b"12345")] * 3, finish(1), opening(2, "box"))
    assert (peer.credit(1).messages, peer.credit(2)[1:3]) == (4, (1, 985))
    peer.send(message(2, b"x"), finish(2), opening(3, "box"))
    assert peer.credit(3).messages == 0
    assert len(setting.box) == 4
    for _ in range(4):
        setting.box.get(0)
    granted = 0
    while granted < 4:
        granted = peer.credit(3).messages
    assert granted == 4


def test_a_new_link_gives_no_new_room(setting: Setting) -> None:
    """Nor does who comes back on another link: its messages of before are still there."""
    for round_ in range(1, 4):
        setting.peer.send(opening(1, "box"), message(1, b"%d" % round_))
        assert setting.peer.credit(1).messages == 5 - round_
        until(lambda count=round_: len(setting.box) == count, "it came")
        setting.peer.close()
        setting.peer = Peer(setting.node, incarnation=(1 << 40) + round_)
        setting.peer.expect(FrameTag.JOIN)
    assert [setting.box.get(0).body for _ in range(3)] == [b"1", b"2", b"3"]


def test_handlers_that_outlive_their_link_take_room(make_node: MakeNode) -> None:
    """Who leaves shielded calls behind and comes back may begin as many as there is room for, not more."""
    limits = dataclasses.replace(FAST.limits, handlers=3)
    node = make_node(config=dataclasses.replace(FAST, limits=limits))
    release = Event()
    node.handler("wait", shielded=True)(release.wait)
    peer = Peer(node)
    peer.send(calls(1), call(1, 1), call(1, 2))
    assert peer.credit(1).messages == 3
    until(lambda: len(peer.session.carried.running) == 2, "they run")
    peer.close()
    peer = Peer(node, incarnation=2 << 40)
    peer.send(calls(1))
    assert peer.credit(1).messages == 1
    release.set()
    assert peer.credit(1).messages == 2  # and 3 is not half of the room more
    peer.settled()
    peer.sock.close()


def test_fragments_of_several_messages_mixed(setting: Setting) -> None:
    """Four messages that come in turns, byte by byte, are delivered as each is complete."""
    peer = setting.peer
    peer.send(opening(1, "good"))
    peer.credit(1)
    frames = [message(1, b"abcd"[number : number + 1] * 9)[4:] for number in range(4)]
    peer.send(*[first(stream, len(frame), frame[:1]) for stream, frame in enumerate(frames, 1)])
    for at in range(1, len(frames[0])):
        peer.send(*[part(4 - back, frames[3 - back][at : at + 1]) for back in range(4)])
    assert [setting.good.get(timeout=5).body[:1] for _ in range(4)] == [b"d", b"c", b"b", b"a"]


def test_the_largest_frames_pass(setting: Setting) -> None:
    """A payload of exactly what was said comes through, whole and in fragments, with the longest name before it."""
    peer = setting.peer
    peer.send(opening(1, "good"), calls(2))
    assert [peer.credit(flow).largest for flow in (1, 2)] == [MIB, MIB]
    whole = message(1, bytes(MIB))[4:]
    asked = call(2, 1, "h" * 255, bytes(MIB))[4:]
    for number, frame in enumerate([whole, asked], 1):
        peer.send(first(number, len(frame), frame[:65_536]))
        peer.send(*[part(number, frame[at : at + 65_536]) for at in range(65_536, len(frame), 65_536)])
    assert mail.decode_fault(peer.expect(FrameTag.FAULT)).code is FaultCode.NO_HANDLER
    peer.send(pack(whole))
    assert [len(setting.good.get(timeout=5).body) for _ in range(2)] == [MIB, MIB]
    setting.neighbour.send(setting.node.name, "good", bytes(MIB), timeout=5)
    assert len(setting.good.get(timeout=5).body) == MIB


@pytest.mark.parametrize("capabilities", [0, int(Capability.GOODBYE | Capability.GROUPS)])
def test_frames_that_the_link_does_not_know(make_node: MakeNode, capabilities: int) -> None:
    """Of a peer without messages all their frames are ignored, of whatever shape, and those of groups as well."""
    node = make_node()
    box, inbox = node.mailbox("box"), node.join("topic")
    peer = Peer(node, capabilities=capabilities)
    for tag in range(FrameTag.OPEN, FrameTag.BROADCAST + 1):
        peer.send(encode(tag, b""), encode(tag, bytes(100)))
    peer.send(opening(1, "box"), message(1, b"x"), calls(2), call(2, 1), mail.encode_join(["topic"]))
    whole = broadcast("topic", b"y")
    peer.send(whole, first(1, len(whole), whole[4:5]), part(1, whole[5:]))
    peer.settled()
    assert (len(box), len(inbox), node.group("topic")) == (0, 0, (node.name,))
    assert node.broadcast("topic", b"z").queued == (node.name,)
    with pytest.raises(Unsupported, match="without messages"):
        node.send(peer.name, "box", b"x")
    peer.send(mail.encode_reg_send("box", b"as Snow does it"))
    assert box.get(timeout=5).body == b"as Snow does it"
    peer.sock.close()


def test_messages_without_groups(make_node: MakeNode) -> None:
    """A peer that knows messages and no groups is told of no topic, and not heard on any."""
    node = make_node()
    inbox = node.join("topic")
    peer = Peer(node, capabilities=int(Capability.MESSAGES))
    peer.send(mail.encode_join(["topic"]), broadcast("topic", b"x"), mail.encode_leave(["topic"]), broadcast("t", bytes(2 * MIB)))  # fmt: skip
    peer.settled()
    assert (len(inbox), node.group("topic")) == (0, (node.name,))
    peer.send(calls(1))
    peer.credit(1)
    peer.sock.close()


def test_what_comes_without_credit_is_dropped_when_there_is_no_room(setting: Setting) -> None:
    """Registered sends to a full mailbox, or to none, are dropped and told here; who sent them hears nothing."""
    with setting.node.subscribe() as events:
        setting.peer.send(*[mail.encode_reg_send("box", b"x")] * 6, mail.encode_reg_send("none", b"x"))
        setting.peer.settled()
        told = [event_of(events, MessagesDropped) for _ in range(2)]
    assert [(event.mailbox, event.count, event.sent) for event in told] == [
        ("box", 2, False),
        ("none", 1, False),
    ]
    assert (len(setting.box), setting.box.dropped) == (4, 2)


# Who makes us answer, and does not read.


def narrow(peer: Peer) -> None:
    """Have the kernel hold little on the way to `peer`: what it does not read waits at the node."""
    session: Any = peer.session
    for sock in (peer.sock, session._sock):
        for option in (gevent.socket.SO_SNDBUF, gevent.socket.SO_RCVBUF):
            sock.setsockopt(gevent.socket.SOL_SOCKET, option, 65_536)


#: What calls for answers, as the frames that come after the first, the numbers of the flows they open, or none.
FLOODS: dict[str, Callable[[int], bytes]] = {
    "OPEN of nothing": lambda number: opening(number, "none"),
    "OPEN and FINISH": lambda number: opening(number, "box") + finish(number),
    "MESSAGE that is dropped": lambda number: opening(1, "drop") if number == 1 else message(1),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_peer_that_asks_and_never_reads(make_node: MakeNode, what: str) -> None:
    """While many answers wait it is not read from: memory stays bounded. Once it reads, none of them is missing."""
    node = make_node()
    node.mailbox("box"), node.mailbox("drop", size=2, full="drop_newest")
    peer = Peer(node)
    session: Any = peer.session
    narrow(peer)

    def write() -> None:
        number = 1
        with contextlib.suppress(OSError):
            while True:
                peer.send(*[FLOODS[what](number + n) for n in range(1000)])
                number += 1000

    last, times, peak = 0, 0, 0

    def stuck() -> bool:
        nonlocal last, times, peak
        peak = max(peak, session._outbox.waiting)
        times = times + 1 if session.frames_received == last else 0
        last = session.frames_received
        return times > 50 and session._paused

    writer = gevent.spawn(write)
    until(stuck, "it is not read from any more", timeout=30)
    assert peak < 512 * 1024
    assert len(session.carried._incoming) <= 1
    other = Peer(node, "other@127.0.0.1:0")
    other.send(opening(1, "box"), message(1, b"x"))
    other.credit(1)
    other.settled()
    answers: list[bytes] = []
    reader = gevent.spawn(lambda: [answers.append(peer.read()) for _ in iter(int, 1)])
    until(lambda: session.frames_received > last + 5000 and len(answers) > 5000, "it is read from again")
    gevent.killall([reader, writer])
    assert not session.closed
    if what == "OPEN of nothing":
        assert [mail.decode_refuse(answer) for answer in answers] == [
            (number, Refusal.UNKNOWN, 0) for number in range(1, len(answers) + 1)
        ]
    elif what == "OPEN and FINISH":
        assert [mail.decode_credit(answer).flow for answer in answers] == list(range(1, len(answers) + 1))
    for each in (other, peer):
        each.sock.close()


# The sender's books.


class Postman:
    """Reads what a node sends to `peer`, gives credit for every flow, and keeps a record of it all."""

    def __init__(
        self, peer: Peer, grant: Callable[[mail.Open], bytes] = lambda opened: credit(opened.flow)
    ) -> None:
        self.peer = peer
        self.grant = grant
        #: ("open", flow, name), ("finish", flow), ("message", flow, payload), ("call", handler, number)
        self.log: list[tuple[Any, ...]] = []
        self.names: dict[int, str] = {}
        self.reading = Event()
        self.reading.set()
        self._assembly = Assembly(1 << 30)
        self._job = gevent.spawn(self._run)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while frame := self.peer.read():
                self.reading.wait()
                whole: bytes | None = frame
                if frame[0] == FrameTag.FIRST:
                    whole = self._assembly.first(frame)
                elif frame[0] == FrameTag.PART:
                    whole = self._assembly.part(frame)
                if whole is not None:
                    self._take(whole)

    def _take(self, frame: bytes) -> None:
        tag = frame[0]
        if tag == FrameTag.OPEN:
            opened = mail.decode_open(frame)
            self.names[opened.flow] = opened.name
            self.log.append(("open", opened.flow, opened.name))
            self.peer.send(self.grant(opened))
        elif tag == FrameTag.FINISH:
            self.log.append(("finish", mail.decode_finish(frame)))
        elif tag == FrameTag.MESSAGE:
            flow, _, payload = mail.decode_message(frame)
            self.log.append(("message", flow, payload))
        elif tag == FrameTag.CALL:
            made = mail.decode_call(frame)
            self.log.append(("call", made.handler, made.call))
        elif tag == FrameTag.PING:
            self.peer.send(encode_pong(frame))

    def at(self, mailbox: str) -> list[bytes]:
        """What has come for `mailbox`, whatever the flow."""
        return [entry[2] for entry in self.log if entry[0] == "message" and self.names[entry[1]] == mailbox]

    def open_flows(self) -> int:
        """Checks what must hold of flows, and returns the most that were open at once."""
        flows: set[int] = set()
        highest = most = 0
        for entry in self.log:
            if entry[0] == "open":
                assert entry[1] > highest
                highest = entry[1]
                flows.add(entry[1])
                most = max(most, len(flows))
            elif entry[0] == "finish":
                flows.remove(entry[1])
            elif entry[0] == "message":
                assert entry[1] in flows, "a message on a flow that is not open"
        return most

    def close(self) -> None:
        """Stop."""
        self._job.kill()
        self.peer.sock.close()


@pytest.fixture
def post(make_node: MakeNode) -> Iterator[tuple[Node, Postman]]:
    """A node, and a postman for a peer of it."""
    node = make_node()
    postman = Postman(Peer(node))
    yield node, postman
    postman.close()


def test_more_mailboxes_than_flows(post: tuple[Node, Postman]) -> None:
    """The flow that was used longest ago is finished for a new one, first; and opened again when it is needed."""
    node, postman = post
    peer = postman.peer
    for number in range(MAX_FLOWS):
        node.send(peer.name, f"m{number}", b"first", timeout=5)
    node.send(peer.name, "m0", b"second", timeout=5)
    node.send(peer.name, "new", b"new", timeout=5)
    node.send(peer.name, "m1", b"second", timeout=5)
    node.send(peer.name, "m0", b"third", timeout=5)
    until(lambda: len(postman.at("m0")) == 3, "all came")
    assert postman.log[2 * MAX_FLOWS :] == [
        ("message", 1, b"second"),
        ("finish", 2),
        ("open", MAX_FLOWS + 1, "new"),
        ("message", MAX_FLOWS + 1, b"new"),
        ("finish", 3),
        ("open", MAX_FLOWS + 2, "m1"),
        ("message", MAX_FLOWS + 2, b"second"),
        ("message", 1, b"third"),
    ]
    assert postman.open_flows() == MAX_FLOWS
    # Of what is finished nothing more is of interest, right or wrong.
    peer.send(credit(2, lost=99), mail.encode_refuse(3, Refusal.CLOSED, 99), credit(2))
    node.send(peer.name, "m1", b"third", timeout=5)
    until(lambda: postman.at("m1") == [b"first", b"second", b"third"], "all came in order")
    assert not peer.session.closed


def test_flows_that_come_and_go_keep_the_order(make_node: MakeNode) -> None:
    """Between two nodes, with more mailboxes than flows: each gets all that was sent to it, in its order."""
    a, b = make_node(), make_node()
    names = [f"m{number}" for number in range(MAX_FLOWS + 6)]
    boxes = {name: b.mailbox(name, size=4) for name in names}
    sent: dict[str, list[bytes]] = {name: [] for name in names}
    busy = [names[number * 97 % len(names)] for number in range(60)]
    for number, name in enumerate([*names, *busy, *names[:20], *busy]):
        body = b"%d" % number + bytes(number % 7 * 5000)
        sent[name].append(body)
        if len(sent[name]) > 3:
            assert boxes[name].get(timeout=5).body == sent[name].pop(0)
        a.send(b.name, name, body, timeout=5)
    for name in names:
        assert [boxes[name].get(timeout=5).body for _ in sent[name]] == sent[name]
    session: Any = b.sessions[a.name]
    assert len(session.carried._incoming) == MAX_FLOWS


def test_a_flow_whose_messages_wait_is_not_finished(post: tuple[Node, Postman]) -> None:
    """While large messages of a flow wait to be sent another one makes room: nothing may overtake them."""
    node, postman = post
    peer, session = postman.peer, postman.peer.session
    narrow(peer)
    for number in range(MAX_FLOWS):
        node.send(peer.name, f"m{number}", b"0", timeout=5)
    until(lambda: postman.at(f"m{MAX_FLOWS - 1}"), "all came")
    postman.reading.clear()
    bulk = [bytes([number]) * 600_000 for number in range(10)]
    for body in bulk:
        node.send(peer.name, "m0", body, timeout=5)
    for number in range(1, MAX_FLOWS):
        node.send(peer.name, f"m{number}", b"1", timeout=5)
    assert session.holds("m0")  # which is what was used longest ago
    job = gevent.spawn(node.send, peer.name, "new", b"new")
    gevent.idle()
    assert session.holds("m0")
    postman.reading.set()
    job.get(timeout=20)
    node.send(peer.name, "m0", b"last", timeout=5)
    until(lambda: postman.at("m0")[-1:] == [b"last"], "all came")
    assert [entry[1] for entry in postman.log if entry[0] == "finish"] == [2]
    assert postman.at("m0") == [b"0", *bulk, b"last"]
    assert postman.open_flows() == MAX_FLOWS


def test_a_flow_with_senders_that_wait_is_not_finished(make_node: MakeNode) -> None:
    """However long ago it was opened: who waits for its credit gets it in the end."""
    node = make_node()
    postman = Postman(
        Peer(node), lambda opened: credit(opened.flow, messages=0 if opened.flow == 1 else MANY)
    )
    peer = postman.peer
    job = gevent.spawn(node.send, peer.name, "full", b"at last")
    until(lambda: postman.log, "it was opened")
    for number in range(MAX_FLOWS):
        node.send(peer.name, f"m{number}", b"x", timeout=5)
    until(lambda: postman.at(f"m{MAX_FLOWS - 1}"), "all came")
    assert [entry for entry in postman.log if entry[0] == "finish"] == [("finish", 2)]
    peer.send(credit(1))
    job.get(timeout=5)
    until(lambda: postman.at("full") == [b"at last"], "it came")
    postman.close()


def test_a_peer_that_does_not_answer_costs_so_many_frames(make_node: MakeNode) -> None:
    """Senders that give up do not make room for more: what waits for a peer that is silent stays bounded."""
    node = make_node()
    peer = Peer(node)
    for number in range(MAX_FLOWS):
        with pytest.raises(SendTimeout):
            node.send(peer.name, f"m{number}", b"x", timeout=0)
    for number in range(3):
        with pytest.raises(MessagingError, match=f"{MAX_FLOWS} mailboxes"):
            node.send(peer.name, f"another {number}", b"x", timeout=0)
    postman = Postman(peer)
    until(lambda: len(postman.log) == MAX_FLOWS, "it answers")
    peer.send(encode_ping(1))
    until(lambda: peer.session.frames_received > MAX_FLOWS, "all answers came")
    node.send(peer.name, "another", b"x", timeout=5)
    postman.close()


def test_numbers_rise_whatever_waits(make_node: MakeNode) -> None:
    """A flow to a mailbox whose former flow left large messages behind is not overtaken by a later OPEN."""
    node = make_node()
    peer = Peer(node)
    narrow(peer)
    job = gevent.spawn(lambda: [node.send(peer.name, "x", bytes(600_000)) for _ in range(10)])
    peer.expect(FrameTag.OPEN)
    peer.send(credit(1))
    job.get(timeout=5)
    assert peer.session.holds("x")
    peer.send(mail.encode_refuse(1, Refusal.CLOSED, 0))
    carried: Any = peer.session.carried
    until(lambda: "x" not in carried._outgoing, "it was refused")
    again = [gevent.spawn(node.send, peer.name, name, b"again") for name in ("x", "y", "z")]
    gevent.idle()
    assert peer.session.holds("x")
    postman = Postman(peer)
    postman.names[1] = "x"
    gevent.joinall(again, timeout=20, raise_error=True)
    until(lambda: postman.at("x")[-1:] == [b"again"], "all came")
    assert [entry[1:] for entry in postman.log if entry[0] == "open"] == [(2, "x"), (3, "y"), (4, "z")]
    postman.close()


def test_all_flows_wait(make_node: MakeNode) -> None:
    """With as many mailboxes that do not answer as there may be flows, one more is an error, and only that."""
    node = make_node()
    peer = Peer(node)
    jobs = [gevent.spawn(node.send, peer.name, f"m{number}", b"x") for number in range(MAX_FLOWS)]
    for _ in range(MAX_FLOWS):
        peer.expect(FrameTag.OPEN)
    with pytest.raises(MessagingError, match=f"{MAX_FLOWS} mailboxes"):
        node.send(peer.name, "one more", b"x")
    peer.send(*[credit(flow, messages=flow % 2) for flow in range(1, MAX_FLOWS + 1)])
    until(lambda: sum(job.dead for job in jobs) == MAX_FLOWS // 2, "every other one went")
    Postman(peer)  # reads on
    node.send(peer.name, "one more", b"x", timeout=5)
    peer.send(*[credit(flow) for flow in range(2, MAX_FLOWS + 1, 2)])
    gevent.joinall(jobs, timeout=5, raise_error=True)
    peer.sock.close()


def test_the_flow_for_calls_is_never_finished(post: tuple[Node, Postman]) -> None:
    """However long ago it was used, it counts among the flows and stays: its calls may be under way."""
    node, postman = post
    peer = postman.peer
    job = gevent.spawn(node.call, peer.name, "h", timeout=None, result_type=bytes)
    until(lambda: postman.log[-1:] == [("call", "h", 1)], "the call came")
    for number in range(MAX_FLOWS):
        node.send(peer.name, f"m{number}", b"x", timeout=5)
    until(lambda: postman.at(f"m{MAX_FLOWS - 1}"), "all came")
    assert [entry for entry in postman.log if entry[0] == "finish"] == [("finish", 2)]
    assert postman.open_flows() == MAX_FLOWS
    peer.send(result(1, b"done"))
    assert job.get(timeout=5) == b"done"


def test_a_refusal_counts_what_it_lost(post: tuple[Node, Postman]) -> None:
    """Of five sent, two had come: the three others are told as lost, at once and once."""
    node, postman = post
    peer = postman.peer
    for _ in range(5):
        node.send(peer.name, "box", b"x", timeout=5)
    with node.subscribe() as events:
        peer.send(mail.encode_refuse(1, Refusal.CLOSED, 2), mail.encode_refuse(1, Refusal.CLOSED, 1))
        event = event_of(events, MessagesDropped)
        assert (event.peer, event.mailbox, event.count, event.sent) == (peer.name, "box", 3, True)
        assert event.reason == "the mailbox is closed"
        peer.send(encode_ping(1))
        until(lambda: postman.peer.session.frames_received >= 4, "it was all read")
        assert events.get(0) is None


@pytest.mark.parametrize("turns", range(8))
def test_a_mailbox_closed_with_messages_under_way(make_node: MakeNode, turns: int) -> None:
    """Whenever it is closed: what was sent was either left to be read, or told to the sender as lost."""
    a, b = make_node(), make_node()
    box = b.mailbox("box", size=1000)
    a.send(b.name, "box", b"0", timeout=5)
    until(lambda: len(box), "the flow is open")
    with a.subscribe() as events:
        sent = 1
        for size in [1, 1, 1, 20_000, 100_000] * 12:
            a.send(b.name, "box", bytes(size), timeout=5)
            sent += 1
        for _ in range(turns):
            gevent.sleep(0)
        box.close()
        with pytest.raises(UnknownMailbox):
            while True:
                a.send(b.name, "box", b"x", timeout=5)
                sent += 1
                gevent.sleep(0)
        left = len(list(box))
        if left < sent:
            event = event_of(events, MessagesDropped)
            assert (event.mailbox, event.count, event.sent) == ("box", sent - left, True)
        assert events.get(0) is None


def test_those_who_wait_are_told_that_it_was_closed(make_node: MakeNode) -> None:
    """Every sender that waits for room gets UnknownMailbox; a mailbox of that name made later is a new one."""
    a, b = make_node(), make_node()
    box = b.mailbox("box", size=2)
    for _ in range(2):
        a.send(b.name, "box", b"x", timeout=5)
    jobs = [gevent.spawn(a.send, b.name, "box", b"%d" % number) for number in range(5)]
    carried: Any = a.sessions[b.name].carried
    until(lambda: len(carried._outgoing["box"].line) == 5, "they wait")
    with a.subscribe() as events:
        box.close()
        for job in jobs:
            with pytest.raises(UnknownMailbox, match="it is closed"):
                job.get(timeout=5)
        with pytest.raises(UnknownMailbox, match="none of that name"):
            a.send(b.name, "box", b"x", timeout=5)
        assert events.get(0) is None  # nothing was lost: the two had come
    again = b.mailbox("box", size=2)
    a.send(b.name, "box", b"new", timeout=5)
    assert again.get(timeout=5).body == b"new"


def test_losses_are_told_as_they_grow(post: tuple[Node, Postman]) -> None:
    """CREDITs report totals: what is new in each is told, whichever of them come twice."""
    node, postman = post
    for _ in range(10):
        node.send(postman.peer.name, "box", b"x", timeout=5)
    with node.subscribe() as events:
        for lost in (1, 1, 4, 2, 4, 10):
            postman.peer.send(credit(1, lost=lost))
        told = [event_of(events, MessagesDropped) for _ in range(3)]
        assert [event.count for event in told] == [1, 3, 6]
        assert {(event.peer, event.mailbox, event.sent) for event in told} == {
            (postman.peer.name, "box", True)
        }


def test_why_nothing_could_be_sent(setting: Setting) -> None:
    """A SendTimeout tells a peer that does not answer from a full mailbox and from one that does not read."""
    node, peer = setting.node, setting.peer
    with pytest.raises(SendTimeout, match="whether there is such a mailbox"):
        node.send(peer.name, "a", b"x", timeout=0.01)
    peer.send(credit(1, messages=1))
    node.send(peer.name, "a", b"x", timeout=5)
    with pytest.raises(SendTimeout, match="the mailbox has no room"):
        node.send(peer.name, "a", b"x", timeout=0.01)
    with pytest.raises(SendTimeout, match=r"within 0 s: the mailbox has no room"):
        node.send(peer.name, "a", b"x", timeout=0)
    peer.send(credit(1))
    with pytest.raises(SendTimeout, match="it does not read"), gevent.Timeout(20):
        while True:
            node.send(peer.name, "a", bytes(MIB), timeout=0.1)


def test_what_the_receiver_takes(setting: Setting) -> None:
    """A payload above what the CREDIT says is refused here, uses no credit, and holds up nobody behind it."""
    node, peer = setting.node, setting.peer
    jobs = [gevent.spawn(node.send, peer.name, "a", bytes(size)) for size in (10, 11, 10, 9)]
    peer.expect(FrameTag.OPEN)
    peer.send(credit(1, messages=2, largest=10))
    with pytest.raises(PayloadTooLarge, match="at most 10 bytes in a message, and this one has 11"):
        jobs.pop(1).get(timeout=5)
    assert [len(peer.expect(FrameTag.MESSAGE)) for _ in range(2)] == [16, 16]
    peer.send(credit(1, messages=3, largest=8))
    with pytest.raises(PayloadTooLarge, match="at most 8"):
        jobs.pop().get(timeout=5)
    gevent.joinall(jobs, timeout=5, raise_error=True)


def test_bytes_that_are_used_up(setting: Setting) -> None:
    """A message that goes past the bytes is sent while one is left, and then none, not even an empty one."""
    node, peer = setting.node, setting.peer
    jobs = [gevent.spawn(node.send, peer.name, "a", bytes(size)) for size in (5, 100, 0)]
    peer.expect(FrameTag.OPEN)
    peer.send(credit(1, size=6))
    assert [len(peer.expect(FrameTag.MESSAGE)) - 6 for _ in range(2)] == [5, 100]
    peer.send(credit(1, size=105))
    peer.settled()
    assert not jobs[2].dead
    peer.send(credit(1, size=106))
    assert len(peer.expect(FrameTag.MESSAGE)) == 6
    gevent.joinall(jobs, timeout=5, raise_error=True)
    node.send(peer.name, "a", b"1", timeout=0)
    with pytest.raises(SendTimeout):
        node.send(peer.name, "a", b"", timeout=0)


def test_a_mailbox_that_does_not_make_its_senders_wait(setting: Setting) -> None:
    """Mode RAISE: who has no credit gets MailboxFull, those who wait already included; other modes are WAIT."""
    node, peer = setting.node, setting.peer
    jobs = [gevent.spawn(node.send, peer.name, "a", b"x") for _ in range(3)]
    peer.expect(FrameTag.OPEN)
    peer.send(credit(1, messages=1, mode=2))
    peer.expect(FrameTag.MESSAGE)
    peer.settled()
    assert [job.dead for job in jobs] == [True, False, False]
    peer.send(credit(1, messages=2, mode=Mode.RAISE))
    peer.expect(FrameTag.MESSAGE)
    jobs[1].get(timeout=5)
    with pytest.raises(MailboxFull):
        jobs[2].get(timeout=5)
    with pytest.raises(MailboxFull):
        node.send(peer.name, "a", b"x", timeout=5)
    peer.send(credit(1, messages=3, mode=Mode.RAISE))
    peer.settled()
    node.send(peer.name, "a", b"x", timeout=5)
    peer.expect(FrameTag.MESSAGE)
    peer.send(credit(1, messages=3, mode=Mode.WAIT))
    peer.settled()
    with pytest.raises(SendTimeout):
        node.send(peer.name, "a", b"x", timeout=0.01)


def test_a_newcomer_does_not_pass_those_who_wait(setting: Setting) -> None:
    """Credit that has just come is for who has waited longest, though it has not run yet."""
    node, peer = setting.node, setting.peer
    early = gevent.spawn(node.send, peer.name, "a", b"early")
    peer.expect(FrameTag.OPEN)
    carried: Any = peer.session.carried
    carried.credited(credit(1)[4:])
    node.send(peer.name, "a", b"late", timeout=5)
    assert [mail.decode_message(peer.expect(FrameTag.MESSAGE))[2] for _ in range(2)] == [b"early", b"late"]
    early.get(timeout=5)


@pytest.mark.parametrize("why", [1, 2, 3, 99])
def test_a_flow_that_the_peer_refuses(setting: Setting, why: int) -> None:
    """Whatever the reason, those who wait are told, and who comes next asks anew."""
    node, peer = setting.node, setting.peer
    for flow in (1, 2):
        jobs = [gevent.spawn(node.send, peer.name, "a", b"x") for _ in range(2)]
        assert mail.decode_open(peer.expect(FrameTag.OPEN)).flow == flow
        peer.send(mail.encode_refuse(flow, why, 0))
        for job in jobs:
            with pytest.raises(UnknownMailbox) as caught:
                job.get(timeout=5)
            assert (caught.value.peer, caught.value.mailbox) == (peer.name, "a")


def test_credit_without_end(setting: Setting) -> None:
    """The greatest figures that fit the fields are as good as any."""
    node, peer = setting.node, setting.peer
    job = gevent.spawn(node.send, peer.name, "a", b"x")
    peer.expect(FrameTag.OPEN)
    peer.send(credit(1, messages=2**64 - 1, size=2**64 - 1, largest=2**32 - 1))
    job.get(timeout=5)
    peer.expect(FrameTag.MESSAGE)
    fault = mail.encode_fault(1, FaultCode.RAISED, "", "")
    peer.send(fault, credit(1, messages=0, size=0))  # what was allowed is not taken back
    peer.settled()
    node.send(peer.name, "a", b"y", timeout=5)
    peer.expect(FrameTag.MESSAGE)
