"""The five messages: exact bytes, strict decoding, and errors that repeat nothing of the peer's."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.names import parse_name
from snowgreen.protocol import messages
from snowgreen.protocol.messages import (
    MAX_DETAIL,
    Ack,
    Challenge,
    ChallengeExt,
    Malformed,
    Name,
    NameExt,
    Reject,
    RejectCode,
    Reply,
    Tag,
    UnknownVersion,
)

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())["vectors"]
unhex = bytes.fromhex

CODECS = {
    Tag.NAME: (messages.encode_name, messages.decode_name),
    Tag.CHALLENGE: (messages.encode_challenge, messages.decode_challenge),
    Tag.REPLY: (messages.encode_reply, messages.decode_reply),
    Tag.ACK: (messages.encode_ack, messages.decode_ack),
    Tag.REJECT: (messages.encode_reject, messages.decode_reject),
}

u8 = st.integers(0, 2**8 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
digest = st.binary(min_size=32, max_size=32)
node_names = st.builds(
    "{}@{}{}".format,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True),
    st.sampled_from(["h", "10.0.0.1", "[::1]", "a-b.example", "h" * 63]),
    st.sampled_from(["", ":0", ":9000", ":65535"]),
)
names = st.builds(Name, node_names, u8, st.none() | st.builds(NameExt, u8, u32, u64, u32, u32))
challenges = st.builds(Challenge, node_names, u8, digest, st.none() | st.builds(ChallengeExt, u8, u32, u64))
replies = st.builds(Reply, digest, digest)
acks = st.builds(Ack, digest)
rejects = st.builds(Reject, u8, st.binary(max_size=MAX_DETAIL), st.none() | digest)

NAME = Name("a@h", 1, None)
BOUND_NAME = Name("a@h", 1, NameExt(1, 2, 3, 4, 5))
CHALLENGE = Challenge("b@h", 1, b"c" * 32, None)
BOUND_CHALLENGE = Challenge("b@h", 1, b"c" * 32, ChallengeExt(1, 2, 3))
SAMPLES = [
    (Tag.NAME, NAME),
    (Tag.NAME, BOUND_NAME),
    (Tag.CHALLENGE, CHALLENGE),
    (Tag.CHALLENGE, BOUND_CHALLENGE),
    (Tag.REPLY, Reply(b"p" * 32, b"c" * 32)),
    (Tag.ACK, Ack(b"p" * 32)),
    (Tag.REJECT, Reject(4, b"", None)),
    (Tag.REJECT, Reject(4, b"busy", None)),
    (Tag.REJECT, Reject(16, b"", b"m" * 32)),
    (Tag.REJECT, Reject(16, b"twice", b"m" * 32)),
]
SAMPLE_IDS = [f"{tag.name}-{index}" for index, (tag, _) in enumerate(SAMPLES)]


def with_ext(head, body, *, magic=b"SGX1", size=None):
    """`head` with an extension whose announced size can lie."""
    return head + magic + (len(body) if size is None else size).to_bytes(2, "little") + body


CLASSIC_HEADS = {Tag.NAME: messages.encode_name(NAME), Tag.CHALLENGE: messages.encode_challenge(CHALLENGE)}
BODIES = {
    Tag.NAME: messages.encode_name(BOUND_NAME)[len(CLASSIC_HEADS[Tag.NAME]) + 6 :],
    Tag.CHALLENGE: messages.encode_challenge(BOUND_CHALLENGE)[len(CLASSIC_HEADS[Tag.CHALLENGE]) + 6 :],
}
hellos = pytest.mark.parametrize("tag", [Tag.NAME, Tag.CHALLENGE])


def defect(read, payload):
    """What the refusal of `payload` says, nothing where it is not refused."""
    try:
        read(payload)
    except Malformed as error:
        return str(error)
    return ""


# Known answers


def vector_messages():
    """Each message of each vector as (id, bytes, value), the values written down from the vector's fields."""
    for number, vector in enumerate(VECTORS):
        one, other = vector["initiator"], vector["acceptor"]
        for form in ("classic", "bound"):
            bound, payloads = form == "bound", {k: unhex(v) for k, v in vector[form].items() if k.isupper()}
            name_ext = NameExt(
                1, one["capabilities"], int(one["incarnation"], 16), one["epoch"], one["attempt"]
            )
            challenge_ext = ChallengeExt(1, other["capabilities"], int(other["incarnation"], 16))
            values = {
                "NAME": Name(one["name"], one["creation"], name_ext if bound else None),
                "CHALLENGE": Challenge(
                    other["name"],
                    other["creation"],
                    unhex(other["challenge"]),
                    challenge_ext if bound else None,
                ),
                "REPLY": Reply(payloads["REPLY"][1:33], unhex(one["challenge"])),
                "ACK": Ack(payloads["ACK"][-32:]),
            }
            if bound:
                values["REJECT_DUPLICATE"] = Reject(16, b"", payloads["REJECT_DUPLICATE"][-32:])
            assert set(payloads) == set(values)
            for kind, payload in payloads.items():
                yield pytest.param(payload, values[kind], id=f"{number}-{form}-{kind}")


@pytest.mark.parametrize(("payload", "value"), list(vector_messages()))
def test_known_messages_byte_for_byte(payload, value):
    """Each message of both vectors and forms is encoded to its bytes and decoded from them."""
    encode, decode = CODECS[messages.tag_of(payload)]
    assert encode(value) == payload
    assert decode(payload) == value


def test_the_codes_are_those_of_the_specification():
    """Numbers on the wire never change, and exactly those from 16 on carry a MAC."""
    assert {code.name: code.value for code in RejectCode} == {
        "MALFORMED": 1,
        "VERSION": 2,
        "BOUND_REQUIRED": 3,
        "BUSY": 4,
        "AUTH_FAILED": 5,
        "DUPLICATE": 16,
        "STALE_INCARNATION": 17,
        "NAME_NOT_ALLOWED": 18,
        "SELF": 19,
        "SHUTTING_DOWN": 20,
        "CAPABILITIES": 21,
    }
    assert [code for code in RejectCode if code.authenticated] == [code for code in RejectCode if code >= 16]
    assert {tag.name: tag.value for tag in Tag} == {
        "NAME": 1,
        "CHALLENGE": 2,
        "REPLY": 3,
        "ACK": 4,
        "REJECT": 5,
    }


# Properties


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        (Tag.NAME, names),
        (Tag.CHALLENGE, challenges),
        (Tag.REPLY, replies),
        (Tag.ACK, acks),
        (Tag.REJECT, rejects),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_what_is_encoded_is_decoded(tag, values, data):
    """For every value of every kind: its bytes carry its tag and decode to it."""
    encode, decode = CODECS[tag]
    value = data.draw(values)
    payload = encode(value)
    assert messages.tag_of(payload) is tag
    assert decode(payload) == value


@given(st.sampled_from(list(Tag)), st.binary(max_size=120), st.booleans())
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_raise_nothing_but_malformed(tag, tail, tagged):
    """No payload makes a decoder raise another error, and what decodes holds a checked name."""
    payload = bytes([tag]) * tagged + tail
    with contextlib.suppress(Malformed):
        messages.tag_of(payload)
    try:
        value = CODECS[tag][1](payload)
    except Malformed:
        return
    if isinstance(value, Name | Challenge):
        assert parse_name(value.name).text == value.name


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_raise_nothing_but_malformed(sample, data):
    """Real messages with bytes changed, removed or added either decode or are refused in one way."""
    tag, value = sample
    payload = bytearray(CODECS[tag][0](value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(Malformed):
        CODECS[tag][1](bytes(payload))


# Truncation and excess


@pytest.mark.parametrize(("tag", "value"), SAMPLES, ids=SAMPLE_IDS)
def test_every_truncation_is_malformed(tag, value):
    """A message cut anywhere is refused, but for the two places where a shorter form legally ends."""
    encode, decode = CODECS[tag]
    payload = encode(value)
    legal = set()
    if getattr(value, "ext", None) is not None:
        legal = {len(encode(value._replace(ext=None)))}
    if getattr(value, "mac", None) is not None:
        legal = {len(payload) - 32}
    for size in range(len(payload)):
        if size in legal:
            shorter = decode(payload[:size])
            assert shorter == (
                value._replace(ext=None) if tag is not Tag.REJECT else value._replace(mac=None)
            )
        else:
            with pytest.raises(Malformed):
                decode(payload[:size])


@pytest.mark.parametrize(("tag", "value"), SAMPLES, ids=SAMPLE_IDS)
@pytest.mark.parametrize("extra", [b"\0", b"SGX", b"x" * 31, b"x" * 33, b"x" * 64])
def test_every_excess_is_malformed(tag, value, extra):
    """Bytes behind a message's end are refused, whatever their number."""
    encode, decode = CODECS[tag]
    with pytest.raises(Malformed):
        decode(encode(value) + extra)


def test_an_empty_message_is_malformed():
    """A handshake has no use for an empty message."""
    with pytest.raises(Malformed, match="an empty handshake message"):
        messages.tag_of(b"")


@pytest.mark.parametrize("kind", [0, 6, 0x40, 0xF0, 255])
def test_an_unknown_kind_is_malformed(kind):
    """Only the five tags exist before the link does; frames are not among them."""
    with pytest.raises(Malformed, match=f"unknown kind {kind}$"):
        messages.tag_of(bytes([kind]) + b"rest")


# The extension


@hellos
@pytest.mark.parametrize("tail", [b"\0", b"unknown tail", b"SGX1\x01\x00\x01"])
def test_an_unknown_tail_of_a_body_is_ignored(tag, tail):
    """A later version may append to the body; what this side knows is read as before."""
    payload = with_ext(CLASSIC_HEADS[tag], BODIES[tag] + tail)
    assert CODECS[tag][1](payload) == (BOUND_NAME if tag is Tag.NAME else BOUND_CHALLENGE)


@hellos
@pytest.mark.parametrize("magic", [b"SGX2", b"sgx1", b"\0\0\0\0", b"1XGS"])
def test_another_magic_is_malformed(tag, magic):
    """Trailing bytes that are no extension are not skipped: the peer means something by them."""
    with pytest.raises(Malformed, match="that are no extension"):
        CODECS[tag][1](with_ext(CLASSIC_HEADS[tag], BODIES[tag], magic=magic))


@hellos
@pytest.mark.parametrize("off", [-1, 1, 100])
def test_the_extension_is_exactly_the_trailing_bytes(tag, off):
    """A body length that says less or more than what is there is refused."""
    body = BODIES[tag]
    with pytest.raises(
        Malformed, match=f"announces {len(body) + off} bytes of extension and carries {len(body)}"
    ):
        CODECS[tag][1](with_ext(CLASSIC_HEADS[tag], body, size=len(body) + off))


@hellos
def test_an_empty_or_short_body_is_malformed(tag):
    """A body that ends before its last field is refused at any length."""
    decode, body = CODECS[tag][1], BODIES[tag]
    with pytest.raises(Malformed, match="has an empty extension"):
        decode(with_ext(CLASSIC_HEADS[tag], b""))
    for size in range(1, len(body)):
        with pytest.raises(
            Malformed, match=f"has {size} bytes of extension, at least {len(body)} are needed"
        ):
            decode(with_ext(CLASSIC_HEADS[tag], body[:size]))


@hellos
@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told_apart(tag, version):
    """A version this side does not speak has its own error, whatever shape its body has."""
    for body in (bytes([version]) + BODIES[tag][1:], bytes([version]), bytes([version]) + b"x" * 90):
        with pytest.raises(UnknownVersion, match=f"is of version {version}, this side speaks 1"):
            CODECS[tag][1](with_ext(CLASSIC_HEADS[tag], body))


@hellos
def test_a_bound_hello_has_at_most_512_bytes(tag):
    """512 bytes pass and 513 do not, however well formed."""
    room = 512 - len(with_ext(CLASSIC_HEADS[tag], BODIES[tag]))
    payload = with_ext(CLASSIC_HEADS[tag], BODIES[tag] + b"t" * room)
    assert len(payload) == 512
    assert CODECS[tag][1](payload).ext is not None
    with pytest.raises(Malformed, match="of 513 bytes, at most 512 are allowed"):
        CODECS[tag][1](with_ext(CLASSIC_HEADS[tag], BODIES[tag] + b"t" * (room + 1)))


# Names and details


def hello(tag, name, *, size=None):
    """A classic NAME or CHALLENGE with any bytes for a name."""
    length = (len(name) if size is None else size).to_bytes(2, "little")
    return bytes([tag]) + length + name + b"\x01" + (b"c" * 32 if tag is Tag.CHALLENGE else b"")


@hellos
@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"EVIL",
        b"EVIL@",
        b"@EVIL",
        b"EVIL@h:65536",
        b"EVIL\n@h",
        b"EVIL\0@h",
        b"EVIL@h ",
        b"\xffEVIL@h",
        "ÉVIL@h".encode(),
    ],
)
def test_a_name_that_is_none_is_malformed(tag, name):
    """What is no node name is refused by the same rules as everywhere, and not repeated."""
    with pytest.raises(Malformed, match="carries what is no node name") as caught:
        CODECS[tag][1](hello(tag, name))
    assert "VIL" not in str(caught.value)
    assert caught.value.__context__ is None


@hellos
def test_a_name_of_255_bytes_is_the_longest(tag):
    """255 bytes pass; a length beyond is refused before the name is looked at."""
    longest = b"a" * 63 + b"@" + b".".join([b"h" * 63] * 3)
    assert len(longest) == 255
    assert CODECS[tag][1](hello(tag, longest)).name == longest.decode()
    for size in (256, 0xFFFF):
        with pytest.raises(Malformed, match=f"has a name of {size} bytes, at most 255 are allowed"):
            CODECS[tag][1](hello(tag, longest, size=size))


@pytest.mark.parametrize("size", [257, 300, 0xFFFF])
def test_a_long_detail_is_malformed(size):
    """More than 256 bytes of detail are refused, also where they are all there."""
    for present in (0, min(size, 4000)):
        with pytest.raises(Malformed, match=f"REJECT has {size} bytes of detail, at most 256 are allowed"):
            messages.decode_reject(b"\x05\x04" + size.to_bytes(2, "little") + b"x" * present)


def test_a_long_detail_is_cut_when_sent():
    """This side never sends what the other would refuse."""
    payload = messages.encode_reject(Reject(4, b"d" * 1000, None))
    assert messages.decode_reject(payload) == Reject(4, b"d" * 256, None)


@given(st.sampled_from(list(Tag)), st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_refusal_never_repeats_the_peers_bytes(tag, filler):
    """Marked text put anywhere into a message does not come back in the error's words."""
    mark = b"QZXJ"
    for payload in (
        bytes([tag]) + mark + filler,
        bytes([tag]) + filler + mark,
        hello(tag, mark + filler),
        with_ext(CLASSIC_HEADS.get(tag, bytes([tag])), mark + filler),
        with_ext(CLASSIC_HEADS.get(tag, bytes([tag])), filler, magic=mark),
        mark + filler,
    ):
        for read in (CODECS[tag][1], messages.tag_of):
            said = defect(read, payload)
            assert "QZXJ" not in said
            assert said.isascii()
