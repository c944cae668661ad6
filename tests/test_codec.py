"""The bodies of messages: round trips, types, depth, hostile bytes, codecs of one's own, and what errors say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tracemalloc
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import gevent
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from snowgreen.config import Limits
from snowgreen.errors import ConfigurationError, PayloadError, PayloadTooLarge
from snowgreen.messaging.codec import RAW, Codecs, MessagePack

PACK = MessagePack.id
codecs = Codecs(None, Limits())

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
)
keys = texts | st.integers(-(2**63), 2**64 - 1) | st.tuples(st.integers(0, 9), texts)
bodies = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=30)


class Point(msgspec.Struct):
    """A type that a program asks for."""

    x: int
    y: float = 0.5
    names: list[str] = []


class Json:
    """A codec of an application's own."""

    id, name = 200, "json"

    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, data: bytes, type: Any) -> Any:
        return json.loads(data)


class Odd(Exception):
    """An application's own exception, beside the usual families."""


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that raises `error`, whatever it is called with."""

    def fail(*args: Any) -> Any:
        raise error

    return fail


def failing(error: BaseException) -> Codecs:
    """Codecs whose own raises `error` both ways."""
    own: Any = Json()
    own.encode = own.decode = raising(error)
    return Codecs(own, Limits())


def why(function: Callable[..., Any], *args: Any, error: type[PayloadError] = PayloadError) -> str:
    """The text of the PayloadError that a call raises, which must be of exactly that class and printable."""
    with pytest.raises(error) as caught:
        function(*args)
    assert type(caught.value) is error
    text = str(caught.value)
    assert text.isprintable()
    return text


# Round trips


@given(bodies)
def test_a_body_arrives_as_it_was(body: Any) -> None:
    """Whatever is made of MessagePack's own types is the same, in value and in type, after a round trip."""
    codec, data = codecs.encode(body)
    assert codec == (RAW if isinstance(body, bytes) else PACK)
    again = codecs.decode(codec, data)
    assert again == body
    assert type(again) is type(body)


@given(st.binary())
def test_bytes_travel_as_they_are(data: bytes) -> None:
    """Raw bytes are neither copied nor looked at, either way."""
    codec, sent = codecs.encode(data)
    assert codec == RAW
    assert sent is data
    assert codecs.decode(RAW, data) is data
    assert codecs.decode(RAW, data, bytes) is data


class Tagged(bytes):
    """A subclass of bytes."""


class Growing(bytearray):
    """A subclass of bytearray."""


@pytest.mark.parametrize(
    "body",
    [bytearray(b"abc"), Growing(b"abc"), memoryview(b"abc"), memoryview(b"a-b-c")[::2]],
    ids=["bytearray", "its subclass", "memoryview", "with gaps"],
)
def test_everything_like_bytes_is_raw(body: Any) -> None:
    """Buffers of any kind are raw bytes, too."""
    codec, data = codecs.encode(body)
    assert codec == RAW
    assert isinstance(data, bytes)
    assert data == b"abc"


def test_a_subclass_of_bytes_is_raw_too() -> None:
    """It is sent without a copy, as bytes themselves are."""
    body = Tagged(b"abc")
    codec, data = codecs.encode(body)
    assert codec == RAW
    assert data is body


def test_a_buffer_is_copied() -> None:
    """What its owner writes into a bytearray afterwards is not sent."""
    body = bytearray(b"abc")
    data = codecs.encode(body)[1]
    body[:] = b"xyz"
    assert data == b"abc"


@dataclasses.dataclass
class Pair:
    """A dataclass, which needs no preparation."""

    left: int
    right: str


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        (Point(1), {"x": 1, "y": 0.5, "names": []}),
        (Pair(1, "b"), {"left": 1, "right": "b"}),
        ((1, 2), [1, 2]),
        ({7}, [7]),
        (UUID(int=5), str(UUID(int=5))),
        (datetime(2026, 1, 2), "2026-01-02T00:00:00"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_richer_types_arrive_plain_unless_asked_for(body: Any, plain: Any) -> None:
    """A Struct, dataclass, tuple, set or UUID is itself again only for a reader who names its type."""
    codec, data = codecs.encode(body)
    assert codecs.decode(codec, data) == plain
    again = codecs.decode(codec, data, type(body))
    assert again == body
    assert type(again) is type(body)


@given(st.lists(st.integers(-(2**63), 2**64 - 1) | st.text("ab")))
def test_a_typed_body_arrives_as_it_was(body: list[int | str]) -> None:
    """A type of typing serves as well as a class, the first time and from then on."""
    data = codecs.encode(body)[1]
    for _ in range(2):
        assert codecs.decode(PACK, data, list[int | str]) == body
        assert codecs.decode(PACK, data, object) == body


def test_a_type_without_a_hash_can_be_asked_for() -> None:
    """A type that cannot be remembered works, each time anew."""
    kind = typing.Annotated[int, ["of no use to msgspec"]]
    for _ in range(2):
        assert codecs.decode(PACK, b"\x07", kind) == 7


def test_types_made_on_the_way_do_not_pile_up() -> None:
    """A program that makes a type for each message does not make the node remember them all."""
    pack = MessagePack()
    for _ in range(1000):
        assert pack.decode(b"\x81\xa1x\x01", msgspec.defstruct("Made", [("x", int)])).x == 1
    assert len(pack._decoders) <= 256


def test_two_greenlets_decode_at_once() -> None:
    """A Struct whose own check waits does not mix up what others decode meanwhile."""

    class Slow(msgspec.Struct):
        x: int

        def __post_init__(self) -> None:
            gevent.sleep(0.001)

    data = [codecs.encode([{"x": n}] * 5)[1] for n in range(20)]
    jobs = [gevent.spawn(codecs.decode, PACK, item, list[Slow]) for item in data]
    assert [{item.x for item in job.get()} for job in jobs] == [{n} for n in range(20)]


# What cannot be encoded


class Secretive:
    """A value whose repr must not get into a message."""

    def __repr__(self) -> str:
        return "hunter2"


def endless() -> list[Any]:
    """A list that holds itself."""
    body: list[Any] = []
    body.append(body)
    return body


def released() -> memoryview:
    """A memoryview of nothing any more."""
    view = memoryview(b"abc")
    view.release()
    return view


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"a": Secretive()},
            "a body of type dict cannot be encoded as MessagePack:"
            " Encoding objects of type Secretive is unsupported",
        ),
        (
            2**64,
            "a body of type int cannot be encoded as MessagePack:"
            " can't serialize ints < -2**63 or > 2**64 - 1",
        ),
        (
            ["\ud800"],
            "a body of type list cannot be encoded as MessagePack: 'utf-8' codec can't encode character"
            r" '\\ud800' in position 0: surrogates not allowed",
        ),
        (endless(), "a body of type list cannot be encoded as MessagePack: it nests too deep"),
        (
            released(),
            "a body of type memoryview cannot be encoded as bytes:"
            " operation forbidden on released memoryview object",
        ),
    ],
    ids=["type", "int", "surrogate", "depth", "released"],
)
def test_what_cannot_be_encoded_is_named(body: Any, text: str) -> None:
    """The error says of which type the body is and what is wrong in it, without its value."""
    assert why(codecs.encode, body) == text


def test_a_body_is_bounded() -> None:
    """One byte more than the limit is refused, raw or encoded; the limit itself is sent."""
    size = 2**20
    small = Codecs(None, Limits(max_message=size))
    text = (
        f"the encoded body has {size + 1} bytes, and this node sends at most {size};"
        " Limits.max_message can be raised, at both ends"
    )
    for fits, large in [
        (b"x" * size, b"x" * (size + 1)),
        (bytearray(size), bytearray(size + 1)),
        ("x" * (size - 5), "x" * (size - 4)),
    ]:
        assert len(small.encode(fits)[1]) == size
        assert why(small.encode, large, error=PayloadTooLarge) == text


# What cannot be decoded


@pytest.mark.parametrize(
    ("data", "type", "text"),
    [
        (b"\xa1x", int, "the body does not fit int: Expected `int`, got `str`"),
        (
            b"\x81\xa1x\xa1y",
            Point,
            "the body does not fit Point: Expected `int`, got `str` - at `$.x`",
        ),
        (b"\x80", Point, "the body does not fit Point: Object missing required field `x`"),
        (
            b"\x81\xa1a\x92\x01\xa1x",
            dict[str, list[int]],
            "the body does not fit dict[str, list[int]]: Expected `int`, got `str` - at `$[...][1]`",
        ),
        (b"\x01", complex, "the body does not fit complex: Expected `complex`, got `int`"),
        (b"\x92\x01", Any, "the body cannot be decoded as MessagePack: Input data was truncated"),
        (b"", int, "the body cannot be decoded as MessagePack: Input data was truncated"),
        (
            b"\xc1",
            Any,
            r"the body cannot be decoded as MessagePack: MessagePack data is malformed: invalid opcode '\\xc1'"
            " (byte 0)",
        ),
        (
            b"\x01\x02",
            Any,
            "the body cannot be decoded as MessagePack: MessagePack data is malformed: trailing characters"
            " (byte 1)",
        ),
        (
            b"\xa1\xff",
            Any,
            "the body cannot be decoded as MessagePack: 'utf-8' codec can't decode byte 0xff in position 0:"
            " invalid start byte",
        ),
        (
            b"\xc7\x0c\xff" + b"\xff" * 12,
            object,
            "the body cannot be decoded as MessagePack: Invalid MessagePack timestamp: nanoseconds out of range",
        ),
        (b"\x01", "int", "the type int cannot be decoded: Type ''int'' is not supported"),
        (b"\x91" * 5000, Any, "the body cannot be decoded as MessagePack: it nests too deep"),
        (b"\x91" * 5000, list[Any], "the body cannot be decoded as MessagePack: it nests too deep"),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_explained(data: bytes, type: Any, text: str) -> None:
    """The error says whether the bytes or their type are wrong, and where."""
    assert why(codecs.decode, PACK, data, type) == text


def test_a_map_in_place_of_a_key_is_refused() -> None:
    """A key that no dict can have is an undecodable body, however msgspec puts it."""
    assert "the body cannot be decoded as MessagePack: " in why(codecs.decode, PACK, b"\x81\x80\x01")


def test_what_a_peer_made_up_is_cut() -> None:
    """A text of the peer's in the library's error is escaped, and cut."""
    wanted = typing.Literal["a"]
    text = why(codecs.decode, PACK, codecs.encode("\x1b[31m\n" + "x" * 5000)[1], wanted)
    # The backslashes are msgspec's, which writes a repr, and then escaped once more.
    assert text.startswith(r"the body does not fit typing.Literal['a']: Invalid enum value '\\x1b[31m\\nxxx")
    assert text.endswith("xxx…")
    assert len(text.partition("]: ")[2]) == 300


class Checking(msgspec.Struct):
    """A Struct with a check of its own, which fails as it is told."""

    how: str

    def __post_init__(self) -> None:
        raise {"value": ValueError("no good"), "key": KeyError("k")}[self.how]


def test_the_check_of_a_type_may_fail_in_its_own_way() -> None:
    """What a Struct's own check raises is a PayloadError, whether msgspec expects it or not."""
    data = codecs.encode({"how": "value"})[1]
    assert why(codecs.decode, PACK, data, Checking) == "the body does not fit Checking: no good"
    data = codecs.encode({"how": "key"})[1]
    text = "the body cannot be decoded as MessagePack: KeyError: 'k'"
    assert why(codecs.decode, PACK, data, Checking) == text


@pytest.mark.parametrize("codec", [2, 127, 128, 200, 255])
def test_an_unknown_codec_is_named(codec: int) -> None:
    """A body of a codec that is not here names it, and the remedy."""
    assert why(codecs.decode, codec, b"x") == (
        f"the body is encoded with the codec {codec}, which this node does not have:"
        " both nodes must be given the same codec"
    )


@pytest.mark.parametrize(
    "type",
    [object, bytes | None, int | bytes, typing.Annotated[bytes, msgspec.Meta(max_length=3)], bytearray],
)
def test_raw_bytes_fit_a_type_that_takes_them(type: Any) -> None:
    """A reader may ask for bytes in any way that includes them."""
    assert codecs.decode(RAW, b"abc", type) == b"abc"


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (str, "the body does not fit str: Expected `str`, got `bytes`"),
        (Point, "the body does not fit Point: Expected `object`, got `bytes`"),
        (list[int], "the body does not fit list[int]: Expected `array`, got `bytes`"),
        (int | None, "the body does not fit int | None: Expected `int | null`, got `bytes`"),
        (
            typing.Annotated[bytes, msgspec.Meta(max_length=2)],
            "the body does not fit typing.Annotated[bytes, msgspec.Meta(max_length=2)]:"
            " Expected `bytes` of length <= 2",
        ),
        ("bytes", "the type bytes cannot be decoded: Type ''bytes'' is not supported"),
    ],
)
def test_raw_bytes_do_not_fit_other_types(type: Any, text: str) -> None:
    """A reader who wants something else than bytes is told what came."""
    assert why(codecs.decode, RAW, b"abc", type) == text


# Depth


def array(depth: int) -> Any:
    """Lists in lists, `depth` of them."""
    body: Any = 7
    for _ in range(depth):
        body = [body]
    return body


def mapping(depth: int) -> Any:
    """Dicts in dicts."""
    body: Any = 7
    for _ in range(depth):
        body = {"k": body}
    return body


def mixed(depth: int) -> Any:
    """Lists and dicts in turn, each beside others that hold nothing."""
    body: Any = 7
    for level in range(depth):
        body = [[], body, {}] if level % 2 and level > 1 else {"a": 1, "k": body, "z": None}
    return body


def siblings(depth: int) -> Any:
    """Many containers beside each other, far more than may be nested, and one deep among them."""
    return [*([[]] * 500), *({"k": n} for n in range(500)), array(depth - 1), *([[1]] * 500)]


def text_beside(depth: int) -> Any:
    """A text of which every letter looks like two containers, and floats that look so, too."""
    return {
        "t": "\u07ff\u0400\u0410" * 500,
        "f": [-1.5e-200] * 500 if depth > 1 else 0,
        "k": mapping(depth - 1),
    }


def keyed(depth: int) -> Any:
    """Arrays that serve as keys."""
    key: Any = 7
    for _ in range(depth - 1):
        key = (key,)
    return {key: 1}


def beside_a_key(depth: int) -> Any:
    """A dict with an array for a key, of which the value is what nests."""
    return {(1,): array(depth - 1)}


def wide(depth: int) -> Any:
    """Lists and dicts of more items than the short forms of their beginnings can say."""
    body: Any = 7
    for level in range(depth):
        body = [body, *range(20)] if level % 2 else {"k": body, **{str(n): n for n in range(20)}}
    return body


shapes = pytest.mark.parametrize(
    "shape", [array, mapping, mixed, siblings, text_beside, keyed, beside_a_key, wide]
)


@shapes
@pytest.mark.parametrize("most", [2, 7, 64, 500])
def test_a_body_nests_as_deep_as_the_limit(shape: Callable[[int], Any], most: int) -> None:
    """At the limit a body without a type is taken; one level more is refused, whatever is beside it."""
    bounded = Codecs(None, Limits(max_depth=most))
    assert bounded.decode(*bounded.encode(shape(most))) == shape(most)
    text = f"the body nests more than {most} levels deep, as Limits.max_depth allows here"
    for depth in (most + 1, most + 50):
        codec, data = bounded.encode(shape(depth))
        assert why(bounded.decode, codec, data) == text
        assert why(bounded.decode, codec, data, object) == text


@pytest.mark.parametrize(
    "head",
    [b"\x91", b"\xdc\0\x01", b"\xdd\0\0\0\x01", b"\x81\xa0", b"\xde\0\x01\xa0", b"\xdf\0\0\0\x01\xa0"],
    ids=["fixarray", "array16", "array32", "fixmap", "map16", "map32"],
)
def test_every_way_to_begin_a_container_counts(head: bytes) -> None:
    """No form of an array or a map, however wasteful, nests deeper than the others."""
    bounded = Codecs(None, Limits(max_depth=100))
    assert depth_of(bounded.decode(PACK, head * 100 + b"\x07")) == 100
    assert "more than 100 levels" in why(bounded.decode, PACK, head * 101 + b"\x07")


def test_one_level_is_the_least() -> None:
    """With a limit of 1, a list of scalars is taken, empty or not, and a list of lists is not."""
    flat = Codecs(None, Limits(max_depth=1))
    for body in (1, "x", [], {}, [1] * 500, {"a": "\u07ff" * 99}):
        assert flat.decode(*flat.encode(body)) == body
    for body in ([[]], [{}], {"a": []}, [1, [2]], {(1,): 2}):
        assert "more than 1 levels" in why(flat.decode, *flat.encode(body))


def depth_of(body: Any) -> int:
    """The depth of a body, in the plainest way there is."""
    if isinstance(body, dict):
        return 1 + max((depth_of(item) for pair in body.items() for item in pair), default=0)
    return 1 + max(map(depth_of, body), default=0) if isinstance(body, list | tuple) else 0


@given(bodies, st.integers(1, 4))
def test_depth_is_judged_exactly(body: Any, most: int) -> None:
    """A body is refused if and only if it is deeper than the limit."""
    bounded = Codecs(None, Limits(max_depth=most))
    codec, data = bounded.encode(body)
    if depth_of(body) > most:
        assert "levels deep" in why(bounded.decode, codec, data)
    else:
        assert bounded.decode(codec, data) == body


class Chain(msgspec.Struct):
    """A type that holds itself."""

    next: Chain | None = None


def test_a_type_is_its_own_bound() -> None:
    """A reader whose type nests without end gets it deeper than a body without one, as far as Python goes."""
    link, length = codecs.decode(PACK, b"\x81\xa4next" * 200 + b"\xc0", Chain), 0
    while link is not None:
        link, length = link.next, length + 1
    assert length == 200
    deep = why(codecs.decode, PACK, b"\x81\xa4next" * 5000 + b"\xc0", Chain)
    assert deep == "the body cannot be decoded as MessagePack: it nests too deep"


# Hostile bytes

TYPES = [Any, object, bytes, str, int, Point, list[int], dict[str, Any], int | bytes | None, UUID, datetime]


@given(st.binary() | bodies.map(msgspec.msgpack.encode), st.integers(0, 255), st.sampled_from(TYPES))
@example(b"\x81\x80\x01", 1, Any)
@example(b"\x81\xd4\x01a\x01", 1, Any)
@example(b"\x91" * 100_000, 1, dict[str, Any])
@example(b"\x81" * 100_000, 1, Any)
@example(b"x" * 16, 0, UUID)
def test_no_bytes_raise_anything_else(data: bytes, codec: int, type: Any) -> None:
    """Whatever a peer sends under whatever id, the reader gets a value or a PayloadError."""
    for id in (codec, PACK):
        try:
            codecs.decode(id, data, type)
        except PayloadError as error:
            assert str(error).isprintable()


@given(st.data())
def test_damaged_bodies_raise_nothing_else(data: st.DataObject) -> None:
    """A body cut short or changed in one byte is a value or a PayloadError, too."""
    sent = bytearray(codecs.encode([data.draw(bodies)])[1])
    if data.draw(st.booleans()):
        del sent[data.draw(st.integers(0, len(sent) - 1)) :]
    else:
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        codecs.decode(PACK, bytes(sent))
    except PayloadError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "type", [Any, list[int], tuple[int, ...], set[int], dict[int, int], bytes, str, list]
)
@pytest.mark.parametrize("size", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x3f\xff\xff\xff"])
@pytest.mark.parametrize("before", [b"", b"\x91", b"\x81"], ids=["bare", "in a list", "as a key"])
@pytest.mark.parametrize("head", [b"\xc6", b"\xc9", b"\xdb", b"\xdd", b"\xdf"], ids=bytes.hex)
def test_an_announced_length_allocates_nothing(head: bytes, before: bytes, size: bytes, type: Any) -> None:
    """Six bytes that announce gigabytes cost no more than they are."""
    codecs.decode(PACK, b"\x01")
    why(codecs.decode, PACK, b"", type)  # what the first use of a type costs is not meant
    tracemalloc.start()
    try:
        why(codecs.decode, PACK, before + head + size, type)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


# An application's own codec


def test_an_application_brings_its_own_codec() -> None:
    """Values go by it, under its id; bytes do not; and what others wrote as MessagePack is still read."""
    own = Codecs(Json(), Limits())
    assert own.encode({"a": [1, None]}) == (200, b'{"a": [1, null]}')
    assert own.decode(200, b'{"a": [1, null]}') == {"a": [1, None]}
    assert own.encode(b"raw") == (RAW, b"raw")
    assert own.encode(bytearray(b"raw")) == (RAW, b"raw")
    assert own.decode(PACK, b"\x91\x07") == [7]
    assert why(own.decode, 201, b"").startswith("the body is encoded with the codec 201, ")


def test_a_codec_is_told_what_the_reader_wants() -> None:
    """The type of the reader, or Any, is handed to the codec, whose answer is taken as it is."""
    own: Any = Json()
    own.decode = lambda data, type: (data, type)
    both = Codecs(own, Limits())
    assert both.decode(200, b"x", int) == (b"x", int)
    assert both.decode(200, b"x") == (b"x", Any)


def test_the_depth_of_ones_own_codec_is_ones_own_matter() -> None:
    """The limit is MessagePack's; another codec judges its bodies itself, unless Python has had enough."""
    own = Codecs(Json(), Limits(max_depth=2))
    assert own.decode(*own.encode(array(50))) == array(50)
    deep = failing(RecursionError("maximum recursion depth exceeded"))
    assert why(deep.decode, 200, b"") == "the body cannot be decoded as json: it nests too deep"


class Mute(Exception):
    """An exception that fails when it is asked what it means."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no\ngood"), r"no\ngood"),
        (TypeError("not that"), "not that"),
        (OverflowError("too much"), "too much"),
        (KeyError("name"), "KeyError: 'name'"),
        (Odd("odd"), "Odd: odd"),
        (Odd(), "Odd"),
        (ValueError(), "ValueError"),
        (Mute("x"), "Mute"),
        (MemoryError(), "MemoryError"),
        (PayloadError("a rule of ours"), "PayloadError: a rule of ours"),
        (msgspec.EncodeError("bad"), "bad"),
        (ValueError("x" * 400), "x" * 299 + "…"),
    ],
)
def test_whatever_a_codec_raises_is_a_payload_error(error: Exception, text: str) -> None:
    """Its text, made safe, follows what was tried; the exception itself stays reachable as the cause."""
    own = failing(error)
    assert why(own.encode, [1]) == f"a body of type list cannot be encoded as json: {text}"
    assert why(own.decode, 200, b"[1]") == f"the body cannot be decoded as json: {text}"
    with pytest.raises(PayloadError) as caught:
        own.encode([1])
    assert caught.value.__cause__ is error


def test_a_codec_may_say_that_a_type_does_not_fit() -> None:
    """A codec that uses msgspec for another format has its ValidationErrors told as such."""
    own = failing(msgspec.ValidationError("Expected `int`, got `str`"))
    assert why(own.decode, 200, b"", int) == "the body does not fit int: Expected `int`, got `str`"


@pytest.mark.parametrize("error", [gevent.Timeout(1), gevent.GreenletExit(), KeyboardInterrupt()])
def test_what_ends_a_greenlet_passes_through(error: BaseException) -> None:
    """A timeout of the caller's, and the end of its greenlet, are no fault of the body."""
    own = failing(error)
    for call in (lambda: own.encode([1]), lambda: own.decode(200, b"")):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error


@pytest.mark.parametrize("answer", ["text", None, bytearray(b"x"), 7])
def test_a_codec_must_answer_with_bytes(answer: Any) -> None:
    """What is not bytes would break the frame it is sent in."""
    own: Any = Json()
    own.encode = lambda value: answer
    assert why(Codecs(own, Limits()).encode, {}) == (
        f"the codec json encoded a body of type dict as {type(answer).__name__}, where bytes are needed"
    )


def changed(**changes: Any) -> Any:
    """A Json codec with other attributes."""
    codec = Json()
    vars(codec).update(changes)
    return codec


@pytest.mark.parametrize(
    ("codec", "problem"),
    [
        (Json, "must be an instance, not the class Json itself"),
        ("json", "str has no method decode()"),
        (object(), "object has no method encode()"),
        (json, "module has no method encode()"),
        (changed(encode=None), "Json has no method encode()"),
        (changed(decode=7), "Json has no method decode()"),
        *(
            (changed(id=id), "Json.id must be a whole number from 128 to 255")
            for id in (None, "200", 200.0, True, -1, 0, 1, 127, 256, 10**5000)
        ),
        *((changed(name=name), "Json.name must be a str that is not empty") for name in (None, "", b"json")),
        (MessagePack(), "MessagePack.id must be a whole number from 128 to 255"),
    ],
)
def test_what_is_no_codec_is_refused(codec: Any, problem: str) -> None:
    """A codec is checked when it is given, and the error names what it lacks."""
    with pytest.raises(ConfigurationError) as caught:
        Codecs(codec, Limits())
    assert caught.value.argument == "codec"
    assert caught.value.problem == problem


@pytest.mark.parametrize("id", [128, 255])
def test_the_ends_of_the_range_belong_to_it(id: int) -> None:
    """The least and the greatest id can be taken."""
    assert Codecs(changed(id=id), Limits()).encode([]) == (id, b"[]")


# What is loaded when


@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("c.decode(*c.encode(b'raw'))", False),
        ("c.decode(0, b'raw', bytes)", False),
        ("c.decode(*c.encode(bytearray(b'raw')))", False),
        ("c.encode(1)", True),
        ("c.decode(1, b'1')", True),
    ],
)
def test_msgspec_is_loaded_with_the_first_value(use: str, loaded: bool) -> None:
    """Importing the module, making codecs and sending bytes do not import msgspec."""
    code = (
        "import sys\nfrom snowgreen.messaging.codec import Codecs\nfrom snowgreen.config import Limits\n"
        f"c = Codecs(None, Limits())\nassert 'msgspec' not in sys.modules\n{use}\n"
        "print('msgspec' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str(loaded)
