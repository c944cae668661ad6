"""The lanes of a link: everything leaves once and in its order, control first, and nothing waits for ever."""

import struct
import tracemalloc
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snowgreen.protocol.fragments import Assembly
from snowgreen.protocol.frames import FrameTag
from snowgreen.protocol.lanes import BATCH, FRAGMENT, SMALL, STREAMS, Lanes
from snowgreen.protocol.wire import MAX_FRAME, Decoder, pack

HEAD = struct.Struct("<BIBQ")  # MESSAGE: tag, flow, codec; and the number that tells each one from the others
KEYS = [0, 1, 2, "three", ("four", 4), b"five", None]
PATTERN = bytes((index * 7 + index // 251) % 256 for index in range(8 * FRAGMENT))
LONGEST = 6 * FRAGMENT
ROUND = [64, SMALL, FRAGMENT, 2 * FRAGMENT, 3 * FRAGMENT]

sizes = st.one_of(
    st.integers(HEAD.size, 2 * SMALL),
    st.integers(HEAD.size, LONGEST),
    st.builds(lambda size, off: size + off, st.sampled_from(ROUND), st.integers(-15, 15)),
)
keys = st.sampled_from(range(len(KEYS)))


def message(number, key, size):
    """The head and body of the `number`th inner frame, `size` bytes of key `key` that no other one equals."""
    start = number % 997
    return HEAD.pack(FrameTag.MESSAGE, key, 1, number), PATTERN[start : start + size - HEAD.size]


def key_of(inner):
    """The key that :func:`message` was given."""
    return HEAD.unpack_from(inner)[1]


class Ordered(RuleBasedStateMachine):
    """Lanes beside a model of what waits: one queue for control, one for small frames, one for each key."""

    def __init__(self):
        super().__init__()
        self.lanes = Lanes()
        self.decoder = Decoder(MAX_FRAME)
        self.assembly = Assembly(LONGEST + 100)
        self.number = 0
        self.control = []
        self.small = deque()
        self.bulk = {key: deque() for key in range(len(KEYS))}
        self.passed = 0  # small frames taken
        self.after = {}  # key: how many of them go ahead of the bulk that waits
        self.fragments = {}  # stream: the key whose first message it carries
        self.carried = 0  # bytes taken of messages that have not ended
        self.skipped = 0
        self.last = None
        self.ended = False

    def numbered(self, size):
        self.number += 1
        head, body = message(self.number, 99, max(size, HEAD.size))
        return head + body

    @precondition(lambda self: not self.ended)
    @rule(count=st.integers(1, 4), size=st.sampled_from([20, 300, BATCH]))
    def post_control(self, count, size):
        for _ in range(count):
            self.control.append(self.numbered(size))
            self.lanes.control(pack(self.control[-1]))

    @precondition(lambda self: not self.ended)
    @rule(
        many=st.sampled_from([(1, 20), (3, SMALL), (9, SMALL), (18, SMALL - 4), (700, 200), (2, SMALL // 2)])
    )
    def post(self, many):
        for _ in range(many[0]):
            self.small.append(self.numbered(many[1]))
            self.lanes.post(pack(self.small[-1]))

    @precondition(lambda self: not self.ended)
    @rule(key=keys, sizes=st.lists(sizes, min_size=1, max_size=4), viewed=st.booleans())
    def send(self, key, sizes, viewed):
        for size in sizes:
            self.number += 1
            head, body = message(self.number, key, size)
            to_bulk = len(head + body) > SMALL or self.bulk[key]
            if to_bulk and not self.bulk[key]:
                self.after[key] = self.passed + len(self.small)
            (self.bulk[key] if to_bulk else self.small).append(head + body)
            self.lanes.message(KEYS[key], head, memoryview(body) if viewed else body)

    @initialize(wide=st.booleans())
    def begin(self, wide):
        """Half of the runs start with more large messages than there are streams."""
        for key in range(len(KEYS) if wide else 0):
            self.send(key, [FRAGMENT + 1 + key * SMALL, HEAD.size], False)

    @precondition(lambda self: self.last is None)
    @rule(rare=st.integers(0, 4))
    def post_last(self, rare):
        if not rare:
            self.last = self.numbered(30)
            self.lanes.last(pack(self.last))

    @rule(times=st.integers(1, 5))
    def take(self, times):
        for _ in range(times):
            self.take_one()

    def take_one(self):
        waited_small = sum(4 + len(inner) for inner in self.small)
        waited_bulk = any(self.bulk.values())
        waited = self.lanes.waiting
        batch, count = self.lanes.take()
        assert bool(batch) == bool(count or waited_bulk)
        frames = self.decoder.feed(batch)
        assert not self.decoder.mid_message
        due, self.control = self.control, []
        assert frames[: len(due)] == due
        frames = frames[len(due) :]
        urgent = sum(4 + len(inner) for inner in due)
        ends = len(due)

        taken_small = 0
        while self.small and frames and frames[0] == self.small[0]:
            taken_small += 4 + len(frames.pop(0))
            self.small.popleft()
            self.passed += 1
            ends += 1
        assert taken_small >= min(waited_small, BATCH)
        assert taken_small <= BATCH + SMALL + 4

        waited_bulk = any(queue and self.after[key] <= self.passed for key, queue in self.bulk.items())
        taken_bulk = 0
        while frames and frames[0] != self.last:
            taken_bulk += 4 + len(frames[0])
            ends += self.take_bulk(frames.pop(0))
        self.judge_bulk(waited_bulk, urgent + taken_small, taken_bulk)
        if frames:
            assert frames == [self.last]
            assert not self.small
            assert not any(self.bulk.values())
            self.ended = True
            ends += 1
        elif self.last is not None and not self.ended:
            assert self.small or any(self.bulk.values())
        assert count == ends
        assert len(batch) <= urgent + BATCH + SMALL + FRAGMENT + 100
        assert self.lanes.waiting <= waited

    def take_bulk(self, frame):
        """Follow one frame of bulk; how many messages it ends."""
        if frame[0] not in (FrameTag.FIRST, FrameTag.PART):
            assert len(frame) <= FRAGMENT
            key = key_of(frame)
            assert key not in self.fragments.values()
            assert self.after[key] <= self.passed
            assert frame == self.bulk[key].popleft()
            return 1
        stream = frame[1:5]
        if frame[0] == FrameTag.FIRST:
            assert len(frame) - 9 == FRAGMENT
            key = key_of(frame[9:])
            assert key not in self.fragments.values()
            assert self.after[key] <= self.passed
            self.fragments[stream] = key
            self.carried += len(frame) - 9
            inner = self.assembly.first(frame)
        else:
            assert 0 < len(frame) - 5 <= FRAGMENT
            self.carried += len(frame) - 5
            inner = self.assembly.part(frame)
        assert self.assembly.unfinished <= STREAMS
        if inner is None:
            return 0
        assert inner == self.bulk[self.fragments.pop(stream)].popleft()
        self.carried -= len(inner)
        return 1

    def judge_bulk(self, waited, ahead, taken):
        """Whether bulk got its share of a batch with `ahead` bytes of other frames in it."""
        if not waited:
            assert not taken
            return
        if ahead < BATCH:
            assert ahead + taken >= BATCH or not any(self.bulk.values())
        self.skipped = 0 if taken else self.skipped + 1
        assert self.skipped <= 3

    @invariant()
    def counted(self):
        """What the lanes say of themselves is what waits."""
        waiting = sum(4 + len(inner) for inner in (*self.control, *self.small))
        bulk = [inner for queue in self.bulk.values() for inner in queue]
        waiting += sum(map(len, bulk)) - self.carried
        frames = len(self.control) + len(self.small) + len(bulk)
        if self.last is not None and not self.ended:
            waiting += 4 + len(self.last)
            frames += 1
        assert (self.lanes.frames, self.lanes.waiting) == (frames, waiting)
        assert bool(self.lanes) == bool(frames)

    def teardown(self):
        for _ in range(10_000):
            if not self.lanes:
                break
            self.take_one()
        self.counted()
        assert (self.lanes.frames, self.lanes.waiting, self.assembly.unfinished) == (0, 0, 0)
        assert self.lanes.take() == (b"", 0)


class TestOrdered(Ordered.TestCase):
    """Whatever is posted under whatever keys: all of it leaves once, in order, in fair and bounded batches."""

    settings = settings(
        max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )


def sent(lanes, times=10_000):
    """The inner frames of the next batches, fragments as they are."""
    frames = []
    while lanes and times:
        frames += Decoder(MAX_FRAME).feed(lanes.take()[0])
        times -= 1
    return frames


def large(lanes, key, fragments=2):
    """Send a message of so many fragments under `key`, a letter that its body is made of."""
    lanes.message(key, b"\x45", key.encode() * (fragments * FRAGMENT - 1))


def course(frames):
    """Whose bytes each frame of bulk carries, in capitals where a fragmented message begins."""
    return "".join(
        chr(frame[-1]).upper() if frame[0] == FrameTag.FIRST else chr(frame[-1]) for frame in frames
    )


def test_nothing_waits_at_first():
    """New lanes are empty and yield nothing."""
    lanes = Lanes()
    assert not lanes
    assert (lanes.take(), lanes.frames, lanes.waiting) == ((b"", 0), 0, 0)


def test_control_does_not_wait_behind_a_backlog():
    """However much waits, a control frame opens the next batch, and that batch is no larger than others."""
    lanes = Lanes()
    for _ in range(40_000):
        lanes.post(pack(b"s" * 96))
    for key in "abc":
        large(lanes, key, 20)
    lanes.take()
    lanes.control(pack(b"now"))
    batch, count = lanes.take()
    assert batch.startswith(pack(b"now") + pack(b"s" * 96))
    assert len(batch) <= BATCH + 200
    assert count == 1 + (len(batch) - 7) // 100


def test_a_steady_flow_of_small_frames_lets_bulk_into_every_fourth_batch():
    """Bulk is neither shut out by small frames that keep coming, nor does it delay them by more than one piece."""
    lanes = Lanes()
    large(lanes, "a", 3)
    shares = []
    for _ in range(12):
        for _ in range(2 * BATCH // 1000):
            lanes.post(pack(b"s" * 996))
        frames = Decoder(MAX_FRAME).feed(lanes.take()[0])
        shares.append(course([frame for frame in frames if frame[0] in (FrameTag.FIRST, FrameTag.PART)]))
        assert len(frames) >= 65
    assert shares == ["", "", "", "A", "", "", "", "a", "", "", "", "a"]


def test_bulk_fills_the_room_that_small_frames_leave():
    """A few small frames do not keep bulk waiting, and they go ahead of it."""
    lanes = Lanes()
    large(lanes, "a")
    lanes.post(pack(b"s"))
    batch, count = lanes.take()
    assert [frame[0] for frame in Decoder(MAX_FRAME).feed(batch)] == [ord("s"), FrameTag.FIRST]
    assert (count, lanes.frames, lanes.waiting) == (1, 1, FRAGMENT)


def test_keys_take_turns():
    """Each key sends one fragment or one whole frame and then lets the others; a new one stands at the end."""
    lanes = Lanes()
    large(lanes, "a", 3)
    large(lanes, "b")
    for _ in range(3):
        lanes.message("w", b"\x45", b"w" * (FRAGMENT - 1))
    assert course(sent(lanes, 2)) == "AB"
    lanes.message("x", b"\x45", b"x" * SMALL)
    assert course(sent(lanes)) == "wabxwaw"


def test_a_finished_key_goes_to_the_end_of_the_line():
    """Who has more to send begins it behind the keys that waited meanwhile, even for a stream."""
    lanes = Lanes()
    for _ in range(2):
        for key in "abcdef":
            large(lanes, key)
    assert course(sent(lanes)) == "ABCDabcdEFABefabCDEFcdef"


def test_a_whole_frame_needs_no_stream():
    """With all streams taken and keys waiting for one, what is sent whole still goes in its turn."""
    lanes = Lanes()
    for key in "abcdef":
        large(lanes, key, 3)
    lanes.message("w", b"\x45", b"w" * SMALL)
    assert course(sent(lanes, 6)) == "ABCDwab"


def test_small_messages_stay_behind_the_bulk_of_their_key():
    """A small message overtakes the large ones of other keys and never one of its own."""
    lanes = Lanes()
    large(lanes, "a")
    lanes.message("a", b"\x45", b"a")
    lanes.message("b", b"\x45", b"b")
    assert course(sent(lanes)) == "bAaa"
    lanes.message("a", b"\x45", b"a")
    large(lanes, "b")
    assert course(sent(lanes)) == "aBb"  # the key has nothing in bulk any more


@pytest.mark.parametrize("size", [SMALL + 1, 3 * FRAGMENT])
@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("batches", range(10))
def test_bulk_stays_behind_the_small_messages_of_its_key(batches, more, size):
    """However many of them wait, in however many batches, a large message goes behind those posted before it."""
    lanes = Lanes()
    before = 64 * batches + more
    for _ in range(before):
        lanes.message("a", b"\x45", bytes(BATCH // 64 - 5))
    lanes.message("a", b"\x45", b"A" * size)
    lanes.message("a", b"\x45", b"a")
    frames = sent(lanes)
    assert [len(frame) for frame in frames[:before]] == [BATCH // 64 - 4] * before
    assert max(map(len, frames[before:])) > SMALL
    assert frames[-1] == b"\x45a"


@pytest.mark.parametrize(
    ("size", "behind_a_later_post", "frames"),
    [(SMALL, False, 1), (SMALL + 1, True, 1), (FRAGMENT, True, 1), (FRAGMENT + 1, True, 2)],
)
def test_what_is_small_and_what_is_cut(size, behind_a_later_post, frames):
    """The bounds are those of the inner frame, and each belongs to the smaller side."""
    lanes = Lanes()
    lanes.message(1, b"\x45head", b"x" * (size - 5))
    lanes.post(pack(b"later"))
    out = sent(lanes)
    assert (out[0] == b"later") is behind_a_later_post
    assert len(out) == 1 + frames


def test_the_bytes_of_fragments():
    """FIRST says the stream and the size of it all, PART the stream; the head is part of the first bytes."""
    lanes = Lanes()
    for number in (1, 2):
        body = PATTERN[: 2 * FRAGMENT]
        lanes.message(1, b"\x45head", body)
        assert sent(lanes) == [
            struct.pack("<BII", 0x4A, number, 2 * FRAGMENT + 5) + b"\x45head" + body[: FRAGMENT - 5],
            struct.pack("<BI", 0x4B, number) + body[FRAGMENT - 5 : 2 * FRAGMENT - 5],
            struct.pack("<BI", 0x4B, number) + body[-5:],
        ]


def test_stream_numbers_wrap_to_one():
    """The number after the largest that fits is 1; 0 is never used."""
    lanes = Lanes()
    large(lanes, "first")
    sent(lanes)
    lanes._bulk._stream = 2**32 - 3
    for key in "abc":
        large(lanes, key)
    streams = [struct.unpack_from("<I", frame, 1)[0] for frame in sent(lanes)]
    assert streams == [2**32 - 2, 2**32 - 1, 1] * 2


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_large_body_is_not_copied(kind):
    """Posting keeps a reference, and a batch takes no more memory than what it carries."""
    lanes, body = Lanes(), kind(bytes(32 * 1024 * 1024))
    tracemalloc.start()
    try:
        lanes.message(1, b"\x45", body)
        posted = tracemalloc.get_traced_memory()[1]
        for _ in range(20):
            lanes.take()
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert posted < 10_000
    assert taken < 4 * FRAGMENT


def test_the_last_frame_leaves_last_and_once():
    """What is posted after it still goes ahead; once it has left, nothing leaves any more."""
    lanes = Lanes()
    lanes.last(pack(b"last"))
    lanes.last(pack(b"ignored"))
    large(lanes, "a")
    lanes.post(pack(b"small"))
    lanes.control(pack(b"control"))
    assert (lanes.frames, bool(lanes)) == (4, True)
    out = sent(lanes)
    assert (out[:2], out[-1], course(out[2:-1])) == ([b"control", b"small"], b"last", "Aa")
    assert (lanes.frames, lanes.waiting) == (0, 0)
    lanes.post(pack(b"too late"))
    lanes.control(pack(b"too late"))
    lanes.last(pack(b"too late"))
    assert not lanes
    assert lanes.take() == (b"", 0)


def test_the_last_frame_alone():
    """With nothing else waiting it is a batch of its own."""
    lanes = Lanes()
    lanes.last(pack(b"last"))
    assert lanes.take() == (pack(b"last"), 1)


def test_a_control_frame_behind_the_last_does_not_wait():
    """It can no longer leave, so nothing is counted as waiting for the peer."""
    lanes = Lanes()
    lanes.last(pack(b"last"))
    lanes.take()
    lanes.control(pack(b"too late"))
    assert (lanes.frames, lanes.waiting) == (0, 0)


def test_clear_forgets_everything():
    """After clear() nothing waits in any lane, and what is posted then goes as through new lanes."""
    lanes = Lanes()
    for key in "abcdef":
        large(lanes, key)
    for _ in range(600):
        lanes.post(pack(bytes(1000)))
    for _ in range(4):
        lanes.take()
    lanes.control(pack(b"control"))
    lanes.last(pack(b"last"))
    lanes.clear()
    assert not lanes
    assert (lanes.take(), lanes.frames, lanes.waiting) == ((b"", 0), 0, 0)
    for key in "abcdef":
        large(lanes, key)
    lanes.post(pack(b"small"))
    out = sent(lanes)
    assert (out[0], course(out[1:])) == (b"small", "ABCDabcdEFef")


def test_small_messages_behind_a_large_one_share_a_turn():
    """A key whose small messages wait behind its large one sends several of them between others' fragments."""
    lanes = Lanes()
    for key in "ab":
        large(lanes, key)
    for number in range(100):
        lanes.message("a", b"\x45", struct.pack("<I", number) * 64)
    lanes.message("b", b"\x45", bytes(8 * FRAGMENT))
    tags = [frame[0] for frame in sent(lanes)]
    first, last = tags.index(0x45), len(tags) - 1 - tags[::-1].index(0x45)
    between = tags[first:last].count(0x4B) + tags[first:last].count(0x4A)
    assert tags.count(0x45) == 100
    assert between <= 3
