"""A mailbox by itself: what it does when it is full, and that each message goes to exactly one reader."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gevent
import hypothesis
import msgspec
import pytest
from gevent.event import Event
from hypothesis import strategies as st

import snowgreen
from snowgreen import ConfigurationError, MailboxClosed, MailboxEmpty, MessagesDropped
from snowgreen.config import Limits
from snowgreen.messaging.codec import RAW, Codecs
from snowgreen.messaging.flows import Incoming
from snowgreen.messaging.mailbox import Mailbox, Message
from tests.conftest import MakeNode
from tests.waiting import event_of, until

CODECS = Codecs(None, Limits())
PACK = 1


class Point(msgspec.Struct):
    """What some mailboxes ask for."""

    x: int


class Source:
    """A sender, and what it is told."""

    def __init__(self, peer: str = "a@h:1", *, credited: bool = True) -> None:
        self.peer = peer
        self.credited = credited
        self.consumed_sizes: list[int] = []
        self.losses: list[tuple[str, str]] = []

    def consumed(self, size: int) -> None:
        self.consumed_sizes.append(size)

    def lost(self, mailbox: str, reason: str) -> None:
        self.losses.append((mailbox, reason))

    def tell(self, flow: Incoming) -> None:
        pass

    def report(self, name: str, reason: str) -> None:
        pass

    def mailbox_closed(self, flow: Incoming) -> None:
        flow.end()


def box(*, size: int = 100, max_bytes: int = 1000, **options: Any) -> Mailbox:
    """A mailbox that no node has."""
    options.setdefault("on_close", lambda _: None)
    return Mailbox("box", CODECS, size=size, max_bytes=max_bytes, **options)


def put(target: Mailbox, *bodies: bytes, source: Source | None = None) -> Source:
    """Have raw messages come."""
    source = source or Source()
    for body in bodies:
        target.put(source, RAW, body)
    return source


def bodies(target: Mailbox) -> list[Any]:
    """Everything that waits, read without waiting."""
    return [target.get(0).body for _ in range(len(target))]


def turns() -> None:
    """Let everybody run who can."""
    gevent.idle()


# How it is made, and what it shows.


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("full", {"full": "wait"}),
        ("full", {"full": None}),
        ("size", {"size": 0}),
        ("size", {"size": -1}),
        ("size", {"size": 1.0}),
        ("size", {"size": True}),
        ("max_bytes", {"max_bytes": 0}),
        ("max_bytes", {"max_bytes": "1"}),
    ],
)
def test_what_cannot_be_a_mailbox(argument: str, options: dict[str, Any]) -> None:
    """An unknown policy and bounds that are no whole numbers above 0 are refused by the name of the argument."""
    with pytest.raises(ConfigurationError) as caught:
        box(**options)
    assert caught.value.argument == argument


def test_len_bool_and_repr() -> None:
    """Its length is what waits, it is true while it is empty, and it shows its state."""
    target = box(full="drop_newest", size=1)
    assert (len(target), bool(target), target.closed) == (0, True, False)
    assert repr(target) == "<Mailbox 'box' drop_newest, 0 waiting, 0 dropped>"
    put(target, b"1", b"2")
    assert (len(target), target.dropped) == (1, 1)
    assert repr(target) == "<Mailbox 'box' drop_newest, 1 waiting, 1 dropped>"
    target.close()
    assert (bool(target), target.closed) == (True, True)
    assert repr(target) == "<Mailbox 'box' closed, 1 waiting, 1 dropped>"


def test_a_message_says_whence_it_came() -> None:
    """Sender, mailbox and body; and a repr without a byte of the body."""
    target = box()
    put(target, b"secret", source=Source("x@h:9"))
    message = target.get(0)
    assert (message.body, message.sender, message.mailbox) == (b"secret", "x@h:9", "box")
    assert repr(message) == "<Message from x@h:9 to 'box'>"


# Reading.


def test_first_in_first_out() -> None:
    """Messages are read in the order in which they came, whoever sent them, and each is accounted for once read."""
    target = box()
    first, second = Source("a@h:1"), Source("b@h:1")
    for number in range(20):
        put(target, bytes(number), source=(first, second)[number % 2])
    assert first.consumed_sizes == []
    assert [len(body) for body in bodies(target)] == list(range(20))
    assert first.consumed_sizes == list(range(0, 20, 2))
    assert second.consumed_sizes == list(range(1, 20, 2))
    assert target._bytes == 0


def test_get_with_no_time() -> None:
    """get(0) takes what is there, and otherwise is empty at once: nobody else has a turn."""
    target, ran = box(), Event()
    job = gevent.spawn(ran.set)
    with pytest.raises(MailboxEmpty, match=r"no message for 'box' within 0 s"):
        target.get(0)
    put(target, b"x")
    assert target.get(0).body == b"x"
    assert not ran.is_set()
    job.join()


def test_get_waits_so_long() -> None:
    """Without a message get() is empty after its time, and takes one that comes within it."""
    target = box()
    with pytest.raises(MailboxEmpty, match=r"within 0\.01 s"):
        target.get(0.01)
    job = gevent.spawn(target.get, 5)
    turns()
    put(target, b"x")
    assert job.get(timeout=5).body == b"x"


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_what_is_no_timeout(timeout: Any) -> None:
    """Anything but a number of seconds or None is refused, also where a message waits."""
    target = box()
    put(target, b"x")
    with pytest.raises(ConfigurationError, match="timeout"):
        target.get(timeout)
    assert len(target) == 1


def test_a_message_that_another_took_does_not_prolong_the_wait() -> None:
    """Who was woken in vain goes on waiting for what is left of its time."""
    now = [100.0]
    target = box(clock=lambda: now[0])
    job = gevent.spawn(target.get, 10)
    turns()
    put(target, b"x")
    assert target.get(0).body == b"x"  # before the other one runs
    now[0] = 109.9
    turns()
    assert not job.dead
    put(target, b"y")
    target.get(0)
    now[0] = 110.0
    with pytest.raises(MailboxEmpty, match="within 10 s"):
        job.get(timeout=5)


def test_the_callers_timeout_passes_through() -> None:
    """A gevent.Timeout around get() arrives as the caller's own."""
    target = box()
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as timeout:
        target.get(5)
    assert caught.value is timeout


def test_several_readers() -> None:
    """Each message goes to one of those who wait, and the rest wait on."""
    target = box()
    jobs = [gevent.spawn(target.get) for _ in range(5)]
    turns()
    put(target, b"1", b"2", b"3")
    turns()
    done = [job for job in jobs if job.dead]
    assert sorted(job.value.body for job in done) == [b"1", b"2", b"3"]
    put(target, b"4", b"5")
    gevent.joinall(jobs, timeout=5, raise_error=True)
    assert sorted(job.value.body for job in jobs) == [b"1", b"2", b"3", b"4", b"5"]


def test_iteration_ends_when_it_is_closed_and_read() -> None:
    """A loop over a mailbox gets what came before the end, and then is over, each time."""
    target = box()
    put(target, b"1", b"2")
    target.close()
    assert [message.body for message in target] == [b"1", b"2"]
    assert list(target) == []


def test_iteration_waits() -> None:
    """A loop over a mailbox waits for what is still to come."""
    target, got = box(), []

    def read() -> None:
        got.extend(message.body for message in target)

    job = gevent.spawn(read)
    for number in range(3):
        turns()
        put(target, b"%d" % number)
    turns()
    assert not job.dead
    target.close()
    job.get(timeout=5)
    assert got == [b"0", b"1", b"2"]


def test_a_busy_reader_gives_the_others_a_turn() -> None:
    """A reader that never has to wait does not keep the loop to itself, whether it iterates, gets or polls."""

    def turns_while(work: Callable[[], None]) -> int:
        ticks = [0]

        def tick() -> None:
            while True:
                ticks[0] += 1
                gevent.sleep(0)

        job = gevent.spawn(tick)
        work()
        job.kill()
        return ticks[0]

    target = box(size=2000)
    put(target, *[b""] * 1000)
    assert 10 <= turns_while(lambda: [target.get() for _ in range(1000)] and None) <= 100

    def poll() -> None:
        for _ in range(1000):
            with pytest.raises(MailboxEmpty):
                target.get(0)

    assert 10 <= turns_while(poll) <= 100


# Closing.


def test_close_wakes_those_who_wait() -> None:
    """Every reader that waits is told, with or without a limit, and so is who comes later."""
    target = box()
    jobs = [gevent.spawn(target.get, timeout) for timeout in (None, 60, 60, None)]
    turns()
    target.close()
    for job in jobs:
        with pytest.raises(MailboxClosed, match="'box' is closed"):
            job.get(timeout=5)
    for timeout in (None, 0, 5):
        with pytest.raises(MailboxClosed):
            target.get(timeout)


def test_what_waits_can_be_read_after_close() -> None:
    """What came before stays; what comes after is dropped, and its sender told."""
    target = box()
    source = put(target, b"1", b"2")
    target.close()
    put(target, b"three", source=source)
    assert bodies(target) == [b"1", b"2"]
    assert (target.dropped, source.losses) == (1, [("box", "the mailbox is closed")])
    assert sorted(source.consumed_sizes) == [1, 1, 5]
    with pytest.raises(MailboxClosed):
        target.get()


def test_close_is_done_once() -> None:
    """The node is told of the first close() only; leaving a `with` is one."""
    closed: list[Mailbox] = []
    with box(on_close=closed.append) as target:
        assert not target.closed
    target.close()
    assert closed == [target]


def test_readers_outnumbered_at_the_end() -> None:
    """With two messages, three readers and a close in one turn, two get a message and one is told of the end."""
    target = box()
    jobs = [gevent.spawn(target.get) for _ in range(3)]
    turns()
    put(target, b"1", b"2")
    target.close()
    gevent.joinall(jobs, timeout=5)
    assert sorted(type(job.value or job.exception) for job in jobs if job.exception) == [MailboxClosed]
    assert sorted(job.value.body for job in jobs if job.value) == [b"1", b"2"]


# When there is no room.


@pytest.mark.parametrize("full", ["block", "error"])
def test_what_was_allowed_to_come_is_taken(full: str) -> None:
    """Where senders wait for credit, what comes by credit has room: nothing of it is dropped, whatever waits."""
    target = box(size=2, max_bytes=10, full=full)
    source = put(target, *[b"12345"] * 5)
    assert (len(target), target.dropped, source.losses) == (5, 0, [])


@pytest.mark.parametrize("full", ["block", "error", "drop_newest"])
def test_what_came_without_credit_is_dropped_when_it_is_full(full: str) -> None:
    """The newest has no room: by number."""
    target = box(size=3, full=full)
    source = put(target, b"1", b"2", b"3", b"four", b"five!", source=Source(credited=False))
    assert (len(target), target.dropped) == (3, 2)
    assert source.losses == [("box", "the mailbox is full")] * 2
    assert source.consumed_sizes == [4, 5]
    assert bodies(target) == [b"1", b"2", b"3"]
    put(target, b"6", source=source)
    assert bodies(target) == [b"6"]


@pytest.mark.parametrize("full", ["block", "error", "drop_newest"])
def test_what_has_no_room_in_bytes(full: str) -> None:
    """The newest has no room: by size. One that would fit still does, and to the last byte."""
    target = box(max_bytes=10, full=full)
    source = Source(credited=False)
    put(target, b"1234", b"1234567", b"123456", b"", b"7", source=source)
    assert [len(body) for body in bodies(target)] == [4, 6, 0]
    assert source.consumed_sizes[:2] == [7, 1]


@pytest.mark.parametrize("credited", [True, False])
def test_the_oldest_makes_room(credited: bool) -> None:
    """With drop_oldest the newest are kept, and the sender of what was dropped is told, not of what came."""
    target = box(size=2, full="drop_oldest")
    old, new = Source("old@h:1", credited=credited), Source("new@h:1", credited=credited)
    put(target, b"1", b"22", source=old)
    put(target, b"333", source=new)
    assert (old.losses, new.losses) == ([("box", "the mailbox is full")], [])
    assert (old.consumed_sizes, new.consumed_sizes) == ([1], [])
    assert (target.dropped, bodies(target)) == (1, [b"22", b"333"])


def test_as_many_of_the_oldest_as_it_takes() -> None:
    """A large message pushes out several small ones, and no more than that."""
    target = box(max_bytes=10, full="drop_oldest")
    put(target, b"1", b"22", b"333", b"4444", b"55555")
    assert bodies(target) == [b"4444", b"55555"]
    assert target.dropped == 3


@pytest.mark.parametrize("full", ["drop_newest", "drop_oldest", "block"])
def test_a_message_above_all_bounds_is_taken_alone(full: str) -> None:
    """What is larger than the whole mailbox finds room in an empty one: its sender was never told otherwise."""
    target = box(max_bytes=10, full=full)
    source = put(target, bytes(1000), source=Source(credited=False))
    assert (len(target), target.dropped) == (1, 0)
    put(target, b"", source=source)
    assert [len(body) for body in bodies(target)] == ([0] if full == "drop_oldest" else [1000])


@hypothesis.given(
    full=st.sampled_from(["drop_newest", "drop_oldest"]),
    size=st.integers(1, 5),
    max_bytes=st.integers(1, 20),
    course=st.lists(st.one_of(st.none(), st.integers(0, 25)), max_size=60),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_the_dropping_policies(full: str, size: int, max_bytes: int, course: list[int | None]) -> None:
    """Compared with a list: what is kept, read and dropped, and that every message is accounted for once."""
    target, source = box(full=full, size=size, max_bytes=max_bytes), Source()
    model: list[bytes] = []
    dropped: list[int] = []
    read: list[int] = []
    for step, length in enumerate(course):
        if length is None:
            if model:
                assert target.get(0).body is model[0]
                read.append(len(model.pop(0)))
            continue
        body = bytes([step]) * length
        put(target, body, source=source)
        model.append(body)
        while len(model) > 1 and (len(model) > size or sum(map(len, model)) > max_bytes):
            gone = model.pop(0 if full == "drop_oldest" else -1)
            dropped.append(len(gone))
            if full == "drop_newest":
                break
        assert len(target) == len(model)
    assert target.dropped == len(dropped) == len(source.losses)
    assert sorted(source.consumed_sizes) == sorted(dropped + read)
    assert bodies(target) == model


# Bodies that are not what the mailbox asks for.


def test_what_does_not_fit_is_passed_over() -> None:
    """A reader gets the next one that fits; the others are dropped, counted and told of with the reason."""
    target, source = box(type=Point), Source()
    for codec, data in [(PACK, b"\x81\xa1x\xa1a"), (RAW, b"raw"), (77, b"?"), (PACK, b"\x81\xa1x\x07")]:
        target.put(source, codec, data)
    assert len(target) == 4
    assert target.get(0).body == Point(7)
    assert target.dropped == 3
    assert len(source.consumed_sizes) == 4
    assert {name for name, _ in source.losses} == {"box"}
    reasons = [reason for _, reason in source.losses]
    assert "does not fit Point" in reasons[0]
    assert "codec 77" in reasons[2]


def test_what_does_not_fit_does_not_end_the_wait() -> None:
    """A reader that waits goes on waiting, for what is left of its time."""
    now = [0.0]
    target, source = box(type=Point, clock=lambda: now[0]), Source()
    job = gevent.spawn(target.get, 10)
    turns()
    target.put(source, PACK, b"\xc0")
    turns()
    assert not job.dead
    assert (target.dropped, len(target)) == (1, 0)
    now[0] = 11.0
    target.put(source, PACK, b"\xc0")
    with pytest.raises(MailboxEmpty):
        job.get(timeout=5)
    assert target.dropped == 2


def test_without_a_type_bytes_are_not_touched() -> None:
    """Raw bytes come as they are, the same object, and anything else is decoded."""
    target, source, data = box(), Source(), b"\xff" * 50
    target.put(source, RAW, data)
    target.put(source, PACK, b"\x93\x01\x02\x03")
    assert target.get(0).body is data
    assert target.get(0).body == [1, 2, 3]


def test_what_does_not_fit_is_told_on_both_sides(make_node: MakeNode) -> None:
    """Over a link: the reader gets what fits, and both nodes hear how many did not, here with the reason."""
    a, b = make_node(), make_node()
    target = b.mailbox("points", type=Point)
    with a.subscribe() as at_a, b.subscribe() as at_b:
        for body in ({"x": "a"}, b"raw", {"x": 1}, {"x": None}, Point(2)):
            a.send(b.name, "points", body)
        assert [target.get(timeout=5).body.x for _ in range(2)] == [1, 2]
        assert target.dropped == 3
        told = 0
        while told < 3:
            event = event_of(at_b, MessagesDropped)
            assert (event.peer, event.mailbox, event.sent) == (a.name, "points", False)
            assert "does not fit" in event.reason
            told += event.count
        assert told == 3
        told = 0
        while told < 3:
            event = event_of(at_a, MessagesDropped)
            assert (event.peer, event.mailbox, event.sent) == (b.name, "points", True)
            told += event.count
        assert told == 3


def test_losses_right_before_the_end_are_told_to_the_sender(make_node: MakeNode) -> None:
    """What was dropped in the turn in which the mailbox is closed is told, too: nothing comes behind REFUSE."""
    a, b = make_node(), make_node()
    target = b.mailbox("points", type=Point)
    with a.subscribe() as at_a:
        a.send(b.name, "points", b"raw")
        until(lambda: len(target), "it came")
        with pytest.raises(MailboxEmpty):
            target.get(0)
        target.close()
        event = event_of(at_a, MessagesDropped)
        assert (event.peer, event.mailbox, event.count, event.sent) == (b.name, "points", 1, True)


# No message is lost between readers, and no reader sleeps over one.


def test_a_killed_reader_takes_no_message_with_it() -> None:
    """Killed in the turn in which a message came, before or after: somebody else reads it."""
    for killed_first in (True, False):
        target = box()
        job = gevent.spawn(target.get)
        turns()
        if killed_first:
            job.kill(block=False)
        put(target, b"x")
        if not killed_first:
            job.kill(block=False)
        turns()
        assert job.dead
        if isinstance(job.value, Message):
            assert len(target) == 0
        else:
            assert target.get(0).body == b"x"


@pytest.mark.parametrize("turns_before", range(4))
def test_a_busy_reader_that_is_killed_takes_no_message_with_it(turns_before: int) -> None:
    """One that never waits can be killed only where it gives others a turn, and there it holds no message."""
    target, got = box(size=1000), []
    put(target, *[b"%d" % number for number in range(1000)])
    job = gevent.spawn(lambda: [got.append(target.get().body) for _ in range(1000)])
    for _ in range(turns_before):
        gevent.sleep(0)
    job.kill()
    assert len(got) < 1000
    assert got + bodies(target) == [b"%d" % number for number in range(1000)]


def test_a_reader_whose_time_is_up_takes_no_message_with_it() -> None:
    """A gevent.Timeout that strikes in the turn in which a message came leaves it to the next reader."""
    target = box()
    caught = Event()

    def read() -> None:
        try:
            target.get()
        except gevent.Timeout:
            caught.set()

    job = gevent.spawn(read)
    other = gevent.spawn(target.get)
    turns()
    job.kill(gevent.Timeout(), block=False)
    put(target, b"x")
    assert other.get(timeout=5).body == b"x"
    assert caught.is_set()


def run(course: tuple[str, ...], target: Mailbox) -> None:
    """What `course` says, in one go but where it says turn; then everything put has been read, or waits unread."""
    jobs: list[gevent.Greenlet[..., Message]] = []
    got: list[bytes] = []
    sent = 0
    for step in course:
        if step == "put":
            put(target, b"%d" % sent)
            sent += 1
        elif step == "reader":
            jobs.append(gevent.spawn(target.get))
        elif step == "kill first":
            next((job for job in jobs if not job.dead), gevent.Greenlet()).kill(block=False)
        elif step == "kill last":
            next((job for job in reversed(jobs) if not job.dead), gevent.Greenlet()).kill(block=False)
        elif step == "close":
            target.close()
        elif step == "get":
            if len(target):
                got.append(target.get(0).body)
        else:
            turns()
    turns()
    got += [job.value.body for job in jobs if isinstance(job.value, Message)]
    waiting = [job for job in jobs if job.started and not job.dead]
    if target.closed:
        assert not waiting
    else:
        assert not (waiting and len(target)), "a reader sleeps, and a message waits"
    left = bodies(target)
    assert sorted(got + left, key=int) == [b"%d" % number for number in range(sent - target.dropped)]
    assert left == sorted(left, key=int)
    gevent.killall(waiting)


def test_every_short_course_of_events() -> None:
    """Readers that come, wait and are killed, and messages that come, in every order with every turn between."""
    for course in itertools.product(["put", "reader", "kill first", "turn"], repeat=5):
        run(("reader", *course), box())


@hypothesis.given(
    st.lists(
        st.sampled_from(
            ["put", "put", "reader", "reader", "kill first", "kill last", "get", "turn", "close"]
        ),
        max_size=30,
    )
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_course_of_events(course: list[str]) -> None:
    """The same with longer courses, with readers that never wait, and with an end."""
    run(tuple(course), box())


# A fork.


def test_a_fork_forgets() -> None:
    """forget() leaves an open mailbox that is empty, that no flow leads to, and that wakes nobody of before."""
    target = box(size=64)
    flows = [Incoming(Source(name), name, 1, target.room, target) for name in "abc"]
    for flow in flows:
        flow.given.take(1)
        target.put(flow, RAW, b"x")
    flows[0].end()
    assert target.room.window < 64
    target.forget()
    assert (len(target), target._bytes, target.flows) == (0, 0, ())
    assert (target.room.window, target.closed) == (64, False)
    before = gevent.spawn(target.get)
    turns()
    target.forget()
    after = gevent.spawn(target.get)
    turns()
    put(target, b"z")
    assert after.get(timeout=5).body == b"z"
    with pytest.raises(MailboxEmpty):
        target.get(0)
    assert not before.dead
    before.kill()


def test_a_mailbox_of_a_node(make_node: MakeNode) -> None:
    """The defaults are those of Config, and a name is free again once its mailbox is closed."""
    config = snowgreen.Config(mailbox_size=7, mailbox_bytes=5000)
    node = make_node(config=config)
    target = node.mailbox("x")
    assert (target.name, target.full, target.room.window, target.room.window_bytes) == ("x", "block", 7, 5000)
    with pytest.raises(ConfigurationError, match="open already"):
        node.mailbox("x")
    target.close()
    other = node.mailbox("x", size=3, max_bytes=9)
    assert (other.room.window, other.room.window_bytes) == (3, 9)
    node.stop()
    assert other.closed


@pytest.mark.parametrize("kind", ["notatype", complex, Any, None, int | None, dict[str, list[int]]])
def test_a_type_that_nothing_can_be_is_refused_where_it_is_given(kind: Any) -> None:
    """A mailbox with a type that msgspec cannot read is a mistake at once, not one for every message."""
    node = snowgreen.Node(listen=False, cookie="correct horse battery staple")
    if kind == "notatype":
        with pytest.raises(ConfigurationError, match=r"^type: nothing can be read as notatype: "):
            node.mailbox("jobs", type=kind)
    node.mailbox("jobs", type=Any if kind == "notatype" else kind).close()
