"""Messages, calls, groups and lists as bytes: known ones, round trips, and what a hostile peer may send."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import snowgreen
from snowgreen.protocol import frames, mail
from snowgreen.protocol.frames import BadFrame, FrameTag
from snowgreen.protocol.mail import Call, Credit, Fault, FaultCode, FlowKind, Mode, Open, Refusal
from snowgreen.protocol.wire import pack

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
FLOW = st.integers(1, 2**32 - 1)
BYTE = st.integers(0, 255)
PAYLOAD = st.binary(max_size=60)
#: What a mailbox, handler or topic may be called.
NAME = st.text(
    st.characters(blacklist_categories=("Cc", "Cs")),
    min_size=1,
    max_size=80,
).filter(lambda text: len(text.encode()) <= 255)

#: One frame of each kind: from the tag on by hand, what makes it, how it is read, and as what.
KNOWN: dict[FrameTag, tuple[str, bytes, Callable[[bytes], Any], Any]] = {
    FrameTag.REG_SEND: (
        "11 0400 6a6f6273 0102ff",
        mail.encode_reg_send("jobs", b"\x01\x02\xff")[4:],
        mail.decode_reg_send,
        ("jobs", b"\x01\x02\xff"),
    ),
    FrameTag.PEER_LIST: (
        "12 0200 0300 614068 0500 6240683a31",
        mail.encode_peer_list(["a@h", "b@h:1"])[4:],
        mail.decode_peer_list,
        ["a@h", "b@h:1"],
    ),
    FrameTag.OPEN: (
        "41 07000000 01 06 6ac3b6726273",
        mail.open_head(7, FlowKind.MAILBOX, "jörbs"),
        mail.decode_open,
        Open(7, FlowKind.MAILBOX, "jörbs"),
    ),
    FrameTag.CREDIT: (
        "42 07000000 0010000000000000 0000000100000000 0300000000000000 00000008 01",
        mail.encode_credit(7, 4096, 1 << 24, 3, 1 << 27, Mode.RAISE)[4:],
        mail.decode_credit,
        Credit(7, 4096, 1 << 24, 3, 1 << 27, Mode.RAISE),
    ),
    FrameTag.REFUSE: (
        "43 07000000 02 0501000000000000",
        mail.encode_refuse(7, Refusal.CLOSED, 261)[4:],
        mail.decode_refuse,
        (7, Refusal.CLOSED, 261),
    ),
    FrameTag.FINISH: ("44 07000000", mail.finish_head(7), mail.decode_finish, 7),
    FrameTag.MESSAGE: (
        "45 07000000 01 c0",
        mail.message_head(7, 1) + b"\xc0",
        mail.decode_message,
        (7, 1, b"\xc0"),
    ),
    FrameTag.CALL: (
        "46 08000000 09000000 e8030000 00001000 01 03 616464 920102",
        mail.call_head(8, 9, 1000, 1 << 20, 1, "add") + b"\x92\x01\x02",
        mail.decode_call,
        Call(8, 9, 1000, 1 << 20, 1, "add", b"\x92\x01\x02"),
    ),
    FrameTag.RESULT: (
        "47 09000000 01 03",
        mail.result_head(9, 1) + b"\x03",
        mail.decode_result,
        (9, 1, b"\x03"),
    ),
    FrameTag.FAULT: (
        "48 09000000 02 08 4b65794572726f72 0300 277827",
        mail.encode_fault(9, FaultCode.RAISED, "KeyError", "'x'")[4:],
        mail.decode_fault,
        Fault(9, FaultCode.RAISED, "KeyError", "'x'"),
    ),
    FrameTag.CANCEL: ("49 09000000", mail.cancel_head(9), mail.decode_cancel, 9),
    FrameTag.JOIN: (
        "4c 0200 01 61 02 6263",
        mail.encode_join(["a", "bc"])[4:],
        mail.decode_join,
        ["a", "bc"],
    ),
    FrameTag.LEAVE: ("4d 0100 02 6263", mail.encode_leave(["bc"])[4:], mail.decode_leave, ["bc"]),
    FrameTag.BROADCAST: (
        "4e 02 6263 00 6869",
        mail.broadcast_head("bc", 0) + b"hi",
        mail.decode_broadcast,
        ("bc", 0, b"hi"),
    ),
}
#: Those that end with a payload, which may be empty; and the bytes of the payload above.
CARRIERS = {
    FrameTag.REG_SEND: 3,
    FrameTag.MESSAGE: 1,
    FrameTag.CALL: 3,
    FrameTag.RESULT: 1,
    FrameTag.BROADCAST: 2,
}
DECODERS = [decode for _, _, decode, _ in KNOWN.values()]


def refused(decode: Callable[[bytes], Any], frame: bytes) -> str:
    """How `decode` refuses `frame`: one short printable line."""
    with pytest.raises(BadFrame) as caught:
        decode(frame)
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 120
    return text


# Known bytes and round trips.


@pytest.mark.parametrize("tag", KNOWN, ids=lambda tag: tag.name)
def test_a_frame_is_made_of_these_bytes(tag: FrameTag) -> None:
    """Each frame is what the specification's table says, byte for byte, and reads as what it was made from."""
    by_hand, made, decode, meaning = KNOWN[tag]
    assert made == bytes.fromhex(by_hand)
    assert made[0] == tag
    assert decode(made) == meaning


def test_a_frame_without_payload_is_encoded_whole() -> None:
    """What needs no decision about fragments comes with its length in front."""
    for whole in (
        mail.encode_credit(1, 1, 1, 1, 1, Mode.WAIT),
        mail.encode_refuse(1, 1, 1),
        mail.encode_fault(1, 1, "", ""),
        mail.encode_join(["x"]),
        mail.encode_leave(["x"]),
        mail.encode_reg_send("x", b""),
        mail.encode_peer_list([]),
    ):
        assert whole == pack(whole[4:])


def test_every_frame_but_the_fragments_is_covered() -> None:
    """No tag that the capabilities of messages and groups bring is left out of these tests."""
    elsewhere = {FrameTag.GOODBYE, FrameTag.PING, FrameTag.PONG, FrameTag.FIRST, FrameTag.PART}
    assert set(KNOWN) == set(FrameTag) - elsewhere
    assert frames.CAPABILITIES == 0b111


@given(FLOW, NAME)
def test_an_open_arrives(flow: int, name: str) -> None:
    """Flow and name come back, in any script, for a mailbox; a flow of calls comes without a name."""
    opened = mail.decode_open(mail.open_head(flow, FlowKind.MAILBOX, name))
    assert opened == Open(flow, FlowKind.MAILBOX, name)
    calls = mail.decode_open(mail.open_head(flow, FlowKind.CALLS, ""))
    assert calls == Open(flow, FlowKind.CALLS, "")


@given(FLOW, U64, U64, U64, U32, st.sampled_from(Mode), st.sampled_from(Refusal))
def test_what_is_said_of_a_flow_arrives(
    flow: int, messages: int, size: int, lost: int, largest: int, mode: Mode, why: Refusal
) -> None:
    """CREDIT, REFUSE and FINISH carry any figures of their widths."""
    credit = mail.encode_credit(flow, messages, size, lost, largest, mode)[4:]
    assert mail.decode_credit(credit) == Credit(flow, messages, size, lost, largest, mode)
    assert mail.decode_refuse(mail.encode_refuse(flow, why, size)[4:]) == (flow, why, size)
    assert mail.decode_finish(mail.finish_head(flow)) == flow


@given(FLOW, BYTE, NAME, PAYLOAD)
def test_a_payload_arrives(number: int, codec: int, name: str, payload: bytes) -> None:
    """MESSAGE, RESULT, BROADCAST and REG_SEND carry any payload, an empty one, too, and any codec."""
    assert mail.decode_message(mail.message_head(number, codec) + payload) == (number, codec, payload)
    assert mail.decode_result(mail.result_head(number, codec) + payload) == (number, codec, payload)
    assert mail.decode_broadcast(mail.broadcast_head(name, codec) + payload) == (name, codec, payload)
    assert mail.decode_reg_send(mail.encode_reg_send(name, payload)[4:]) == (name, payload)


#: Frames of a stream: messages of few flows and codecs, and what is none, or no whole one.
STREAM = st.lists(
    st.builds(
        lambda flow, codec, body: mail.message_head(flow, codec) + body,
        st.integers(0, 2),
        st.integers(0, 1),
        st.sampled_from((b"", b"x", bytes(40))),
    )
    | st.sampled_from((b"", mail.message_head(1, 0)[:5], mail.finish_head(1), frames.encode_ping(1)[4:])),
    max_size=20,
)


@given(STREAM)
def test_messages_of_a_run_are_those_it_is_made_of(stream: list[bytes]) -> None:
    """Taken together they are what each alone would be, in order, and nothing else goes with them or is lost."""
    wanted: list[Any] = []
    for frame in stream:
        try:
            wanted.append(mail.decode_message(frame) if frame[:1] == bytes([FrameTag.MESSAGE]) else frame)
        except BadFrame as error:
            wanted.append(str(error))
    found: list[Any] = []
    behind = iter(stream)
    for first in behind:
        frame: bytes | None = first
        while frame is not None:
            if frame[:1] != bytes([FrameTag.MESSAGE]):
                found.append(frame)
                break
            try:
                flow, codec, payloads, frame = mail.decode_messages(frame, behind)
            except BadFrame as error:
                found.append(str(error))
                break
            found += [(flow, codec, payload) for payload in payloads]
    assert found == wanted


def test_a_run_ends_with_its_flow_and_with_its_codec() -> None:
    """What is behind it is not decoded yet: that may be anything."""
    one, two = mail.message_head(1, 0), mail.message_head(1, 1)
    behind = iter([one + b"b", one, two + b"d", one + b"e"])
    assert mail.decode_messages(one + b"a", behind) == (1, 0, [b"a", b"b", b""], two + b"d")
    assert list(behind) == [one + b"e"]
    assert mail.decode_messages(one + b"a", iter(())) == (1, 0, [b"a"], None)


@given(FLOW, U32, U32, U32, BYTE, NAME, PAYLOAD)
def test_a_call_arrives(
    flow: int, call: int, milliseconds: int, largest: int, codec: int, handler: str, payload: bytes
) -> None:
    """CALL carries any figures of their widths, the handler's name, and the arguments behind it."""
    head = mail.call_head(flow, call, milliseconds, largest, codec, handler)
    assert mail.decode_call(head + payload) == Call(
        flow, call, milliseconds, largest, codec, handler, payload
    )


@given(U32, st.sampled_from(FaultCode), st.text(max_size=300), st.text(max_size=1100))
def test_a_fault_arrives(call: int, code: FaultCode, kind: str, text: str) -> None:
    """Type and text come back, each cut to its size between two characters, whatever they were."""
    fault = mail.decode_fault(mail.encode_fault(call, code, kind, text)[4:])
    assert (fault.call, fault.code) == (call, code)
    for found, given_, most in ((fault.kind, kind, 255), (fault.text, text, 1024)):
        sound = given_.encode(errors="replace").decode()
        assert sound.startswith(found)
        assert found == sound or most - 4 < len(found.encode()) <= most


def test_a_fault_is_cut_between_characters() -> None:
    """A type of 300 bytes keeps 255 of them, and a text whose 1,024th byte is half a letter ends before it."""
    fault = mail.decode_fault(mail.encode_fault(1, FaultCode.RAISED, "x" * 300, "x" + "ä" * 600)[4:])
    assert (fault.kind, fault.text) == ("x" * 255, "x" + "ä" * 511)


def test_a_fault_about_a_text_that_is_no_utf8_can_be_sent() -> None:
    """A lone surrogate in an exception's text becomes a question mark, rather than another exception."""
    fault = mail.decode_fault(mail.encode_fault(1, FaultCode.RAISED, "\ud800", "a\udcffb")[4:])
    assert (fault.kind, fault.text) == ("?", "a?b")


@given(st.lists(NAME, max_size=20))
def test_topics_arrive(topics: list[str]) -> None:
    """JOIN and LEAVE carry topics in their order, none of them, too, from any iterable."""
    assert mail.decode_join(mail.encode_join(iter(topics))[4:]) == topics
    assert mail.decode_leave(mail.encode_leave(iter(topics))[4:]) == topics


@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=255), max_size=20))
def test_listed_names_arrive(names: list[str]) -> None:
    """PEER_LIST carries ASCII texts as they are: whether they are node names is for the reader to say."""
    assert mail.decode_peer_list(mail.encode_peer_list(names)[4:]) == names


# Bounds of lists.


def test_topics_are_dealt_out_to_frames() -> None:
    """Batches keep the order and each fit a frame, where the number or the length of the topics is the bound."""
    assert list(mail.topic_batches([])) == []
    short = [str(number) for number in range(2500)]
    long = [f"{number:0255}" for number in range(600)]
    for topics, sizes in ((short, [1024, 1024, 452]), (long, [255, 255, 90])):
        batches = list(mail.topic_batches(iter(topics)))
        assert [len(batch) for batch in batches] == sizes
        assert [topic for batch in batches for topic in batch] == topics
        for batch in batches:
            assert len(frame := mail.encode_join(batch)[4:]) <= mail.MAX_LIST_BYTES
            assert mail.decode_join(frame) == batch


@pytest.mark.parametrize(
    ("topics", "fits"), [(["x"] * 1024, True), (["x"] * 1025, False), (["x" * 255] * 256, False)]
)
def test_a_frame_takes_so_many_topics_and_no_more(topics: list[str], fits: bool) -> None:
    """Both ends hold the same bounds: what cannot be encoded is not decoded either."""
    frame = struct.pack("<BH", FrameTag.JOIN, len(topics)) + b"".join(
        bytes([len(topic)]) + topic.encode() for topic in topics
    )
    for encode, decode in ((mail.encode_join, mail.decode_join), (mail.encode_leave, mail.decode_leave)):
        if fits:
            assert encode(topics)[5:] == frame[1:]
            assert decode(frame) == topics
        else:
            with pytest.raises(ValueError, match="do not fit one"):
                encode(topics)
            assert "more than" in refused(decode, frame)


def test_a_peer_list_says_what_fits() -> None:
    """Names past the 256th, and those that would make the frame too large, are left out."""
    names = [f"n{number}@h" for number in range(300)]
    assert mail.decode_peer_list(mail.encode_peer_list(names)[4:]) == names[:256]
    long = [f"{number:0255}" for number in range(256)]
    frame = mail.encode_peer_list(long)[4:]
    assert mail.decode_peer_list(frame) == long[:254]
    assert len(frame) <= 65536 < len(frame) + 257


def test_a_peer_list_that_is_too_large_is_refused() -> None:
    """More than 256 names, more than 64 KiB, a name above 255 bytes: each is an error."""
    entry = struct.pack("<H", 1) + b"x"
    assert len(mail.decode_peer_list(b"\x12\x00\x01" + entry * 256)) == 256
    assert "257 entries" in refused(mail.decode_peer_list, b"\x12\x01\x01" + entry * 257)
    assert "more than 65,536" in refused(mail.decode_peer_list, b"\x12\x00\x01" + bytes(65534))
    assert "at most 255" in refused(mail.decode_peer_list, b"\x12\x01\x00\x00\x01" + b"x" * 256)
    assert "not ASCII" in refused(mail.decode_peer_list, b"\x12\x01\x00\x02\x00\xc3\xa4")


# Hostile frames.


@pytest.mark.parametrize("tag", KNOWN, ids=lambda tag: tag.name)
def test_a_cut_frame_is_refused(tag: FrameTag) -> None:
    """A frame that ends early anywhere before its payload is an error that names the frame."""
    _, frame, decode, _ = KNOWN[tag]
    shortest = len(frame) - CARRIERS.get(tag, 0)
    for size in range(1, shortest):
        assert tag.name in refused(decode, frame[:size])
    if tag in CARRIERS:
        assert decode(frame[:shortest])[-1] == b""


@pytest.mark.parametrize("tag", [tag for tag in KNOWN if tag not in CARRIERS], ids=lambda tag: tag.name)
def test_a_trailing_byte_is_refused(tag: FrameTag) -> None:
    """A frame without payload holds its fields and nothing behind them."""
    _, frame, decode, _ = KNOWN[tag]
    for byte in (b"\0", b"x"):
        assert tag.name in refused(decode, frame + byte)


@pytest.mark.parametrize(
    "tag",
    [FrameTag.OPEN, FrameTag.CREDIT, FrameTag.REFUSE, FrameTag.FINISH, FrameTag.MESSAGE, FrameTag.CALL],
    ids=lambda tag: tag.name,
)
def test_flow_0_is_refused(tag: FrameTag) -> None:
    """Flows count from 1, so that a number that was forgotten is seen."""
    _, frame, decode, _ = KNOWN[tag]
    assert "flow 0" in refused(decode, frame[:1] + bytes(4) + frame[5:])


HOSTILE = {
    "empty": b"",
    "newline": b"a\nb",
    "nul": b"\0",
    "escape": b"\x1b[31m",
    "delete": b"\x7f",
    "c1": "\x85".encode(),
    "latin-1": b"\xe4",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf",
    "cut": "ä".encode()[:1],
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_refused(raw: bytes) -> None:
    """An empty name, control characters and bytes that are no UTF-8 are errors in every frame with a name."""
    size = bytes([len(raw)])
    for decode, frame in (
        (mail.decode_open, b"\x41\x01\0\0\0\x01" + size + raw),
        (mail.decode_call, b"\x46\x01\0\0\0" + bytes(12) + b"\x01" + size + raw + b"payload"),
        (mail.decode_join, b"\x4c\x01\0" + size + raw),
        (mail.decode_leave, b"\x4d\x01\0" + size + raw),
        (mail.decode_broadcast, b"\x4e" + size + raw + b"\x01payload"),
        (mail.decode_reg_send, b"\x11" + size + b"\0" + raw + b"payload"),
    ):
        assert FrameTag(frame[0]).name in refused(decode, frame)


def test_a_flow_of_calls_has_no_name() -> None:
    """A name where none belongs is an error."""
    assert "with a name" in refused(mail.decode_open, mail.open_head(1, FlowKind.CALLS, "x"))


def test_a_registered_name_has_at_most_255_bytes() -> None:
    """Its length has two bytes on the wire, and is judged all the same."""
    assert mail.decode_reg_send(b"\x11\xff\x00" + b"x" * 255) == ("x" * 255, b"")
    assert "256 bytes" in refused(mail.decode_reg_send, b"\x11\x00\x01" + b"x" * 256)


def test_a_fault_is_held_to_its_bounds() -> None:
    """A text above 1,024 bytes and a type or text that is no UTF-8 are errors; control characters are none."""
    head = b"\x48\x01\0\0\0\x02"
    assert "1025 bytes" in refused(mail.decode_fault, head + b"\0\x01\x04" + b"x" * 1025)
    assert "type" in refused(mail.decode_fault, head + b"\x01\xff\0\0")
    assert "text" in refused(mail.decode_fault, head + b"\0\x01\0\xff")
    assert mail.decode_fault(head + b"\0\x03\0a\nb").text == "a\nb"
    assert mail.decode_fault(head + b"\xff" + b"x" * 255 + b"\0\0").kind == "x" * 255


@given(st.binary(min_size=1, max_size=120))
def test_only_bad_frame_leaves_a_decoder(frame: bytes) -> None:
    """Arbitrary bytes either decode or raise BadFrame, whose text holds none of them."""
    for decode in DECODERS:
        try:
            decode(frame)
        except BadFrame as error:
            assert str(error).isascii()
            assert str(error).isprintable()


@pytest.mark.parametrize("tag", KNOWN, ids=lambda tag: tag.name)
def test_an_error_repeats_nothing_of_the_peers(tag: FrameTag) -> None:
    """Whichever byte of a frame is changed, to whatever: what is said of it has none of its texts."""
    _, frame, decode, _ = KNOWN[tag]
    frame = frame.replace(b"\x03add", b"\x03qzj").replace(b"bc", b"qz")
    for at in range(1, len(frame)):
        for byte in (0, 0x0A, 0x7F, 0xFF):
            try:
                decode(frame[:at] + bytes([byte]) + frame[at + 1 :])
            except BadFrame as error:
                for text in ("qz", "jobs", "KeyError", "a@h", "\n", "\x7f", "ÿ"):
                    assert text not in str(error)


# Later versions.


def test_what_a_later_version_says_is_understood_as_documented() -> None:
    """Unknown kinds and reasons come as numbers, an unknown mode as WAIT, an unknown fault as RAISED."""
    assert mail.decode_open(mail.open_head(1, 99, "x")) == Open(1, 99, "x")
    assert mail.decode_open(mail.open_head(1, 99, "")) == Open(1, 99, "")
    assert mail.decode_refuse(mail.encode_refuse(1, 99, 2)[4:]) == (1, 99, 2)
    credit = mail.encode_credit(1, 2, 3, 4, 5, Mode.RAISE)[4:]
    for mode in (2, 99, 255):
        assert mail.decode_credit(credit[:-1] + bytes([mode])).mode is Mode.WAIT
    for code in (0, 7, 255):
        assert mail.decode_fault(mail.encode_fault(1, code, "", "")[4:]).code is FaultCode.RAISED


# Names of our own.


@pytest.mark.parametrize("name", ["x", "a b", "ä" * 127, "x" * 255, "日本", "a/b:c@d", "\u200b"])
def test_a_name_that_is_one(name: str) -> None:
    """Whatever is 1 to 255 bytes of UTF-8 without control characters comes back as it is."""
    assert mail.checked_name(name, "mailbox") is name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "1 to 255 bytes of UTF-8, not 0"),
        ("x" * 256, "not 256"),
        ("ä" * 128, "not 256"),
        ("a\nb", "control characters"),
        ("\x85", "control characters"),
        ("\ud800", "lone surrogates"),
        (b"x", "a str, not bytes"),
        (None, "a str, not NoneType"),
    ],
)
def test_a_name_that_is_none(name: object, problem: str) -> None:
    """What no mailbox can be called is refused where it is given, by the name of its argument."""
    with pytest.raises(snowgreen.ConfigurationError, match=problem) as caught:
        mail.checked_name(name, "topic")
    assert caught.value.argument == "topic"
