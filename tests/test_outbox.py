"""The outbox on a socket and a loop of the tests' own: what is written, when, and again with which bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen import Limits
from snowgreen.link.outbox import RECORD, TURN_BYTES, Outbox
from snowgreen.protocol.flight import LEAST, MARKS
from snowgreen.protocol.frames import decode_pong, encode_ping
from snowgreen.protocol.lanes import FRAGMENT
from snowgreen.protocol.wire import Decoder


class Socket:
    """Takes what `takes` says, 0 for a WANT_WRITE, and then everything; remembers what it was offered."""

    def __init__(self, *takes: int) -> None:
        self.takes = list(takes)
        self.offered: list[bytes] = []
        self.taken = b""

    def send(self, data: bytes) -> int:
        self.offered.append(bytes(data))
        count = min(len(data), self.takes.pop(0)) if self.takes else len(data)
        self.taken += data[:count]
        return count

    def fileno(self) -> int:
        return 7


class Watcher:
    """A write watcher that fires when it is told to."""

    def __init__(self) -> None:
        self.callback: Callable[[], None] | None = None
        self.closed = False

    @property
    def active(self) -> bool:
        return self.callback is not None

    def start(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def stop(self) -> None:
        self.callback = None

    def close(self) -> None:
        self.closed = True


class Loop:
    """Runs its callbacks when it is told to."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.watchers: list[Watcher] = []

    def run_callback(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def io(self, _fileno: int, _events: int) -> Watcher:
        self.watchers.append(Watcher())
        return self.watchers[-1]

    def turn(self) -> int:
        """One turn; how many callbacks it had."""
        callbacks, self.callbacks = self.callbacks, []
        callbacks += [w.callback for w in self.watchers if w.callback is not None]
        for callback in callbacks:
            callback()
        return len(callbacks)


def outbox(sock: Socket, clock: Callable[[], float] = lambda: 0.0, **limits: int) -> tuple[Outbox, Loop]:
    loop = Loop()
    made: Any = Outbox(sock, loop, Limits(**limits), lambda: made.write(), clock)  # type: ignore[arg-type]
    return made, loop


def test_what_gathers_in_a_turn_leaves_together() -> None:
    """A thousand small frames posted in one turn are one callback and one write, in order."""
    sock = Socket()
    box, loop = outbox(sock)
    frames = [b"%04d" % n for n in range(1000)]
    for frame in frames:
        box.post(frame)
    assert (box.waiting, sock.offered) == (4000, [])
    assert loop.turn() == 1
    assert sock.offered == [b"".join(frames)]
    assert (box.waiting, box.frames_sent, box.bytes_sent) == (0, 1000, 4000)
    assert loop.turn() == 0


def test_after_want_write_the_very_same_bytes_are_offered_again() -> None:
    """OpenSSL demands it: nothing that was posted meanwhile may slip into the record that is being retried."""
    sock = Socket(0, 0, 100)
    box, loop = outbox(sock)
    box.post(b"a" * 300)
    loop.turn()
    box.post(b"b" * 300)
    loop.turn()
    loop.turn()
    assert sock.offered[0] == sock.offered[1] == sock.offered[2] == b"a" * 300
    while loop.turn():
        pass
    assert sock.taken == b"a" * 300 + b"b" * 300


def test_one_turn_writes_only_so_much() -> None:
    """A large outbox leaves in records, a few to a turn, the loop getting its share in between."""
    sock = Socket()
    box, loop = outbox(sock)
    box.post(bytes(10 * TURN_BYTES))
    loop.turn()
    assert len(sock.taken) == TURN_BYTES
    assert {len(data) for data in sock.offered} == {RECORD}
    turns = 1
    while loop.turn():
        turns += 1
    assert (turns, len(sock.taken)) == (10, 10 * TURN_BYTES)
    assert not loop.watchers[0].active


@pytest.mark.parametrize(("limits", "frames"), [({"outbox_bytes": 1024}, 11), ({"outbox_frames": 16}, 16)])
def test_full_in_bytes_or_in_frames(limits: dict[str, int], frames: int) -> None:
    """Either bound makes it full; writing makes room."""
    sock = Socket()
    box, loop = outbox(sock, **limits)
    for _ in range(frames):
        assert not box.full
        box.post(b"x" * 100)
    assert box.full
    loop.turn()
    assert not box.full


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("post", "message", "whole", "last", "turn")),
        st.integers(0, 3),
        st.sampled_from((9, 700, 70_000)),
    ),
    max_size=60,
)


@given(STEPS, st.lists(st.sampled_from((0, 100, 5000, RECORD)), max_size=40), st.sampled_from((16, 10_000)))
def test_full_is_what_waits_whatever_is_done(
    steps: list[tuple[str, int, int]], takes: list[int], frames: int
) -> None:
    """After each step, of whatever kind, and at the end, when nothing waits any more."""
    box, loop = outbox(Socket(*takes), outbox_bytes=100_000, outbox_frames=frames)

    def held() -> bool:
        lanes = box._lanes
        return lanes.waiting >= 100_000 or lanes.frames >= frames

    for what, key, size in steps:
        if what == "turn":
            loop.turn()
        elif what == "message":
            box.message(key, b"head", bytes(size))
        else:
            getattr(box, what)(bytes(size))
        assert box.full is held()
    box.close()
    assert not box.full


def test_the_end_of_the_handshake_goes_first_and_is_not_counted() -> None:
    """What begin() was given leaves ahead of everything, and is in no figure afterwards."""
    sock = Socket()
    box, _ = outbox(sock)
    box.post(b"frame")
    box.begin(b"ACK")
    assert box.write()
    assert sock.taken == b"ACKframe"
    assert (box.bytes_sent, box.frames_sent) == (5, 1)


def test_a_closed_outbox_writes_nothing_and_holds_nothing() -> None:
    """After close() nothing reaches the socket, and neither watcher nor callback is left."""
    sock = Socket(0)
    box, loop = outbox(sock)
    box.post(b"x")
    loop.turn()
    box.close()
    box.post(b"y")
    assert loop.turn() == 0
    assert loop.watchers[0].closed
    assert sock.taken == b""


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=50_000), max_size=20),
    st.lists(st.integers(0, RECORD), max_size=60),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_whatever_the_socket_takes_the_stream_is_whole(
    frames: list[bytes], takes: list[int], turns: list[bool]
) -> None:
    """However little is taken at a time, and whenever frames are posted, the bytes arrive in order and once."""
    sock = Socket(*takes)
    box, loop = outbox(sock)
    for frame, turn in zip(frames, turns, strict=False):
        box.post(frame)
        if turn:
            loop.turn()
    while loop.turn():
        pass
    assert sock.taken == b"".join(frames)
    assert box.waiting == 0
    assert box.frames_sent == len(frames)


def test_a_frame_is_written_at_once_only_where_nothing_waits() -> None:
    """It goes out in the caller's turn and counts; with anything before it, it is left to be queued."""
    sock = Socket()
    box, loop = outbox(sock)
    assert box.at_once(b"first")
    assert (sock.taken, box.frames_sent, box.bytes_sent, box.waiting) == (b"first", 1, 5, 0)
    assert loop.turn() == 0
    box.post(b"second")
    assert not box.at_once(b"third")
    assert sock.taken == b"first"
    loop.turn()
    assert sock.taken == b"firstsecond"


@pytest.mark.parametrize("takes", [(0, 0), (3,), ()])
def test_a_frame_that_is_not_taken_at_once_is_taken_later(takes: tuple[int, ...]) -> None:
    """Refused, or taken in part, it is offered again when the peer reads, ahead of what comes later, and counts once."""
    sock = Socket(*takes)
    box, loop = outbox(sock)
    assert box.at_once(b"x" * 10)
    box.post(b"later")
    while loop.turn():
        pass
    assert sock.taken == b"x" * 10 + b"later"
    assert (box.frames_sent, box.bytes_sent, box.waiting) == (2, 15, 0)
    if takes:
        assert box.blocked is False
        assert not loop.watchers[0].active


def test_nothing_is_written_at_once_when_it_is_closed() -> None:
    """A closed outbox writes nothing, to nobody."""
    sock = Socket()
    box, _ = outbox(sock)
    box.close()
    assert not box.at_once(b"x")
    assert sock.offered == []


# Bulk: no more of it is on its way than the peer reads.

BULK = bytes(60_000)  # a whole frame of it, with room in a batch for little more


def marks(data: bytes) -> list[int]:
    """The numbers of the marks among the frames in `data`."""
    frames = Decoder(limit=1 << 24).feed(data)
    return [decode_pong(frame) for frame in frames if frame[:1] == encode_ping(0)[4:5]]


def run(loop: Loop) -> None:
    """Turn until nothing is left to do."""
    for _ in range(1000):
        if not loop.turn():
            return
    raise AssertionError("the loop never rests")


def fill(box: Outbox, count: int) -> None:
    """Post messages of bulk."""
    for _ in range(count):
        box.message("bulk", b"\x45", BULK)


def test_bulk_waits_until_the_peer_has_read() -> None:
    """A window of it leaves, with marks; the rest waits, at rest, and leaves as the marks are answered."""
    sock = Socket()
    box, loop = outbox(sock)
    fill(box, 40)
    run(loop)
    assert LEAST <= len(sock.taken) < LEAST + FRAGMENT + 100
    assert box.held
    assert not box.blocked
    before, numbers = len(sock.taken), marks(sock.taken)
    assert len(numbers) >= 2
    assert all(number > MARKS for number in numbers)
    box.landed(numbers[0])
    run(loop)
    assert before < len(sock.taken) <= before + 1.25 * LEAST + 2 * FRAGMENT
    for _ in range(1000):
        if not box.waiting:
            break
        box.landed(marks(sock.taken)[-1])
        run(loop)
    assert not box.held
    assert box.frames_sent == 40 + len(marks(sock.taken))
    assert sum(len(frame) > 1000 for frame in Decoder(limit=1 << 24).feed(sock.taken)) == 40


def test_small_frames_leave_while_bulk_waits() -> None:
    """They gather as ever, one write for all of a turn, and what a window holds back does not hold them."""
    sock = Socket()
    box, loop = outbox(sock)
    fill(box, 20)
    run(loop)
    offered = len(sock.offered)
    for number in range(100):
        box.message("small", b"\x45", b"%03d" % number)
    box.post(b"ping")
    assert len(sock.offered) == offered
    run(loop)
    assert len(sock.offered) == offered + 1
    assert sock.offered[-1].startswith(b"ping")
    assert box.held


def test_nothing_overtakes_bulk_of_its_own_key() -> None:
    """What is to be written at once is not, while bulk waits for the peer; and small frames of its key wait, too."""
    sock = Socket()
    box, loop = outbox(sock)
    fill(box, 20)
    run(loop)
    assert not box.at_once(b"now")
    before = len(sock.taken)
    box.message("bulk", b"\x45", b"small")
    run(loop)
    assert len(sock.taken) == before


def test_a_full_window_with_nothing_behind_it_holds_nothing() -> None:
    """Where all that was posted has left, nothing waits for the peer."""
    sock = Socket()
    box, loop = outbox(sock)
    fill(box, 6)
    run(loop)
    assert box.held
    box.landed(marks(sock.taken)[-1])
    run(loop)
    assert not box.waiting
    assert not box.held


@pytest.mark.parametrize(("seconds", "grows"), [(0.001, True), (1.0, False)])
def test_how_long_answers_take_decides_how_much_may_leave(seconds: float, grows: bool) -> None:
    """By the clock that it was given: answers as quick as the first widen the window, late ones do not."""
    now = 0.0
    sock = Socket()
    box, loop = outbox(sock, lambda: now)
    fill(box, 100)
    run(loop)
    now += 0.001
    box.landed(marks(sock.taken)[0])
    for _ in range(8):
        run(loop)
        now += seconds
        box.landed(marks(sock.taken)[-1])
    flight: Any = box._flight
    assert (flight.window > 1.5 * LEAST) is grows


def test_the_end_does_not_wait_for_marks() -> None:
    """An orderly end writes all that the kernel takes, whatever of it the peer has read."""
    sock = Socket()
    box, loop = outbox(sock)
    fill(box, 40)
    run(loop)
    box.last(b"goodbye")
    assert box.write(float("inf"))
    assert len(sock.taken) > 40 * len(BULK)
    assert sock.taken.endswith(b"goodbye")


def test_answers_to_no_mark_change_nothing() -> None:
    """Before there was bulk, for a number that is not due, and after the end."""
    sock = Socket()
    box, loop = outbox(sock)
    box.landed(MARKS + 1)
    fill(box, 20)
    run(loop)
    before = len(sock.taken)
    box.landed(MARKS + 100)
    box.landed(MARKS)
    run(loop)
    assert len(sock.taken) == before
    box.close()
    box.landed(MARKS + 1)
    assert loop.turn() == 0
