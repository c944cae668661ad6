"""Credit: an honest sender is never past it and never stuck, and a mailbox holds no more than is documented."""

from __future__ import annotations

from collections import deque
from typing import Any

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snowgreen.config import Limits
from snowgreen.messaging.codec import RAW, Codecs
from snowgreen.messaging.flows import Incoming, Room
from snowgreen.messaging.mailbox import Mailbox
from snowgreen.protocol.credit import LEAST_WINDOW, LEAST_WINDOW_BYTES, Given, Granted, window
from snowgreen.protocol.frames import BadFrame

# Known cases.


@pytest.mark.parametrize(
    ("size", "flows", "share"),
    [
        (4096, 0, 4096),
        (4096, 1, 4096),
        (4096, 2, 2048),
        (4096, 3, 1365),
        (4096, 256, 16),
        (4096, 1000, LEAST_WINDOW),
        (17, 2, 16),
        (16, 5, 16),
        (5, 1, 5),
        (5, 5, 5),  # less than the minimum: all of it
        (1, 9, 1),
        (0, 0, 0),
        (0, 3, 0),
    ],
)
def test_the_part_of_one_flow(size: int, flows: int, share: int) -> None:
    """A flow has an even share, at least 16, and never more than there is."""
    assert window(size, flows) == share


def test_the_least_part_in_bytes() -> None:
    """The minimum is an argument: bytes have one of their own."""
    assert window(16 << 20, 1000, LEAST_WINDOW_BYTES) == 64 * 1024
    assert window(1000, 1000, LEAST_WINDOW_BYTES) == 1000


def given(messages: int, size: int) -> Given:
    """A book that allows so much, of which nothing has come."""
    book = Given()
    assert book.renew(messages, size, dropping=False)
    return book


def consume(book: Given, *sizes: int) -> None:
    """Messages of these sizes are read."""
    book.consumed += len(sizes)
    book.consumed_bytes += sum(sizes)


def test_nothing_may_come_before_it_was_allowed() -> None:
    """A new flow has no credit, not even for an empty message."""
    book = Given()
    assert not book.open
    with pytest.raises(BadFrame, match="past the credit"):
        book.take(0)


def test_messages_past_the_credit_are_refused() -> None:
    """The last message that is allowed is taken, and the one after it breaks the protocol and changes nothing."""
    book = given(2, 100)
    book.take(0)
    assert book.open
    book.take(0)
    assert not book.open
    with pytest.raises(BadFrame, match="past the credit"):
        book.take(0)
    assert (book.received, book.received_bytes) == (2, 0)


def test_one_message_may_go_past_the_bytes() -> None:
    """As long as a byte is left a message of any size is taken; then none is, not even an empty one."""
    book = given(10, 100)
    book.take(99)
    assert book.open
    book.take(1 << 30)
    assert not book.open
    with pytest.raises(BadFrame):
        book.take(0)
    assert (book.received, book.received_bytes) == (2, 99 + (1 << 30))


@hypothesis.given(
    st.integers(0, 20), st.integers(0, 100), st.lists(st.integers(0, 30), max_size=25), st.integers(0, 5)
)
def test_messages_taken_together_are_taken_as_each_alone(
    messages: int, size: int, sizes: list[int], before: int
) -> None:
    """What is allowed together is allowed one by one; where one of them might not be, each is to be asked for."""
    book = Given()
    book.messages, book.bytes = messages + before, size + 10 * before
    for _ in range(before):
        book.take(10)
    noted = (book.received, book.received_bytes)
    allowed = book.allows(len(sizes), sum(sizes))
    assert (book.received, book.received_bytes) == noted
    assert allowed is (len(sizes) <= messages and sum(sizes) < size)
    if allowed:
        for one in sizes:
            book.take(one)


@pytest.mark.parametrize(("of", "enough"), [(10, 5), (9, 5), (2, 1), (1, 1)])
def test_half_a_window_is_told(of: int, enough: int) -> None:
    """What has become free is told once it is half of the window, not before and not twice."""
    book = given(of, 1 << 40)
    for _ in range(of):
        book.take(0)
    for _ in range(enough - 1):
        consume(book, 0)
        assert not book.renew(of, 1 << 40, dropping=False)
        assert book.messages == of
    consume(book, 0)
    assert book.renew(of, 1 << 40, dropping=False)
    assert book.messages == of + enough
    assert not book.renew(of, 1 << 40, dropping=False)


def test_half_a_window_of_bytes_is_told() -> None:
    """Bytes count as messages do: either is reason enough, and both are told."""
    book = given(1000, 100)
    book.take(49)
    book.take(51)
    consume(book, 49)
    assert not book.renew(1000, 100, dropping=False)
    consume(book, 51)
    assert book.renew(1000, 100, dropping=False)
    assert (book.messages, book.bytes) == (1002, 200)


def test_a_dropping_mailbox_counts_what_came() -> None:
    """Where what has no room is dropped, a sender is allowed more although nothing was read."""
    book = given(4, 100)
    for _ in range(4):
        book.take(10)
    assert book.renew(4, 100, dropping=True)
    assert (book.messages, book.bytes) == (8, 140)


def test_what_was_allowed_stays() -> None:
    """A window that has become smaller takes nothing back, and is told again once it is used up and read."""
    book = given(100, 1000)
    for _ in range(100):
        book.take(1)
    for read in range(1, 101):
        consume(book, 1)
        told = book.renew(10, 1000, dropping=False)
        assert told == (read in (95, 100))
        assert book.messages == max(100, 10 + (read if told else read - read % 5))


def test_neither_figure_takes_the_other_back() -> None:
    """Where one window is worth telling and the other has become smaller, the smaller one stays as it was."""
    book = given(100, 100)
    book.take(100)
    consume(book, 100)
    assert book.renew(10, 100, dropping=False)
    assert (book.messages, book.bytes) == (100, 200)
    book = given(1, 1000)
    book.take(0)
    consume(book, 0)
    assert book.renew(1, 10, dropping=False)
    assert (book.messages, book.bytes) == (2, 1000)


def test_no_window_at_all() -> None:
    """A window of nothing allows nothing, is no reason to tell, and takes nothing back."""
    book = Given()
    assert not book.renew(0, 0, dropping=False)
    assert not book.open
    assert book.renew(5, 50, dropping=False)
    assert not book.renew(0, 0, dropping=False)
    assert (book.messages, book.bytes) == (5, 50)


def test_an_urgent_sender_hears_of_any_room() -> None:
    """Who can send nothing is told of a single free place, and who still can is told by half windows."""
    book = given(10, 1000)
    for _ in range(9):
        book.take(1)
    consume(book, 1)
    assert not book.renew(10, 1000, dropping=False, urgent=True)  # it has one left
    book.take(1)
    assert not book.renew(10, 1000, dropping=False)
    assert book.renew(10, 1000, dropping=False, urgent=True)
    assert (book.messages, book.bytes) == (11, 1001)
    book.take(1)
    assert not book.renew(10, 1000, dropping=False, urgent=True)  # there is none


def test_an_urgent_sender_hears_of_bytes() -> None:
    """Room for a message without a byte of room, or the other way round, is not worth telling."""
    book = given(10, 100)
    book.take(20)
    book.take(170)
    consume(book, 20)
    assert not book.renew(10, 100, dropping=False, urgent=True)
    consume(book, 170)
    assert book.renew(10, 100, dropping=False, urgent=True)
    assert (book.messages, book.bytes) == (12, 290)


def test_of_messages_in_any_order_the_largest_goes_past_the_bytes() -> None:
    """It need not be the last to come; but there is one such, and not one more."""
    book = given(10, 100)
    book.take(5000, ordered=False)
    book.take(99, ordered=False)
    book.take(0, ordered=False)
    with pytest.raises(BadFrame, match="past the credit"):
        book.take(1, ordered=False)
    assert (book.received, book.received_bytes) == (3, 5099)


@hypothesis.given(data=st.data(), window_bytes=st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_an_honest_sender_whose_messages_overtake_each_other(data: st.DataObject, window_bytes: int) -> None:
    """Calls may arrive in any order: no order of what an honest caller sent is past its credit."""
    book, sender = given(8, window_bytes), Granted()
    under_way: list[int] = []
    come: list[int] = []
    for _ in range(30):
        sender.allow(book.messages, book.bytes, 0, 0)
        while sender.open and data.draw(st.booleans()):
            size = data.draw(st.one_of(st.integers(0, 3), st.integers(0, 300)))
            sender.sent += 1
            sender.sent_bytes += size
            under_way.append(size)
        while under_way and data.draw(st.booleans()):
            come.append(under_way.pop(data.draw(st.integers(0, len(under_way) - 1))))
            book.take(come[-1], ordered=False)
        while come and data.draw(st.booleans()):
            consume(book, come.pop(data.draw(st.integers(0, len(come) - 1))))
            book.renew(8, window_bytes, dropping=False, urgent=True)
    for size in under_way:
        book.take(size, ordered=False)
    for size in under_way + come:
        consume(book, size)
        book.renew(8, window_bytes, dropping=False, urgent=True)
    sender.allow(book.messages, book.bytes, 0, 0)
    assert sender.open
    assert (book.received, book.received_bytes) == (sender.sent, sender.sent_bytes)


def test_the_senders_book() -> None:
    """Messages and bytes both have to be left; the last one may be larger than the bytes that are."""
    book = Granted()
    assert not book.open
    assert book.allow(2, 10, 0, 1000) == 0
    assert (book.open, book.largest) == (True, 1000)
    book.sent, book.sent_bytes = 1, 9
    assert book.open
    book.sent_bytes = 10
    assert not book.open
    book.sent, book.sent_bytes = 2, 0
    assert not book.open


def test_a_sender_goes_by_the_most_that_it_was_told() -> None:
    """Lower totals count as the ones before, whatever order they come in; the largest payload is the last told."""
    book = Granted()
    book.sent = 10
    book.allow(7, 70, 3, 100)
    assert book.allow(5, 80, 2, 50) == 0
    assert (book.messages, book.bytes, book.lost, book.largest) == (7, 80, 3, 50)
    assert book.allow(8, 60, 3, 50) == 0
    assert (book.messages, book.bytes) == (8, 80)
    assert book.allow(8, 80, 5, 50) == 2
    assert book.allow(8, 80, 5, 50) == 0
    assert book.lost == 5


def test_more_lost_than_sent() -> None:
    """All that was sent may be lost; one more breaks the protocol, and nothing of that CREDIT counts."""
    book = Granted()
    book.sent = 3
    assert book.allow(1, 1, 3, 1) == 3
    with pytest.raises(BadFrame, match="more messages lost"):
        book.allow(9, 9, 4, 9)
    assert (book.messages, book.lost, book.largest) == (1, 3, 1)


class Told:
    """The receiving side of a link, which keeps what its sender is told."""

    def __init__(self) -> None:
        self.frames: deque[tuple[int, int, int]] = deque()

    def tell(self, flow: Incoming) -> None:
        flow.told = flow.given.lost
        self.frames.append((flow.given.messages, flow.given.bytes, flow.given.lost))

    def report(self, name: str, reason: str) -> None:
        pass

    def mailbox_closed(self, flow: Incoming) -> None:
        flow.end()


def flow_to(room: Room, *, used: int = 0, size: int = 0) -> Incoming:
    """A new flow on a link of its own, on which `used` messages of `size` bytes have come."""
    flow = Incoming(Told(), "peer", 1, room, None)
    for _ in range(used):
        flow.given.take(size)
    return flow


def credit(flow: Incoming) -> tuple[int, int]:
    """What the sender of `flow` has been told."""
    told: Any = flow.teller
    return (told.frames[-1][0] - flow.given.received, told.frames[-1][1] - flow.given.received_bytes)


def test_what_an_ended_flow_left_takes_room() -> None:
    """Who ends a flow and begins another gets what is free, and hears of more by half windows as it is read."""
    room = Room(10, 1000)
    first = flow_to(room, used=7, size=100)
    first.end()
    second = flow_to(room)
    assert credit(second) == (3, 300)
    heard = []
    for _ in range(7):
        first.consumed(100)
        heard.append(credit(second)[0])
    assert heard == [3, 3, 6, 6, 6, 6, 6]  # 3 more is half of 6; and from there to 10 is less than half
    assert (room.window, room.window_bytes) == (10, 1000)


@pytest.mark.parametrize(("urgent", "heard"), [(False, [5, 10]), (True, [1, 6])])
def test_what_is_read_is_told_in_time(urgent: bool, heard: list[int]) -> None:
    """The sender hears of half a window, in messages or in bytes, as soon as it is read; at once where it urges."""
    for messages, size in ((10, 1 << 40), (1000, 10)):
        flow = flow_to(Room(messages, size, urgent=urgent), used=10, size=1)
        told: Any = flow.teller
        told.frames.clear()
        came = []
        for read in range(1, 11):
            flow.consumed(1)
            came += [read] * len(told.frames)
            told.frames.clear()
        assert came == heard


def test_an_open_is_answered_even_if_there_is_no_room() -> None:
    """A flow to a place that is full of what others left is told so, and of the room when there is some."""
    room = Room(2, 1 << 20)
    gone = flow_to(room, used=2)
    gone.end()
    late = [flow_to(room), flow_to(room)]
    assert [credit(flow)[0] for flow in late] == [0, 0]
    told: Any = late[0].teller
    assert len(told.frames) == 1
    gone.consumed(0)
    assert [credit(flow)[0] for flow in late] == [1, 1]
    gone.consumed(0)
    assert [credit(flow)[0] for flow in late] == [2, 2]


def test_an_ended_flow_is_told_nothing_more() -> None:
    """What is read of it later is no reason to write to a sender that has long forgotten it."""
    room = Room(4, 1000)
    flow = flow_to(room, used=4)
    told: Any = flow.teller
    flow.end()
    before = len(told.frames)
    for _ in range(4):
        flow.consumed(0)
    assert len(told.frames) == before


def test_who_stays_hears_of_the_room_that_others_leave() -> None:
    """A sender that has used up a small share is told of a larger one when the others go, and not before."""
    room = Room(64, 1)
    others = [flow_to(room) for _ in range(7)]
    last = flow_to(room, used=16)
    assert credit(last)[0] == 0
    heard = []
    for flow in others:
        flow.end()
        heard.append(credit(last)[0])
    assert heard == [0, 0, 0, 0, 0, 16, 48]
    told: Any = others[0].teller
    assert len(told.frames) == 1


def test_a_place_that_drops_has_room_whatever_was_left() -> None:
    """What an ended flow left in a dropping mailbox does not keep the next sender waiting."""
    room = Room(2, 100, dropping=True)
    flow_to(room, used=2, size=50).end()
    assert credit(flow_to(room)) == (2, 100)


def test_a_cleared_room_has_forgotten_its_flows() -> None:
    """In a child of a fork neither the flows nor what they left count, and their end changes nothing."""
    room = Room(4, 100)
    gone, there = flow_to(room, used=3, size=1), flow_to(room, used=1, size=1)
    gone.end()
    room.clear()
    there.end()
    assert (dict(room.flows), room.window, room.window_bytes) == ({}, 4, 100)


# Both ends, and all that comes between.


class Body(bytes):
    """A payload of any size that takes no memory, and knows who sent it and as which one."""

    link: Link
    number: int
    size: int
    got: list[int]

    def __len__(self) -> int:
        return self.size


class Link:
    """A link, with one flow: the sender's book, the receiver's, and what is on its way between them."""

    def __init__(self) -> None:
        self.granted = Granted()
        self.out: deque[Body | str] = deque(["open"])
        self.told = Told()
        self.flow: Incoming | None = None
        self.sent = self.read = 0
        #: How many messages of the present flow have been read, and how many it was told are lost.
        self.got = [0]
        self.lost = 0


class Exchange(RuleBasedStateMachine):
    """Up to `most` links at once that send to one mailbox."""

    most = 1

    @initialize(
        size=st.one_of(st.integers(1, 20), st.integers(1, 100)),
        max_bytes=st.one_of(st.integers(1, 200), st.integers(1, 8 * LEAST_WINDOW_BYTES)),
        full=st.sampled_from(["block", "block", "error", "drop_newest", "drop_oldest"]),
    )
    def begin(self, size: int, max_bytes: int, full: str) -> None:
        """A mailbox, and nobody yet who sends to it."""
        self.size, self.max_bytes = size, max_bytes
        self.largest = 0
        self.mailbox = Mailbox(
            "box", Codecs(None, Limits()), size=size, max_bytes=max_bytes, full=full, on_close=lambda _: None
        )
        self.links: list[Link] = []

    def pick(self, data: Any) -> Link:
        """One of the links."""
        return self.links[data.draw(st.integers(0, len(self.links) - 1))]

    @precondition(lambda self: len(self.links) < self.most)
    @rule()
    def connect(self) -> None:
        """A new link, whose OPEN is on its way."""
        self.links.append(Link())

    @precondition(lambda self: self.links)
    @rule(data=st.data(), count=st.integers(1, 120))
    def send(self, data: Any, count: int) -> None:
        """An honest sender sends as many messages as it may."""
        link = self.pick(data)
        sizes = st.one_of(
            st.integers(0, 3), st.integers(0, 2 * self.max_bytes), st.just(self.max_bytes // 3 + 1)
        )
        size = data.draw(sizes)
        for _ in range(count):
            if not link.granted.open:
                break
            body = Body()
            body.link, body.number, body.size, body.got = link, link.sent, size, link.got
            link.sent += 1
            self.largest = max(self.largest, size)
            link.granted.sent += 1
            link.granted.sent_bytes += size
            link.out.append(body)

    @precondition(lambda self: self.links)
    @rule(data=st.data(), count=st.integers(1, 60))
    def arrive(self, data: Any, count: int) -> None:
        """Some of what was sent arrives."""
        link = self.pick(data)
        for _ in range(min(count, len(link.out))):
            self.take(link)

    def take(self, link: Link) -> None:
        """The next frame of the sender arrives."""
        frame = link.out.popleft()
        if frame == "open":
            link.flow = Incoming(link.told, "peer", 1, self.mailbox.room, self.mailbox)
        elif frame == "finish":
            assert link.flow is not None
            link.flow.end()
            link.told.frames.clear()  # its sender has forgotten it
        else:
            assert isinstance(frame, Body)
            assert link.flow is not None
            link.flow.given.take(len(frame))  # would raise past the credit
            self.mailbox.put(link.flow, RAW, frame)
            if self.mailbox.dropping:
                link.flow.renew()

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def hear(self, data: Any) -> None:
        """A CREDIT arrives at its sender."""
        link = self.pick(data)
        if link.told.frames and not {"open", "finish"} & set(link.out):
            self.hear_one(link)

    def hear_one(self, link: Link) -> None:
        """The next CREDIT."""
        messages, size, lost = link.told.frames.popleft()
        link.lost += link.granted.allow(messages, size, lost, 1 << 30)

    @rule(count=st.integers(1, 60))
    def read(self, count: int) -> None:
        """The reader reads."""
        for _ in range(min(count, len(self.mailbox))):
            self.read_one()

    def read_one(self) -> None:
        """The next message: each link's own are in the order in which they were sent."""
        body: Any = self.mailbox.get(0).body
        assert body.number >= body.link.read
        if not self.mailbox.dropping:
            assert body.number == body.link.read
        body.link.read = body.number + 1
        body.got[0] += 1

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def reopen(self, data: Any) -> None:
        """The sender is done with its flow, and soon begins another one."""
        link = self.pick(data)
        if "open" not in link.out:
            link.out += ["finish", "open"]
            link.granted, link.got, link.lost = Granted(), [0], 0

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def cut(self, data: Any) -> None:
        """A link goes down; what was on its way is lost."""
        link = self.pick(data)
        self.links.remove(link)
        if link.flow is not None and link.told in self.mailbox.room.flows:
            link.flow.end()

    @invariant()
    def holds_what_it_may(self) -> None:
        """As many messages as it has room for with one sender; with more, what they share (see `most`)."""
        if not hasattr(self, "mailbox"):
            return
        shares = range(1, self.most)
        if self.mailbox.dropping:
            assert len(self.mailbox) <= self.size
            assert self.mailbox._bytes <= max(self.max_bytes, self.largest if len(self.mailbox) == 1 else 0)
            return
        # Who came first was given all of it, who came second half of it, and so on; and the last place may
        # have been held by one after the other, who together left no more than there is room for.
        assert len(self.mailbox) <= self.size + sum(window(self.size, flows) for flows in shares)
        assert self.mailbox._bytes <= (
            self.max_bytes
            + sum(window(self.max_bytes, flows, LEAST_WINDOW_BYTES) for flows in shares)
            + self.most * self.largest
        )

    @rule()
    def settle(self) -> None:
        """With everything delivered and read, everybody may send, and all figures agree."""
        for link in self.links:
            while link.out:
                self.take(link)
        if self.mailbox.dropping:
            self.all_may_send()
        while len(self.mailbox):
            self.read_one()
        self.all_may_send()
        for link in self.links:
            assert link.flow is not None
            book = link.flow.given
            assert book.received == book.consumed == link.granted.sent
            assert book.received_bytes == book.consumed_bytes == link.granted.sent_bytes
            assert book.lost == link.granted.lost == link.lost == book.received - link.got[0]
        room = self.mailbox.room
        assert room.window == window(self.size, len(self.links))
        assert room.window_bytes == window(self.max_bytes, len(self.links), LEAST_WINDOW_BYTES)

    def all_may_send(self) -> None:
        """Every CREDIT arrives, and none of the senders is stuck."""
        for link in self.links:
            assert link.flow is not None
            if link.flow.told != link.flow.given.lost:
                link.told.tell(link.flow)
            while link.told.frames:
                self.hear_one(link)
            assert link.granted.open


class Several(Exchange):
    """As above, with up to four links."""

    most = 4


TestOneSender = Exchange.TestCase
TestOneSender.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSeveralSenders = Several.TestCase
TestSeveralSenders.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
