"""The framing: however a stream is cut, the same payloads come out, and none is believed before its bound."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol import wire
from snowgreen.protocol.wire import Decoder, TooLong, lp, pack
from tests.simulated_pair import byte_by_byte, framed, in_pieces, whole

PAYLOADS = [b"first", b"", b"\x00", b"x" * 300, b"", b"last"]
STREAM = b"".join(map(framed, PAYLOADS))
LIMIT = 1000

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)
payload_lists = st.lists(st.binary(max_size=60), max_size=8)


def feed_all(decoder, stream, chunks):
    """Every payload, in order, from feeding the chunks of `stream`."""
    return [payload for chunk in chunks(stream) for payload in decoder.feed(chunk)]


def feed_one_by_one(decoder, stream, chunks):
    """The same by feed_one, called as often as it gives something."""
    payloads = []
    for chunk in chunks(stream):
        payload = decoder.feed_one(chunk)
        while payload is not None:
            payloads.append(payload)
            payload = decoder.feed_one(b"")
    return payloads


both_ways = pytest.mark.parametrize("read", [feed_all, feed_one_by_one])
cuts = pytest.mark.parametrize("chunks", [whole, byte_by_byte, in_pieces([3]), in_pieces([0, 5, 1, 301])])


@both_ways
@cuts
def test_every_cut_gives_the_same_payloads(read, chunks):
    """Whole, byte by byte or in pieces, empty payloads included, and nothing is left at the end."""
    decoder = Decoder(LIMIT)
    assert read(decoder, STREAM, chunks) == PAYLOADS
    assert not decoder.mid_message


@both_ways
@given(payloads=payload_lists, pieces=sizes, rest=st.binary(max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_payloads_in_any_pieces(read, payloads, pieces, rest):
    """For all payloads and cuts: the same out as in, while an unfinished length is kept and noticed."""
    decoder = Decoder(LIMIT)
    stream = b"".join(map(framed, payloads)) + rest
    assert read(decoder, stream, in_pieces(pieces)) == payloads
    assert decoder.mid_message == bool(rest)


@given(payloads=payload_lists, pieces=sizes, ones=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_feed_goes_on_where_feed_one_stopped(payloads, pieces, ones):
    """After any number of single reads the rest, early data included, comes out of feed()."""
    decoder = Decoder(LIMIT)
    chunks = list(in_pieces(pieces)(b"".join(map(framed, payloads))))
    got = []
    while chunks and len(got) < ones:
        payload = decoder.feed_one(chunks.pop(0))
        while payload is not None:
            got.append(payload)
            payload = decoder.feed_one(b"") if len(got) < ones else None
    got += decoder.feed(b"")
    for chunk in chunks:
        got += decoder.feed(chunk)
    assert got == payloads
    assert not decoder.mid_message


def test_feed_one_gives_one_and_keeps_the_rest():
    """Two messages in one piece are taken one at a time, and feed(b"") sees what is left."""
    decoder = Decoder(LIMIT)
    assert decoder.feed_one(STREAM) == b"first"
    assert decoder.mid_message
    assert decoder.feed(b"") == PAYLOADS[1:]
    assert decoder.feed_one(b"") is None


def test_an_empty_payload_is_a_payload():
    """feed_one tells a message without content from no message."""
    decoder = Decoder(LIMIT)
    assert decoder.feed_one(framed(b"")) == b""
    assert decoder.feed_one(b"") is None
    assert decoder.feed(framed(b"") * 3) == [b"", b"", b""]


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8])
def test_mid_message_says_whether_something_has_begun(cut):
    """From the first byte of a length to the last of its payload, a message is in progress."""
    decoder = Decoder(LIMIT)
    assert not decoder.mid_message
    decoder.feed(framed(b"12345")[:cut])
    assert decoder.mid_message
    assert decoder.feed(framed(b"12345")[cut:]) == [b"12345"]
    assert not decoder.mid_message


@pytest.mark.parametrize("method", ["feed", "feed_one"])
@pytest.mark.parametrize("chunks", [whole, byte_by_byte])
@pytest.mark.parametrize("announced", [LIMIT + 1, 0xFFFFFFFF])
def test_the_limit_hits_at_the_length(method, chunks, announced):
    """Four bytes are enough to refuse: not one of the payload is waited for."""
    decoder = Decoder(LIMIT)
    *before, last = chunks(struct.pack("<I", announced))
    for chunk in before:
        assert not getattr(decoder, method)(chunk)
    with pytest.raises(TooLong, match=f"announces {announced} bytes where at most {LIMIT}") as caught:
        getattr(decoder, method)(last)
    assert (caught.value.announced, caught.value.limit) == (announced, LIMIT)


@pytest.mark.parametrize("method", ["feed", "feed_one"])
@pytest.mark.parametrize("chunks", [whole, byte_by_byte])
def test_a_stream_is_not_followed_past_a_length_too_long(method, chunks):
    """After the refusal nothing is ever taken for a message again, whatever comes."""
    decoder = Decoder(LIMIT)
    *before, last = chunks(struct.pack("<I", LIMIT + 1))
    for chunk in before:
        getattr(decoder, method)(chunk)
    with pytest.raises(TooLong):
        getattr(decoder, method)(last)
    for more in (b"", framed(b"smuggled")):
        with pytest.raises(TooLong):
            getattr(decoder, method)(more)


@both_ways
@cuts
def test_a_payload_of_exactly_the_limit_passes(read, chunks):
    """The limit is the largest size allowed."""
    payload = b"p" * 700
    assert read(Decoder(700), framed(payload), chunks) == [payload]


@pytest.mark.parametrize("method", ["feed", "feed_one"])
def test_the_limit_can_change_between_messages(method):
    """What follows is held to the new limit, also where it had arrived already."""
    decoder = Decoder(10)
    assert decoder.feed_one(framed(b"small") + framed(b"b" * 20)) == b"small"
    decoder.limit = 20
    assert getattr(decoder, method)(b"") in (b"b" * 20, [b"b" * 20])
    decoder.limit = 5
    with pytest.raises(TooLong, match="announces 6 bytes where at most 5"):
        getattr(decoder, method)(framed(b"sixsix"))


def test_messages_in_front_of_a_bad_length_are_not_lost_by_feed_one():
    """A handshake message that arrived whole is seen before the bad length behind it is."""
    decoder = Decoder(LIMIT)
    assert decoder.feed_one(framed(b"good") + b"\xff\xff\xff\xff") == b"good"
    with pytest.raises(TooLong):
        decoder.feed_one(b"")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("method", ["feed", "feed_one"])
@pytest.mark.parametrize("cut", [len(STREAM), 2, 6])
def test_any_bytes_like_input_gives_bytes(kind, method, cut):
    """Whatever kind of buffer goes in, plain bytes come out, whole messages and cut ones alike."""
    decoder = Decoder(LIMIT)
    got = []
    for part in (STREAM[:cut], STREAM[cut:]):
        new = getattr(decoder, method)(kind(part))
        got += new if isinstance(new, list) else [] if new is None else [new]
    got += decoder.feed(kind(b""))
    assert got == PAYLOADS
    assert {type(payload) for payload in got} == {bytes}


@pytest.mark.parametrize("kind", [lambda buffer: buffer, memoryview])
@pytest.mark.parametrize("method", ["feed", "feed_one"])
@pytest.mark.parametrize("size", [3, 7, 14, len(STREAM)])
def test_nothing_kept_depends_on_the_input_buffer(kind, method, size):
    """A receive buffer can be written over and resized as soon as the call is back."""
    decoder = Decoder(LIMIT)
    buffer = bytearray(STREAM[:size])
    view = kind(buffer)
    new = getattr(decoder, method)(view)
    got = new if isinstance(new, list) else [] if new is None else [new]
    if isinstance(view, memoryview):
        view.release()
    buffer[:] = b"\xff" * size
    buffer.clear()  # raises where somebody still holds a view
    got += decoder.feed(b"")
    got += decoder.feed(STREAM[size:])
    assert got == PAYLOADS


class Counted(bytearray):
    """A bytearray that counts how many bytes are copied out of any of its kind."""

    copied = 0

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if isinstance(key, slice):
            Counted.copied += len(value)
            return Counted(value)
        return value


@pytest.mark.parametrize("method", ["feed", "feed_one"])
def test_a_large_payload_in_small_pieces_is_copied_once(method, monkeypatch):
    """What is copied grows with the payload, not with the payload times its pieces."""
    monkeypatch.setattr(wire, "bytearray", Counted, raising=False)
    monkeypatch.setattr(Counted, "copied", 0)
    size, pieces = 200_000, 1000
    decoder = Decoder(size)
    stream = framed(b"p" * size)
    got = None
    for chunk in in_pieces([len(stream) // pieces])(stream):
        got = getattr(decoder, method)(chunk) or got
    assert got in ([stream[4:]], stream[4:])
    assert Counted.copied <= 3 * size
    assert Counted.copied >= size or method == "feed"  # which copies through a view


def test_many_payloads_in_one_piece_are_copied_once(monkeypatch):
    """feed() does not copy its rest anew for each of the messages that lie in one piece."""
    monkeypatch.setattr(wire, "bytearray", Counted, raising=False)
    monkeypatch.setattr(Counted, "copied", 0)
    stream = framed(b"p" * 96) * 2000
    decoder = Decoder(LIMIT)
    got = decoder.feed(stream[:50])  # so that what follows is joined to what is there
    got += decoder.feed(stream[50:-50])
    got += decoder.feed(stream[-50:])
    assert len(got) == 2000
    assert Counted.copied <= 3 * len(stream)


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_raise_nothing_but_too_long(chunks, limit):
    """No stream makes the decoder raise another error, or give a payload above its limit."""
    decoder = Decoder(limit)
    for chunk in chunks:
        try:
            payloads = decoder.feed(chunk)
        except TooLong:
            return
        assert all(len(payload) <= limit for payload in payloads)


@given(st.binary(max_size=100))
@settings(max_examples=30, deadline=None)
def test_pack_and_lp_are_little_endian_lengths(payload):
    """Both put a u32 in front, as the specification has it, and a decoder takes it off again."""
    assert pack(payload) == lp(payload) == len(payload).to_bytes(4, "little") + payload
    assert Decoder(100).feed(pack(payload)) == [payload]


def test_the_limits_are_those_of_the_specification():
    """Sections 3 and 4 name them."""
    assert (wire.MAX_BOUND_HELLO, wire.MAX_HANDSHAKE, wire.MAX_FRAME) == (512, 4096, 16 * 1024 * 1024)
