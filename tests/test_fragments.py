"""Fragments put together again: the message that was cut comes back, and nothing else is accepted."""

import itertools
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol.fragments import Assembly
from snowgreen.protocol.frames import BadFrame, FrameTag
from snowgreen.protocol.lanes import STREAMS

LARGEST = 1000
SECRET = b"hunter2"


def first(stream, total, piece):
    """A FIRST as it comes from the decoder."""
    return struct.pack("<BII", 0x4A, stream, total) + piece


def part(stream, piece):
    """A PART as it comes from the decoder."""
    return struct.pack("<BI", 0x4B, stream) + piece


def give(assembly, frame):
    """What `assembly` makes of `frame`."""
    return assembly.first(frame) if frame[0] == FrameTag.FIRST else assembly.part(frame)


def cut(stream, inner, cuts):
    """`inner` in fragments that end at each of `cuts`."""
    ends = sorted({end for end in cuts if 0 < end < len(inner)} | {len(inner)})
    pieces = [inner[start:end] for start, end in itertools.pairwise([0, *ends])]
    return [first(stream, len(inner), pieces[0]), *(part(stream, piece) for piece in pieces[1:])]


inners = st.builds(
    lambda tag, rest: bytes([tag]) + rest, st.sampled_from([0x45, 0x46, 0x47, 0x4E]), st.binary(max_size=LARGEST - 1)
)  # fmt: skip


@given(
    messages=st.lists(st.tuples(inners, st.lists(st.integers(1, LARGEST), max_size=6)), max_size=12),
    numbers=st.permutations(range(1, 13)),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_any_messages_cut_and_mixed_anyhow_come_back(messages, numbers, data):
    """With up to the allowed streams open in any interleaving, each message is yielded by its last fragment."""
    assembly = Assembly(LARGEST)
    todo = [
        (inner, cut(number, inner, cuts)) for (inner, cuts), number in zip(messages, numbers, strict=False)
    ]
    under_way = []
    while todo or under_way:
        while todo and len(under_way) < STREAMS:
            under_way.append(todo.pop())
        chosen = data.draw(st.integers(0, len(under_way) - 1))
        inner, frames = under_way[chosen]
        came = give(assembly, frames.pop(0))
        if frames:
            assert came is None
        else:
            assert came == inner
            assert type(came) is bytes
            del under_way[chosen]
    assert assembly.unfinished == 0


def test_streams_are_counted_and_their_numbers_may_come_again():
    """`unfinished` follows what is open; a number is free again when its message is complete."""
    assembly = Assembly(LARGEST)
    for _ in range(3):
        for stream in range(1, 1 + STREAMS):
            assert assembly.first(first(stream, 3, b"\x45a")) is None
            assert assembly.unfinished == stream
        for stream in range(1, 1 + STREAMS):
            assert assembly.part(part(stream, b"b")) == b"\x45ab"
            assert assembly.unfinished == STREAMS - stream


def test_a_first_that_is_all_of_it():
    """A message in one fragment is yielded at once, however small, and takes no stream."""
    assembly = Assembly(LARGEST)
    for stream in range(STREAMS):
        assembly.first(first(stream, 3, b"\x45a"))
    assert assembly.first(first(9, 1, b"\x45")) == b"\x45"
    assert assembly.first(first(9, LARGEST, b"\x47" * LARGEST)) == b"\x47" * LARGEST
    assert assembly.unfinished == STREAMS


OPEN = first(1, 20, b"\x45" + SECRET)
HOSTILE = {
    "an empty FIRST": ([b"\x4a"], "FIRST of 0 bytes"),
    "a FIRST without its total": ([b"\x4a" + SECRET], "FIRST of 7 bytes"),
    "a FIRST that carries nothing": ([first(1, 20, b"")], "FIRST of 8 bytes"),
    "a total of nothing": ([first(1, 0, b"\x45")], "carries 1 bytes of 0 announced"),
    "too large a total": ([first(1, LARGEST + 1, b"\x45" + SECRET)], "announces 1001 bytes .* at most 1000"),
    "the largest total": ([first(1, 2**32 - 1, b"\x45" + SECRET)], "announces 4294967295 bytes"),
    "more than its total": ([first(1, 7, b"\x45" + SECRET)], "carries 8 bytes of 7 announced"),
    "a stream that is open": ([OPEN, OPEN], "stream that is open"),
    "the whole on a stream that is open": ([OPEN, first(1, 8, b"\x45" + SECRET)], "stream that is open"),
    "one stream too many": (
        [first(stream, 20, b"\x45" + SECRET) for stream in range(1, 2 + STREAMS)],
        "4 streams are open",
    ),
    "an empty PART": ([OPEN, b"\x4b"], "PART of 0 bytes"),
    "a PART without its stream": ([OPEN, b"\x4b\x01\0\0"], "PART of 3 bytes"),
    "a PART that carries nothing": ([OPEN, part(1, b"")], "PART of 4 bytes"),
    "a PART of nothing": ([part(1, SECRET)], "not open"),
    "a PART of another stream": ([OPEN, part(2, SECRET)], "not open"),
    "a PART after the end": ([first(1, 9, b"\x45" + SECRET), part(1, b"."), part(1, b".")], "not open"),
    "a PART too long by a byte": ([OPEN, part(1, SECRET), part(1, b"123456")], "makes 21 bytes of 20"),
}
for tag in sorted(set(range(256)) - {0x45, 0x46, 0x47, 0x4E}):
    HOSTILE[f"a fragmented {tag:#x}"] = ([first(1, 20, bytes([tag]) + SECRET)], "may not be fragmented")
HOSTILE["a forbidden frame, whole"] = ([first(1, 8, b"\x40" + SECRET)], "may not be fragmented")


@pytest.mark.parametrize(("frames", "why"), HOSTILE.values(), ids=HOSTILE)
def test_what_breaks_the_protocol_is_refused(frames, why):
    """Only the last of the frames is refused, with a sentence that says why and repeats nothing of the peer's."""
    assembly = Assembly(LARGEST)
    for frame in frames[:-1]:
        give(assembly, frame)
    with pytest.raises(BadFrame, match=why) as refused:
        give(assembly, frames[-1])
    assert SECRET.decode() not in str(refused.value)


fragments = st.builds(
    lambda tag, stream, total, rest: (
        first(stream, total, rest) if tag else part(stream, rest[: 1 + len(rest) // 2])
    ),
    st.booleans(),
    st.integers(0, 6),
    st.integers(0, 60),
    st.builds(lambda tag, rest: tag + rest, st.sampled_from([b"\x45", b"\x47", b""]), st.binary(max_size=30)),
)
headless = st.builds(
    lambda tag, rest: tag + rest, st.sampled_from([b"\x4a", b"\x4b"]), st.binary(max_size=12)
)


@given(frames=st.lists(st.one_of(fragments, fragments, headless), max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_peer_gets_past_the_bounds(frames):
    """Whatever comes is kept, completed or refused; a completed message is as long as announced, and allowed."""
    assembly = Assembly(50)
    for frame in frames:
        try:
            inner = give(assembly, frame)
        except BadFrame:
            return
        assert assembly.unfinished <= STREAMS
        if inner is not None:
            assert 1 <= len(inner) <= 50
            assert inner[0] in (0x45, 0x47)


def held(largest, frames):
    """Bytes of memory that an assembly takes for `frames`, at most."""
    tracemalloc.start()
    try:
        assembly = Assembly(largest)
        for frame in frames:
            give(assembly, frame)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_announcement_takes_no_memory():
    """A peer that announces much and sends little has little kept for it."""
    total = 2**32 - 1
    assert held(total, [first(stream, total, b"\x45") for stream in range(STREAMS)]) < 10_000


def test_tiny_fragments_take_no_more_memory_than_large_ones():
    """A message in pieces of two bytes is not kept as that many objects."""
    count = 50_000
    frames = itertools.chain([first(1, 2**30, b"\x45")], (part(1, b"xy") for _ in range(count)))
    assert held(2**30, frames) < 4 * 2 * count


def test_a_message_in_tiny_fragments_comes_back():
    """Pieces that are joined on the way stay in order and complete."""
    assembly = Assembly(LARGEST)
    inner = b"\x45" + bytes(index % 256 for index in range(LARGEST - 1))
    *most, final = cut(1, inner, range(0, LARGEST, 3))
    assert [give(assembly, frame) for frame in most] == [None] * len(most)
    assert give(assembly, final) == inner
